"""The files of a source that are none of its images, so that none is left out in silence."""

from __future__ import annotations

import bisect
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

__all__ = ["PassedOver"]

_NAMED = 10
_KEPT = 1000
"""Names that are kept for who asks for more than the first ten."""


class PassedOver:
    """How many files were passed over, how many of each suffix, and the first by name.

    Attributes:
        count: of all.
        suffixes: of each suffix, in lower case, ``""`` for none.
        names: the first thousand names, sorted by code point.
    """

    def __init__(self) -> None:
        self.count = 0
        self.suffixes: Counter[str] = Counter()
        self.names: list[str] = []

    def add(self, name: str) -> None:
        """Note a file by its path in the source."""
        self.count += 1
        self.suffixes[PurePosixPath(name).suffix.lower()] += 1
        if len(self.names) < _KEPT or name < self.names[-1]:
            bisect.insort(self.names, name)
            del self.names[_KEPT:]

    @property
    def first(self) -> list[str]:
        """The first ten names."""
        return self.names[:_NAMED]

    def _by_count(self) -> list[tuple[str, int]]:
        """Suffixes and their counts, the most first; of equal counts, by name."""
        return sorted(self.suffixes.items(), key=lambda entry: (-entry[1], entry[0]))

    def __str__(self) -> str:
        """As ``3 other files passed over: 2 '.txt', 1 without suffix ('a.txt', 'b.txt', 'c')``."""
        kinds = ", ".join(
            f"{count} {repr(suffix) if suffix else 'without suffix'}"
            for suffix, count in self._by_count()[:_NAMED]
        )
        names = ", ".join(map(repr, self.first))
        more = ", ..." if self.count > len(self.first) else ""
        noun = "file" if self.count == 1 else "files"
        return f"{self.count} other {noun} passed over: {kinds} ({names}{more})"

    def to_json(self, limit: int = _NAMED) -> dict[str, Any]:
        """As a JSON object with so many names; bytes that are not UTF-8 are escaped."""
        return {
            "count": self.count,
            "suffixes": {_safe(name): count for name, count in self._by_count()},
            "first": [_safe(name) for name in self.names[:limit]],
        }


def _safe(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
