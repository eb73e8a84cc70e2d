"""Counter-based random numbers: the one place where labelstore draws them.

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A draw is a
pure function of (key, counter): there is no state, so any subset in any order on any machine gives
the same numbers. Only 32- and 64-bit integer operations and exact float64 scaling are used.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    U32 = npt.NDArray[np.uint32]

    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["bounded", "hash_keys", "mixed_seed", "permutation", "philox4x32", "uniform"]

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_LOW = np.uint64(_MASK)
_SHIFT = np.uint64(32)
# About 1 MB of working arrays: they stay in the second-level cache.
_CHUNK = 1 << 14


def philox4x32(
    counter: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike],
    seed: int,
    rounds: int = 10,
) -> tuple[U32, U32, U32, U32]:
    """Four random words for each counter.

    Args:
        counter: four arrays of 32-bit words (values 0..2**32-1) that broadcast together.
        seed: the 64-bit key, 0..2**64-1; its low half is the first key word.
        rounds: 10 in everything that labelstore stores.

    Returns:
        four uint32 arrays of the broadcast shape.
    """
    words = [np.asarray(word, dtype=np.uint64) for word in counter]
    shape = np.broadcast_shapes(*(word.shape for word in words))
    size = int(np.prod(shape, dtype=np.int64))
    flat = [np.broadcast_to(word, shape).reshape(-1) for word in words]
    out = np.empty((4, size), dtype=np.uint32)
    keys = _round_keys(seed, rounds)
    for start in range(0, size, _CHUNK):
        c0, c1, c2, c3 = (word[start : start + _CHUNK] for word in flat)
        # A round does the same to words 0 and 2, and to 1 and 3: they lie together, which halves
        # the calls, for most of the time of a few counters is that of calls.
        even, odd = np.stack([c0, c2]), np.stack([c1, c3])
        for key in keys:
            even *= _MULTIPLIERS
            high = even >> _SHIFT
            odd ^= key
            odd ^= high[::-1]
            even &= _LOW
            even, odd = odd, even[::-1]
        out[::2, start : start + _CHUNK] = even
        out[1::2, start : start + _CHUNK] = odd
    return tuple(row.reshape(shape) for row in out)  # type: ignore[return-value]


@functools.lru_cache(maxsize=64)
def _round_keys(seed: int, rounds: int) -> tuple[npt.NDArray[np.uint64], ...]:
    """The two key words of each round, (2, 1) uint64."""
    low, high = seed & _MASK, (seed >> 32) & _MASK
    return tuple(
        np.array(
            [[(low + number * _WEYL[0]) & _MASK], [(high + number * _WEYL[1]) & _MASK]],
            dtype=np.uint64,
        )
        for number in range(rounds)
    )


def uniform(words: U32) -> npt.NDArray[np.float64]:
    """uint32 words to float64 in [0, 1), exactly ``word * 2**-32``."""
    return words * np.float64(2.0**-32)


def bounded(words: U32, limits: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """uint32 words to integers in [0, limits): ``(word * limit) >> 32``.

    ``limits`` are positive and below 2**31. No value is more likely than another by more than
    ``limit / 2**32``.
    """
    product = words.astype(np.uint64) * np.asarray(limits, dtype=np.uint64)
    return (product >> _SHIFT).astype(np.int64)


def permutation(count: int, seed: int, stream: tuple[int, int]) -> npt.NDArray[np.int64]:
    """A random order of ``range(count)``, the same on every machine.

    Args:
        count: how many.
        seed: 64-bit key.
        stream: two 32-bit words that tell one permutation of this seed from another.
    """
    high, low, _, _ = philox4x32((np.arange(count, dtype=np.uint64), 0, *stream), seed)
    order = (high.astype(np.uint64) << _SHIFT) | low
    return np.argsort(order, kind="stable").astype(np.int64)


def hash_keys(keys: Sequence[str]) -> npt.NDArray[np.uint64]:
    """xxh3_64 of each key's UTF-8 bytes: (N,) uint64. It names the image in every draw.

    A text with half a character (a lone surrogate), which no store holds, has a hash as well.
    """
    digest, count = xxhash.xxh3_64_intdigest, len(keys)
    try:
        # Without a loop of the interpreter's: in two thirds of the time.
        return np.fromiter(map(digest, map(str.encode, keys)), dtype=np.uint64, count=count)
    except UnicodeEncodeError:
        hashes = (digest(key.encode("utf-8", "surrogatepass")) for key in keys)
        return np.fromiter(hashes, dtype=np.uint64, count=count)


def mixed_seed(purpose: str, seed: int) -> int:
    """A Philox key for one purpose: xxh3_64 of a text that names the purpose and the seed."""
    return int(xxhash.xxh3_64_intdigest(f"labelstore schedule 1 {purpose} {seed}".encode()))
