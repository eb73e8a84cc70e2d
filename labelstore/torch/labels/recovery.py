"""Stored labels recovered, calibrated and averaged on the device, from the sparse form.

The torch twin of ``labelstore.labels.TopK.recover``, ``labelstore.labels.ferkd`` and
``labelstore.training.recovery``, for loops whose labels are all that is left to the processor: with
photos or latents in the GPU's memory, say. The same arithmetic (float64 inside, float32 results),
without a loop over classes and without waiting for the device.

    data = SoftLabelDataset(photos, store, ferkd=rule, labels="stored")
    for images, stored in loader:
        target = recover(stored.to(device), data.recovery)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import torch

from labelstore.errors import LabelError, UsageError
from labelstore.labels.actions import Action
from labelstore.labels.calibration.thresholds import Edges
from labelstore.labels.ensemble import together
from labelstore.torch.labels.soft_labels import TorchSoftLabels
from labelstore.training.recovery import NO_EPOCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labelstore.labels.ferkd import EnsembleFerKD, FerKD
    from labelstore.labels.top_k import Tail
    from labelstore.torch.labels.stored_labels import StoredLabels, TorchTopK
    from labelstore.training.recovery import Recovery

__all__ = ["recover"]

KEPT, CALIBRATED, DISCARDED = int(Action.KEPT), int(Action.CALIBRATED), int(Action.DISCARDED)


def recover(stored: StoredLabels, recovery: Recovery) -> TorchSoftLabels:
    """What ``labelstore.training.recovery.Recovery`` makes of labels, on the device where they lie.

    It does not wait for the device, unless a rule is given and some ground truth is unknown, or
    for the first batch of a rule with thresholds by class.

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
    rule, tail = recovery.ferkd, recovery.tail
    if rule is not None:
        rule.require_classes(stored.members[0].num_classes)
    action = weight = None
    if rule is None:
        parts = [member.as_type(recovery.label_type, tail) for member in stored.members]
        labels = _mixed(parts, _shares(stored))
    else:
        labels, action = _calibrated(stored, rule, tail)
        if rule.discard == "mask":
            weight = (action != DISCARDED).float()
    if recovery.phases is not None:
        if stored.epoch is None:
            raise UsageError(NO_EPOCH)
        hard = recovery.phases.is_hard(stored.epoch)
        _require(stored, hard, "a hard phase")
        epsilon = recovery.phases.smoothing_of_others(labels.num_classes)
        labels = _with_smoothed_truth(labels, hard, stored.target.clamp(min=0), epsilon)
    return dataclasses.replace(
        labels,
        weight=weight,
        action=action,
        target=stored.target,
        image=stored.image,
        view=stored.view,
    )


def _calibrated(
    stored: StoredLabels, rule: FerKD | EnsembleFerKD, tail: Tail | None
) -> tuple[TorchSoftLabels, torch.Tensor]:
    """Labels and actions; as ``FerKD.apply`` and ``EnsembleFerKD.apply``."""
    if len(stored.members) > 1 and rule.ensemble == "mean":
        # One rule, since several cannot look at the mean.
        (mean_rule,) = rule.rules_for(1)
        parts = [member.recover(tail) for member in stored.members]
        labels = _mixed(parts, _shares(stored))
        return _apply(mean_rule, labels, stored.members, stored)
    of_each = [
        _apply(own, member.recover(tail), (member,), stored)
        for own, member in zip(rule.rules_for(len(stored.members)), stored.members, strict=True)
    ]
    if len(of_each) == 1:
        return of_each[0]
    actions = torch.stack([action for _, action in of_each])
    dropped = actions == DISCARDED
    discarded = together(dropped.unbind(), rule.ensemble)
    # A view that every teacher discards keeps their plain mean: it is shown, if at all, as is.
    voices = torch.where(dropped & ~dropped.all(0), 0.0, _shares(stored))
    voices = torch.where(voices.sum(0) > 0, voices, 1.0)
    calibrated = (actions == CALIBRATED).any(0)
    action = torch.where(calibrated, CALIBRATED, KEPT)
    action = torch.where(discarded, DISCARDED, action)
    labels = _mixed([labels for labels, _ in of_each], voices / voices.sum(0))
    return labels, action.to(torch.uint8)


def _apply(
    rule: FerKD, labels: TorchSoftLabels, members: Sequence[TorchTopK], stored: StoredLabels
) -> tuple[TorchSoftLabels, torch.Tensor]:
    """A rule's labels and actions; as ``FerKD.apply`` of one teacher, or of the mean of several."""
    target = stored.target
    confidence = _confidence(rule, members, stored)
    below, uncertain, above = _edges(rule, target).parts(confidence)
    _require(stored, uncertain, "FerKD's calibration")
    action = torch.where(uncertain, CALIBRATED, KEPT)
    action = torch.where(below | above, DISCARDED, action).to(torch.uint8)
    truth = target.clamp(min=0)
    if rule.calibrate == "loca":
        return _with_leading_truth(labels, uncertain, truth, rule.alpha), action
    return _with_smoothed_truth(labels, uncertain, truth, rule.smoothing), action


