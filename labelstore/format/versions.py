"""Versions of the format, of view laws and of stages: which a store has, and which are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.errors import FormatError
from labelstore.views.law import ViewLaw
from labelstore.views.stages.names import STAGES, is_known

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DRAFT_VERSION",
    "FORMAT_VERSION",
    "VERSION_2",
    "check_law",
    "check_version",
    "same_version",
]

FORMAT_VERSION = 1
"""Of every store that uses nothing of a later one."""

VERSION_2 = 2
"""Of stores that use what it adds: stages of views, mixed ones among them, or labels in units."""

DRAFT_VERSION = 20001
"""What version 2 was called before it was frozen; all else of such stores is as in 2. They are read
and gone on with as they are, and none is begun. The number is part of a store's id, and the id of
every digest, so that it cannot be edited: ``recode`` writes such a store as version 2."""

_READ = {FORMAT_VERSION, VERSION_2, DRAFT_VERSION}


def check_version(document: Any, where: str) -> None:
    """Refuse what is no manifest, or one of a version that is not read; ``where`` names the store.

    Raises:
        FormatError: it is, or its creation was interrupted.
    """
    if not isinstance(document, dict) or document.get("format") != "labelstore":
        raise FormatError(f"{where} is not a labelstore store: name a folder that generate made.")
    if document.get("state") == "creating":
        raise FormatError(
            f"{where}: its creation was interrupted before anything was stored: run the command "
            "that makes it again."
        )
    version = document.get("format_version")
    if type(version) is not int or version not in _READ:
        raise FormatError(
            f"{where} has format version {version!r}, this labelstore reads {FORMAT_VERSION} and "
            f"{VERSION_2}: install the labelstore release that made it, or a newer one."
        )


def same_version(stored: int, asked: int) -> bool:
    """Whether labels of these two versions may stand in one store: 2 and its draft are the same."""
    return stored == asked or {stored, asked} == {VERSION_2, DRAFT_VERSION}


def check_law(law: Mapping[str, Any], where: str) -> None:
    """Refuse a view law that is not computed here; ``where`` names the store.

    Raises:
        FormatError: the law, or a stage of it, is another, or of another version.
    """
    if (law["name"], law["version"]) != (ViewLaw.NAME, ViewLaw.VERSION):
        raise _unknown(where, "view law", law, f"{ViewLaw.NAME!r} version {ViewLaw.VERSION}")
    for stage in law.get("stages", ()):
        if not is_known(stage):
            raise _unknown(where, "stage", stage, f"{', '.join(STAGES)}, all of version 1")


def _unknown(where: str, what: str, part: Mapping[str, Any], known: str) -> FormatError:
    return FormatError(
        f"{where} has the {what} {part['name']!r} version {part['version']}, this labelstore knows "
        f"{known}: install the labelstore release that made it, or a newer one."
    )
