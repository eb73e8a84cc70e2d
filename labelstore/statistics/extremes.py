"""The few smallest or largest of many values that come in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]

__all__ = ["Extremes"]


class Extremes:
    """The few smallest or largest values of planes that come in image order; ties: the first."""

    def __init__(self, count: int, largest: bool) -> None:
        self._count = count
        self._sign = -1.0 if largest else 1.0
        self._values = np.empty(0)
        self._places = np.empty((0, 2), dtype=np.int64)

    def add(
        self,
        plane: npt.NDArray[Any],
        images: Int64Array,
        columns: Int64Array | None = None,
    ) -> None:
        """Values (n, m) of images (n,), none of which came before or comes again.

        ``columns`` (m,), rising, are what the plane's columns are called; 0..m-1 when None.
        """
        values = (plane * self._sign).reshape(-1)
        places_in_plane = np.arange(values.size)
        if self._count and len(self._values) == self._count:
            # Later blocks seldom beat what is there: this leaves almost nothing to be sorted.
            places_in_plane = np.flatnonzero(values < self._values[-1])
        chosen = places_in_plane[self._candidates(values[places_in_plane])]
        rows, number = np.divmod(chosen, plane.shape[1])
        places = np.stack([images[rows], number if columns is None else columns[number]], axis=1)
        merged = np.concatenate([self._values, values[chosen]])
        # Stable, and places rise: of equal values the first stays.
        order = np.argsort(merged, kind="stable")[: self._count]
        self._values = merged[order]
        self._places = np.concatenate([self._places, places])[order]

    def _candidates(self, values: npt.NDArray[Any]) -> Int64Array:
        """Where the smallest are, in order of place: as many as are wanted, at most."""
        if not self._count:
            return np.empty(0, dtype=np.int64)
        if values.size <= self._count:
            return np.arange(values.size)
        bound = np.partition(values, self._count - 1)[self._count - 1]
        below = np.flatnonzero(values < bound)
        ties = np.flatnonzero(values == bound)[: self._count - below.size]
        return np.sort(np.concatenate([below, ties]))

    def entries(self) -> list[tuple[int, int, float]]:
        """Image, column and value, the most extreme first."""
        return [
            (int(image), int(column), float(value * self._sign))
            for (image, column), value in zip(self._places, self._values, strict=True)
        ]
