"""Names of several files in one: globs, and brace lists as a shell has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from labelstore.errors import UsageError
from labelstore.storage.location import place_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

__all__ = ["expand_braces", "is_pattern"]

_MOST_FILES = 1_000_000
"""Files that a brace list may name."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")


def is_pattern(path: str | os.PathLike[str]) -> bool:
    """Whether a path or URL is a glob (``*``, ``?``, ``[``) or a brace list (``{000..127}``).

    What lies there under that very name is no pattern.
    """
    place = place_of(path)
    if isinstance(place, Path) and place.exists():
        return False
    # Servers that list nothing have no globs, and a ? begins their queries.
    signs = "{" if isinstance(place, str) and place.startswith("http") else "*?[{"
    return any(sign in str(place) for sign in signs)


def expand_braces(pattern: str) -> list[str]:
    """The names of a brace list, in order, as a shell's: ``a-{0..2}``, ``{train,val}-0``.

    The first number's leading zeros count.

    Raises:
        UsageError: it names more than a million.
    """
    names = [pattern]
    while (braces := _BRACES.search(names[0])) is not None:
        options = braces[1].split(",")
        if (ends := _RANGE.fullmatch(braces[1])) is not None:
            first, last = int(ends[1]), int(ends[2])
            width = len(ends[1]) if ends[1].startswith("0") else 0
            if abs(last - first) >= _MOST_FILES:
                raise UsageError(f"{pattern} names {abs(last - first) + 1} files: name fewer.")
            step = 1 if last >= first else -1
            options = [str(n).zfill(width) for n in range(first, last + step, step)]
        if len(names) * len(options) > _MOST_FILES:
            raise UsageError(f"{pattern} names over {_MOST_FILES} files: name fewer.")
        names = [
            f"{before}{option}{after}"
            for before, after in _halves(names, braces[0])
            for option in options
        ]
    return names


def _halves(names: list[str], braces: str) -> Iterator[tuple[str, str]]:
    """What stands before and behind the first such braces of each name."""
    for name in names:
        before, _, after = name.partition(braces)
        yield before, after
