"""Crops counted by their confidence: FerKD's Figure 2 and Table 1, and shares at any threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.labels.fitting import DistinctValues
from labelstore.statistics.sampling import error_of_share

if TYPE_CHECKING:
    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]

__all__ = ["HISTOGRAM_EDGES", "TABLE_EDGES", "THRESHOLDS", "ConfidenceCounts", "share_of"]

HISTOGRAM_EDGES = tuple(edge / 20 for edge in range(21))
"""Bounds of Figure 2's bins: lower inclusive, upper exclusive, the last bin closed above."""

TABLE_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Bounds of Table 1's twelve ranges, closed as the histogram's; each is one of its edges."""

THRESHOLDS = tuple(step / 200 for step in range(201))
"""Where the curve of shares against thresholds is known."""


class ConfidenceCounts:
    """Exact counts of confidences in [0, 1], added block by block.

    Values and edges are compared as float32, as probabilities are stored and thresholds compared.
    """

    def __init__(self, single_values: bool = True) -> None:
        """None yet; ``single_values`` tells whether ``values`` is filled."""
        self.crops = 0
        """How many there were."""
        self._below = np.zeros(len(HISTOGRAM_EDGES), dtype=np.int64)
        self._at_most = np.zeros(len(THRESHOLDS), dtype=np.int64)
        self.values = DistinctValues()
        """How often each value occurred, where few different ones did."""
        self._single_values = single_values

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """More of them, of any shape, none of them NaN."""
        ranked = np.sort(values, axis=None)
        self.crops += ranked.size
        if self._single_values:
            self.values.add(ranked)
        edges = np.asarray(HISTOGRAM_EDGES, dtype=np.float32)
        self._below += np.searchsorted(ranked, edges, side="left")
        thresholds = np.asarray(THRESHOLDS, dtype=np.float32)
        self._at_most += np.searchsorted(ranked, thresholds, side="right")

    def counts(self) -> Int64Array:
        """(20,) int64: crops in each bin of Figure 2."""
        inner = np.append(self._below[1:-1], self.crops)
        return np.diff(inner, prepend=0)

    def histogram(self, whole: int) -> list[dict[str, Any]]:
        """Figure 2: ``low``, ``high``, ``count``, ``ratio`` and ``error`` of each bin.

        ``whole`` is the number of crops there are, of which all or a part was added.
        """
        return _ranges(HISTOGRAM_EDGES, self.counts(), self.crops, whole)

    def table(self, whole: int) -> list[dict[str, Any]]:
        """Table 1: the same of its ranges, with ``aggregated_ratio``: the share of [0, high)."""
        starts = [HISTOGRAM_EDGES.index(edge) for edge in TABLE_EDGES[:-1]]
        rows = _ranges(TABLE_EDGES, np.add.reduceat(self.counts(), starts), self.crops, whole)
        reached = 0
        for row in rows:
            reached += row["count"]
            row["aggregated_ratio"] = share_of(reached, self.crops)
        return rows

    def thresholds(self) -> dict[str, Any]:
        """``confidence``: 201 thresholds; ``at_most``: how many crops are at or below each."""
        return {"confidence": list(THRESHOLDS), "at_most": self._at_most.tolist()}


def _ranges(
    edges: tuple[float, ...], counts: Int64Array, crops: int, whole: int
) -> list[dict[str, Any]]:
    return [
        {
            "low": low,
            "high": high,
            "count": int(count),
            "ratio": share_of(count, crops),
            "error": error_of_share(int(count), crops, whole),
        }
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def share_of(count: float | np.integer[Any], whole: float) -> float | None:
    """``count / whole``; None where there is nothing to divide by."""
    return float(count) / float(whole) if whole else None
