"""How far recovered labels are from the distributions that they stand for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from labelstore.labels.soft_labels import SoftLabels

__all__ = ["Distances", "distances"]

LEAST = 1e-12
"""What a recovered probability counts as, at the least: a tail of ``none`` would be infinitely far
from a teacher that rules no class out."""


@dataclass(frozen=True)
class Distances:
    """Means over labels."""

    kl_nats: float
    """KL(true || recovered) = sum_c p[c] ln(p[c] / q[c]), in nats."""
    total_variation: float
    """Half the sum of absolute differences, 0..1."""
    top1_kept: float
    """Share of labels whose largest class is the same."""
    labels: int
    """How many labels the means are over."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, rounded to 6 digits."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


def distances(pairs: Iterable[tuple[npt.ArrayLike, SoftLabels]]) -> Distances:
    """Mean distances of recovered labels from true distributions.

    Args:
        pairs: batches of (n, C) true distributions and n recovered labels: the batches bound the
            memory, which is dense here.

    Raises:
        LabelError: shapes that differ, or no label at all.
    """
    divergence = variation = kept = 0.0
    count = 0
    for truth, labels in pairs:
        exact = np.asarray(truth, dtype=np.float64)
        held = labels.dense().astype(np.float64)
        if exact.shape != held.shape:
            raise LabelError(
                f"true distributions have shape {exact.shape}, expected {held.shape}, that of the "
                "recovered labels."
            )
        ratio = np.log(np.maximum(exact, 1e-300) / np.maximum(held, LEAST))
        divergence += float((exact * ratio).sum())
        variation += float(np.abs(exact - held).sum() / 2)
        kept += float((exact.argmax(-1) == held.argmax(-1)).sum())
        count += len(exact)
    if not count:
        raise LabelError("no labels were given to compare: give at least one batch.")
    return Distances(max(divergence, 0.0) / count, variation / count, kept / count, count)
