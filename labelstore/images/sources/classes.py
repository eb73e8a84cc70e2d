"""What the labels that a source carries say of its images' classes."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from labelstore.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = ["SourceClasses", "check_key", "classes_of_keys", "classes_of_labels", "other_form"]


_MOST_DIGITS = 19
"""Of a number that may not fit an int64."""


class SourceClasses(NamedTuple):
    """The classes of N images."""

    distinct: tuple[str, ...] | None
    """Sorted; None where nothing tells them."""
    mixed: bool
    """Whether only some images have one, where all should."""
    numbers: npt.NDArray[np.int64] | None
    """(N,) class ids as the source gives them, -1 unknown; None where it gives names."""
    names: list[str | None] | None
    """What each image's class is called, None where unknown."""


def classes_of_labels(labels: Sequence[str | None]) -> SourceClasses:
    """Classes of images that carry labels of their own: ids where all are decimal, else names.

    Args:
        labels: the text of each; None and ``"-1"`` (as Hugging Face's data sets have it) are
            unknown.
    """
    names = [None if label == "-1" else label for label in labels]
    known = {name for name in names if name is not None}
    numbers = None
    if all(name.isdecimal() and len(name) < _MOST_DIGITS for name in known):
        numbers = np.array([-1 if name is None else int(name) for name in names], dtype=np.int64)
    return SourceClasses(tuple(sorted(known)), False, numbers, names)


def classes_of_keys(keys: Sequence[str]) -> SourceClasses:
    """Classes of images that carry none: the first path components, if all lie in folders."""
    nested = sum("/" in key for key in keys)
    if nested < len(keys):
        return SourceClasses(None, nested > 0, None, None)
    names = [key.partition("/")[0] for key in keys]
    return SourceClasses(tuple(sorted(set(names))), False, None, list(names))


def check_key(key: str, place: str) -> str:
    """A key that a store can hold.

    Raises:
        SourceError: it is not UTF-8, or has a NUL.
    """
    try:
        key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceError(
            f"the name {key.encode('utf-8', 'surrogateescape')!r} in {place} is not valid UTF-8, "
            "so no store can hold it as a key: pack it under another name."
        ) from error
    if "\0" in key:
        raise SourceError(f"the name {key!r} in {place} has a NUL: pack it under another name.")
    return key


def other_form(name: str, others: Sequence[str]) -> str:
    """A clause for errors about a name that is missing from others, where only its form differs.

    Letters such as é are one character or two (Unicode's normal forms NFC and NFD; macOS writes
    the second), which look alike.

    Returns:
        ``""`` where none of the others looks alike.
    """
    composed = unicodedata.normalize("NFC", name)
    for other in others:
        if other != name and unicodedata.normalize("NFC", other) == composed:
            return (
                f"; {other!r} is written with other characters of the same look (Unicode's NFC "
                "and NFD): give the names in one normal form"
            )
    return ""
