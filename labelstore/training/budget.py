"""Budgets: which images an epoch has where it has a share of them."""

from __future__ import annotations

import numbers
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import UsageError
from labelstore.views.philox import mixed_seed, permutation

if TYPE_CHECKING:
    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["budget_images", "budget_share", "budget_showings"]


def budget_share(budget: float, count: int) -> Fraction:
    """A budget as a fraction p / q, so that whole numbers of epochs show each image.

    Args:
        budget: share of the images that an epoch shows, in (0, 1].
        count: how many images there are.

    Returns:
        the nearest fraction with a denominator of at most 100.

    Raises:
        UsageError: out of range, or so small that epochs would show no image.
    """
    numeric = isinstance(budget, numbers.Real) and 0 < budget <= 1
    share = Fraction(budget).limit_denominator(100) if numeric else Fraction(0)
    if not share:
        raise UsageError(f"budget is {budget!r}, expected a share of the images from 0.01 to 1.")
    if share * count < 1:
        raise UsageError(
            f"a budget of {budget} of {count} images leaves epochs without any, expected at least "
            f"one image: choose at least {1 / count:.3g}."
        )
    return share


def budget_images(count: int, epoch: int, share: tuple[int, int], seed: int) -> Int64Array:
    """Which of ``count`` images an epoch shows when only a share of them is to be shown.

    For a share p / q, a cycle is q epochs. The images stand on a ring in an order drawn from
    (seed, cycle), and epoch e of the cycle takes the places from ``floor(e count p / q)`` to
    ``floor((e + 1) count p / q) - 1``, going round p times in all: every image is shown in exactly
    p epochs of the cycle and never twice in one.

    Args:
        count: how many images there are, at least 1.
        epoch: 0..2**32-1.
        share: p and q with 1 <= p <= q.
        seed: any integer.

    Returns:
        (n,) int64, rising, n being ``count p / q`` rounded down or up, the same for any ranks.

    Raises:
        UsageError: numbers out of range.
    """
    cycle, begin, end = _budget_places(count, epoch, share)
    return np.sort(_ring(count, cycle, seed)[np.arange(begin, end) % count])


def budget_showings(count: int, epoch: int, share: tuple[int, int], seed: int) -> Int64Array:
    """How often each of ``count`` images was shown before an epoch, under a budget.

    In closed form: p times in every cycle before, and in this one as often as the ring was gone
    round past its place.

    Args and errors: those of ``budget_images``.

    Returns:
        (count,) int64. Of the images that an epoch shows two numbers differ by 1 at most.
    """
    cycle, begin, _ = _budget_places(count, epoch, share)
    out = np.empty(count, dtype=np.int64)
    out[_ring(count, cycle, seed)] = (begin - np.arange(count) + count - 1) // count
    return out + cycle * share[0]


def _budget_places(count: int, epoch: int, share: tuple[int, int]) -> tuple[int, int, int]:
    """The cycle of an epoch, and the places that it takes: from, and up to; going on past
    ``count``."""
    p, q = share
    if not 0 <= epoch < 2**32:
        raise UsageError(f"epoch is {epoch}, expected 0 to 2**32-1.")
    if count < 1 or not 1 <= p <= q:
        raise UsageError(
            f"a share of {p} / {q} of {count} images was asked for, expected at least one image "
            "and a share above 0 and up to 1."
        )
    cycle, step = divmod(epoch, q)
    return cycle, step * count * p // q, (step + 1) * count * p // q


def _ring(count: int, cycle: int, seed: int) -> Int64Array:
    """(count,) int64: the images in the order of a budget's cycle."""
    return permutation(count, mixed_seed("budget", seed), (cycle, 0))
