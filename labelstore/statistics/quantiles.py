"""Quantiles of values that come in parts, in little memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.statistics.sampling import Z95

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Quantiles"]

_SHIFT = 13
"""Bits that are dropped of a float32's 23 of its fraction."""


class Quantiles:
    """Quantiles of non-negative values that come in parts, each to 0.1 %.

    Values are counted by the leading bits of their float32, which rise as the values do: a bin is
    a thousandth of its values wide. 2 MB, however many values there are.
    """

    def __init__(self) -> None:
        self.count = 0
        """How many values there were."""
        self._counts = np.zeros(1 << (31 - _SHIFT), dtype=np.int64)

    def add(self, values: npt.NDArray[Any]) -> None:
        """More values, of any shape, none of them negative or NaN."""
        # Plus 0, since -0.0 has another sign bit.
        bits = np.ascontiguousarray(values, dtype=np.float32).reshape(-1) + np.float32(0)
        codes = (bits.view(np.uint32) >> _SHIFT).astype(np.int64)
        self._counts += np.bincount(codes, minlength=len(self._counts))
        self.count += codes.size

    def value(self, share: float) -> float:
        """The value that this share of the values, 0..1, is at or below; the count is not 0."""
        rank = min(max(math.ceil(share * self.count), 1), self.count)
        code = int(np.searchsorted(np.cumsum(self._counts), rank))
        # The middle of the bin; that of zero is zero.
        middle = (code << _SHIFT) + (1 << (_SHIFT - 1) if code else 0)
        return float(np.uint32(middle).view(np.float32))

    def error(self, share: float, whole: int) -> float:
        """Half the width of the quantile's 95 % interval, when there are ``whole`` values.

        Woodruff's interval (JASA 47, 1952): the quantiles of the ends of the share's interval.
        """
        if not self.count or self.count >= whole:
            return 0.0
        spread = share * (1 - share) / self.count * (1 - self.count / whole)
        half = Z95 * math.sqrt(spread)
        ends = (self.value(min(max(share + side, 0.0), 1.0)) for side in (-half, half))
        low, high = ends
        return (high - low) / 2
