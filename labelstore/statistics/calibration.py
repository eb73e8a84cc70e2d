"""A teacher's calibration error, and the temperature that mends it (Guo et al., ICML 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labelstore.statistics.reliability import Reliability

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]

__all__ = ["COLDEST", "HOTTEST", "Calibration", "calibration_of"]

COLDEST, HOTTEST = 0.05, 20.0
"""Between these the temperature is looked for."""

_STEPS = 100
_PRECISION = 1e-10
"""Relative, of the temperature."""

_AT_A_TIME = 2**20
"""Logits that are worked on at a time."""


@dataclass(frozen=True)
class Calibration:
    """How far a teacher's confidence is from its accuracy, at a temperature and at the best one."""

    images: int
    """How many were looked at."""
    expected_calibration_error: float
    """Mean distance of confidence and accuracy in twenty bins of confidence, 0..1 (equation 3)."""
    nll: float
    """Mean negative log-likelihood of the ground truth, nats."""
    temperature: float
    """That at which ``nll`` is least, in COLDEST..HOTTEST."""
    at_bound: bool
    """Whether the least is at an end of that range: a teacher that is never or nearly always wrong,
    or whose confidence says nothing, has no temperature."""
    mended_error: float
    """``expected_calibration_error`` at ``temperature``."""
    mended_nll: float
    """``nll`` at ``temperature``."""


def calibration_of(
    logits: npt.NDArray[np.float32], targets: npt.NDArray[np.integer], temperature: float = 1.0
) -> Calibration:
    """Measure a teacher, and fit one temperature to it (section 4.2, temperature scaling).

    The mean negative log-likelihood is convex in 1 / temperature; its least is found by Newton's
    steps, in float64, each kept inside what is known of where it is.

    Args:
        logits: (n, C), finite, n at least 1. targets: (n,) ground-truth class ids.
        temperature: what the logits are divided by before it is mended, positive. The best one is
            found whichever this is.
    """
    best, at_bound = _best(logits, targets)
    error, nll = _measured(logits, targets, temperature)
    mended_error, mended_nll = _measured(logits, targets, best)
    return Calibration(len(logits), error, nll, best, at_bound, mended_error, mended_nll)


def _best(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.integer]) -> tuple[float, bool]:
    """The temperature of the least mean negative log-likelihood; whether that is a bound."""
    low, high = 1 / HOTTEST, 1 / COLDEST
    if _derivatives(logits, targets, low)[0] >= 0:
        return HOTTEST, True
    if _derivatives(logits, targets, high)[0] <= 0:
        return COLDEST, True
    inverse = 1.0
    for _ in range(_STEPS):
        slope, curvature = _derivatives(logits, targets, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        newton = inverse - slope / curvature if curvature > 0 else low
        # A step out of what is known is none of Newton's good ones.
        step = newton if low < newton < high else math.sqrt(low * high)
        is_precise = abs(step - inverse) <= _PRECISION * inverse
        inverse = step
        if is_precise:
            break
    return 1 / inverse, False


def _derivatives(
    logits: npt.NDArray[np.float32], targets: npt.NDArray[np.integer], inverse: float
) -> tuple[float, float]:
    """First and second of the mean negative log-likelihood, by 1 / temperature.

    These are the means of E[z] - z_y and of Var[z], under the softmax of ``inverse`` z.
    """
    slope = curvature = 0.0
    for z, rows in _parts(logits):
        p = np.exp(inverse * z)
        p /= p.sum(axis=1, keepdims=True)
        means = (p * z).sum(axis=1)
        slope += float((means - z[np.arange(len(z)), targets[rows]]).sum())
        curvature += float((p * (z - means[:, None]) ** 2).sum())
    return slope / len(logits), curvature / len(logits)


def _measured(
    logits: npt.NDArray[np.float32], targets: npt.NDArray[np.integer], temperature: float
) -> tuple[float, float]:
    """Expected calibration error, and mean negative log-likelihood."""
    reliability, nll = Reliability(), 0.0
    for z, rows in _parts(logits):
        sums = np.exp(z / temperature).sum(axis=1)
        # The largest logit is 0.
        confidence = (1 / sums).astype(np.float32)
        reliability.add(confidence, z.argmax(axis=1) == targets[rows])
        nll += float((np.log(sums) - z[np.arange(len(z)), targets[rows]] / temperature).sum())
    result = reliability.result() or {"expected_calibration_error": 0.0}
    return float(result["expected_calibration_error"]), nll / len(logits)


def _parts(logits: npt.NDArray[np.float32]) -> Iterator[tuple[Float64Array, slice]]:
    """Some rows at a time, less their largest logit, and which rows."""
    size = max(_AT_A_TIME // logits.shape[1], 1)
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        z = logits[rows].astype(np.float64)
        yield z - z.max(axis=1, keepdims=True), rows
