"""Memory of devices: pixels on their way there, whether it ran out, and how many crops it holds."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import numpy.typing as npt
    import torch

__all__ = [
    "BATCH_SIZES",
    "PROBED_BATCHES",
    "batch_memory",
    "batch_that_fits",
    "default_batch_size",
    "is_out_of_memory",
    "measured_batch_size",
    "own_stream",
    "place_batch",
    "place_photo",
    "ready_event",
    "take",
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


def place_photo(pixels: npt.NDArray[np.uint8], place: torch.device) -> torch.Tensor:
    """A decoded photo (H, W, 3) uint8 as a tensor on a device."""
    import torch

    return torch.from_numpy(pixels).to(place)


def batch_memory(count: int, size: tuple[int, int], place: torch.device) -> torch.Tensor:
    """(count, H, W, 3) uint8 on the host, not yet filled, that the device reads fast."""
    import torch

    return torch.empty(
        (count, *size, 3), dtype=torch.uint8, device="cpu", pin_memory=place.type == "cuda"
    )


def place_batch(parts: Sequence[torch.Tensor], place: torch.device) -> torch.Tensor:
    """Parts of a batch as one tensor: on a GPU, else where they are.

    Args:
        parts: (n, H, W, 3) uint8 each, all on the host or all on the device; a single one is not
            copied on the host.
        place: the teacher's device.
    """
    import torch

    joined = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    # From pinned memory, which torch keeps until the copy is done.
    return joined.to(place, non_blocking=True) if place.type == "cuda" else joined


@contextlib.contextmanager
def own_stream(place: torch.device) -> Iterator[None]:
    """On CUDA a stream of this thread's own: in that of the teacher's forwards, each copy would
    wait for those that were begun before."""
    if place.type != "cuda":
        yield
        return
    import torch

    with torch.cuda.stream(torch.cuda.Stream(place)):  # type: ignore[no-untyped-call]
        yield


def ready_event(tensors: Collection[torch.Tensor]) -> Any:
    """The CUDA event behind the work that makes tensors; None where they are on no GPU."""
    import torch

    for tensor in tensors:
        if tensor.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(tensor.device))
            return event
    return None


def take(event: Any, tensors: Collection[torch.Tensor]) -> None:
    """Let the present stream wait for tensors of another one, and keep them until it is done with
    them; nothing where the event is None."""
    if event is None:
        return
    import torch

    for tensor in tensors:
        stream = torch.cuda.current_stream(tensor.device)
        stream.wait_event(event)
        tensor.record_stream(stream)
