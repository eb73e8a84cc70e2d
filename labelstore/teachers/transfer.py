"""Pixels on their way to a device, beside what it is doing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import numpy.typing as npt
    import torch

__all__ = ["own_stream", "place_batch", "place_photo", "ready_event", "take"]


def place_photo(pixels: npt.NDArray[np.uint8], place: torch.device) -> torch.Tensor:
    """A decoded photo as a tensor on a device."""
    import torch

    return torch.from_numpy(pixels).to(place)


def place_batch(
    parts: Sequence[npt.NDArray[np.uint8] | torch.Tensor], place: torch.device
) -> torch.Tensor:
    """Parts of a batch as one tensor: on a GPU, else where they are.

    Args:
        parts: (n, H, W, 3) uint8 each, all on the host or all on the device.
        place: the teacher's device.
    """
    import torch

    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    if tensors:
        return torch.cat(tensors)
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    on_gpu = place.type == "cuda"
    joined = torch.empty(shape, dtype=torch.uint8, device="cpu", pin_memory=on_gpu)
    np.concatenate([np.asarray(part) for part in parts], out=joined.numpy())
    # From pinned memory, which torch keeps until the copy is done.
    return joined.to(place, non_blocking=True) if on_gpu else joined


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
