"""Random draws of mixing: partners, weights and boxes. NumPy only, pure functions of (key, step).

Counter words, each kind of draw under a Philox key of its own (``schedule.mixed_seed``):

    partner  (row, 0, step low, step high)
    weight   (row, 2 * attempt + which of two, step low, step high)
    centre   (row, 0, step low, step high)
    choice   (row, 0, step low, step high)

``row`` is the view's place in the batch; 0 where a draw holds for the whole batch.
"""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from labelstore.views.philox import bounded, philox4x32, uniform

if TYPE_CHECKING:
    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["beta", "boxes", "cyclic_partners", "halves"]


def cyclic_partners(groups: npt.ArrayLike, seed: int, step: int) -> Int64Array:
    """A permutation without fixed points inside each group: its members in a random cycle.

    Args:
        groups: (B,) integers; equal ones form a group.
        seed: 64-bit Philox key.
        step: 0..2**64-1.

    Returns:
        (B,) row of each row's successor in its group; the row itself where it is alone.
    """
    ids = np.asarray(groups, dtype=np.int64)
    size = len(ids)
    high, low, _, _ = philox4x32((np.arange(size), 0, *halves(step)), seed)
    order = np.lexsort(((high.astype(np.uint64) << np.uint64(32)) | low, ids))
    ranked = ids[order]
    first = np.append(True, ranked[1:] != ranked[:-1])[:size]
    start = np.maximum.accumulate(np.where(first, np.arange(size), 0))
    last = np.append(first[1:], True)[:size]
    partner = np.empty(size, dtype=np.int64)
    partner[order] = order[np.where(last, start, np.arange(size) + 1)]
    return partner


def beta(alpha: float, size: int, seed: int, step: int) -> Float64Array:
    """(size,) draws of Beta(alpha, alpha) in [0, 1], for alpha > 0.

    ``G / (G + G')`` of two Gamma(alpha) variables, each by the squeeze-free rejection of Marsaglia
    and Tsang (ACM TOMS 2000) at alpha + 1, times ``U ** (1 / alpha)``; in logarithms, as small
    alphas would underflow.
    """
    logs = [_log_gamma_draws(alpha, size, seed, step, which) for which in (0, 1)]
    return np.minimum(np.exp(logs[0] - np.logaddexp(*logs)), 1.0)


def _log_gamma_draws(alpha: float, size: int, seed: int, step: int, which: int) -> Float64Array:
    d = alpha + 1.0 - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    out = np.empty(size)
    rows = np.arange(size)
    for attempt in count():
        if not rows.size:
            break
        words = philox4x32((rows, 2 * attempt + which, *halves(step)), seed)
        # Half a step up: the logarithm of 0 is not wanted.
        u = [uniform(word) + 2.0**-33 for word in words]
        normal = np.sqrt(-2.0 * np.log(u[0])) * np.cos(2.0 * np.pi * u[1])
        v = (1.0 + c * normal) ** 3
        log_v = np.log(np.maximum(v, 1e-300))
        accepted = (v > 0) & (np.log(u[2]) < 0.5 * normal**2 + d - d * v + d * log_v)
        out[rows[accepted]] = (math.log(d) + log_v + np.log(u[3]) / alpha)[accepted]
        rows = rows[~accepted]
    return out


def boxes(weight: Float64Array, size: tuple[int, int], seed: int, step: int) -> Int64Array:
    """CutMix's boxes (Yun et al., ICCV 2019, section 3.1).

    ``sqrt(1 - weight)`` of each side, rounded down, around an even draw of a pixel, clipped.

    Args:
        weight: (n,) in [0, 1], the share of the view's own pixels before clipping.
        size: height and width of the view, pixels.
        seed: 64-bit Philox key.
        step: 0..2**64-1.

    Returns:
        (n, 4) int64 top, left, height, width, inside the view; a side may be 0.
    """
    sides = np.array(size, dtype=np.int64)
    words = philox4x32((np.arange(len(weight)), 0, *halves(step)), seed)
    centre = np.stack([bounded(words[0], sides[0]), bounded(words[1], sides[1])], axis=-1)
    lengths = np.floor(sides * np.sqrt(1.0 - weight)[:, None]).astype(np.int64)
    start = np.clip(centre - lengths // 2, 0, sides)
    stop = np.clip(centre - lengths // 2 + lengths, 0, sides)
    return np.concatenate([start, stop - start], axis=-1)


def halves(step: int) -> tuple[int, int]:
    """Low and high 32 bits of a step, 0..2**64-1: its counter words."""
    return step & 0xFFFFFFFF, step >> 32
