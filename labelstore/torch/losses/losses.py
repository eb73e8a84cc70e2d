"""Losses against soft labels that are never made dense.

p are a label's probabilities, z the student's logits, tau the student's temperature and
``q = softmax(z / tau)``:

    soft_cross_entropy   -sum_c p[c] log q[c]
    soft_kl_divergence   sum_c p[c] (log p[c] - log q[c]), cross-entropy less the label's entropy
    vanilla_kd_loss      equation 1 of the FerKD paper: hard labels and the teacher's, weighed
    fkd_loss             equation 2: cross-entropy with the teacher's labels alone
    ferkd_loss           equation 3: cross-entropy with calibrated labels

``mean`` is over the rows of this process. DistributedDataParallel averages the gradients of ranks,
which is the mean over all rows only where every rank has rows of the same weight. Where views are
masked (``FerKD(discard="mask")``) or batches differ in size, take the sum and divide by what a rank
has on average: the gradient is then that of the weighted mean over all ranks' rows.

    loss = soft_cross_entropy(model(images), target, "sum") / mean_weight(target)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import torch

from labelstore.errors import LabelError, UsageError, require_choice
from labelstore.torch.labels.soft_labels import TorchSoftLabels
from labelstore.torch.losses.cross_entropy import Reduction, cross_entropy

__all__ = [
    "Reduction",
    "ferkd_loss",
    "fkd_loss",
    "hard_labels",
    "label_entropy",
    "mean_weight",
    "soft_cross_entropy",
    "soft_kl_divergence",
    "vanilla_kd_loss",
]

_REDUCTIONS = get_args(Reduction)


def soft_cross_entropy(
    logits: torch.Tensor,
    target: TorchSoftLabels,
    reduction: Reduction = "mean",
    *,
    temperature: float = 1.0,
    temperature_squared: bool = False,
) -> torch.Tensor:
    """``-sum_c p[c] * log_softmax(logits / temperature)[c]`` for every row, in nats.

    Computed in float32, also under autocast and for half-precision logits (in float64 for float64
    logits); the gradient has the logits' type. On a CPU it makes nothing as wide as the classes but
    the gradient, apart from room of fixed size (half a MiB a thread, in which a small batch keeps
    its gradient from the forward pass on); so it does on a GPU where Triton is installed (see
    ``labelstore.torch.losses.triton_kernels``), and elsewhere one more such array at a time (two at
    another temperature than 1). It compiles without a graph break and can be differentiated twice.

    Args:
        logits: (B, num_classes) floating point.
        target: B soft labels on the same device. Where ``target.weight`` is present, each row's
            loss is multiplied by it.
        reduction: ``mean`` over the rows, weighted by ``target.weight`` where present (the sum
            divided by the sum of the weights; 0, with gradient 0, when all weights are 0 or there
            is no row); ``sum``; or ``none``. Under DistributedDataParallel see ``mean_weight``.
        temperature: tau, positive: what the student's logits are divided by. The labels are taken
            as they are: store them at that temperature, or see ``labelstore.at_temperature``.
        temperature_squared: multiply by tau ** 2, which keeps the size of the gradients about the
            same at any temperature (Hinton et al. 2015, section 2.1).

    Returns:
        () for ``mean`` and ``sum``, (B,) for ``none``; float32 or float64.

    Raises:
        LabelError: the logits do not fit the labels. UsageError: another reduction, logits on
            another device, or a temperature that is not positive.
    """
    _check(logits, target, reduction, temperature)
    label = (target.base, target.indices, target.weights)
    plain = target.weight is None
    losses = cross_entropy(logits, *label, float(temperature), reduction if plain else "none")
    if temperature_squared:
        losses = losses * temperature**2
    return losses if plain else _reduced(losses, target.weight, reduction)


def soft_kl_divergence(
    logits: torch.Tensor,
    target: TorchSoftLabels,
    reduction: Reduction = "mean",
    *,
    temperature: float = 1.0,
    temperature_squared: bool = False,
) -> torch.Tensor:
    """``sum_c p[c] * (log p[c] - log_softmax(logits / temperature)[c])`` for every row, in nats.

    ``soft_cross_entropy`` less ``label_entropy``: the same gradient, but 0 where the student says
    what the label says. The arguments, result and errors are those of ``soft_cross_entropy``. (The
    ``mean`` is over the rows, as ``batchmean`` of ``torch.nn.functional.kl_div``.)
    """
    losses = _divergence(logits, target, reduction, temperature, temperature_squared)
    return _reduced(losses, target.weight, reduction)


def vanilla_kd_loss(
    logits: torch.Tensor,
    target: TorchSoftLabels,
    alpha: float,
    reduction: Reduction = "mean",
    *,
    hard: TorchSoftLabels | None = None,
    temperature: float = 1.0,
    temperature_squared: bool = False,
) -> torch.Tensor:
    """Equation 1 of the FerKD paper: ``alpha * CE(hard label) + (1 - alpha) * KL(soft label)``.

    The cross-entropy is at temperature 1, the KL divergence at ``temperature``.

    Args:
        logits, target, reduction, temperature, temperature_squared: as for ``soft_cross_entropy``.
            ``temperature_squared`` multiplies the KL divergence alone.
        alpha: 0..1, the share of the hard labels.
        hard: B labels for the first term: of images that were mixed, the ground truth mixed by the
            same rule at the same step. When None: the one-hot ground truth of ``target.target``.

    Raises:
        LabelError: alpha is above 0 and a ground truth is unknown. The others are those of
            ``soft_cross_entropy``; UsageError also for alpha.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}, expected 0 to 1, the share of the hard labels.")
    losses = _divergence(logits, target, reduction, temperature, temperature_squared)
    if alpha > 0:
        hard = hard_labels(target) if hard is None else hard
        _check(logits, hard, reduction, 1.0)
        truth = cross_entropy(logits, hard.base, hard.indices, hard.weights, 1.0)
        losses = alpha * truth + (1 - alpha) * losses
    return _reduced(losses, target.weight, reduction)


