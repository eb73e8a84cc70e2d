"""The arithmetic under ``labelstore.torch.losses.losses``: cross-entropy of ``base + sparse``
labels.

z are a row's logits, tau the temperature, ``x = z / tau``, ``p = base + sum_j weights[j]
onehot(indices[j])`` its label and u what comes from above:

    loss      -sum_c p[c] log_softmax(x)[c]
            = -(base * sum_c log_softmax(x)[c] + sum_j weights[j] log_softmax(x)[indices[j]])
    gradient  u / tau * (sum(p) softmax(x)[c] - p[c])

``cross_entropy`` chooses among three ways, of the same value:

    parts    on a CPU: rows in parts that fit its caches, so that a part's logits come from memory
             once in each pass, and nothing as wide as the classes is made but the gradient; of a
             batch that is one part, one array of its size at a time
    fused    on a GPU, where Triton is installed: ``labelstore.torch.losses.triton_kernels``
    whole    anywhere else, and under torch.compile, which fuses the passes itself
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Reduction", "SoftCrossEntropy", "cross_entropy"]

Reduction = Literal["mean", "sum", "none"]

PART = 2**17
"""Logits of a part for each thread: half a MiB in float32, which a core's own cache holds twice."""


def cross_entropy(
    logits: torch.Tensor,
    base: torch.Tensor,
    indices: torch.Tensor,
    weights: torch.Tensor,
    temperature: float,
    reduction: Reduction = "none",
) -> torch.Tensor:
    """Losses of logits (B, C) against labels, (B,) or reduced.

    Args:
        logits: of any floating-point type.
        base: (B,). indices: (B, K) int64, 0..C-1. weights: (B, K).
        temperature: what logits are divided by.
        reduction: ``mean`` of no rows is 0, with gradient 0.

    Returns:
        float32, or float64 for float64 logits; with the derivatives of ``SoftCrossEntropy``.
    """
    label = (base, indices, weights)
    if _plain_on_cpu(logits):
        reduced: torch.Tensor = _OnCpu.apply(logits, *label, temperature, reduction)
        return reduced
    losses = SoftCrossEntropy.apply(logits, *label, temperature)[0]
    return _reduced(losses, reduction)


