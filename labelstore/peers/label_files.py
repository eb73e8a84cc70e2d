"""Which files in a folder are another project's labels: one an image, or numbered from 0."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from labelstore.errors import CorruptError, FormatError, NotFoundError
from labelstore.images.sources.listing import walk
from labelstore.peers.pickles.safe_pickle import MEND
from labelstore.storage.untrusted import parsed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["named_files", "numbered_entries", "require_all", "require_folder"]


def require_folder(path: Path, what: str) -> None:
    """Refuse a path at which no folder is.

    Args:
        path: what was given. what: of the folder that it should be, as "of its label files".

    Raises:
        NotFoundError: nothing is there. FormatError: it is something else.
    """
    if not path.exists():
        raise NotFoundError(f"there is no folder {path}: give the folder {what}.")
    if not path.is_dir():
        raise FormatError(f"{path} is no folder: give the folder {what}.")


def named_files(path: Path, suffix: str, project: str) -> list[str]:
    """The names below a folder, those in its subfolders included, of files an image; sorted.

    Args:
        path: the folder. suffix: of the files. project: whose files they are, for messages.

    Raises:
        As ``require_folder``; FormatError: there are none. SourceError: a folder cannot be listed.
    """
    require_folder(path, f"of {project}'s {suffix} label files")
    names = sorted(name for name in walk(path) if name.endswith(suffix))
    if not names:
        raise FormatError(f"{path} holds no {suffix} files, expected {project}'s, one an image.")
    return names


def numbered_entries(folder: Path, name: str) -> dict[int, Path]:
    """The entries of a folder by their number, rising; none where it is no folder.

    Args:
        folder: where they lie. name: what an entry is called, with ``{}`` for its number, which has
            no zeros in front: two names never have the same number.

    Raises:
        CorruptError, StoreError: the folder cannot be listed.
    """
    number = r"(0|[1-9]\d{0,9})"
    pattern = re.compile(number.join(re.escape(part) for part in name.split("{}")))
    with parsed(folder, MEND):
        entries = folder.iterdir() if folder.is_dir() else ()
        matches = {entry: pattern.fullmatch(entry.name) for entry in entries}
    numbered = {int(match[1]): entry for entry, match in matches.items() if match}
    return dict(sorted(numbered.items()))


def require_all(folder: Path, name: str, entries: dict[int, Path]) -> None:
    """Refuse entries that do not go from 0 without a gap, or are none.

    Args:
        folder: where they lie. name: as of ``numbered_entries``. entries: what that gave.

    Raises:
        CorruptError: one is missing.
    """
    lacking = next((number for number in range(len(entries)) if number not in entries), None)
    if entries and lacking is None:
        return
    others = f"{len(entries)} others up to number {max(entries)}" if entries else "no others"
    raise CorruptError(
        f"{folder} has no {name.format(lacking or 0)}, and {others}: labels go by these numbers, "
        f"so that none may be missing; {MEND}."
    )
