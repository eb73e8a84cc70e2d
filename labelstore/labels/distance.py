"""How far labels are from one another, and from the distributions that they stand for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.errors import LabelError
from labelstore.labels.distribution import each_class_of_both

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from labelstore.labels.soft_labels import SoftLabels

    Float64Array = npt.NDArray[np.float64]

__all__ = ["Distances", "Divergences", "between", "between_dense", "distances"]

LEAST = 1e-12
"""What a recovered probability counts as, at the least: a tail of ``none`` would be infinitely far
from a teacher that rules no class out."""


@dataclass(frozen=True)
class Distances:
    """Means over labels."""

    kl_nats: float
    """KL(true || recovered) = sum_c p[c] ln(p[c] / q[c]), in nats (Kullback and Leibler 1951)."""
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
        recovered = labels.dense().astype(np.float64)
        if exact.shape != recovered.shape:
            raise LabelError(
                f"true distributions have shape {exact.shape}, expected {recovered.shape}, that of "
                "the recovered labels."
            )
        ratio = np.log(np.maximum(exact, 1e-300) / np.maximum(recovered, LEAST))
        divergence += float((exact * ratio).sum())
        variation += float(np.abs(exact - recovered).sum() / 2)
        kept += float((exact.argmax(-1) == recovered.argmax(-1)).sum())
        count += len(exact)
    if not count:
        raise LabelError("no labels were given to compare: give at least one batch.")
    return Distances(max(divergence, 0.0) / count, variation / count, kept / count, count)


class Divergences(NamedTuple):
    """Of labels a from labels b, (...) float64 each, not negative."""

    kl_ab: Float64Array
    """KL(a || b) = sum_c a[c] ln(a[c] / b[c]), in nats; b counts as ``LEAST`` at the least."""
    kl_ba: Float64Array
    """KL(b || a), in nats, likewise."""
    total_variation: Float64Array
    """Half the sum of absolute differences, 0..1."""


def between(a: SoftLabels, b: SoftLabels) -> Divergences:
    """How far each label is from its fellow; nothing is made dense.

    Args:
        a, b: labels of one leading shape (...) over the same classes.

    Raises:
        LabelError: shapes or numbers of classes that differ.
    """
    if a.base.shape != b.base.shape or a.num_classes != b.num_classes:
        raise LabelError(
            f"labels of {a.base.shape} over {a.num_classes} classes were given beside "
            f"{b.base.shape} over {b.num_classes}, expected the same: give labels of the same "
            "views."
        )
    _, ours, theirs, present = each_class_of_both(a, b)
    others = a.num_classes - present.sum(axis=-1)
    bases = (np.maximum(labels.base.astype(np.float64), 0.0)[..., None] for labels in (a, b))
    inside, outside = _terms(ours, theirs), _terms(*bases)
    return _bounded(
        part.sum(axis=-1) + others * rest[..., 0]
        for part, rest in zip(inside, outside, strict=True)
    )


def between_dense(a: npt.ArrayLike, b: npt.ArrayLike) -> Divergences:
    """The same of whole distributions (..., C)."""
    terms = _terms(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))
    return _bounded(part.sum(axis=-1) for part in terms)


def _terms(p: Float64Array, q: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """What each class adds to the three distances of p (...) and q (...)."""
    of_p, of_q = np.log(np.maximum(p, LEAST)), np.log(np.maximum(q, LEAST))
    return p * (of_p - of_q), q * (of_q - of_p), np.abs(p - q) / 2


def _bounded(sums: Iterable[Float64Array]) -> Divergences:
    """Without what rounding took below 0 or, of the variation, above 1."""
    kl_ab, kl_ba, variation = (np.maximum(part, 0.0) for part in sums)
    return Divergences(kl_ab, kl_ba, np.minimum(variation, 1.0))