def _plain_on_cpu(logits: torch.Tensor) -> bool:
    """Whether ``_OnCpu`` takes these logits: no tracing, no torch.func, no tensor of another kind.

    torch.autograd.Function itself asks the same question about torch.func.
    """
    return (
        type(logits) is torch.Tensor
        and logits.is_cpu
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _reduced(losses: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" and len(losses) else losses.sum()


class _OnCpu(torch.autograd.Function):
    """``SoftCrossEntropy`` with its reduction, for plain tensors on a CPU.

    In a small batch what torch does around operations takes longer than they do: here there are
    fewer of them, and the old form of a Function, which torch.func does not take, costs 60 us less.
    Rows that are one part keep their gradient from the forward pass on, made in place of their
    log-probabilities: one softmax less, for one array of at most ``PART`` numbers a thread.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        base: torch.Tensor,
        indices: torch.Tensor,
        weights: torch.Tensor,
        temperature: float,
        reduction: Reduction,
    ) -> torch.Tensor:
        count, classes = logits.shape
        dtype = _precision(logits)
        label = base, indices, weights
        if base.dtype != dtype or weights.dtype != dtype:
            base, weights = base.to(dtype), weights.to(dtype)
        kept = None
        if count <= _rows_at_once(logits):
            logs = torch.log_softmax(_divided(logits, temperature), 1, dtype)
            sums, listed = logs.sum(1), logs.gather(1, indices)
            if ctx.needs_input_grad[0]:
                low = base.unsqueeze(1)
                mass = torch.add(weights.sum(1, keepdim=True), low, alpha=classes)
                torch.sub(low, logs.exp_().mul_(mass), out=logs)
                kept = logs.scatter_add_(1, indices, weights)
        else:
            sums, listed = _log_probabilities(logits, indices, temperature)
        ctx.save_for_backward(logits, *label, kept)
        ctx.temperature = temperature
        ctx.scale = scale = -1 / count if reduction == "mean" and count else -1.0
        losses = _weighed(base, sums, weights, listed)
        total = losses.sum()
        # A class of logit -inf, perhaps without probability, makes it infinite or no number.
        if not math.isfinite(total.item()):
            losses = _weighed(base, sums, weights, listed, masked=True)
            total = losses.sum()
        return (losses if reduction == "none" else total).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, base, indices, weights, kept = ctx.saved_tensors
        if kept is not None and not torch.is_grad_enabled():
            above = upstream[0] * (ctx.scale / ctx.temperature)
            gradient = kept * (above.unsqueeze(1) if above.ndim else above)
            if gradient.dtype != logits.dtype:
                gradient = gradient.to(logits.dtype)
        else:
            above = (upstream[0] * -ctx.scale).expand(logits.shape[0])
            base, weights = _as_precise(logits, base, weights)
            # create_graph=True
            make = _differentiable_gradient if torch.is_grad_enabled() else _gradient
            gradient = make(logits, base, indices, weights, above, ctx.temperature)
        return gradient, None, None, None, None, None


class SoftCrossEntropy(torch.autograd.Function):
    """Losses of logits (B, C) against labels; ``apply(logits, base, indices, weights, tau)[0]``.

    Logits are of any floating-point type; base is (B,), indices (B, K) int64 and weights (B, K), as
    in ``TorchSoftLabels``; tau is a float. Losses (B,) are float32, or float64 for float64 logits;
    so is the arithmetic. Gradients are for the logits alone, of their type, and can be
    differentiated again (``create_graph=True``), for which arrays of the logits' shape are made.
    Beside what it is given it keeps at most three numbers a row, which it returns after the losses:
    going over the logits once more is faster than keeping their softmax. It works under
    torch.func's ``grad`` and ``vmap``.

    A term whose label has no probability is 0, also where the logit is -inf: 0 log 0 is 0.
    """

    @staticmethod
    def forward(
        logits: torch.Tensor,
        base: torch.Tensor,
        indices: torch.Tensor,
        weights: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        base, weights = _as_precise(logits, base, weights)
        if _fusible(logits):
            from labelstore.torch.losses import triton_kernels

            return triton_kernels.losses(logits, base, indices, weights, temperature)
        losses = _losses(logits, base, indices, weights, temperature)
        return losses, losses.new_empty(0)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        logits, base, indices, weights, ctx.temperature = inputs
        rows = output[1]
        ctx.mark_non_differentiable(rows)
        ctx.save_for_backward(logits, base, indices, weights, rows)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, base, indices, weights, rows = ctx.saved_tensors
        base, weights = _as_precise(logits, base, weights)
        scaling = (upstream[0], ctx.temperature)
        if torch.is_grad_enabled():  # create_graph=True
            gradient = _differentiable_gradient(logits, base, indices, weights, *scaling)
        elif rows.numel():
            from labelstore.torch.losses import triton_kernels

            gradient = triton_kernels.gradient(logits, base, indices, weights, rows, *scaling)
        else:
            gradient = _gradient(logits, base, indices, weights, *scaling)
        return gradient, None, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int | None]]:
        """Rows do not look at each other, so another batch dimension is more rows."""
        *tensors, temperature = inputs
        flat = []
        for tensor, dim in zip(tensors, in_dims, strict=False):
            if dim is None:
                wide = tensor.expand(info.batch_size, *tensor.shape)
            else:
                wide = tensor.movedim(dim, 0)
            flat.append(wide.flatten(0, 1))
        losses, rows = SoftCrossEntropy.apply(*flat, temperature)
        return (losses.unflatten(0, (info.batch_size, -1)), rows), (0, None)


# torch asks for it at each call, to fill in arguments that are left out: read once, that takes a
# third of the time of a small batch's loss away.
SoftCrossEntropy.forward.__signature__ = inspect.signature(  # type: ignore[attr-defined]
    SoftCrossEntropy.forward
)


def _losses(
    logits: torch.Tensor,
    base: torch.Tensor,
    indices: torch.Tensor,
    weights: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """(B,) losses by torch's own operations."""
    sums, listed = _log_probabilities(logits, indices, temperature)
    return _weighed(base, sums, weights, listed, masked=True).neg_()


def _log_probabilities(
    logits: torch.Tensor, indices: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of log_softmax(logits / temperature): its sums (B,), and its entries (B, K) at indices."""
    dtype = _precision(logits)
    step = _rows_at_once(logits)
    # log_softmax, not logsumexp less the logits: large logits would cancel.
    if step >= logits.shape[0]:
        logs = torch.log_softmax(_divided(logits, temperature), 1, dtype)
        return logs.sum(1), logs.gather(1, indices)
    sums = logits.new_empty(len(logits), dtype=dtype)
    listed = logits.new_empty(indices.shape, dtype=dtype)
    room = logits.new_empty((step, logits.shape[1]), dtype=dtype)
    for rows in _parts(len(logits), step):
        part = _divided(logits[rows], temperature)
        logs = torch.log_softmax(part, 1, dtype, out=room[: len(part)])
        torch.sum(logs, 1, out=sums[rows])
        torch.gather(logs, 1, indices[rows], out=listed[rows])
    return sums, listed


def _weighed(
    base: torch.Tensor,
    sums: torch.Tensor,
    weights: torch.Tensor,
    listed: torch.Tensor,
    *,
    masked: bool = False,
) -> torch.Tensor:
    """(B,) losses, negative, from what ``_log_probabilities`` returned.

    ``masked``: 0 log 0 is 0, for a class without probability may have the logit -inf. Without it
    such a row's loss is no number.
    """
    if masked:
        listed, sums = listed.masked_fill(weights == 0, 0.0), sums.masked_fill(base == 0, 0.0)
    return torch.addcmul((weights * listed).sum(1), base, sums)


def _gradient(
    logits: torch.Tensor,
    base: torch.Tensor,
    indices: torch.Tensor,
    weights: torch.Tensor,
    upstream: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """(B, C) gradient by torch's own operations."""
    dtype = _precision(logits)
    below = (upstream if temperature == 1 else upstream / temperature).unsqueeze(1).neg()
    base = base.unsqueeze(1)
    factor = torch.add(weights.sum(1, keepdim=True), base, alpha=logits.shape[1]).mul_(below)
    base, weights = base * below, weights * below
    step = _rows_at_once(logits)
    if step >= logits.shape[0]:
        gradient = torch.softmax(_divided(logits, temperature), 1, dtype).mul_(factor)
        torch.sub(base, gradient, out=gradient)
        return gradient.scatter_add_(1, indices, weights).to(logits.dtype)
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
    narrow = dtype != logits.dtype
    room = gradient.new_empty((step, logits.shape[1]), dtype=dtype) if narrow else gradient
    for rows in _parts(len(logits), step):
        part = _divided(logits[rows], temperature)
        out = room[: len(part)] if narrow else gradient[rows]
        torch.softmax(part, 1, dtype, out=out).mul_(factor[rows])
        torch.sub(base[rows], out, out=out)
        out.scatter_add_(1, indices[rows], weights[rows])
        if narrow:
            gradient[rows].copy_(out)
    return gradient


def _differentiable_gradient(
    logits: torch.Tensor,
    base: torch.Tensor,
    indices: torch.Tensor,
    weights: torch.Tensor,
    upstream: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """(B, C) gradient as a function that autograd can differentiate."""
    dtype = _precision(logits)
    base = base[:, None]
    above = (upstream / temperature)[:, None]
    total = base * logits.shape[1] + weights.sum(dim=1, keepdim=True)
    spread = torch.softmax(_divided(logits, temperature), dim=1, dtype=dtype) * total - base
    return (spread.scatter_add(1, indices, -weights) * above).to(logits.dtype)


def _rows_at_once(logits: torch.Tensor) -> int:
    """How many rows are worked on together; all of them but on a CPU."""
    count, classes = logits.shape
    if not logits.is_cpu or torch.compiler.is_compiling():
        return count
    return max(1, PART * torch.get_num_threads() // max(1, classes))


def _parts(count: int, step: int) -> Iterator[slice]:
    """All rows in order, ``step`` together."""
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _fusible(logits: torch.Tensor) -> bool:
    """Whether the Triton kernels take these logits. torch.compile makes its own."""
    if not logits.is_cuda or logits.dtype == torch.float64 or torch.compiler.is_compiling():
        return False
    return _has_kernels(logits.device)


@functools.cache
def _has_kernels(device: torch.device) -> bool:
    """Whether the kernels can be used on a GPU; asked once for each."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        from labelstore.torch.losses import triton_kernels
    except ImportError:  # Installed, and broken.
        return False
    return triton_kernels.works(device)


def _as_precise(logits: torch.Tensor, *labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Labels in the precision of the loss; ``to`` takes its time where there is nothing to do."""
    dtype = _precision(logits)
    return tuple(tensor if tensor.dtype == dtype else tensor.to(dtype) for tensor in labels)


def _precision(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _divided(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits over the temperature, in the precision of the loss; as they are at temperature 1."""
    return logits if temperature == 1 else logits.to(_precision(logits)) / temperature
