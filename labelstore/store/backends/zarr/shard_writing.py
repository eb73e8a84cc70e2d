"""Blocks of a Zarr store's arrays as the objects that zarr makes of them, byte for byte.

zarr takes about 0.3 ms for an inner chunk besides compressing it, most of it spent on switching
between tasks, and a block of 500 views has 375 of them: more than all else that is done for labels
that another project has made. So shards are put together here, of the codecs that the array's own
description names, as they are read in ``shards``; so are keys and targets.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.vlen import VLenUTF8

from labelstore.storage.parallel.threads import on_all_cores
from labelstore.store.backends.zarr.shards import (
    ABSENT,
    chunk_bytes,
    entry,
    index_bytes,
    parse_index,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from labelstore.format.blocks import StoredArray, StoredObject
    from labelstore.store.backends.zarr.metadata import ArrayLayout

__all__ = ["BlockEncoder", "shard_of"]

_LITTLE_BYTES = 2**17
"""Codes of a block that are compressed sooner than threads are started for them."""

_TEXTS = VLenUTF8()
"""How zarr writes texts, of which ``shards`` tells the layout."""

_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@dataclasses.dataclass(frozen=True)
class BlockEncoder:
    """Makes the objects of one array's blocks; may be called by several threads at once."""

    layout: ArrayLayout
    compressor: Blosc | None
    """As the array's description says; None for one that is not compressed."""

    @classmethod
    def of(cls, codecs: Sequence[Mapping[str, Any]], layout: ArrayLayout) -> BlockEncoder:
        """The encoder of an array.

        Args:
            codecs: those of its description, which fits its layout.
        """
        if codecs[0]["name"] == "sharding_indexed":
            codecs = codecs[0]["configuration"]["codecs"]
        for codec in codecs:
            if codec["name"] == "blosc":
                settings = codec["configuration"]
                compressor = Blosc(
                    cname=settings["cname"],
                    clevel=settings["clevel"],
                    shuffle=_SHUFFLES[settings["shuffle"]],
                    blocksize=settings["blocksize"],
                    typesize=settings["typesize"],
                )
                return cls(layout, compressor)
        return cls(layout, None)

    def encode(self, codes: npt.NDArray[Any], stored: StoredArray | None = None) -> bytes | None:
        """The object of a block; None where all codes are fill values, for which there is none.

        Args:
            codes: (n, ...) of the block's n images, or of its commit row, in the array's type. In
                the last block, and the last group of views, the rest is filled up.
            stored: the same array of a block that was verified. Of it is taken what has the same
                bits: the object as it is, or chunks.
        """
        array = self.layout
        if stored is not None and not self._is_cut_alike(stored.object):
            stored = None
        if (
            stored is not None
            and stored.object.count == array.count
            and _same_bits(codes, stored.codes)
        ):
            return stored.object.data
        if array.shards is None:
            return self._chunk(codes)
        views = array.chunks[1]
        laid = None if stored is None else _Chunks(stored)

        def chunk(group: int) -> bytes | None:
            part = codes[:, group * views : (group + 1) * views]
            return (laid and laid.holding(part, group)) or self._chunk(part)

        groups = range(-(-codes.shape[1] // views))
        if codes.nbytes < _LITTLE_BYTES:
            return shard_of(map(chunk, groups), array.count)
        return shard_of(on_all_cores(chunk, groups), array.count)

    def table(self, values: npt.NDArray[Any]) -> Iterator[bytes]:
        """The objects of an array of one axis in order; each is there, whatever it holds.

        Args:
            values: (n,) all numbers, or texts, of the array.
        """
        for start in range(0, len(values), self.layout.rows):
            yield self._encoded(values[start : start + self.layout.rows])

    def _is_cut_alike(self, other: StoredObject) -> bool:
        """Whether an object's chunks are of this array's shape, and mean the same where they are
        not there."""
        fill = self.layout.fill
        same = other.fill == fill or (other.fill != other.fill and fill != fill)
        return bool(same) and other.chunk == self.layout.chunks

    def _chunk(self, codes: npt.NDArray[Any]) -> bytes | None:
        """The bytes of a chunk; None where all are fill values."""
        return None if _is_fill(codes, self.layout.fill) else self._encoded(codes)

    def _encoded(self, codes: npt.NDArray[Any]) -> bytes:
        """The bytes of a chunk, filled up where it has less than others."""
        array = self.layout
        chunk: npt.NDArray[Any]
        if codes.shape == array.chunks:
            chunk = np.ascontiguousarray(codes, dtype=array.dtype)
        else:
            chunk = np.full(array.chunks, array.fill, dtype=array.dtype)
            chunk[tuple(slice(size) for size in codes.shape)] = codes
        if chunk.dtype == object:
            chunk = np.frombuffer(_TEXTS.encode(chunk), dtype=np.uint8)
        if self.compressor is None:
            return _checked(chunk.tobytes())
        return _checked(bytes(self.compressor.encode(chunk)))


def shard_of(chunks: Iterable[bytes | None], count: int) -> bytes | None:
    """The object of the first chunks of ``count``; None where none of them is there."""
    index = np.full((count, 2), ABSENT, dtype="<u8")
    parts: list[bytes] = []
    start = 0
    for place, data in enumerate(chunks):
        if data is not None:
            parts.append(data)
            index[place] = start, len(data)
            start += len(data)
    return b"".join([*parts, _checked(index.tobytes())]) if parts else None


class _Chunks:
    """The chunks of a shard that lies in another store."""

    def __init__(self, stored: StoredArray) -> None:
        data, count = stored.object.data, stored.object.count
        self._data, self._codes = data, stored.codes
        self._start = len(data) - index_bytes(count)
        self._index = parse_index(data[self._start :])
        self._views = stored.object.chunk[1]
        self._most = chunk_bytes(stored.object.chunk, stored.codes.dtype)

    def holding(self, codes: npt.NDArray[Any], group: int) -> bytes | None:
        """The chunk of a group of views, if it has these codes; None where it has others, or is not
        there."""
        if not _same_bits(codes, self._codes[:, group * self._views : (group + 1) * self._views]):
            return None
        place = entry(self._index, group, self._start, self._most)
        return None if place is None else self._data[place[0] : sum(place)]


def _same_bits(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Whether two arrays have the same shape, type and bits: NaN is NaN, and -0.0 is not 0.0."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    bits = np.dtype(f"<u{one.dtype.itemsize}")
    return bool(np.array_equal(one.view(bits), other.view(bits)))


def _is_fill(codes: npt.NDArray[Any], fill: Any) -> bool:
    """Whether all codes are the fill value; NaN is one."""
    if fill != fill:
        return bool(np.isnan(codes.flat[0])) and bool(np.isnan(codes).all())
    return bool(codes.flat[0] == fill) and bool((codes == fill).all())


def _checked(data: bytes) -> bytes:
    """Bytes and their CRC-32C behind them."""
    checksum: int = google_crc32c.value(data)
    return data + checksum.to_bytes(4, "little")
