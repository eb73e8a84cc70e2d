"""Chunks of a Zarr store's arrays, read directly.

zarr takes about a millisecond for a chunk, whatever its size, most of it spent on switching between
tasks; reading and decompressing the 4 to 40 kB that a chunk has takes a twentieth. And blosc
believes the header of what it decompresses, and reads and writes where that says. So every chunk is
read here, of the very layout and codecs that this library writes, which opening a store has
checked: values, blosc with zstd, then crc32c; in shards the index is at the end.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numcodecs.vlen import VLenUTF8

from labelstore.storage.untrusted import check_expansion, open_inside
from labelstore.store.backends.zarr.many_chunks import decode_many
from labelstore.store.backends.zarr.unit_objects import FileObject

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.store.backends.zarr.unit_objects import BlockObject

__all__ = [
    "ABSENT",
    "chunk_bytes",
    "chunks_in",
    "decode",
    "decode_bare",
    "decode_strings",
    "entry",
    "filled",
    "index_bytes",
    "parse_index",
    "read_chunks",
    "shard_bytes",
]

ABSENT = 2**64 - 1
"""Offset, in an index, of a chunk that holds nothing but the fill value."""

_CRC = 4
"""Bytes of a checksum."""

_HEADER = 16
"""Bytes of a blosc header: its version, the codec's, flags, type size; then, of four bytes each,
the size of what is compressed, of a block of it, and of the compressed whole."""

_FIELDS = struct.Struct("<2s2B3I")
"""These fields, the two versions as one."""

_VERSIONS = b"\x02\x01"
"""The only version of blosc's format, and that of what zstd puts into it."""

_ZSTD, _STORED = 4, 0x02
"""The codec's number, in the highest three bits of the flags; the flag of data that is no smaller
when compressed and lies there as it is."""

_MOST_STRINGS = 2**31 - 1
"""Bytes that blosc compresses at a time."""


def chunk_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes on disk that a chunk has at most."""
    return math.prod(shape) * dtype.itemsize + _HEADER + _CRC


def shard_bytes(count: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes on disk that a shard of ``count`` chunks has at most."""
    return count * chunk_bytes(shape, dtype) + index_bytes(count)


def read_chunks(
    shard: Path | str,
    root: Path | str,
    places: Sequence[int],
    count: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fill: Any,
) -> list[npt.NDArray[Any]]:
    """Inner chunks of a shard; the fill value where the shard or a chunk is not there.

    Args:
        shard: the shard's file. root: the store's folder.
        places: the chunks' places in the index, 0..count-1; count: how many chunks a shard has.
        shape, dtype, fill: of a chunk.

    Raises:
        ValueError, CorruptError: the shard is damaged. OSError: it cannot be read.
    """
    try:
        file = FileObject(*open_inside(shard, root), index_bytes(count))
    except FileNotFoundError:
        return [filled(shape, dtype, fill, 0) for _ in places]
    try:
        return chunks_in(file, places, count, shape, dtype, fill)
    finally:
        file.close()


def chunks_in(
    shard: BlockObject,
    places: Sequence[int],
    count: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fill: Any,
) -> list[npt.NDArray[Any]]:
    """As ``read_chunks``, of a shard that is open."""
    start = shard.size - index_bytes(count)
    if start < 0:
        raise ValueError(f"no index of {index_bytes(count)} bytes at its end")
    check_expansion(len(places) * chunk_bytes(shape, dtype), start)
    (data,) = shard.read([(start, index_bytes(count))])
    index = parse_index(bytes(data))
    together = decode_many(shard, index, places, start, shape, dtype)
    if together is not None:
        return together
    chunks = []
    for place in places:
        extent = entry(index, place, start, chunk_bytes(shape, dtype))
        if extent is None:
            chunks.append(filled(shape, dtype, fill, start))
            continue
        (data,) = shard.read([extent])
        chunks.append(decode(bytes(data), shape, dtype))
    return chunks


