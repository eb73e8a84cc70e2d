"""Stored labels as tensors: what a loader hands over where labels are recovered on the device."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch

from labelstore.errors import LabelError, UsageError, require_choice
from labelstore.labels.prior import LEAST, MOST_UNSEEN
from labelstore.labels.top_k import LabelType, check_tail
from labelstore.torch.labels.soft_labels import TorchSoftLabels, join_tensors, map_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.top_k import Tail, TopK

__all__ = ["StoredLabels", "TorchTopK"]


@dataclass(frozen=True)
class TorchTopK:
    """The torch twin of ``labelstore.TopK``: B labels of one teacher."""

    indices: torch.Tensor
    """(B, k) int64 class ids, different from each other within a row."""
    probs: torch.Tensor
    """(B, k) float32 in [0, 1], falling along a row; 0 for "not stored"."""
    num_classes: int
    prior_classes: torch.Tensor | None = None
    """(B, m) int64: each image's list of likely classes, -1 for an empty place; None without."""
    prior_probs: torch.Tensor | None = None
    """(B, m) float32: their mean probabilities."""
    prior_power: torch.Tensor | None = None
    """(B,) float32: what they are raised to before they spread a residual."""

    @classmethod
    def from_numpy(cls, topk: TopK) -> TorchTopK:
        """Labels of one leading axis (B,) as tensors."""
        prior = topk.prior
        return cls(
            indices=torch.as_tensor(topk.indices, dtype=torch.int64),
            probs=torch.as_tensor(topk.probs),
            num_classes=topk.num_classes,
            prior_classes=None if prior is None else torch.as_tensor(prior.classes).long(),
            prior_probs=None if prior is None else torch.as_tensor(prior.probs),
            prior_power=None if prior is None else torch.as_tensor(prior.power),
        )

    def recover(self, tail: Tail | None = None) -> TorchSoftLabels:
        """Full distributions, as ``labelstore.TopK.recover`` makes them of a ``tail``.

        Raises:
            UsageError: another tail. Warns (FallbackWarning) when ``image`` is asked for and no
            list is stored.
        """
        check_tail(tail, self.prior_classes is not None)
        probs = self.probs.double()
        total = probs.sum(1, keepdim=True)
        probs = probs / total.clamp(min=1.0)
        residual = (1.0 - total).clamp(min=0.0)
        stored = self.probs > 0
        if tail == "none":
            empty = ~stored.any(1, keepdim=True)
            base = torch.where(empty, 1.0 / self.num_classes, 0.0)
            return self._labels(base, self.indices, torch.where(stored, _to_sum_one(probs), 0.0))
        if tail == "uniform" or self.prior_classes is None:
            others = self.num_classes - stored.sum(1, keepdim=True)
            base = torch.where(others > 0, residual / others.clamp(min=1), 0.0)
            probs = torch.where(others > 0, probs, _to_sum_one(probs))
            return self._labels(base, self.indices, torch.where(stored, probs - base, 0.0))
        return self._like_prior(self.prior_classes, probs, residual, stored)

    def probability(self, classes: torch.Tensor) -> torch.Tensor:
        """(B, n) float32: the teacher's own probability of classes (B, n) of each label; as
        ``labelstore.TopK.probability``."""
        same = (classes[:, :, None] == self.indices[:, None, :]) & (self.probs > 0)[:, None, :]
        own = torch.where(same, self.probs[:, None, :], 0.0).amax(2)
        # Not only where it is needed: that would be to wait for the device.
        spread = self.recover()
        chosen = classes[:, :, None] == spread.indices[:, None, :]
        added = torch.where(chosen, spread.weights[:, None, :], 0.0).double().sum(2)
        estimate = (spread.base[:, None] + added).clamp(min=0.0).float()
        return torch.where(same.any(2), own, estimate)

    def candidates(self) -> list[torch.Tensor]:
        """(B, n) class ids of which one is the likeliest, in parts."""
        listed = [] if self.prior_classes is None else [self.prior_classes.clamp(min=0)]
        return [self.indices, *listed]

    def as_type(self, label_type: LabelType, tail: Tail | None = None) -> TorchSoftLabels:
        """Recover as a label type says; as ``labelstore.TopK.as_type``."""
        if label_type == "top-k":
            return self.recover(tail)
        require_choice("label type", label_type, get_args(LabelType))
        first = dataclasses.replace(self, indices=self.indices[:, :1], probs=self.probs[:, :1])
        if label_type == "smoothing":
            return first.recover("uniform")
        base = torch.zeros_like(self.probs[:, :1])
        return self._labels(base, first.indices, torch.ones_like(base))

    def _like_prior(
        self,
        classes: torch.Tensor,
        probs: torch.Tensor,
        residual: torch.Tensor,
        stored: torch.Tensor,
    ) -> TorchSoftLabels:
        weights, outside = self._tail_weights(classes)
        same = (self.indices[:, :, None] == classes[:, None, :]) & stored[:, :, None]
        is_stored = same.any(1)
        weights = torch.where(is_stored, 0.0, weights)
        listed = classes >= 0
        strangers = (stored & ~same.any(2)).sum(1, keepdim=True)
        others = (self.num_classes - listed.sum(1, keepdim=True) - strangers).clamp(min=0)
        # Where every class is stored there is nothing to spread the residual over.
        room = weights.sum(1, keepdim=True) + outside * others > 0
        probs = torch.where(room, probs, _to_sum_one(probs))
        residual = torch.where(room, residual, 0.0)
        least = torch.where(stored, probs, math.inf).amin(1, keepdim=True)
        limit = torch.where(stored.any(1, keepdim=True), MOST_UNSEEN * least, 1.0)
        spread, scale = _spread(weights, outside * others, residual, limit)
        base = torch.where(others > 0, scale * outside, 0.0)
        extra = torch.where(listed & ~is_stored, spread - base, 0.0)
        return self._labels(
            base,
            torch.cat([self.indices, classes.clamp(min=0)], 1),
            torch.cat([torch.where(stored, probs - base, 0.0), extra], 1),
        )

    def _tail_weights(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``prior.tail_weights``: (B, m) of the listed, (B, 1) of each outside."""
        if self.prior_probs is None or self.prior_power is None:
            raise UsageError("a list of classes was given without its probabilities: give both.")
        power = self.prior_power.double()[:, None]
        listed = classes >= 0
        probs = torch.where(listed, self.prior_probs, 0.0).double()
        outside = self.num_classes - listed.sum(1, keepdim=True)
        rest = (1.0 - probs.sum(1, keepdim=True)).clamp(min=LEAST) / outside.clamp(min=1)
        return torch.where(listed, probs**power, 0.0), rest**power

    def _labels(
        self, base: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor
    ) -> TorchSoftLabels:
        return TorchSoftLabels(base[:, 0].float(), indices, weights.float(), self.num_classes)


@dataclass(frozen=True)
class StoredLabels:
    """B stored labels of one teacher or several, and what they belong to: a batch to recover."""

    members: tuple[TorchTopK, ...]
    """One for each teacher."""
    weights: tuple[float, ...]
    """Of each teacher, sum 1."""
    target: torch.Tensor
    """(B,) int64 ground-truth class ids, -1 where unknown."""
    image: torch.Tensor
    """(B,) int64: the image's number in the store."""
    view: torch.Tensor
    """(B,) int64: the view's number."""
    all_known: bool
    """Whether no ground truth is unknown."""
    epoch: torch.Tensor | None = None
    """(B,) int64: which epoch shows the view; None where its label does not depend on it."""

    @classmethod
    def from_numpy(
        cls,
        topk: TopK | EnsembleTopK,
        target: npt.ArrayLike,
        image: npt.ArrayLike,
        view: npt.ArrayLike,
        epoch: npt.ArrayLike | None = None,
    ) -> StoredLabels:
        """What ``read`` of a store or an ensemble gives for images (B,) and views (B,), which an
        epoch, or (B,) of them, show."""
        truth = torch.as_tensor(target, dtype=torch.int64)
        return cls(
            members=tuple(TorchTopK.from_numpy(member) for member in topk.members),
            weights=tuple(topk.weights.tolist()),
            target=truth,
            image=torch.as_tensor(image, dtype=torch.int64),
            view=torch.as_tensor(view, dtype=torch.int64),
            all_known=bool((truth >= 0).all()),
            epoch=None if epoch is None else torch.as_tensor(epoch).expand(len(truth)),
        )

    @classmethod
    def cat(cls, parts: Sequence[StoredLabels]) -> StoredLabels:
        """Labels of the same teachers one after the other; at least one part.

        Raises:
            LabelError: parts of other teachers, classes or kinds than the first.
        """
        kinds = [part._kind() for part in parts]
        for kind in kinds[1:]:
            if kind != kinds[0]:
                raise LabelError(
                    f"stored labels of {kind} were to follow those of {kinds[0]} (each teacher's "
                    "weight, classes, k and likely classes), expected the same: give parts read "
                    "from one store or ensemble."
                )
        members = zip(*(part.members for part in parts), strict=True)
        return dataclasses.replace(
            join_tensors(parts),
            members=tuple(join_tensors(together) for together in members),
            all_known=all(part.all_known for part in parts),
        )

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, rows: slice | torch.Tensor) -> StoredLabels:
        """Rows by a slice or by an index tensor."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> StoredLabels:
        """The same labels on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> StoredLabels:
        """The same labels in page-locked memory; ``DataLoader(pin_memory=True)`` calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _kind(self) -> list[tuple[float, int, int, int | None]]:
        """What rows must share: each teacher's weight, classes, k, and list's length (or None)."""
        return [
            (
                weight,
                member.num_classes,
                member.probs.shape[1],
                None if member.prior_classes is None else member.prior_classes.shape[1],
            )
            for weight, member in zip(self.weights, self.members, strict=True)
        ]

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> StoredLabels:
        members = tuple(map_tensors(member, function) for member in self.members)
        return dataclasses.replace(map_tensors(self, function), members=members)


def _spread(
    weights: torch.Tensor, outside: torch.Tensor, mass: torch.Tensor, limit: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spread a mass in proportion to weights, none of the listed above a limit where possible.

    As in ``labelstore.labels``, where classes are capped round by round: whoever is over the limit
    at the present scale, until nobody is. The j largest weights are capped at any time, so what a
    round makes of every j is looked up at once, and rounds are followed by doubling.

    Args:
        weights: (B, m) float64 of the listed classes; outside: (B, 1) of all others together.
        mass: (B, 1) to be spread; limit: (B, 1) above 0.

    Returns:
        (B, m) the listed classes' shares, and (B, 1) the factor of the weights outside.
    """
    rows, size = weights.shape
    ordered, order = weights.sort(1, descending=True)
    none = torch.zeros_like(mass)
    # What is left to the others, and their weight, once j = 0..m are capped.
    free = torch.cat([ordered.flip(1).cumsum(1).flip(1), none], 1) + outside
    counts = torch.arange(size + 1, device=weights.device)
    left = (mass - counts * limit).clamp(min=0.0)
    scale = torch.where(free > 0, left / torch.where(free > 0, free, 1.0), 0.0)
    bound = torch.where(scale > 0, limit / torch.where(scale > 0, scale, 1.0), math.inf)
    over = size - torch.searchsorted(ordered.flip(1).contiguous(), bound, right=True)
    following = torch.maximum(counts.expand(rows, -1), over)
    # Capping the last class that is free would leave mass over.
    following = torch.where(free.gather(1, following) > 0, following, counts)
    for _ in range(size.bit_length()):
        following = following.gather(1, following)
    capped = following[:, :1]
    factor = scale.gather(1, capped)
    rank = torch.empty_like(order).scatter_(1, order, counts[:-1].expand(rows, -1))
    return torch.where(rank < capped, limit, factor * weights), factor


def _to_sum_one(probs: torch.Tensor) -> torch.Tensor:
    """Rows scaled to sum 1; rows of zeros stay."""
    total = probs.sum(1, keepdim=True)
    return probs / torch.where(total > 0, total, 1.0)
