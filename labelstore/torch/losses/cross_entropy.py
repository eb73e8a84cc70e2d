"""The arithmetic under ``labelstore.torch.losses.losses``: cross-entropy of ``base + sparse``
labels.

z are a row's logits, tau the temperature, ``x = z / tau``, ``p = base + sum_j weights[j]
onehot(indices[j])`` its label and u what comes from above:

    loss      -sum_c p[c] log_softmax(x)[c]
            = -(base * sum_c log_softmax(x)[c] + sum_j weights[j] log_softmax(x)[indices[j]])
    gradient  u / tau * (sum(p) softmax(x)[c] - p[c])

There are three ways, of the same value:

    parts    on a CPU: rows in parts that fit its caches, so that a part's logits come from memory
             once in each pass, and nothing as wide as the classes is made but the gradient
    fused    on a GPU, where Triton is installed: ``labelstore.torch.losses.triton_kernels``
    whole    anywhere else, and under torch.compile, which fuses the passes itself
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SoftCrossEntropy"]

PART = 2**20
"""Logits of a part for each thread: 4 MiB in float32, about a core's share of the last cache."""


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
        dtype = _precision(logits)
        base, weights = base.to(dtype), weights.to(dtype)
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
        dtype = _precision(logits)
        base, weights = base.to(dtype), weights.to(dtype)
        given = (upstream[0], ctx.temperature)
        if torch.is_grad_enabled():  # create_graph=True
            gradient = _differentiable_gradient(logits, base, indices, weights, *given)
        elif rows.numel():
            from labelstore.torch.losses import triton_kernels

            gradient = triton_kernels.gradient(logits, base, indices, weights, rows, *given)
        else:
            gradient = _gradient(logits, base, indices, weights, *given)
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
    dtype = _precision(logits)
    step = _rows_at_once(logits)
    # log_softmax, not logsumexp less the logits: large logits would cancel.
    if step >= len(logits):
        logs = torch.log_softmax(_divided(logits, temperature), 1, dtype)
        sums, listed = logs.sum(1), logs.gather(1, indices)
    else:
        sums = logits.new_empty(len(logits), dtype=dtype)
        listed = logits.new_empty(indices.shape, dtype=dtype)
        room = logits.new_empty((step, logits.shape[1]), dtype=dtype)
        for rows in _parts(len(logits), step):
            part = _divided(logits[rows], temperature)
            logs = torch.log_softmax(part, 1, dtype, out=room[: len(part)])
            torch.sum(logs, 1, out=sums[rows])
            torch.gather(logs, 1, indices[rows], out=listed[rows])
    # 0 log 0 is 0: of a class without probability the logit may be -inf.
    listed, sums = listed.masked_fill(weights == 0, 0.0), sums.masked_fill(base == 0, 0.0)
    return torch.addcmul((weights * listed).sum(1), base, sums).neg_()


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
    if step >= len(logits):
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
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
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


def _precision(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _divided(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits over the temperature, in the precision of the loss; as they are at temperature 1."""
    return logits if temperature == 1 else logits.to(_precision(logits)) / temperature
