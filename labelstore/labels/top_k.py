"""Soft-label algebra: what is stored (TopK) and what is trained on (SoftLabels). NumPy only.

A soft label is ``base + sparse``: ``p[c] = base + sum_j weights[j] * [indices[j] == c]``. Hard
labels, label smoothing, marginal smoothing and re-norm (FKD), calibrated labels (FerKD), ensembles
and mixed labels are all of this form and it is closed under weighted sums, so nothing here is ever
as wide as the number of classes, but for ``dense``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from labelstore.errors import FallbackWarning, LabelError, UsageError, require_choice
from labelstore.labels.prior import MOST_UNSEEN, spread, tail_weights
from labelstore.labels.soft_labels import SoftLabels, hard
from labelstore.labels.unseen import probability_of_unseen

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.prior import ImagePrior

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]
    Int32Array = npt.NDArray[np.int32]

__all__ = ["LabelType", "Tail", "TopK", "check_tail"]

Tail = Literal["image", "uniform", "none"]
"""How the residual mass is spread: like the image's prior; evenly over the other classes (FKD's
marginal smoothing); or not at all, the stored probabilities being scaled to sum 1 (FKD's marginal
re-norm)."""

LabelType = Literal["top-k", "hard", "smoothing"]
"""What a stored label is recovered to by default: all its classes with a tail; its largest class
alone; its largest class with the rest of the mass spread evenly over the others."""


def check_tail(tail: Tail | None, listed: bool) -> None:
    """Look at a tail before labels are recovered, ``listed`` ones with images' priors.

    Raises:
        UsageError: it is none of ``Tail``. Warns (FallbackWarning), on behalf of who calls the
        caller, where it is ``image`` and there are no priors.
    """
    if tail is not None:
        require_choice("tail", tail, get_args(Tail))
    if tail == "image" and not listed:
        warnings.warn(
            "tail 'image' was asked for and these labels have no image prior: 'uniform' is used.",
            FallbackWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class TopK:
    """Stored labels: the k largest probabilities of a teacher, largest first.

    A label may hold fewer: its last places then have probability 0, which means "not stored".

    Raises:
        LabelError: the arrays' shapes do not fit each other.
    """

    indices: Int32Array
    """(..., k) int32 class ids, different from each other within a row."""
    probs: Float32Array
    """(..., k) float32 in [0, 1], falling along a row, sum at most 1."""
    num_classes: int
    prior: ImagePrior | None = None
    """What the image's views say on average, a row for each label; None where none is stored."""

    def __post_init__(self) -> None:
        indices = np.asarray(self.indices, dtype=np.int32)
        probs = np.asarray(self.probs, dtype=np.float32)
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "probs", probs)
        shape = indices.shape
        if shape != probs.shape or not shape or not shape[-1]:
            raise LabelError(
                f"top-k labels have {self.indices.shape = } and {self.probs.shape = }, "
                "expected two equal shapes (..., k) with k >= 1."
            )

    @classmethod
    def of_arrays(
        cls, indices: Int32Array, probs: Float32Array, num_classes: int, prior: ImagePrior | None
    ) -> TopK:
        """As the constructor, of arrays known to have its types and shapes, in less time."""
        labels = object.__new__(cls)
        labels.__dict__.update(indices=indices, probs=probs, num_classes=num_classes, prior=prior)
        return labels

    @property
    def members(self) -> tuple[TopK, ...]:
        """The labels of each teacher, as of an ``EnsembleTopK``: these, of one."""
        return (self,)

    @property
    def weights(self) -> Float64Array:
        """(1,) float64: the teacher's weight, 1."""
        return np.ones(1)

    @property
    def k(self) -> int:
        """How many classes of each label are stored."""
        return int(self.indices.shape[-1])

    @property
    def confidence(self) -> Float32Array:
        """(...) float32: the largest probability."""
        return self.probs[..., 0]

    def probability(self, classes: npt.ArrayLike) -> Float32Array:
        """(...) float32: the teacher's own probability of one class of each label.

        As it is stored, where it is; else what ``recover()`` spreads to the class, whatever tail
        labels are recovered with elsewhere: an estimate between 0 and the residual mass.
        ``classes`` are ids, 0..num_classes-1; they and the labels broadcast together.
        """
        numbers = np.asarray(classes)
        same = (numbers[..., None] == self.indices) & (self.probs > 0)
        stored = same.any(axis=-1)
        own = np.asarray(np.where(same, self.probs, np.float32(0)).max(axis=-1))
        if stored.all():
            return own
        if stored.shape != self.probs.shape[:-1]:
            spread = self.recover().probability(numbers).astype(np.float32)
            return np.where(stored, own, spread)
        numbers = np.broadcast_to(numbers, stored.shape)
        own[~stored] = probability_of_unseen(self[~stored], numbers[~stored][:, None])[:, 0]
        return own

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: Any) -> TopK:
        """Rows by any NumPy index into the leading axes."""
        prior = None if self.prior is None else self.prior[rows]
        return TopK(self.indices[rows], self.probs[rows], self.num_classes, prior)

    def reshape(self, *shape: int) -> TopK:
        """The same labels with other leading axes."""
        probs = self.probs.reshape(*shape, self.k)
        prior = None if self.prior is None else self.prior.reshape(*probs.shape[:-1])
        return TopK(self.indices.reshape(probs.shape), probs, self.num_classes, prior)

    def truncate(self, k: int) -> TopK:
        """The k largest classes alone; UsageError when fewer are stored."""
        if not 1 <= k <= self.k:
            raise UsageError(f"k is {k}, expected 1 to {self.k}, what is stored: choose a smaller.")
        return TopK(self.indices[..., :k], self.probs[..., :k], self.num_classes, self.prior)

    def recover(self, tail: Tail | None = None) -> SoftLabels:
        """Full distributions, with the residual mass ``1 - sum(probs)`` spread by ``tail``.

        ``image``: like the image's prior, outside the stored classes; ``uniform``: base =
        residual / (num_classes - k), FKD's marginal smoothing; ``none``: base 0 and the stored
        probabilities scaled to sum 1, FKD's marginal re-norm. None is ``image`` where a prior is
        stored, else ``uniform``. A residual that rounding made negative counts as 0.

        Raises:
            UsageError: another tail. Warns (FallbackWarning) and takes ``uniform`` when ``image``
            is asked for and no prior is stored.
        """
        check_tail(tail, self.prior is not None)
        probs = self.probs.astype(np.float64)
        total = probs.sum(axis=-1, keepdims=True)
        # Quantized sums may exceed 1 by rounding: scale those to sum 1, so nothing is negative.
        probs /= np.maximum(total, 1.0)
        residual = np.maximum(1.0 - total, 0.0)
        stored = self.probs > 0
        if tail == "none":
            return self._scaled(probs, stored)
        if tail == "uniform" or self.prior is None:
            others = self.num_classes - stored.sum(axis=-1, keepdims=True)
            base = np.where(others > 0, residual / np.maximum(others, 1), 0.0)
            probs = np.where(others > 0, probs, _to_sum_one(probs))
            return self._labels(base, self.indices, np.where(stored, probs - base, 0.0))
        return self._like_prior(self.prior, probs, residual, stored)

    def _scaled(self, probs: Float64Array, stored: npt.NDArray[np.bool_]) -> SoftLabels:
        # A label without any stored mass says nothing: every class alike.
        empty = ~stored.any(axis=-1, keepdims=True)
        base = np.where(empty, 1.0 / self.num_classes, 0.0)
        return self._labels(base, self.indices, np.where(stored, _to_sum_one(probs), 0.0))

    def _like_prior(
        self,
        prior: ImagePrior,
        probs: Float64Array,
        residual: Float64Array,
        stored: npt.NDArray[np.bool_],
    ) -> SoftLabels:
        weights, outside = tail_weights(prior, self.num_classes)
        same = (self.indices[..., :, None] == prior.classes[..., None, :]) & stored[..., None]
        is_stored = same.any(axis=-2)
        weights = np.where(is_stored, 0.0, weights)
        listed = (prior.classes >= 0).sum(axis=-1)
        strangers = (stored & ~same.any(axis=-1)).sum(axis=-1)
        others = np.maximum(self.num_classes - listed - strangers, 0)
        # Where every class is stored there is nothing to spread the residual over.
        room = (weights.sum(axis=-1) + outside * others)[..., None] > 0
        probs = np.where(room, probs, _to_sum_one(probs))
        residual = np.where(room, residual, 0.0)
        least = np.where(stored, probs, np.inf).min(axis=-1, keepdims=True)
        # Where nothing was seen, the image says all, and no class can have more than everything.
        limit = np.where(stored.any(axis=-1, keepdims=True), MOST_UNSEEN * least, 1.0)
        shares, base = spread(weights, (outside * others)[..., None], residual, limit)
        base = np.where(others > 0, base * outside, 0.0)[..., None]
        extra = np.where((prior.classes >= 0) & ~is_stored, shares - base, 0.0)
        return self._labels(
            base,
            np.concatenate([self.indices, np.maximum(prior.classes, 0)], axis=-1),
            np.concatenate([np.where(stored, probs - base, 0.0), extra], axis=-1),
        )

    def _labels(self, base: Float64Array, indices: Int32Array, weights: Float64Array) -> SoftLabels:
        return SoftLabels(
            base=base[..., 0].astype(np.float32),
            indices=indices,
            weights=weights.astype(np.float32),
            num_classes=self.num_classes,
        )

    def hard(self) -> SoftLabels:
        """The largest class alone, with probability 1 (FKD's hard labels)."""
        return hard(self.indices[..., 0], self.num_classes)

    def smoothing(self) -> SoftLabels:
        """The largest probability; the rest evenly over all others (FKD's smoothing labels)."""
        return self.truncate(1).recover("uniform")

    def as_type(self, label_type: LabelType, tail: Tail | None = None) -> SoftLabels:
        """Recover as a label type says: ``top-k`` by ``tail``, ``hard``, or ``smoothing``."""
        if label_type == "top-k":
            return self.recover(tail)
        require_choice("label type", label_type, get_args(LabelType))
        return self.hard() if label_type == "hard" else self.smoothing()


def _to_sum_one(probs: Float64Array) -> Float64Array:
    """Rows scaled to sum 1; rows of zeros stay."""
    total = probs.sum(axis=-1, keepdims=True)
    return np.asarray(probs / np.where(total > 0, total, 1.0))
