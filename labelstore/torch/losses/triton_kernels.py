"""The loss and its gradient as one Triton kernel each, for logits on a GPU.

Each kernel goes over the logits once, and one program does one row: ``losses`` with a running
maximum and a sum that is scaled anew when the maximum rises (Milakov and Gimelshein 2018, "Online
normalizer calculation for softmax", algorithm 3), ``gradient`` from the maximum and the sum that
``losses`` kept. Arithmetic is in float32. The gradient at a stored class is worked out whole and
written over the row's, so nothing is added atomically: the result is the same in every run, also
where a class stands more than once, and float16 and bfloat16 gradients are rounded once.

The kernels have more parameters than a function should: Triton takes pointers, sizes and constants
one by one, and no record of them.

What was checked (``tests/torch/losses/test_triton_kernels.py``): both kernels against float64
arithmetic in Triton's interpreter on a CPU (``TRITON_INTERPRET=1``) and on an H200, and that they
compile for NVIDIA's compute capabilities 8.0 and 9.0. ``works`` tries them on each GPU before their
first use, and the loss goes on with torch's own operations where they fail.

Importing this module needs Triton; ``labelstore.torch.losses.cross_entropy`` does it where it is
used.

What pays for it: the loss rows of ``python -m benchmarks.gpu``: on an H200 1.7 to 7.1 times less of
the device's time than the dense way.
"""

from __future__ import annotations

import contextlib
import functools
import warnings

import torch
import triton
import triton.language as tl

from labelstore.errors import one_line

__all__ = ["gradient", "losses", "works"]

BLOCK = 4096
"""Most logits of a row that a program holds at a time."""
LISTED = 128
"""Most stored classes of a row that a program holds at a time."""
COMPARED = 16
"""Stored classes that those are compared with at a time, to find repeated ones."""


