"""Indexes of shards that are kept for other processes, and for the next run.

In ``labelstore.storage.kept_files``. An index is believed if the shard is the very one: by name,
size, times and inode (behind a URL the server's tag), and by the bytes of some of its headers and
of its end. That says of the photos between them no more than the file system does; what is stored
of a photo is its own digest.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from labelstore.storage.kept_files import KeptFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    Read = Callable[[int, int], bytes]

__all__ = ["KeptIndexes", "ShardIndex"]

_MAGIC = b"labelstore shard index 1\n"
_SAMPLES = 8
_BLOCK = 512


class ShardIndex(NamedTuple):
    """What a shard holds, in the order of its members."""

    names: list[str]
    """Of F files."""
    offsets: npt.NDArray[np.int64]
    """(F,) first byte of each."""
    sizes: npt.NDArray[np.int64]
    """(F,) bytes of each."""
    classes: dict[str, str]
    """Key -> text of the ``.cls`` member."""


class KeptIndexes:
    """The indexes in a folder; whatever is wrong with it, shards are read instead."""

    def __init__(self, root: Path | None = None) -> None:
        """``root``: the folder that may be shared; the environment's when None."""
        self._files = KeptFiles("shards", _MAGIC, root)

    def get(self, identity: tuple[str, ...], read: Read) -> ShardIndex | None:
        """The index of a shard that is known by its name and more; None where none is to be had.

        Args:
            identity: its name, and what changes when it does.
            read: (offset, length) -> bytes of the shard. OSErrors pass through.
        """
        body = self._files.get(_name(identity))
        if body is None:
            return None
        head, _, arrays = bytes(body).partition(b"\n")
        known = json.loads(head)
        if known["identity"] != list(identity):
            return None
        index = _unpacked(known, arrays)
        return index if known["samples"] == _samples(index, identity, read) else None

    def put(self, identity: tuple[str, ...], index: ShardIndex, read: Read) -> None:
        """Keep an index, if the disk takes it."""
        texts = (index.names, list(index.classes), list(index.classes.values()))
        if any("\0" in text for part in texts for text in part):
            return
        parts = ["\0".join(part).encode("utf-8", "surrogateescape") for part in texts]
        head = {
            "identity": identity,
            "samples": _samples(index, identity, read),
            "counts": [len(part) for part in texts],
            "bytes": [len(part) for part in parts],
        }
        arrays = [values.astype("<i8").tobytes() for values in (index.offsets, index.sizes)]
        body = b"".join([json.dumps(head).encode(), b"\n", *arrays, *parts])
        self._files.put(_name(identity), body)


def _name(identity: tuple[str, ...]) -> str:
    # By the name alone: a shard that was changed takes the place of what it was.
    return f"{xxhash.xxh3_128_hexdigest(identity[0].encode())}.index"


def _unpacked(known: dict[str, Any], arrays: bytes) -> ShardIndex:
    """An index as it was packed."""
    files = known["counts"][0]
    offsets, sizes = np.frombuffer(arrays, "<i8", 2 * files).astype(np.int64).reshape(2, files)
    texts: list[list[str]] = []
    start = 16 * files
    for count, length in zip(known["counts"], known["bytes"], strict=True):
        text = arrays[start : start + length].decode("utf-8", "surrogateescape")
        texts.append(text.split("\0") if count else [])
        start += length
    names, keys, classes = texts
    return ShardIndex(names, offsets, sizes, dict(zip(keys, classes, strict=True)))


def _samples(index: ShardIndex, identity: tuple[str, ...], read: Read) -> str:
    """A digest of a few headers of a shard and its end, where they cost no request."""
    digest = xxhash.xxh3_64()
    if "://" in identity[0]:
        return ""
    rows = np.linspace(0, len(index.offsets) - 1, _SAMPLES).astype(np.int64)
    for offset in index.offsets[rows].tolist() if len(index.offsets) else ():
        digest.update(read(offset - _BLOCK, _BLOCK))
    digest.update(read(max(int(identity[1]) - _BLOCK, 0), _BLOCK))
    return digest.hexdigest()
