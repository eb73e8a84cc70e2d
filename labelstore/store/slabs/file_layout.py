"""What the file of a slab holds, where in it, and what it is called: the same in all processes."""

from __future__ import annotations

import functools
import json
import math
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

__all__ = ["SUFFIX", "Layout"]

SUFFIX = ".slab"
"""What names of files end in."""

_PAGE = 4096


@functools.cache
def _boot() -> str:
    """What names this start of the machine: files that an earlier one left may be torn."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # Not known: nothing is shared but with processes that were forked from this one.
        return uuid.uuid4().hex


@dataclass(frozen=True)
class Layout:
    """What a file holds, and so what it is called."""

    prefix: str
    """First part of the name: files with one prefix share a bound."""
    identity: Mapping[str, Any]
    """JSON-ready: all that decides the content."""
    arrays: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]]
    """Name, type and shape of each array."""

    @functools.cached_property
    def header(self) -> bytes:
        """What the file begins with, padded to whole pages."""
        arrays = [[name, dtype.str, list(shape)] for name, dtype, shape in self.arrays]
        text = json.dumps(
            {"labelstore slab": 1, "boot": _boot(), **self.identity, "arrays": arrays},
            sort_keys=True,
        ).encode()
        return text.ljust(_pages(len(text)), b"\n")

    @functools.cached_property
    def name(self) -> str:
        """The file's name."""
        return f"{self.prefix}-{xxhash.xxh3_128_hexdigest(self.header)}{SUFFIX}"

    @functools.cached_property
    def offsets(self) -> dict[str, int]:
        """The first byte of each array."""
        offsets, end = {}, len(self.header)
        for name, dtype, shape in self.arrays:
            offsets[name] = end
            end += _pages(math.prod(shape) * dtype.itemsize)
        return offsets

    @functools.cached_property
    def nbytes(self) -> int:
        """The file's size."""
        sizes = (_pages(math.prod(shape) * dtype.itemsize) for _, dtype, shape in self.arrays)
        return len(self.header) + sum(sizes)


def _pages(count: int) -> int:
    return -(-count // _PAGE) * _PAGE
