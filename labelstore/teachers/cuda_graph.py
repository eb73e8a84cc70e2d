"""A network's forward as a CUDA graph: one launch a batch instead of hundreds.

A fast network is given its work by Python more slowly than a GPU does it, the more so where other
threads decode and cut photos at the same time. A graph is recorded once and replayed: the same
kernels in the same order, so the same bits, which is looked at before it is used.

What pays for it: the rows of generate of ``python -m benchmarks.gpu``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from labelstore.teachers.device_memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ForwardGraph", "recorded"]

WARM_UPS = 3
"""Forwards before the recording, in which libraries choose their kernels and take their memory."""


class ForwardGraph:
    """Replays a forward of one batch size.

    Args:
        forward: takes (B, H, W, 3) uint8 on the GPU to (B, C) there, waiting for nothing.
        pixels: (B, H, W, 3) uint8 on the GPU; the recording's own from now on.

    Raises:
        RuntimeError: the forward cannot be recorded, or memory runs out.
    """

    def __init__(self, forward: Callable[[torch.Tensor], Any], pixels: torch.Tensor) -> None:
        self._pixels = pixels
        present = torch.cuda.current_stream(pixels.device)
        beside = torch.cuda.Stream(pixels.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(present)
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                forward(pixels)
        present.wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads of the process may use the GPU meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = forward(pixels)

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self._pixels)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C) outputs for (B, H, W, 3) uint8 pixels, on the host or on the GPU."""
        self._pixels.copy_(pixels, non_blocking=True)
        self._graph.replay()
        outputs: torch.Tensor = self._outputs.clone()
        return outputs


def recorded(
    forward: Callable[[torch.Tensor], Any], size: tuple[int, int], place: torch.device, batch: int
) -> ForwardGraph | None:
    """The graph of a forward; None where it cannot be recorded or says something else.

    Args:
        forward: as for ``ForwardGraph``. size: (H, W). place: the GPU. batch: B.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, generator=generator)
    with torch.cuda.device(place), torch.inference_mode():
        try:
            expected = forward(noise.to(place))
            # What the forward took is free, and the recording needs as much of its own.
            torch.cuda.empty_cache()
            graph = ForwardGraph(forward, torch.zeros_like(noise, device=place))
            outputs = graph(noise)
            same = isinstance(expected, torch.Tensor) and torch.equal(outputs, expected)
            torch.cuda.synchronize(place)
        # A network that waits for the device or allocates by itself cannot be recorded; one that
        # fails will do so again, where it is told.
        except (RuntimeError, MemoryError, AttributeError) as error:
            if is_out_of_memory(error):
                torch.cuda.empty_cache()
            return None
    return graph if same else None