def fkd_loss(
    logits: torch.Tensor,
    target: TorchSoftLabels,
    reduction: Reduction = "mean",
    *,
    temperature: float = 1.0,
    temperature_squared: bool = False,
) -> torch.Tensor:
    """Equation 2 of the FerKD paper (FKD's): ``soft_cross_entropy`` with the teacher's labels."""
    return soft_cross_entropy(
        logits,
        target,
        reduction,
        temperature=temperature,
        temperature_squared=temperature_squared,
    )


def ferkd_loss(
    logits: torch.Tensor,
    target: TorchSoftLabels,
    reduction: Reduction = "mean",
    *,
    temperature: float = 1.0,
    temperature_squared: bool = False,
) -> torch.Tensor:
    """Equation 3 of the FerKD paper: ``soft_cross_entropy`` with calibrated labels.

    One term: each label is the teacher's or the smoothed ground truth, as calibration decided.

    Raises:
        LabelError: the labels were not calibrated. The others are those of ``soft_cross_entropy``.
    """
    if target.action is None:
        raise LabelError(
            "FerKD's loss was given labels that no FerKD rule has calibrated, expected calibrated "
            "ones: make the data set with ferkd=FerKD(), or use fkd_loss."
        )
    return soft_cross_entropy(
        logits,
        target,
        reduction,
        temperature=temperature,
        temperature_squared=temperature_squared,
    )


def mean_weight(target: TorchSoftLabels, group: Any = None) -> torch.Tensor:
    """What the summed losses of ranks are divided by, so that their average is the global mean.

    The weights of all ranks' rows summed, over the number of ranks; 1 where all weights are 0. All
    processes of the group must call it, each with its batch. Without a process group it is the
    weight of the batch, and ``sum`` divided by it is ``mean``.

    Args:
        target: this rank's labels.
        group: a torch.distributed process group, as DistributedDataParallel's; the default one when
            None.

    Returns:
        () float32, on the labels' device, without a gradient.
    """
    if target.weight is None:
        mass = target.base.new_tensor(float(len(target)))
    else:
        mass = target.weight.detach().sum()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mass, group=group)
        mass = mass / torch.distributed.get_world_size(group)
    return torch.where(mass > 0, mass, torch.ones_like(mass))


