"""Keywords that are handed on as a group: typed dicts for ``**options: Unpack[...]``.

Each group of keywords is described once, where it is used; what takes several groups splits them
here, and refuses a keyword of none of them as Python does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["part_of", "require_known"]

Group = TypeVar("Group")


def part_of(group: type[Group], options: Mapping[str, object]) -> Group:
    """Those of some options that a typed dict has."""
    return cast("Group", {name: options[name] for name in group.__annotations__ if name in options})


def require_known(owner: str, options: Mapping[str, object], *groups: type) -> None:
    """TypeError, with the keyword's name, unless one of some typed dicts has each option.

    Args:
        owner: what takes the options, for the message.
        options: keywords that were given.
        groups: the typed dicts.
    """
    known = {name for group in groups for name in group.__annotations__}
    for name in options:
        if name not in known:
            raise TypeError(
                f"{owner}() got an unexpected keyword argument {name!r}, expected some of "
                f"{', '.join(sorted(known))}."
            )
