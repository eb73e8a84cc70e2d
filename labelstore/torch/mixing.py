"""MixUp, CutMix and SelfMix on batches of tensors; the rules are those of ``labelstore.mixing``.

    selfmix = SelfMix("cutmix", alpha=1.0)
    for step, (images, target) in enumerate(loader):
        images, target, alone = selfmix(images, target, step=step)
        loss = soft_cross_entropy(model(images), target)

Who is mixed with whom is drawn on the CPU, so a step mixes the same on any device; the ranks of a
distributed training each draw their own.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from labelstore.errors import LabelError, UsageError
from labelstore.torch.labels.soft_labels import copied
from labelstore.torch.ranks import group_rank
from labelstore.training import mixing

if TYPE_CHECKING:
    from labelstore.torch.labels.soft_labels import TorchSoftLabels
    from labelstore.training.mixing import MixPlan

__all__ = ["CutMix", "InTurn", "MixUp", "Mixed", "OneOf", "SelfMix", "mix_batch", "on_tensors"]


class Mixed(NamedTuple):
    """A mixed batch."""

    images: torch.Tensor
    """(B, C, H, W), of the type that was given."""
    target: TorchSoftLabels
    """B labels, base + sparse, with twice as many sparse entries for each plan that was carried
    out. ``action``, ``image`` and ``view`` are those of the row's own view; ``target`` is -1 where
    the two ground truths differ."""
    alone: int
    """How many views stayed as they are because the batch has no view to mix them with."""


@dataclasses.dataclass(frozen=True)
class _OnTensors:
    """Makes a rule callable on tensors."""

    rank: int | None = None
    """Which process of a distributed training this is, so that each mixes otherwise; as
    torch.distributed says when None. Give processes that work on one batch together the same."""

    def __call__(
        self,
        images: torch.Tensor,
        target: TorchSoftLabels,
        image: torch.Tensor | None = None,
        *,
        step: int,
    ) -> Mixed:
        """Mix a batch: see ``mix_batch``."""
        return mix_batch(self, images, target, image, step=step)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class MixUp(_OnTensors, mixing.MixUp):
    """``labelstore.mixing.MixUp`` of tensors; see ``mix_batch``."""


@dataclasses.dataclass(frozen=True)
class CutMix(_OnTensors, mixing.CutMix):
    """``labelstore.mixing.CutMix`` of tensors; see ``mix_batch``."""


@dataclasses.dataclass(frozen=True)
class SelfMix(_OnTensors, mixing.SelfMix):
    """``labelstore.mixing.SelfMix`` of tensors; see ``mix_batch``."""


@dataclasses.dataclass(frozen=True)
class OneOf(_OnTensors, mixing.OneOf):
    """``labelstore.mixing.OneOf`` of tensors; see ``mix_batch``."""


@dataclasses.dataclass(frozen=True)
class InTurn(_OnTensors, mixing.InTurn):
    """``labelstore.mixing.InTurn`` of tensors; see ``mix_batch``."""


MixingOfTensors = MixUp | CutMix | SelfMix | OneOf | InTurn


def on_tensors(rule: mixing.Mixing, rank: int | None = None) -> MixingOfTensors:
    """A rule of ``labelstore.mixing`` as a callable on tensors; of a rank, where it is given."""
    if isinstance(rule, MixUp | CutMix | SelfMix | OneOf | InTurn):
        return rule if rank is None else dataclasses.replace(rule, rank=rank)
    kinds: dict[type, Any] = {
        mixing.MixUp: MixUp,
        mixing.CutMix: CutMix,
        mixing.SelfMix: SelfMix,
        mixing.OneOf: OneOf,
        mixing.InTurn: InTurn,
    }
    if type(rule) in kinds:
        fields = {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}
        mixed: MixingOfTensors = kinds[type(rule)](**fields, rank=rank)
        return mixed
    raise UsageError(
        f"the rule is {rule!r}, expected a MixUp, CutMix, SelfMix, OneOf or InTurn: give one."
    )


def mix_batch(
    rule: mixing.Mixing,
    images: torch.Tensor,
    target: TorchSoftLabels,
    image: torch.Tensor | None = None,
    *,
    step: int,
) -> Mixed:
    """Mix a batch by a rule. Nothing that is given is changed.

    Labels are mixed with the same weights as pixels. Where they have a loss ``weight`` (0 for
    views that FerKD masks), each part counts by its own: see ``MixPlan.shares``.

    Args:
        rule: of ``labelstore.mixing`` or of this module. Its draws are also those of a rank: the
            rule's, or as torch.distributed says.
        images: (B, C, H, W); floating point for what averages pixels, any type for CutMix.
        target: their B labels, on the same device or another.
        image: (B,) the image's number of each view; ``target.image`` when None. Only SelfMix looks
            at it; it is copied to the CPU, so mix before labels are moved to a GPU to save a wait.
        step: the batch's number, 0..2**64-1, in the whole training: each mixes otherwise, and the
            same one again mixes the same.

    Raises:
        LabelError: images and labels that do not fit each other. UsageError: integer pixels are to
            be averaged, or SelfMix does not know the images.
    """
    if images.ndim != 4 or len(images) != len(target):
        raise LabelError(
            f"images have shape {tuple(images.shape)} for {len(target)} labels, expected "
            f"({len(target)}, C, H, W): give the batch as collate_views makes it."
        )
    if image is None:
        image = target.image
    if image is None and rule.within_image:
        raise UsageError(
            "SelfMix mixes views of the same image and the labels do not say which image each view "
            "is of: pass image=, one number for each view."
        )
    if image is None:
        image = torch.zeros(len(images), dtype=torch.int64)
    if image.shape != (len(images),):
        raise LabelError(
            f"image numbers have shape {tuple(image.shape)}, expected ({len(images)},): give one "
            "for each view."
        )
    alone = np.zeros(len(images), dtype=bool)
    height, width = int(images.shape[2]), int(images.shape[3])
    # Rules that mix all images alike do not look at their numbers: no wait for a GPU.
    numbers = image.cpu().numpy() if rule.within_image else np.zeros(len(images), dtype=np.int64)
    rank = getattr(rule, "rank", None)
    seed = mixing.rank_seed(rule.seed, group_rank()[1] if rank is None else rank)
    for plan in rule.plans(numbers, (height, width), step, seed):
        alone |= plan.alone
        if (plan.weight < 1).any():
            images = _mix_images(images, plan)
            target = _mix_labels(target, plan)
    return Mixed(images, target, int(alone.sum()))


def _mix_images(images: torch.Tensor, plan: MixPlan) -> torch.Tensor:
    partner = copied(plan.partner, images.device)
    out = images
    if (plan.blend < 1).any():
        if not images.is_floating_point():
            raise UsageError(
                f"images are {images.dtype} and their pixels are to be averaged, expected floating "
                "point: normalize them before they are mixed."
            )
        # Half-precision weights would not be those of the labels.
        dtype = torch.promote_types(images.dtype, torch.float32)
        exact = np.float64 if dtype == torch.float64 else np.float32
        blend = copied(plan.blend.astype(exact), images.device)
        others = images[partner].to(dtype)
        out = torch.lerp(others, images.to(dtype), blend[:, None, None, None]).to(images.dtype)
    rows = np.flatnonzero(plan.box[:, 2] * plan.box[:, 3])
    if not rows.size:
        return out
    if out is images:
        out = images.clone()
    boxes = plan.box[rows]
    if (boxes == boxes[0]).all():
        # One box for all: a copy of what it holds, not a mask of all pixels.
        top, left, tall, wide = boxes[0].tolist()
        place = (slice(None), slice(top, top + tall), slice(left, left + wide))
        device_rows = copied(rows, images.device)
        out[(device_rows, *place)] = images[(copied(plan.partner[rows], images.device), *place)]
        return out
    edges = copied(plan.box, images.device)[:, :, None, None]
    top, left, tall, wide = edges.unbind(1)
    y = torch.arange(images.shape[2], device=images.device)[:, None]
    x = torch.arange(images.shape[3], device=images.device)
    inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    return torch.where(inside[:, None], images[partner], out)


def _mix_labels(target: TorchSoftLabels, plan: MixPlan) -> TorchSoftLabels:
    device = target.base.device
    weight = None if target.weight is None else target.weight.cpu().numpy()
    share, total = plan.shares(weight)
    own = copied(share.astype(np.float32), device)
    partner = copied(plan.partner, device)
    other = 1.0 - own
    truth = target.target
    if truth is not None:
        # One ground truth is left only where both views have it, or one of them has no share.
        lost, kept = (copied(plan.weight == end, truth.device) for end in (0, 1))
        theirs = truth[copied(plan.partner, truth.device)]
        truth = torch.where(lost, theirs, truth)
        truth = torch.where((truth == theirs) | kept, truth, -torch.ones_like(truth))
    return dataclasses.replace(
        target,
        base=own * target.base + other * target.base[partner],
        indices=torch.cat([target.indices, target.indices[partner]], dim=1),
        weights=torch.cat(
            [own[:, None] * target.weights, other[:, None] * target.weights[partner]], dim=1
        ),
        weight=None if total is None else copied(total.astype(np.float32), device),
        target=truth,
    )