def hard_labels(target: TorchSoftLabels) -> TorchSoftLabels:
    """The ground truth of each label, ``target.target``, as labels of probability 1; the rows'
    weights and all else stay.

    Mix them by the rule and at the step that the soft labels are mixed at, and they are the mixed
    ground truth.

    Raises:
        LabelError: a ground truth is unknown, or lost in mixing.
    """
    truth = target.target
    unknown = len(target) if truth is None else int((truth < 0).sum())
    if truth is None or unknown:
        raise LabelError(
            "the hard-label part of the loss (alpha > 0, hard_weight > 0) needs the ground truth "
            f"and {unknown} of {len(target)} views have none: make the store with class "
            "folders or a class map; "
            "of images mixed across classes give vanilla_kd_loss hard=, the mixed ground truth; "
            "or use alpha=0 (hard_weight=0)."
        )
    return dataclasses.replace(
        target,
        base=torch.zeros_like(target.base),
        indices=truth[:, None],
        weights=torch.ones_like(target.base)[:, None],
    )


def label_entropy(target: TorchSoftLabels) -> torch.Tensor:
    """(B,) float64: ``-sum_c p[c] log p[c]`` of each label in nats, exact for the label as it is
    (float32 on MPS).

    The torch twin of ``labelstore.labels.distribution.entropy``: O(B K) memory. A class that stands
    more than once in the sparse part is summed up first. No gradient.
    """
    if target.base.device.type == "mps":  # which has no float64
        return label_entropy(target.to("cpu")).float().to(target.base.device)
    with torch.no_grad():
        base = target.base.double()
        classes, order = target.indices.sort(dim=1, stable=True)
        weights = target.weights.double().gather(1, order)
        slot = torch.zeros_like(classes)
        slot[:, 1:] = (classes[:, 1:] != classes[:, :-1]).cumsum(dim=1)
        added = torch.zeros_like(weights).scatter_add_(1, slot, weights)
        count = slot[:, -1] + 1 if slot.shape[1] else torch.zeros_like(base, dtype=torch.int64)
        present = torch.arange(slot.shape[1], device=slot.device) < count[:, None]
        # Sums of rounded terms may end a unit in the last place below zero.
        probs = torch.where(present, (base[:, None] + added).clamp(min=0), 0.0)
        others: torch.Tensor = (target.num_classes - count) * torch.special.entr(base.clamp(min=0))
        listed: torch.Tensor = torch.special.entr(probs).sum(dim=1)
        return listed + others


def _divergence(
    logits: torch.Tensor,
    target: TorchSoftLabels,
    reduction: Reduction,
    temperature: float,
    temperature_squared: bool,
) -> torch.Tensor:
    """(B,) KL divergences, without the rows' weights."""
    _check(logits, target, reduction, temperature)
    losses = cross_entropy(logits, target.base, target.indices, target.weights, float(temperature))
    losses = losses - label_entropy(target).to(losses.dtype)
    return losses * temperature**2 if temperature_squared else losses


def _check(
    logits: torch.Tensor, target: TorchSoftLabels, reduction: Reduction, temperature: float
) -> None:
    require_choice("reduction", reduction, _REDUCTIONS)
    if not isinstance(target, TorchSoftLabels):
        raise UsageError(
            f"the target is a {type(target).__name__}, expected TorchSoftLabels: recover stored "
            "labels first (labelstore.torch.recover)."
        )
    expected = (target.base.shape[0], target.num_classes)
    if logits.shape != expected or not logits.is_floating_point():
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
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UsageError(f"temperature is {temperature}, expected a positive number.")


def _reduced(
    losses: torch.Tensor, weight: torch.Tensor | None, reduction: Reduction
) -> torch.Tensor:
    """Losses (B,) times the rows' weights, reduced."""
    if weight is not None:
        losses = losses * weight
    if reduction == "none":
        return losses
    if reduction == "mean" and weight is None and len(losses):
        return losses.mean()
    total = losses.sum()
    if reduction == "sum" or weight is None:
        return total
    mass = weight.sum()
    return total / torch.where(mass > 0, mass, torch.ones_like(mass))
