"""Indexes of shards that are kept for other processes, and for the next run.

In a folder for this user alone, below ``LABELSTORE_CACHE`` or else the system's folder for
temporary files; it may be deleted at any time. An index is believed if the file is whole (it has a
digest of itself), and the shard is the very one: by name, size, times and inode (behind a URL the
server's tag), and by the bytes of some of its headers and of its end. That says of the photos
between them no more than the file system does; what is stored of a photo is its own digest.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from labelstore.errors import StoreError
from labelstore.storage import local_files, private_folders

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Read = Callable[[int, int], bytes]

__all__ = ["KeptIndexes", "ShardIndex"]

_VARIABLE = "LABELSTORE_CACHE"
_MAGIC = b"labelstore shard index 1\n"
_SAMPLES = 8
_BLOCK = 512
_MOST_BYTES = 2**31


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
        root = root or Path(os.environ.get(_VARIABLE) or tempfile.gettempdir())
        self._folder = private_folders.folder_below(root, "labelstore-shards")

    def get(self, identity: tuple[str, ...], read: Read) -> ShardIndex | None:
        """The index of a shard that is known by its name and more; None where none is to be had.

        Args:
            identity: its name, and what changes when it does.
            read: (offset, length) -> bytes of the shard. OSErrors pass through.
        """
        try:
            if not private_folders.is_private_folder(self._folder):
                return None
            with os.fdopen(private_folders.open_file(self._path(identity), os.O_RDONLY), "rb") as f:
                data = f.read(_MOST_BYTES)
        except OSError:
            return None
        body = memoryview(data)[len(_MAGIC) + 16 :]
        if data[: -len(body)] != _MAGIC + xxhash.xxh3_128_digest(body):
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
        try:
            local_files.write_private(
                self._path(identity), _MAGIC + xxhash.xxh3_128_digest(body) + body
            )
        except StoreError:
            # The next one reads the shard again.
            return

    def _path(self, identity: tuple[str, ...]) -> Path:
        # By the name alone: a shard that was changed takes the place of what it was.
        return self._folder / f"{xxhash.xxh3_128_hexdigest(identity[0].encode())}.index"


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
