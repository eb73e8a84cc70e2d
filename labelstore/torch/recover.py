"""Stored labels recovered, calibrated and averaged on the device, from the sparse form.

The torch twin of ``labelstore.labels.TopK.recover``, ``labelstore.calibrate`` and
``labelstore.recovery``, for loops whose labels are all that is left to the processor: with photos
or latents in the GPU's memory, say. The same arithmetic (float64 inside, float32 results), without
a loop over classes and without waiting for the device.

    data = SoftLabelDataset(photos, store, ferkd=rule, labels="stored")
    for images, stored in loader:
        target = recover(stored.to(device), data.recovery)
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from labelstore.calibrate import Action
from labelstore.ensembles import EnsembleTopK
from labelstore.errors import FallbackWarning, LabelError, UsageError
from labelstore.labels import MOST_UNSEEN
from labelstore.prior import LEAST
from labelstore.torch.collate import TorchSoftLabels, copied, join_tensors, map_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from labelstore.calibrate import EnsembleFerKD, FerKD
    from labelstore.labels import LabelType, Tail, TopK
    from labelstore.recovery import Recovery

__all__ = ["StoredLabels", "TorchTopK", "recover"]

KEPT, CALIBRATED, DISCARDED = int(Action.KEPT), int(Action.CALIBRATED), int(Action.DISCARDED)


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

        Warns (FallbackWarning) when ``image`` is asked for and no list is stored.
        """
        if tail == "image" and self.prior_classes is None:
            warnings.warn(
                "tail 'image' was asked for and these labels have no image prior: 'uniform' is "
                "used.",
                FallbackWarning,
                stacklevel=2,
            )
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

    def as_type(self, label_type: LabelType, tail: Tail | None = None) -> TorchSoftLabels:
        """Recover as a label type says; as ``labelstore.TopK.as_type``."""
        if label_type == "top-k":
            return self.recover(tail)
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
        taken = same.any(1)
        weights = torch.where(taken, 0.0, weights)
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
        extra = torch.where(listed & ~taken, spread - base, 0.0)
        return self._labels(
            base,
            torch.cat([self.indices, classes.clamp(min=0)], 1),
            torch.cat([torch.where(stored, probs - base, 0.0), extra], 1),
        )

    def _tail_weights(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``labelstore.prior.tail_weights``: (B, m) of the listed, (B, 1) of each outside."""
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

    @classmethod
    def from_numpy(
        cls,
        topk: TopK | EnsembleTopK,
        target: npt.ArrayLike,
        image: npt.ArrayLike,
        view: npt.ArrayLike,
    ) -> StoredLabels:
        """What ``read`` of a store or an ensemble gives for images (B,) and views (B,)."""
        if isinstance(topk, EnsembleTopK):
            members, weights = topk.members, topk.weights.tolist()
        else:
            members, weights = (topk,), [1.0]
        truth = torch.as_tensor(target, dtype=torch.int64)
        return cls(
            members=tuple(TorchTopK.from_numpy(member) for member in members),
            weights=tuple(weights),
            target=truth,
            image=torch.as_tensor(image, dtype=torch.int64),
            view=torch.as_tensor(view, dtype=torch.int64),
            all_known=bool((truth >= 0).all()),
        )

    @classmethod
    def cat(cls, parts: Sequence[StoredLabels]) -> StoredLabels:
        """Labels of the same teachers one after the other; at least one part."""
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

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> StoredLabels:
        members = tuple(map_tensors(member, function) for member in self.members)
        return dataclasses.replace(map_tensors(self, function), members=members)


def recover(stored: StoredLabels, recovery: Recovery) -> TorchSoftLabels:
    """What ``labelstore.recovery.Recovery`` makes of labels, on the device where they lie.

    It does not wait for the device, unless a rule is given and some ground truth is unknown.

    Args:
        stored: n labels.
        recovery: how, such as ``SoftLabelDataset.recovery``.

    Returns:
        n labels with ``target``, ``image`` and ``view``; with a rule also ``action``, and under
        ``discard="mask"`` their ``weight``.

    Raises:
        LabelError: the rule needs a ground truth that is unknown. UsageError: labels at another
        temperature than they are stored at, as many rules as there are not teachers, or a device
        without float64.
    """
    if recovery.factors:
        raise UsageError(
            "stored labels were to be recovered on a device at another temperature, expected that "
            'of the store: let the data set recover them (labels="recovered").'
        )
    if stored.target.device.type == "mps":
        raise UsageError(
            "labels were to be recovered on MPS, which has no float64, expected the CPU or CUDA: "
            "recover them before they are moved."
        )
    weights = copied(np.array(stored.weights), stored.target.device)
    rule, tail = recovery.ferkd, recovery.tail
    action = weight = None
    if rule is None:
        parts = [member.as_type(recovery.label_type, tail) for member in stored.members]
        labels = _mixed(parts, weights[:, None].expand(-1, len(stored)))
    else:
        labels, action = _calibrated(stored, weights, rule, tail)
        if rule.discard == "mask":
            weight = (action != DISCARDED).float()
    return dataclasses.replace(
        labels,
        weight=weight,
        action=action,
        target=stored.target,
        image=stored.image,
        view=stored.view,
    )


def _calibrated(
    stored: StoredLabels, weights: torch.Tensor, rule: FerKD | EnsembleFerKD, tail: Tail | None
) -> tuple[TorchSoftLabels, torch.Tensor]:
    """Labels and actions; as ``FerKD.apply`` and ``EnsembleFerKD.apply``."""
    several = len(stored.members) > 1
    if several and rule.ensemble == "mean":
        # One rule, since several cannot look at the mean.
        (mean_rule,) = rule.rules_for(1)
        parts = [member.recover(tail) for member in stored.members]
        labels = _mixed(parts, weights[:, None].expand(-1, len(stored)))
        return _apply(mean_rule, labels, None, stored)
    done = [
        _apply(own, member.recover(tail), member, stored)
        for own, member in zip(rule.rules_for(len(stored.members)), stored.members, strict=True)
    ]
    if not several:
        return done[0]
    actions = torch.stack([action for _, action in done])
    dropped = actions == DISCARDED
    everywhere = dropped.all(0)
    discarded = everywhere if rule.ensemble == "all" else dropped.any(0)
    # A view that every teacher discards keeps their plain mean: it is shown, if at all, as is.
    voices = torch.where(dropped & ~everywhere, 0.0, weights[:, None])
    voices = torch.where(voices.sum(0) > 0, voices, 1.0)
    calibrated = (actions == CALIBRATED).any(0)
    action = torch.where(calibrated, CALIBRATED, KEPT)
    action = torch.where(discarded, DISCARDED, action)
    labels = _mixed([labels for labels, _ in done], voices / voices.sum(0))
    return labels, action.to(torch.uint8)


def _apply(
    rule: FerKD, labels: TorchSoftLabels, topk: TorchTopK | None, stored: StoredLabels
) -> tuple[TorchSoftLabels, torch.Tensor]:
    """A rule's labels and actions; as ``FerKD.apply`` of one teacher."""
    target = stored.target
    if rule.confidence == "target":
        _require(stored, torch.ones_like(target, dtype=torch.bool), 'confidence="target"')
        chosen = target[:, None] == labels.indices
        added = torch.where(chosen, labels.weights, 0.0).double().sum(1)
        confidence = (labels.base + added).clamp(min=0.0)
    elif topk is not None:
        confidence = topk.probs[:, 0]
    else:
        own = labels.indices[:, :, None] == labels.indices[:, None, :]
        sums = (own * labels.weights[:, None, :]).sum(2)
        confidence = labels.base + sums.amax(1).clamp(min=0.0)
    discarded = (confidence <= rule.low) | (confidence > rule.top)
    uncertain = (confidence <= rule.middle) & ~discarded
    _require(stored, uncertain, "calibration")
    action = torch.where(uncertain, CALIBRATED, KEPT)
    action = torch.where(discarded, DISCARDED, action).to(torch.uint8)
    # Equation 4: the first slot takes the ground truth; the others stay as slots without weight.
    base = rule.smoothing / (labels.num_classes - 1) if rule.smoothing else 0.0
    first = torch.arange(labels.indices.shape[1], device=target.device) == 0
    hard = uncertain[:, None]
    truth = torch.where(first, (1.0 - rule.smoothing) - base, 0.0)
    return dataclasses.replace(
        labels,
        base=torch.where(uncertain, base, labels.base),
        indices=torch.where(hard & first, target[:, None].clamp(min=0), labels.indices),
        weights=torch.where(hard, truth, labels.weights),
    ), action


def _require(stored: StoredLabels, needed: torch.Tensor, purpose: str) -> None:
    """LabelError where a ground truth is needed and unknown."""
    if stored.all_known:
        return
    missing, count = int((needed & (stored.target < 0)).sum()), int(needed.sum())
    if missing:
        raise LabelError(
            f"FerKD's {purpose} needs the ground truth and {missing} of {count} views have "
            "none: give targets, or make the store with class folders or --class-map."
        )


def _mixed(parts: Sequence[TorchSoftLabels], shares: torch.Tensor) -> TorchSoftLabels:
    """The weighted sum of labels by shares (M, B); as ``labelstore.labels.mix``."""
    if len(parts) == 1:
        return parts[0]
    pairs = list(zip(parts, shares, strict=True))
    return TorchSoftLabels(
        base=torch.stack([share * part.base for part, share in pairs]).sum(0).float(),
        indices=torch.cat([part.indices for part in parts], 1),
        weights=torch.cat([share[:, None] * part.weights for part, share in pairs], 1).float(),
        num_classes=parts[0].num_classes,
    )


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
