"""Devices that teachers run on: which are there, how exact they are, and how busy."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from labelstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DEVICES", "PRECISIONS", "checked_device", "exact_float32", "utilisation"]

T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16", "fp16")


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

    if device not in DEVICES:
        raise UsageError(f"the device is {device!r}, expected one of {', '.join(DEVICES)}.")
    if precision not in PRECISIONS:
        raise UsageError(
            f"the precision is {precision!r}, expected one of {', '.join(PRECISIONS)}."
        )
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, is_there in there.items() if is_there)
    if not there[device]:
        usable = ", ".join(name for name, is_there in there.items() if is_there)
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
    flags = _told(lambda: (cudnn.allow_tf32, matmul.allow_tf32))
    word = _told(torch.get_float32_matmul_precision)
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


def _told(ask: Callable[[], T]) -> T | None:
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
