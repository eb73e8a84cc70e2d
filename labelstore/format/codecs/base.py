"""What every quantizer is made of: a grid of values for the largest probability, one for the rest.

A quantizer never guesses: its name, written in the manifest, fixes its grids. Encoding keeps what a
label must keep whatever the grid: decoded probabilities fall along a row and their exact sum never
exceeds 1, so that recovered labels have no negative entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "NEAR",
    "FloatGrid",
    "Grid",
    "PowerGrid",
    "Quantizer",
    "TableGrid",
    "by_label",
    "by_place",
    "class_id_dtype",
]

NEAR = 1e-6
"""Relative error of ``Grid.near``, at most."""

_FLOAT32 = np.dtype(np.float32)

_TOGETHER = 1 << 15
"""Probabilities whose nearest values are looked for at a time, about: they stay near the processor,
and labels of a thousand classes need no call for each place."""

_HALF_ONE = 0x3C00
"""The bits of 1 in half precision."""


class Grid(Protocol):
    """A finite, ascending set of values in [0, 1], each with a code."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a code, little-endian."""

    @property
    def fill(self) -> float:
        """The code that means "no value"; no probability has it."""

    @property
    def values(self) -> npt.NDArray[np.float32] | None:
        """(c,) float32, rising: what the codes 0..c-1 stand for; None where a code is the value."""

    def nearest(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(...) codes of the values nearest to ``values`` (...) in [0, 1], float32 or float64."""

    def floor(self, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """(...) codes of the largest values that are not above ``values`` (...) in [0, 1]."""

    def decode(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Values of codes, of any shape."""

    def value_of(self, code: float) -> float:
        """As ``decode``, of one code, as a number of Python's; ``holds`` must be true of it."""

    def decode_into(self, codes: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
        """As ``decode``, of few codes, into an array of their shape; ``holds`` must be true."""

    def near(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """As ``decode``, to within a relative error of NEAR, and faster; ``holds`` must be true."""

    def holds(self, codes: npt.NDArray[Any]) -> bool:
        """Whether all codes (...) are those of values of the grid."""


class TableGrid:
    """Values from an ascending table that starts at 0; the code is the place in the table."""

    def __init__(self, table: npt.NDArray[np.float32], dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.fill = float(np.iinfo(self.dtype).max)
        self._table = table.astype(np.float32)
        exact = self._table.astype(np.float64)
        self._exact = exact
        self._middles = (exact[1:] + exact[:-1]) / 2
        self._parts = _parts_of_floats(self._middles, self.dtype)

    @property
    def values(self) -> npt.NDArray[np.float32]:
        return self._table

    def nearest(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self._parts is None or values.dtype != np.float32:
            return np.searchsorted(self._middles, values).astype(self.dtype)
        # The same in a tenth of the time. Numbers below 0 have negative bits.
        parts = (values.view(np.int32) >> _LOW_BITS).astype(np.intp)
        codes = self._parts[0].take(parts, mode="clip")
        codes += values > self._parts[1].take(parts, mode="clip")
        return codes

    def floor(self, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        return (np.searchsorted(self._exact, values, side="right") - 1).astype(self.dtype)

    def decode(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        values = np.take(self._table, codes, mode="clip")
        if not self.holds(codes):
            # A code beyond the table is the fill of an image without labels: it decodes to 0.
            values *= codes < len(self._table)
        return values

    def value_of(self, code: float) -> float:
        return self._table.item(code)  # type: ignore[arg-type]

    def decode_into(self, codes: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
        # Another mode would take a copy of ``out`` first.
        self._table.take(codes, out=out, mode="clip")

    def near(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return self.decode(codes)

    def holds(self, codes: npt.NDArray[Any]) -> bool:
        return int(codes.max(initial=0)) < len(self._table)


_LOW_BITS = 16
"""Of a float32, those that are left out where it is looked up by its first bits."""


def _parts_of_floats(
    middles: npt.NDArray[np.float64], dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]] | None:
    """Where float32 numbers lie among the rising ``middles``, by their first 16 bits.

    Returns:
        for each of the parts of [0, 1] of equal first bits, how many middles are below all of it,
        and the middle inside it, above which it is one more: as the largest float32 that is not
        above it, than which a float32 is larger just where it is larger than the middle; infinity
        where there is none. None where a part has more than one.
    """
    below = middles.astype(np.float32)
    below = np.where(below > middles, np.nextafter(below, np.float32(0)), below)
    parts = below.view(np.int32) >> _LOW_BITS
    if (np.diff(parts) == 0).any():
        return None
    count = (int(np.float32(1).view(np.int32)) >> _LOW_BITS) + 1
    bounds = np.full(count, np.inf, dtype=np.float32)
    bounds[parts] = below
    return np.searchsorted(parts, np.arange(count)).astype(dtype), bounds


class PowerGrid(TableGrid):
    """Values ``most * (code / steps) ** power`` of codes 0..steps; the power is 1, 2 or 4."""

    def __init__(self, most: float, steps: int, power: int, dtype: str) -> None:
        super().__init__((most * (np.arange(steps + 1) / steps) ** power).astype(np.float32), dtype)
        self._most, self._steps, self._power = most, steps, power
        self._bounds = np.concatenate([[-np.inf], self._middles, [np.inf]])

    def nearest(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self._parts is not None and values.dtype == np.float32:
            return super().nearest(values)
        place = np.clip(values / np.float64(self._most), 0, 1)
        for _ in range(self._power.bit_length() - 1):
            np.sqrt(place, out=place)
        place *= self._steps
        codes = np.rint(place).astype(np.int32)
        # It may be the one beside it: the middle of two powers is not the power of a middle.
        lower, higher = values <= self._bounds.take(codes), values > self._bounds.take(codes + 1)
        codes -= lower
        codes += higher
        return codes.astype(self.dtype)

    def near(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        # Arithmetic takes a fraction of looking each code up.
        values = codes.astype(np.float32)
        values *= np.float32(self._most ** (1 / self._power) / self._steps)
        for _ in range(self._power.bit_length() - 1):
            values *= values
        return values


class FloatGrid:
    """IEEE floating-point numbers; the code is the number itself."""

    fill = float("nan")
    values = None

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)

    def nearest(self, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        return values.astype(self.dtype)

    def floor(self, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        codes = values.astype(self.dtype)
        below = np.nextafter(codes, self.dtype.type(0))
        return np.where(codes.astype(np.float64) > values, below, codes)

    def decode(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return codes.astype(np.float32)

    def value_of(self, code: float) -> float:
        return code

    def decode_into(self, codes: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
        out[...] = codes

    def near(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return self.decode(codes)

    def holds(self, codes: npt.NDArray[Any]) -> bool:
        if self.dtype.itemsize == 2 and int(codes.view("<u2").max(initial=0)) <= _HALF_ONE:
            # The bits of positive numbers are ordered as they are; NumPy has no fast halves.
            return True
        # NaN is neither.
        return not codes.size or bool(codes.min() >= 0 and codes.max() <= 1)


@dataclass(frozen=True)
class Quantizer:
    """How probabilities become codes."""

    name: str
    """As in the manifest and in ``--quantizer``."""
    top: Grid
    """Of the largest probability: fine enough for thresholds near 1."""
    rest: Grid
    """Of the second largest and smaller ones, none of which exceeds 1/2."""
    summary: str
    """One line for ``--help``."""
    by_shares: bool = False
    """Whether the rest are shares of what is left, so that no codes sum to more than 1 or rise."""

    def encode(self, probs: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Codes of probabilities.

        Args:
            probs: (..., k) in [0, 1], falling along the last axis, sum about 1 or less.

        Returns:
            codes of the largest (...), codes of the rest (..., k - 1), place by place in memory.
            Each decodes to the nearest
            value of its grid that is not above the one before it, nor above what the ones before
            it leave of 1.
        """
        exact = np.asarray(probs)
        if exact.dtype != np.float32:
            exact = exact.astype(np.float64, copy=False)
        places = by_place(exact)
        top_codes = self.top.nearest(places[0])
        limit = self.top.decode(top_codes).astype(np.float64)
        left = 1.0 - limit
        rest_codes = np.empty((len(places) - 1, *exact.shape[:-1]), dtype=self.rest.dtype)
        step = max(_TOGETHER // max(limit.size, 1), 1)
        for start in range(0, len(rest_codes), step):
            # What needs no place before is done for several at once.
            nearest = self.rest.nearest(places[start + 1 : start + 1 + step])
            values = self.rest.decode(nearest)
            for codes, values_at in zip(nearest, values, strict=True):
                np.minimum(limit, left, out=limit)
                over = values_at > limit
                if over.any():
                    codes[over] = self.rest.floor(limit[over])
                    values_at[over] = self.rest.decode(codes[over])
                limit[...] = values_at
                left -= limit
            rest_codes[start : start + step] = nearest
        return top_codes.astype(self.top.dtype), np.moveaxis(rest_codes, 0, -1)

    def decode(
        self, top_codes: npt.NDArray[Any], rest_codes: npt.NDArray[Any] | None
    ) -> npt.NDArray[np.float32]:
        """Probabilities (..., k) float32 of codes (...) and (..., k - 1) or None for k = 1."""
        top = self.top.decode(top_codes)[..., None]
        if rest_codes is None:
            return top
        return np.concatenate([top, self.rest.decode(rest_codes)], axis=-1)

    def decode_label(
        self, top_code: float, rest_codes: npt.NDArray[Any] | None
    ) -> npt.NDArray[np.float32]:
        """As ``decode``, of one label's code and codes (k - 1,), which are those of the grids.

        A call of NumPy takes as long for one label as for a hundred: here there are few of them.
        """
        count = 1 if rest_codes is None else len(rest_codes) + 1
        out = np.empty(count, _FLOAT32)
        out[0] = self.top.value_of(top_code)
        if rest_codes is not None:
            self.rest.decode_into(rest_codes, out[1:])
        return out


def by_place(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(k, ...) of values (..., k): what is computed place by place lies side by side."""
    return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def by_label(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(..., k) of values (k, ...)."""
    return np.ascontiguousarray(np.moveaxis(values, 0, -1))


def class_id_dtype(num_classes: int) -> np.dtype[Any]:
    """uint16 where class ids fit beside its fill value 65535, else uint32 (fill 2**32 - 1)."""
    return np.dtype("<u2" if num_classes <= 0xFFFF else "<u4")
