"""Many chunks, checked and decompressed in one call, without the interpreter's lock.

They are of one shard, or the same one of many: of a group of views, as a slab holds. Python looks
at a chunk (``shards.decode``) as long as zstd decompresses it. The compiled part (``_chunks.c``)
does both for many, with the functions of the zstd that numcodecs holds. It is tried on chunks that
numcodecs compressed before it is used. Where it was not built, where numcodecs shows no such
functions, and where a chunk is not what this library writes, ``shards`` looks at each.

What pays for it: ``python -m benchmarks.operations --only schedule ferkd``, and
``python -m benchmarks.read_epoch``.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import google_crc32c
import numcodecs
import numpy as np
from numcodecs import blosc

from labelstore.compiled import compiled_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.store.backends.zarr.unit_objects import BlockObject

    Entries = npt.NDArray[np.uint64]

__all__ = ["decode_files", "decode_many", "why_unused"]

_PART = "labelstore.store.backends.zarr._chunks"

# Now, and not by a thread that reads ahead: a data loader that forks while one imports would leave
# its workers waiting for the import to end.
compiled_part(_PART)

_MOST_BYTES = 2**26
"""Bytes of a chunk that the compiled part decodes, at most."""

_FEWEST = 8
"""Chunks that are decoded together, at least: to look at fewer one by one is as fast."""

_SPREAD = 2
"""Bytes from the first to the last chunk that are read together, at most, to one of theirs."""

_FUNCTIONS = ("ZSTD_createDCtx", "ZSTD_freeDCtx", "ZSTD_decompressDCtx")


class _Decoder(NamedTuple):
    """The compiled part and the zstd that it uses."""

    module: Any
    functions: tuple[int, ...]
    """Addresses of ``_FUNCTIONS``."""
    library: ctypes.CDLL
    """That they lie in."""

    def decode(self, data: bytes, start: int, entries: Entries, width: int, out: Any) -> bool:
        """As the compiled part says."""
        return bool(self.module.decode(*self.functions, data, start, entries, width, out))

    def decode_files(self, folder: int, names: bytes, place: tuple[int, int], out: Any) -> bool:
        """As the compiled part says, into values (n, ...); ``place`` with the count."""
        rows = out.reshape(len(out), -1).view(np.uint8)
        arguments = (folder, names, *place, out.itemsize, rows)
        return bool(self.module.decode_files(*self.functions, *arguments))


def decode_many(
    shard: BlockObject,
    index: Entries,
    places: Sequence[int],
    end: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> list[npt.NDArray[Any]] | None:
    """Chunks of a shard, as ``shards.decode`` gives each.

    Args:
        shard: the object. index: (count, 2) offsets and sizes of its chunks, not yet looked at.
        places: of those that are wanted, 0..count-1. end: byte behind the last chunk.
        shape, dtype: of a chunk.

    Returns:
        None where each has to be looked at: they are few, or lie apart, or one of them may not be
        there, or be damaged.
    """
    size = math.prod(shape) * dtype.itemsize
    if len(places) < _FEWEST or not 0 < size <= _MOST_BYTES:
        return None
    decoder = _compiled()
    if decoder is None:
        return None
    entries = index[np.asarray(places)]
    offsets, sizes = entries.T
    if int(entries.max()) > end:
        # Also where a chunk is not there.
        return None
    start, stop = int(offsets.min()), int((offsets + sizes).max())
    if stop > end or stop - start > _SPREAD * int(sizes.sum()):
        return None
    (part,) = shard.read([(start, stop - start)])
    data = bytes(part)
    out = np.empty((len(places), size), dtype=np.uint8)
    if not decoder.decode(data, start, entries, dtype.itemsize, out):
        return None
    return list(out.view(dtype).reshape(len(places), *shape))


def decode_files(
    folder: int,
    names: Sequence[str],
    place: tuple[int, int],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> npt.NDArray[Any] | None:
    """The same chunk of many shards, as ``shards.decode`` gives each, one behind the other.

    Args:
        folder: the descriptor of a folder of the store. names: of the shards in it, n.
        place: of the chunk, and how many a shard has.
        shape, dtype: of a chunk.

    Returns:
        (n, *shape); None where each has to be looked at: they are few or large, or one of them may
        not be there, or be a link, or damaged.
    """
    size = math.prod(shape) * dtype.itemsize
    if len(names) < 2 or not 0 < size * len(names) <= _MOST_BYTES:
        return None
    decoder = _compiled()
    if decoder is None:
        return None
    out = np.empty((len(names), *shape), dtype)
    whole = b"".join(name.encode() + b"\0" for name in names)
    return out if decoder.decode_files(folder, whole, place, out) else None


def why_unused() -> str | None:
    """Why the compiled part, which is there, does not decode; None where it does, or is not
    there."""
    module = compiled_part(_PART)
    if module is None or _compiled() is not None:
        return None
    if not module.CHECKS:
        return "the processor has no SSE 4.2"
    if _decoder(module) is None:
        return f"numcodecs {numcodecs.__version__} shows no functions of its zstd"
    return f"it does not give what numcodecs {numcodecs.__version__} compressed"


@functools.cache
def _compiled() -> _Decoder | None:
    """What decodes chunks; None where there is nothing that does it as ``shards``."""
    module = compiled_part(_PART)
    decoder = _decoder(module) if module is not None and module.CHECKS else None
    return decoder if decoder is not None and _decodes(decoder) else None


def _decoder(module: Any) -> _Decoder | None:
    """The compiled part with numcodecs' zstd; None where that does not show what it holds."""
    try:
        library = ctypes.CDLL(blosc.__file__)
        functions = [ctypes.cast(getattr(library, name), ctypes.c_void_p) for name in _FUNCTIONS]
    except (AttributeError, OSError):
        return None
    decoder = _Decoder(module, tuple(function.value or 0 for function in functions), library)
    return decoder if all(decoder.functions) else None


def _decodes(decoder: _Decoder) -> bool:
    """Whether it gives what numcodecs compressed, and nothing of what was changed since."""
    for dtype, most in (("u1", 3), ("u2", 900), ("f4", 40), ("u8", 2**60)):
        values = (np.arange(3000, dtype=np.uint64) ** 3 % most).astype(dtype)
        chunk = blosc.compress(values, b"zstd", 3, blosc.SHUFFLE, typesize=values.itemsize)
        data = chunk + google_crc32c.value(chunk).to_bytes(4, "little")
        entries = np.array([[5, len(data)]], dtype=np.uint64)
        out = np.zeros((1, values.nbytes), dtype=np.uint8)
        if not decoder.decode(b"data" + data, 1, entries, values.itemsize, out):
            return False
        if out.tobytes() != values.tobytes():
            return False
        changed = bytearray(data)
        changed[-1] ^= 1
        if decoder.decode(b"data" + changed, 1, entries, values.itemsize, out):
            return False
    return True