def losses(
    logits: torch.Tensor,
    base: torch.Tensor,
    indices: torch.Tensor,
    weights: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses, and what ``gradient`` needs of each row.

    Args:
        logits: (B, C) float16, bfloat16 or float32.
        base: (B,). indices: (B, K) int64, 0..C-1, unchecked. weights: (B, K).
        temperature: what logits are divided by.

    Returns:
        (B,) float32 losses; (3, B) float32: each row's largest logit over the temperature, the sum
        of exp(logit / temperature - largest), and the sum of its label.
    """
    logits, base, indices, weights = _packed(logits, base, indices, weights)
    count, classes = logits.shape
    out = logits.new_empty(count, dtype=torch.float32)
    rows = logits.new_empty((3, count), dtype=torch.float32)
    if count == 0:
        return out, rows
    block, listed, warps = _sizes(classes, indices.shape[1])
    with _on(logits):
        _losses_kernel[(count,)](
            logits,
            base,
            indices,
            weights,
            out,
            rows,
            logits.stride(0),
            count,
            classes,
            indices.shape[1],
            1 / temperature,
            block=block,
            listed_block=listed,
            num_warps=warps,
            enable_fp_fusion=True,
        )
    return out, rows


def gradient(
    logits: torch.Tensor,
    base: torch.Tensor,
    indices: torch.Tensor,
    weights: torch.Tensor,
    rows: torch.Tensor,
    upstream: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Gradient of ``sum(upstream * losses)`` for the logits.

    Args:
        logits, base, indices, weights, temperature: as given to ``losses``.
        rows: what ``losses`` returned beside the losses.
        upstream: (B,) float32, of any stride.

    Returns:
        (B, C), contiguous, of the logits' type.
    """
    logits, base, indices, weights = _packed(logits, base, indices, weights)
    count, classes = logits.shape
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if count == 0:
        return out
    block, listed, warps = _sizes(classes, indices.shape[1])
    with _on(logits):
        _gradient_kernel[(count,)](
            logits,
            base,
            indices,
            weights,
            rows,
            upstream,
            out,
            logits.stride(0),
            upstream.stride(0),
            count,
            classes,
            indices.shape[1],
            1 / temperature,
            block=block,
            listed_block=listed,
            compared=COMPARED,
            num_warps=warps,
            enable_fp_fusion=True,
        )
    return out


@functools.cache
def works(device: torch.device) -> bool:
    """Whether the kernels compile on a device and are right there, against float64 on the CPU.

    Tried once for each device, on three rows. Where they do not, a RuntimeWarning says why.
    """
    try:
        _try(device)
    except torch.OutOfMemoryError:
        raise
    # Whatever stops the compiler or the driver: the loss can go on without the kernels.
    except Exception as error:
        reason = one_line(error, f"{type(error).__name__}: {error}")
        warnings.warn(
            f"the Triton kernels of the loss do not work on {device} ({reason}); the loss is "
            "computed by torch's own operations: slower, of the same value.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _try(device: torch.device) -> None:
    """Raise an error unless the kernels are right on a device."""
    # By name, whatever torch's default device is.
    host = torch.device("cpu")
    generator = torch.Generator(host).manual_seed(0)
    count, classes = 3, BLOCK + 7
    logits = torch.randn(count, classes, generator=generator, device=host) * 3
    # The first two stored classes are the same one.
    indices = torch.randint(0, classes, (count, 5), generator=generator, device=host)
    indices[:, 1] = indices[:, 0]
    weights = torch.rand(count, 5, generator=generator, device=host) / 5
    base = torch.full((count,), 0.1 / classes, device=host)
    upstream = torch.linspace(-1.0, 2.0, count, device=host)
    logs = torch.log_softmax(logits.double(), dim=1)
    label = base.double()[:, None].repeat(1, classes)
    label.scatter_add_(1, indices, weights.double())
    expected = upstream[:, None] * (label.sum(dim=1, keepdim=True) * logs.exp() - label)
    z, low, place, weight = (tensor.to(device) for tensor in (logits, base, indices, weights))
    values, rows = losses(z, low, place, weight, 1.0)
    slope = gradient(z, low, place, weight, rows, upstream.to(device), 1.0)
    near = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)
    near(values.cpu().double(), -(label * logs).sum(dim=1))
    near(slope.cpu().double(), expected.double())


def _on(logits: torch.Tensor) -> contextlib.AbstractContextManager[None]:
    """Kernels start on the current device, which may be another than the logits'."""
    return torch.cuda.device(logits.device) if logits.is_cuda else contextlib.nullcontext()


def _packed(logits: torch.Tensor, *labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """As the kernels read them: rows of logits in one piece, labels without gaps."""
    wide = logits if logits.stride(1) == 1 else logits.contiguous()
    return wide, *(tensor.contiguous() for tensor in labels)


def _sizes(classes: int, listed: int) -> tuple[int, int, int]:
    """Block of logits, block of stored classes, warps of a program."""
    block = min(BLOCK, triton.next_power_of_2(classes))
    warps = 8 if block >= 2048 else 4
    return block, min(LISTED, triton.next_power_of_2(max(listed, COMPARED))), warps


@triton.jit  # type: ignore[untyped-decorator]
def _losses_kernel(
    logits: tl.tensor,
    base: tl.tensor,
    indices: tl.tensor,
    weights: tl.tensor,
    losses: tl.tensor,
    rows: tl.tensor,
    stride: tl.tensor,
    count: tl.tensor,
    classes: tl.tensor,
    listed: tl.tensor,
    scale: tl.tensor,
    block: tl.constexpr,
    listed_block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    top = tl.load(logits).to(tl.float32) * scale
    mass = 0.0
    # The sum of the logits, each less the largest: their own sum would lose its last digits.
    below = 0.0
    for start in range(0, classes, block):
        column = start + tl.arange(0, block)
        inside = column < classes
        x = tl.load(logits + column, mask=inside, other=-float("inf")).to(tl.float32) * scale
        higher = tl.maximum(top, tl.max(x, axis=0))
        # Where all logits so far are -inf, their differences are no numbers.
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        mass = mass * tl.exp(top - shift) + tl.sum(tl.exp(x - shift), axis=0)
        # Nothing was summed before the first block, where the first logit may be -inf.
        below += tl.where(start > 0, start * (top - higher), 0.0)
        below += tl.sum(tl.where(inside, x - higher, 0.0), axis=0)
        top = higher
    stored = 0.0
    total = 0.0
    indices += row * listed
    weights += row * listed
    for start in range(0, listed, listed_block):
        place = start + tl.arange(0, listed_block)
        inside = place < listed
        index = tl.load(indices + place, mask=inside, other=0)
        weight = tl.load(weights + place, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(logits + index).to(tl.float32) * scale
        # 0 log 0 is 0: of a class without probability the logit may be -inf.
        stored += tl.sum(tl.where(inside & (weight != 0), weight * (x - top), 0.0), axis=0)
        total += tl.sum(weight, axis=0)
    low = tl.load(base + row).to(tl.float32)
    total += low * classes
    spread = tl.where(low != 0, low * below, 0.0)
    tl.store(losses + row, total * tl.log(mass) - spread - stored)
    tl.store(rows + row, top)
    tl.store(rows + count + row, mass)
    tl.store(rows + 2 * count + row, total)


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(
    logits: tl.tensor,
    base: tl.tensor,
    indices: tl.tensor,
    weights: tl.tensor,
    rows: tl.tensor,
    upstream: tl.tensor,
    gradient: tl.tensor,
    stride: tl.tensor,
    upstream_stride: tl.tensor,
    count: tl.tensor,
    classes: tl.tensor,
    listed: tl.tensor,
    scale: tl.tensor,
    block: tl.constexpr,
    listed_block: tl.constexpr,
    compared: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    gradient += row * classes
    top = tl.load(rows + row)
    mass = tl.load(rows + count + row)
    above = tl.load(upstream + row * upstream_stride).to(tl.float32) * scale
    factor = tl.load(rows + 2 * count + row) / mass * above
    low = tl.load(base + row).to(tl.float32) * above
    for start in range(0, classes, block):
        column = start + tl.arange(0, block)
        inside = column < classes
        x = tl.load(logits + column, mask=inside, other=0.0).to(tl.float32) * scale
        tl.store(gradient + column, tl.exp(x - top) * factor - low, mask=inside)
    # The row must be written before what is stored for it is written over it.
    tl.debug_barrier()
    indices += row * listed
    weights += row * listed
    for start in range(0, listed, listed_block):
        place = start + tl.arange(0, listed_block)
        inside = place < listed
        index = tl.load(indices + place, mask=inside, other=0)
        weight = tl.zeros([listed_block], tl.float32)
        for other_start in range(0, listed, compared):
            other = other_start + tl.arange(0, compared)
            there = other < listed
            # -1 is no class: what lies past the row's end equals none.
            other_index = tl.load(indices + other, mask=there, other=-1)
            other_weight = tl.load(weights + other, mask=there, other=0.0).to(tl.float32)
            same = index[:, None] == other_index[None, :]
            weight += tl.sum(tl.where(same, other_weight[None, :], 0.0), axis=1)
        x = tl.load(logits + index).to(tl.float32) * scale
        value = tl.exp(x - top) * factor - low - weight * above
        # A class id that is none would be written to some other row, or beyond.
        there = inside & (index >= 0) & (index < classes)
        tl.store(gradient + index, value, mask=there)
