"""Inner chunks of the backend's own shards, read directly.

zarr takes about a millisecond for a chunk, whatever its size, most of it spent on switching between
tasks; reading and decompressing the 4 to 40 kB that a chunk has takes a twentieth. So what an epoch
reads, chunks of arrays with views, is read here, and all the rest by zarr. Only shards of the very
layout and codecs that this library writes are: blosc, then crc32c, the index at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["is_direct", "read_chunk"]

_ABSENT = 2**64 - 1
"""Offset, in an index, of a chunk that holds nothing but the fill value."""

_CRC = 4
"""Bytes of a checksum."""

_HEADER = 16
"""Bytes of a blosc header, in which bytes 4 to 8 are the size of what is compressed."""


def is_direct(array: Any) -> bool:
    """Whether an open zarr array is sharded with the codecs that this module reads."""
    codecs = array.metadata.codecs
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec):
        return False
    sharding = codecs[0]
    kinds = [type(codec) for codec in sharding.codecs]
    index = [type(codec) for codec in sharding.index_codecs]
    return (
        kinds == [BytesCodec, BloscCodec, Crc32cCodec]
        and index == [BytesCodec, Crc32cCodec]
        and sharding.index_location.value == "end"
        and all(_is_little(part[0]) for part in (sharding.codecs, sharding.index_codecs))
    )


def _is_little(codec: Any) -> bool:
    """Whether a bytes codec is little-endian, or of single bytes."""
    return codec.endian is None or codec.endian.value == "little"


def read_chunk(
    shard: Path,
    place: int,
    count: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fill: Any,
) -> npt.NDArray[Any]:
    """One inner chunk of a shard; the fill value where the shard or the chunk is not there.

    Args:
        shard: the shard's file.
        place: the chunk's place in the index, 0..count-1; count: how many chunks a shard has.
        shape, dtype, fill: of the chunk.

    Raises:
        ValueError: the shard is damaged. OSError: it cannot be read.
    """
    try:
        with shard.open("rb") as file:
            end = file.seek(0, 2)
            start = end - 16 * count - _CRC
            if start < 0:
                raise ValueError(f"{end} bytes, expected an index of {16 * count + _CRC}")
            file.seek(start)
            index = file.read(16 * count + _CRC)
            _check(index)
            offset, size = np.frombuffer(index, "<u8", 2, 16 * place).tolist()
            if offset == _ABSENT:
                return np.full(shape, fill, dtype)
            if offset + size > start or size < _HEADER + _CRC:
                raise ValueError(f"a chunk of {size} bytes at {offset}, before byte {start}")
            file.seek(offset)
            data = file.read(size)
    except FileNotFoundError:
        return np.full(shape, fill, dtype)
    _check(data)
    expected = int(np.prod(shape)) * dtype.itemsize
    held = int.from_bytes(data[4:8], "little")
    if held != expected:
        raise ValueError(f"{held} bytes are compressed, expected {expected}")
    return np.frombuffer(blosc.decompress(data[:-_CRC]), dtype).reshape(shape)


def _check(data: bytes) -> None:
    """Compare bytes with the CRC-32C behind them; ValueError where they differ."""
    stored = int.from_bytes(data[-_CRC:], "little")
    if len(data) < _CRC or google_crc32c.value(data[:-_CRC]) != stored:
        raise ValueError("a checksum differs")
