"""Inner chunks of the backend's own shards, read directly.

zarr takes about a millisecond for a chunk, whatever its size, most of it spent on switching between
tasks; reading and decompressing the 4 to 40 kB that a chunk has takes a twentieth. So what an epoch
reads, chunks of arrays with views, is read here, and all the rest by zarr. Only shards of the very
layout and codecs that this library writes are: blosc, then crc32c, the index at the end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

__all__ = [
    "decode",
    "entry",
    "index_bytes",
    "is_bare",
    "is_direct",
    "is_plain",
    "parse_index",
    "read_bare",
    "read_chunks",
]

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


def is_plain(array: Any) -> bool:
    """Whether an open zarr array has no shards, and chunks with the codecs that this reads."""
    codecs = array.metadata.codecs
    kinds = [type(codec) for codec in codecs]
    return kinds == [BytesCodec, BloscCodec, Crc32cCodec] and _is_little(codecs[0])


def is_bare(array: Any) -> bool:
    """Whether an open zarr array's chunks are its values and a checksum."""
    codecs = array.metadata.codecs
    return [type(codec) for codec in codecs] == [BytesCodec, Crc32cCodec] and _is_little(codecs[0])


def read_bare(
    file: Path | str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any] | None:
    """A chunk of such an array; None when it is not there. ValueError when it is damaged."""
    try:
        with open(file, "rb", buffering=0) as opened:
            data = opened.read()
    except FileNotFoundError:
        return None
    _check(data)
    if len(data) != math.prod(shape) * dtype.itemsize + _CRC:
        raise ValueError(f"{len(data)} bytes, expected {math.prod(shape)} values")
    return np.frombuffer(data[:-_CRC], dtype).reshape(shape)


def _is_little(codec: Any) -> bool:
    """Whether a bytes codec is little-endian, or of single bytes."""
    return codec.endian is None or codec.endian.value == "little"


def read_chunks(
    shard: Path | str,
    places: Sequence[int],
    count: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fill: Any,
) -> list[npt.NDArray[Any]]:
    """Inner chunks of a shard; the fill value where the shard or a chunk is not there.

    Args:
        shard: the shard's file.
        places: the chunks' places in the index, 0..count-1; count: how many chunks a shard has.
        shape, dtype, fill: of a chunk.

    Raises:
        ValueError: the shard is damaged. OSError: it cannot be read.
    """
    chunks = []
    try:
        # Unbuffered: each chunk is one read.
        with open(shard, "rb", buffering=0) as file:
            start = file.seek(0, 2) - index_bytes(count)
            if start < 0:
                raise ValueError(f"no index of {index_bytes(count)} bytes at its end")
            file.seek(start)
            index = parse_index(file.read(index_bytes(count)))
            for place in places:
                found = entry(index, place, start)
                if found is None:
                    chunks.append(np.full(shape, fill, dtype))
                    continue
                file.seek(found[0])
                chunks.append(decode(file.read(found[1]), shape, dtype))
    except FileNotFoundError:
        return [np.full(shape, fill, dtype) for _ in places]
    return chunks


def index_bytes(count: int) -> int:
    """Bytes of the index at the end of a shard of ``count`` chunks."""
    return 16 * count + _CRC


def parse_index(data: bytes) -> npt.NDArray[np.uint64]:
    """(count, 2) offsets and sizes of a shard's chunks; ValueError when the index is damaged."""
    _check(data)
    return np.frombuffer(data, "<u8", (len(data) - _CRC) // 8).reshape(-1, 2)


def entry(index: npt.NDArray[np.uint64], place: int, start: int) -> tuple[int, int] | None:
    """Offset and size of a chunk; None when it is not there.

    Raises:
        ValueError: by the index, which starts at byte ``start``, it is no chunk of the shard.
    """
    offset, size = index[place].tolist()
    if offset == _ABSENT:
        return None
    if offset + size > start or size < _HEADER + _CRC:
        raise ValueError(f"a chunk of {size} bytes at {offset}, before byte {start}")
    return offset, size


def decode(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The codes of a chunk from its bytes; ValueError where they are damaged."""
    _check(data)
    expected = math.prod(shape) * dtype.itemsize
    held = int.from_bytes(data[4:8], "little")
    if held != expected:
        raise ValueError(f"{held} bytes are compressed, expected {expected}")
    return np.frombuffer(blosc.decompress(data[:-_CRC]), dtype).reshape(shape)


def _check(data: bytes) -> None:
    """Compare bytes with the CRC-32C behind them; ValueError where they differ."""
    stored = int.from_bytes(data[-_CRC:], "little")
    if len(data) < _CRC or google_crc32c.value(data[:-_CRC]) != stored:
        raise ValueError("a checksum differs")
