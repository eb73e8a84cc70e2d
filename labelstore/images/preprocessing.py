"""What a network expects of its input, and the pixels made so."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import UsageError, require_choice
from labelstore.images.pixels import INTERPOLATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = ["Preprocessing", "normalize"]


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input.

    Raises:
        UsageError: a value is out of its range.
    """

    input_size: tuple[int, int]
    """(height, width) in pixels, at least 1 each."""
    mean: tuple[float, float, float]
    """Of red, green and blue, where 1 is full brightness; subtracted."""
    std: tuple[float, float, float]
    """Of the same; positive; divided by."""
    interpolation: str
    """The resize filter, one of `labelstore.images.INTERPOLATIONS`."""
    crop_share: float = 0.875
    """Share of an image's side that the central crop of a plain evaluation has, above 0 to 1;
    views do not depend on it."""

    def __post_init__(self) -> None:
        try:
            size = tuple(int(side) for side in self.input_size)
            mean = tuple(float(value) for value in self.mean)
            std = tuple(float(value) for value in self.std)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"the preprocessing {self} is unusable ({error}), expected numbers: two for "
                "input_size and three each for mean and std."
            ) from error
        if len(size) != 2 or min(size) < 1:
            raise UsageError(f"input_size is {size}, expected (height, width) of at least 1 each.")
        if len(mean) != 3 or not all(np.isfinite(mean)):
            raise UsageError(f"mean is {mean}, expected three finite numbers, one for a channel.")
        if len(std) != 3 or not all(0 < value < float("inf") for value in std):
            raise UsageError(f"std is {std}, expected three positive numbers, one for a channel.")
        if not 0 < self.crop_share <= 1:
            raise UsageError(f"crop_share is {self.crop_share}, expected above 0, up to 1.")
        require_choice("interpolation", self.interpolation, INTERPOLATIONS)
        object.__setattr__(self, "input_size", size)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)


def normalize(
    pixels: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``(pixels / 255 - mean) / std``, for the teacher and for training alike.

    Args:
        pixels: (..., 3, H, W) uint8, in any memory format, which is kept.
        mean: three numbers on the scale 0..1; std: three positive numbers.
        out: float32 of the same shape, in any memory format, to be filled and returned.

    Returns:
        (..., 3, H, W) float32 on the same device, the same bits on every device.

    Raises:
        UsageError: another dtype or number of channels.
    """
    import torch

    if pixels.dtype != torch.uint8 or pixels.ndim < 3 or pixels.shape[-3] != 3:
        raise UsageError(
            f"the pixels are {pixels.dtype} of shape {tuple(pixels.shape)}, expected uint8 of "
            "shape (..., 3, H, W): normalize them before any other conversion."
        )
    make = _constants if torch.compiler.is_compiling() else _kept_constants
    full, centre, spread = make(tuple(mean), tuple(std), pixels.device)
    values = pixels.to(torch.float32) if out is None else out.copy_(pixels)
    return values.div_(full).sub_(centre).div_(spread)


def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, ...]:
    """255, mean and standard deviation, each (3, 1, 1) float32."""
    import torch

    # Tensors, not numbers: CUDA would multiply by a rounded 1/255 instead of dividing.
    constants = torch.tensor([[255.0] * 3, list(mean), list(std)], device=device)
    return constants.view(3, 3, 1, 1).unbind()


@functools.lru_cache(maxsize=64)
def _kept_constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, ...]:
    """The same, made once: copying them to a device waits for all that it still has to do."""
    import torch

    with torch.inference_mode(False):
        return _constants(mean, std, device)
