"""How often a teacher is right where it says so: its calibration on crops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.statistics.confidence import HISTOGRAM_EDGES, share_of

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Reliability"]

_BINS = len(HISTOGRAM_EDGES) - 1


class Reliability:
    """Confidence against accuracy, in the bins of Figure 2."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, dtype=np.int64)
        self._right = np.zeros(_BINS)
        self._confidence = np.zeros(_BINS)

    def add(self, confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> None:
        """Largest probabilities (...), and whether their class is the ground truth (...)."""
        values = confidence.reshape(-1)
        edges = np.asarray(HISTOGRAM_EDGES[1:-1], dtype=np.float32)
        bins = np.searchsorted(edges, values, side="right")
        self._counts += np.bincount(bins, minlength=_BINS)
        self._right += np.bincount(bins, right.reshape(-1), _BINS)
        self._confidence += np.bincount(bins, values, _BINS)

    def result(self) -> dict[str, Any] | None:
        """``bins``, and ``expected_calibration_error``: the mean over crops of the distance between
        a bin's accuracy and mean confidence (Guo et al., ICML 2017, equation 3); None without
        crops.
        """
        crops = int(self._counts.sum())
        if not crops:
            return None
        gaps = np.abs(self._right - self._confidence).sum() / crops
        bins = [
            {
                "low": HISTOGRAM_EDGES[number],
                "high": HISTOGRAM_EDGES[number + 1],
                "count": count,
                "confidence": share_of(self._confidence[number], count),
                "accuracy": share_of(self._right[number], count),
            }
            for number, count in enumerate(self._counts.tolist())
        ]
        return {"bins": bins, "expected_calibration_error": float(gaps)}
