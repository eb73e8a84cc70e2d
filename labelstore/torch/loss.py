"""Cross-entropy against soft labels that are never made dense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from labelstore.errors import LabelError, UsageError

if TYPE_CHECKING:
    from labelstore.torch.collate import TorchSoftLabels

__all__ = ["Reduction", "soft_cross_entropy"]

Reduction = Literal["mean", "sum", "none"]


def soft_cross_entropy(
    logits: torch.Tensor, target: TorchSoftLabels, reduction: Reduction = "mean"
) -> torch.Tensor:
    """``-sum_c p[c] * log_softmax(logits)[c]`` for every row, in nats.

    Computed in float32, also under autocast and for half-precision logits (in float64 for float64
    logits); the gradient has the logits' type. Beyond one array of the logits' shape at a time it
    needs memory for the stored classes alone. First derivatives only.

    Args:
        logits: (B, num_classes) floating point.
        target: B soft labels on the same device. Where ``target.weight`` is present, each row's
            loss is multiplied by it.
        reduction: ``mean`` over the rows, weighted by ``target.weight`` where present (the sum
            divided by the sum of the weights; 0, with gradient 0, when all weights are 0);
            ``sum``; or ``none``.

    Returns:
        () for ``mean`` and ``sum``, (B,) for ``none``; float32 or float64.

    Raises:
        LabelError: the logits do not fit the labels. UsageError: another reduction, or logits on
            another device.
    """
    if reduction not in get_args(Reduction):
        raise UsageError(
            f"reduction is {reduction!r}, expected one of {', '.join(get_args(Reduction))}: "
            "choose one."
        )
    expected = (len(target), target.num_classes)
    if tuple(logits.shape) != expected or not logits.is_floating_point():
        raise LabelError(
            f"logits have shape {tuple(logits.shape)} and type {logits.dtype}, expected {expected} "
            "floating point: give the model as many outputs as the teacher has classes, and one "
            "row for each label."
        )
    if logits.device != target.base.device:
        raise UsageError(
            f"logits are on {logits.device} and labels on {target.base.device}, expected one "
            "device: move the labels with target.to(device)."
        )
    losses: torch.Tensor = _SoftCrossEntropy.apply(
        logits, target.base, target.indices, target.weights
    )
    if target.weight is not None:
        losses = losses * target.weight
    if reduction == "none":
        return losses
    if reduction == "mean" and target.weight is None:
        return losses.mean()
    total = losses.sum()
    if reduction == "sum" or target.weight is None:
        return total
    weight = target.weight.sum()
    return total / torch.where(weight > 0, weight, torch.ones_like(weight))


class _SoftCrossEntropy(torch.autograd.Function):
    """Each row's loss; saves what it was given and nothing else.

    Going over the logits once more in the backward pass is faster than keeping their softmax.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        base: torch.Tensor,
        indices: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(logits, base, indices, weights)
        # log_softmax, not logsumexp less the logits: large logits would cancel.
        logs = torch.log_softmax(logits, dim=1, dtype=_precision(logits))
        return -(base * logs.sum(dim=1) + (weights * logs.gather(1, indices)).sum(dim=1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        logits, base, indices, weights = ctx.saved_tensors
        above = upstream[0][:, None]
        gradient = torch.softmax(logits, dim=1, dtype=_precision(logits))
        base = base.to(gradient.dtype)[:, None]
        weights = weights.to(gradient.dtype)
        total = base * logits.shape[1] + weights.sum(dim=1, keepdim=True)
        torch.addcmul(-base * above, gradient, total * above, out=gradient)
        gradient.scatter_add_(1, indices, -weights * above)
        return gradient.to(logits.dtype), None, None, None


def _precision(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
