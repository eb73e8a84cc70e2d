"""Devices that teachers run on: which are there, how exact they are, how busy, and a network's
forward as a CUDA graph.

A fast network is given its work by Python more slowly than a GPU does it, the more so where other
threads decode and cut photos at the same time. A graph is recorded once and replayed: the same
kernels in the same order, so the same bits, which is looked at before it is used. What pays for it:
the rows of generate of ``python -m benchmarks.gpu``.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from labelstore.errors import UsageError, require_choice
from labelstore.teachers.device_memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

__all__ = [
    "DEVICES",
    "PRECISIONS",
    "ForwardGraph",
    "checked_device",
    "exact_float32",
    "recorded",
    "utilisation",
]

T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16", "fp16")

WARM_UPS = 3
"""Forwards before the recording, in which libraries choose their kernels and take their memory."""


def checked_device(device: str, precision: str) -> tuple[str, str]:
    """The device that is meant, and the precision, once both are known to work.

    Args:
        device: one of `DEVICES`; precision: one of `PRECISIONS`.

    Returns:
        The device, with "auto" resolved, and the precision.

    Raises:
        UsageError: a name is unknown, the device is not there, or fp16 is asked of the CPU.
    """
    import torch

    require_choice("the device", device, DEVICES)
    require_choice("the precision", precision, PRECISIONS)
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, is_there in available.items() if is_there)
    if not available[device]:
        usable = ", ".join(name for name, is_there in available.items() if is_there)
        raise UsageError(
            f"the device {device} is not available to torch {torch.__version__} here: use one of "
            f"{usable}, or auto."
        )
    if device == "cpu" and precision == "fp16":
        raise UsageError(
            "fp16 is too slow on the CPU to be of use: choose the precision bf16 or fp32.",
            arguments=("precision",),
        )
    return device, precision


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Products of float32 numbers in float32 on CUDA, for the whole process, while inside.

    Otherwise torch lets convolutions round them to TF32's ten bits, as bf16 to seven: labels that
    are called fp32 would not be. Whichever of torch's ways the settings were made in, they come
    back as they were.
    """
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    # The new way has a precision for each operation, and one to inherit from; the old one does not
    # see that, and says so (RuntimeError) where both disagree.
    kinds: list[Any] = [getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None), matmul]
    kinds = [kind for kind in kinds if hasattr(kind, "fp32_precision")]
    precisions = [kind.fp32_precision for kind in kinds]
    flags = _answer(lambda: (cudnn.allow_tf32, matmul.allow_tf32))
    word = _answer(torch.get_float32_matmul_precision)
    if flags is not None:
        cudnn.allow_tf32 = matmul.allow_tf32 = False
    for kind in kinds:
        if kind.fp32_precision == "tf32":
            kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        if flags is not None:
            cudnn.allow_tf32, matmul.allow_tf32 = flags
            if word is not None:
                torch.set_float32_matmul_precision(word)
        for kind, precision in zip(kinds, precisions, strict=True):
            if kind.fp32_precision != precision:
                kind.fp32_precision = precision


def _answer(ask: Callable[[], T]) -> T | None:
    """A setting of torch; None where it cannot tell."""
    try:
        return ask()
    except RuntimeError:
        return None


def utilisation(device: str) -> int | None:
    """How busy the GPU was in the last second or so, in percent; None where nobody can tell."""
    import torch

    if device != "cuda":
        return None
    try:
        return int(torch.cuda.utilization())
    except Exception:  # NVIDIA's library, which torch asks, may be missing or refuse (MIG, WSL).
        return None


class ForwardGraph:
    """Replays a forward of one batch size.

    Args:
        forward: takes (B, H, W, 3) uint8 on the GPU to (B, C) there, waiting for nothing.
        pixels: (B, H, W, 3) uint8 on the GPU; the recording's own from now on.

    Raises:
        RuntimeError: the forward cannot be recorded, or memory runs out.
    """

    def __init__(self, forward: Callable[[torch.Tensor], Any], pixels: torch.Tensor) -> None:
        import torch

        self._pixels = pixels
        present = torch.cuda.current_stream(pixels.device)
        beside = torch.cuda.Stream(pixels.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(present)
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                forward(pixels)
        present.wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # torch's own stream for recordings is one of the first GPU that a process recorded on.
        stream = torch.cuda.Stream(pixels.device)  # type: ignore[no-untyped-call]
        # Other threads of the process may use the GPU meanwhile.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._outputs = forward(pixels)

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self._pixels)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C) outputs for (B, H, W, 3) uint8 pixels, on the host or on the GPU."""
        import torch

        with torch.inference_mode():  # in which the recording's own pixels were made
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
    import torch

    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, generator=generator)
    with torch.cuda.device(place), torch.inference_mode():
        try:
            pixels = noise.to(place)
            if _waits(forward, pixels):
                return None
            expected = forward(pixels)
            # What the forward took is free, and the recording needs as much of its own.
            torch.cuda.empty_cache()
            graph = ForwardGraph(forward, torch.zeros_like(pixels))
            outputs = graph(pixels)
            same = isinstance(expected, torch.Tensor) and torch.equal(outputs, expected)
            torch.cuda.synchronize(place)
        # A network that allocates by itself cannot be recorded; one that fails will do so again,
        # where it is told.
        except (RuntimeError, MemoryError, AttributeError) as error:
            if is_out_of_memory(error):
                torch.cuda.empty_cache()
            return None
    return graph if same else None


def _waits(forward: Callable[[torch.Tensor], Any], pixels: torch.Tensor) -> bool:
    """Whether a forward waits for the GPU in its midst, or fails.

    To be known before: a recording that fails leaves torch's memory in disorder (up to 2.12).
    """
    import torch

    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its mode a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            forward(pixels)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return True
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return False