def _with_smoothed_truth(
    labels: TorchSoftLabels, chosen: torch.Tensor, target: torch.Tensor, smoothing: float
) -> TorchSoftLabels:
    """As ``labelstore.labels.calibration.truth.with_smoothed_truth``, targets (B,) being given for
    all labels."""
    # The first slot takes the ground truth; the others stay as slots without weight.
    others = labels.num_classes - 1
    smoothing = smoothing if others else 0.0
    base = smoothing / others if others else 0.0
    first = torch.arange(labels.indices.shape[1], device=target.device) == 0
    hard = chosen[:, None]
    truth = torch.where(first, (1.0 - smoothing) - base, 0.0)
    return dataclasses.replace(
        labels,
        base=torch.where(chosen, base, labels.base),
        indices=torch.where(hard & first, target[:, None], labels.indices),
        weights=torch.where(hard, truth, labels.weights),
    )


def _with_leading_truth(
    labels: TorchSoftLabels, chosen: torch.Tensor, target: torch.Tensor, alpha: float
) -> TorchSoftLabels:
    """As ``labelstore.labels.calibration.truth.with_leading_truth``, targets (B,) being given for
    all labels."""
    base, weights = labels.base.double(), labels.weights.double()
    same = labels.indices[:, :, None] == labels.indices[:, None, :]
    of_each = base[:, None] + torch.where(same, weights[:, None, :], 0.0).sum(2)
    mine = labels.indices == target[:, None]
    own = (base + torch.where(mine, weights, 0.0).sum(1)).clamp(min=0.0)
    rival = torch.maximum(torch.where(mine, -math.inf, of_each).amax(1), base)
    scale = alpha / (1.0 - own + rival)
    scale = torch.where(chosen & (own <= rival), scale, 1.0)
    return dataclasses.replace(
        labels,
        base=(scale * base).float(),
        indices=torch.cat([labels.indices, target[:, None]], 1),
        weights=torch.cat([scale[:, None] * weights, (1.0 - scale)[:, None]], 1).float(),
    )


def _edges(rule: FerKD, target: torch.Tensor) -> Edges:
    """The thresholds of views by their ground truth (B,); as ``FerKD.edges``."""
    if rule.by_class is None:
        return rule.edges()
    # The last column is that of the unknown ground truth, -1.
    return Edges(*_table(rule, target.device)[:, target])


@functools.lru_cache(maxsize=16)
def _table(rule: FerKD, device: torch.device) -> torch.Tensor:
    """``FerKD.table`` on a device, to which it is copied once: a copy waits for it."""
    return torch.as_tensor(rule.table, device=device)


def _confidence(rule: FerKD, members: Sequence[TorchTopK], stored: StoredLabels) -> torch.Tensor:
    """(B,) float32; as ``FerKD.confidence_of``."""
    if rule.confidence == "target":
        needed = torch.ones_like(stored.target, dtype=torch.bool)
        _require(stored, needed, 'FerKD\'s confidence="target"')
        classes = stored.target[:, None]
    elif len(members) == 1:
        return members[0].probs[:, 0]
    else:
        classes = torch.cat([part for member in members for part in member.candidates()], 1)
    parts = [member.probability(classes) for member in members]
    if len(parts) > 1:
        shares = _shares(stored)[:, :, None]
        mean = torch.stack([share * part for share, part in zip(shares, parts, strict=True)])
        parts = [mean.sum(0)]
    return parts[0].amax(1).float()


def _require(stored: StoredLabels, needed: torch.Tensor, purpose: str) -> None:
    """LabelError where a ground truth is needed and unknown."""
    if stored.all_known:
        return
    missing, count = int((needed & (stored.target < 0)).sum()), int(needed.sum())
    if missing:
        raise LabelError(
            f"{purpose} needs the ground truth and {missing} of {count} views have "
            "none: give targets, or make the store with class folders or a class map.",
            arguments=("targets",),
        )


def _shares(stored: StoredLabels) -> torch.Tensor:
    """(M, B) float64: the teachers' weights, for each label.

    Filled in on the device: a copy from ordinary memory would wait for it.
    """
    rows, device = len(stored), stored.target.device
    return torch.stack(
        [torch.full((rows,), w, dtype=torch.float64, device=device) for w in stored.weights]
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
