"""``ratio16``, ``ratio32``: a byte for the largest probability, 4 or 5 bits for each further one.

The largest probability falls into one of 255 bins whose edges include every multiple of 1/200, so
that no view changes sides of such a threshold; above 0.995 the bins shrink geometrically. Each
further probability is stored as its share of the most it can be (the one before it, or what is left
of 1): even steps of the angle whose squared sine is that share, so that the smaller part of a split
is always the finer one. The limit is that of the decoded values, so errors do not pile up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.format.codecs.base import Quantizer, TableGrid, by_label, by_place

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["RATIO16", "RATIO32", "STEP", "TOP", "RatioQuantizer"]

STEP = 0.005
"""Width of the bins of the largest probability, but for those above 0.995."""

_EDGES = np.concatenate([np.arange(200) / 200, 1 - 0.005 * 0.9 ** np.arange(1, 56), [1.0]])


class BinGrid(TableGrid):
    """Bins (edge, next edge], each standing for its middle."""

    def __init__(self, edges: npt.NDArray[np.float64], dtype: str) -> None:
        super().__init__(((edges[1:] + edges[:-1]) / 2).astype(np.float32), dtype)
        self._edges = edges

    def nearest(self, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        place = np.searchsorted(self._edges, values, side="left") - 1
        return np.clip(place, 0, len(self._edges) - 2).astype(self.dtype)


TOP = BinGrid(_EDGES, "|u1")


class ShareGrid:
    """Codes 1..steps of shares of a limit; 0 means that the class is not stored."""

    fill = 255.0

    def __init__(self, steps: int) -> None:
        self.dtype = np.dtype("|u1")
        self.steps = steps
        angle = np.pi / 2 * (np.arange(steps) + 0.5) / steps
        self.values = np.concatenate([[0.0], np.sin(angle) ** 2])
        self.numbers: list[float] = self.values.tolist()

    def nearest(
        self, values: npt.NDArray[np.float64], limit: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.uint8]:
        """Codes of values in [0, limit]."""
        share = np.clip(values / np.maximum(limit, 1e-300), 0.0, 1.0)
        step = np.floor(np.arcsin(np.sqrt(share)) * (2 / np.pi * self.steps))
        code = np.minimum(step, self.steps - 1) + 1
        return np.where((values > 0) & (limit > 0), code, 0).astype(np.uint8)

    def holds(self, codes: npt.NDArray[Any]) -> bool:
        """Whether all codes are 0 or those of shares."""
        return int(codes.max(initial=0)) <= self.steps


class RatioQuantizer(Quantizer):
    """Probabilities after the first as shares of their limit."""

    rest: ShareGrid  # type: ignore[assignment]

    def encode(self, probs: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        exact = np.asarray(probs, dtype=np.float64)
        top_codes = self.top.nearest(exact[..., 0])
        places = by_place(exact)
        rest_codes = np.empty((len(places) - 1, *exact.shape[:-1]), dtype=np.uint8)
        value = self.top.decode(top_codes).astype(np.float64)
        left = 1.0 - value
        for probs_at, codes in zip(places[1:], rest_codes, strict=True):
            limit = np.minimum(value, left)
            # After a class that is not stored, none is.
            exact_probs = np.where(value > 0, probs_at, 0.0)
            codes[...] = self.rest.nearest(exact_probs, limit)
            value = _value(self.rest.values[codes], limit)
            left = left - value
        return top_codes, by_label(rest_codes)

    def decode(
        self, top_codes: npt.NDArray[Any], rest_codes: npt.NDArray[Any] | None
    ) -> npt.NDArray[np.float32]:
        top = self.top.decode(top_codes)
        if rest_codes is None:
            return top[..., None]
        out = np.empty((*top.shape, rest_codes.shape[-1] + 1), dtype=np.float32)
        out[..., 0] = top
        value = top.astype(np.float64)
        left = 1.0 - value
        for rank in range(rest_codes.shape[-1]):
            limit = np.minimum(value, left)
            value = _value(np.take(self.rest.values, rest_codes[..., rank], mode="clip"), limit)
            out[..., rank + 1] = value
            left = left - value
        return out

    def decode_label(
        self, top_code: float, rest_codes: npt.NDArray[Any] | None
    ) -> npt.NDArray[np.float32]:
        value = self.top.value_of(top_code)
        values, left = [value], 1.0 - value
        for code in () if rest_codes is None else rest_codes.tolist():
            limit = min(value, left)
            value = float(np.float32(self.rest.numbers[code] * limit))
            if value > limit:
                value = float(np.nextafter(np.float32(value), np.float32(0)))
            values.append(value)
            left -= value
        return np.array(values, dtype=np.float32)


def _value(share: npt.NDArray[np.float64], limit: npt.NDArray[np.float64]) -> Any:
    """The float32 that is stored for a share of a limit, as float64; never above the limit."""
    value = (share * limit).astype(np.float32)
    value = np.where(value > limit, np.nextafter(value, np.float32(0)), value)
    return value.astype(np.float64)


RATIO16 = RatioQuantizer(
    name="ratio16",
    top=TOP,
    rest=ShareGrid(16),  # type: ignore[arg-type]
    summary="largest probability in 255 bins with edges at multiples of 1/200, others in 16 steps",
    by_shares=True,
)
RATIO32 = RatioQuantizer(
    name="ratio32",
    top=TOP,
    rest=ShareGrid(32),  # type: ignore[arg-type]
    summary="as ratio16, in 32 steps",
    by_shares=True,
)
