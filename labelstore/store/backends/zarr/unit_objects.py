"""Objects that hold the labels of blocks, open for reading: in memory, in a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from labelstore.format.arrays import UNITS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BlockObject", "FileObject", "HeldObject", "unit_object"]

_MOST_TAIL = 2**15
"""Bytes of a file's end that are read at once, whatever of them is wanted: they are copied in the
time of two or three reads."""


def unit_object(block: int) -> str:
    """What a block's object is called."""
    return f"{UNITS}/c/{block}"


class BlockObject(Protocol):
    """The object of a block, open for reading until it is closed."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def version(self) -> object | None:
        """Another one where it may be another object now; None where nothing is worth keeping, as
        it is quickly read again."""

    def read(self, places: Sequence[tuple[int, int]]) -> Sequence[bytes | memoryview]:
        """Several (start, length) of it; all lie inside."""

    def close(self) -> None:
        """It is not read any more."""


class HeldObject:
    """One that is in memory."""

    version = None

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    def read(self, places: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Parts of it."""
        return [self._data[start : start + length] for start, length in places]

    def close(self) -> None:
        """Nothing is open."""


class FileObject:
    """One in a file."""

    version = None

    def __init__(self, descriptor: int, size: int, tail: int) -> None:
        """Of a file that is open and has ``size`` bytes, of whose end some are wanted; OSError."""
        self._descriptor, self.size = descriptor, size
        self._first, self._tail = self.size, b""
        if tail <= _MOST_TAIL:
            self._first = max(self.size - tail, 0)
            try:
                self._tail = os.pread(self._descriptor, tail, self._first)
            except BaseException:
                self.close()
                raise

    def read(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of it; ValueError where it was cut meanwhile."""
        parts = []
        for start, length in places:
            if start >= self._first:
                begin = start - self._first
                data = self._tail[begin : begin + length]
            else:
                data = os.pread(self._descriptor, length, start)
            if len(data) != length:
                raise ValueError(f"{len(data)} bytes from byte {start} on, expected {length}")
            parts.append(data)
        return parts

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
