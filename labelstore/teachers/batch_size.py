"""Memory of devices: whether it ran out, and how many crops it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

__all__ = [
    "BATCH_SIZES",
    "PROBED_BATCHES",
    "batch_that_fits",
    "default_batch_size",
    "is_out_of_memory",
    "measured_batch_size",
]

PROBED_BATCHES = (8, 32)
"""Sizes of the forwards by which ``Teacher.fitting_batch`` measures memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no room for what was asked of it: fewer crops at once may fit."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # What libraries say that torch does not tell apart from other failures.
    signs = ("out of memory", "not enough memory", "DefaultCPUAllocator", "_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def batch_that_fits(free: int, small: int, large: int, limit: int) -> int:
    """The largest power of two, 1 to ``limit``, whose forward takes 7 tenths of what is free.

    Args:
        free: bytes; small, large: bytes that forwards of ``PROBED_BATCHES`` views took at most.
    """
    per_view = (large - small) / (PROBED_BATCHES[1] - PROBED_BATCHES[0])
    if per_view <= 0:  # Another algorithm, with less room of its own.
        per_view = max(large / PROBED_BATCHES[1], 1.0)
    fixed = max(small - per_view * PROBED_BATCHES[0], 0.0)
    fitting = max((0.7 * free - fixed) / per_view, 1.0)
    return int(min(2 ** int(np.log2(fitting)), limit))


def measured_batch_size(
    forward: Callable[[torch.Tensor], Any], size: tuple[int, int], place: torch.device, limit: int
) -> int:
    """How many views fit into a GPU's free memory in one forward: a power of two, 1 to ``limit``.

    Args:
        forward: takes (B, H, W, 3) uint8 to outputs on the GPU; it may raise that memory ran out.
        size: (H, W). place: the GPU.
    """
    import torch

    def peak(count: int) -> int:
        """Bytes of the GPU that a forward of so many views takes at most."""
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        forward(torch.zeros((count, *size, 3), dtype=torch.uint8))
        return int(torch.cuda.max_memory_allocated() - start)

    small, large = PROBED_BATCHES
    with torch.cuda.device(place):
        few = many = 0
        try:
            few = peak(small)
            many = peak(large)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()
        if not many:
            return small if few else 1
        return batch_that_fits(torch.cuda.mem_get_info()[0], few, many, limit)


BATCH_SIZES = {"cpu": 16, "cuda": 256, "mps": 64}
"""Views in one forward where nothing was measured."""


class _Measured(Protocol):
    """A teacher that knows how many views fit."""

    @property
    def device(self) -> str: ...

    def fitting_batch(self) -> int: ...


def default_batch_size(teachers: Sequence[_Measured]) -> int:
    """Views in one forward: on a GPU as many as fit, of all teachers the fewest."""
    if teachers[0].device == "cuda":
        return min(teacher.fitting_batch() for teacher in teachers)
    return BATCH_SIZES[teachers[0].device]