def filled(
    shape: tuple[int, ...], dtype: np.dtype[Any], fill: Any, stored: int
) -> npt.NDArray[Any]:
    """A chunk (*shape) of an object of ``stored`` bytes that holds nothing but the fill value."""
    check_expansion(math.prod(shape) * dtype.itemsize, stored)
    return np.full(shape, fill, dtype)


def index_bytes(count: int) -> int:
    """Bytes of the index at the end of a shard of ``count`` chunks."""
    return 16 * count + _CRC


def parse_index(data: bytes) -> npt.NDArray[np.uint64]:
    """(count, 2) offsets and sizes of a shard's chunks; ValueError when the index is damaged."""
    return np.frombuffer(_checked(data), "<u8").reshape(-1, 2)


def entry(
    index: npt.NDArray[np.uint64], place: int, start: int, most: int
) -> tuple[int, int] | None:
    """Offset and size, in bytes, of a chunk by its shard's index (count, 2); None for none.

    Raises:
        ValueError: by the index, which starts at byte ``start``, it is no chunk of the shard, or
            one of more than ``most`` bytes.
    """
    offset, size = index[place].tolist()
    if offset == ABSENT:
        return None
    if offset + size > start or not _HEADER + _CRC <= size <= most:
        raise ValueError(f"a chunk of {size} bytes at {offset}, before byte {start}")
    return offset, size


def decode(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """(*shape) codes of a chunk from its bytes; ValueError where they are damaged."""
    packed = _checked(data)
    expected = math.prod(shape) * dtype.itemsize
    size = _check_blosc(packed, dtype.itemsize)
    if size != expected:
        raise ValueError(f"{size} bytes are compressed, expected {expected}")
    return np.frombuffer(_decompressed(packed), dtype).reshape(shape)


def decode_bare(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """(*shape) values of a chunk that is not compressed; ValueError where they are damaged."""
    values = _checked(data)
    if len(values) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(values)} bytes, expected {math.prod(shape)} values")
    return np.frombuffer(values, dtype).reshape(shape)


def decode_strings(data: bytes, count: int) -> list[str]:
    """The ``count`` strings of a chunk; ValueError where it is damaged."""
    packed = _checked(data)
    size = _check_blosc(packed, 1)
    if not 4 * (count + 1) <= size <= _MOST_STRINGS:
        raise ValueError(f"{size} bytes are compressed, expected {count} strings")
    whole = _decompressed(packed)
    if int.from_bytes(whole[:4], "little") != count:
        raise ValueError(f"{int.from_bytes(whole[:4], 'little')} strings, expected {count}")
    try:
        strings: list[str] = VLenUTF8().decode(whole).tolist()
    except SystemError as error:
        raise ValueError("a string's length is negative") from error
    return strings


def _decompressed(packed: bytes) -> bytes:
    """What is compressed in bytes whose header has been checked."""
    try:
        whole: bytes = blosc.decompress(packed)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return whole


def _checked(data: bytes) -> bytes:
    """Bytes without the CRC-32C behind them; ValueError where that is another's."""
    values, stored = data[:-_CRC], int.from_bytes(data[-_CRC:], "little")
    if len(data) < _CRC or google_crc32c.value(values) != stored:
        raise ValueError("a checksum differs")
    return values


def _check_blosc(packed: bytes, typesize: int) -> int:
    """How many bytes are compressed, by a header that blosc may believe.

    Args:
        packed: the compressed bytes. typesize: of a value.

    Raises:
        ValueError: the header is not one of these bytes.
    """
    size = len(packed)
    if size < _HEADER:
        raise ValueError(f"{size} bytes are no compressed chunk")
    versions, flags, width, plain, block, stored = _FIELDS.unpack_from(packed)
    if (
        versions != _VERSIONS
        or width != typesize
        or stored != size
        or (flags >> 5 != _ZSTD and not flags & _STORED)
        or (plain > 0 and not 0 < block <= plain)
        or (flags & _STORED and size != plain + _HEADER)
        # Where each block begins is told in four bytes.
        or (not flags & _STORED and plain and size < _HEADER + 4 * -(-plain // block))
    ):
        raise ValueError("a compressed chunk's header does not describe it")
    check_expansion(plain, size)
    return int(plain)
