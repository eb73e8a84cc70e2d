"""Logits to probabilities, and to the classes that are largest in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["places_of", "softmax", "top_k", "top_k_keys", "unpack_keys"]


def top_k(
    logits: torch.Tensor, k: int, temperature: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The k largest of ``softmax(logits / temperature)``, largest first.

    Args:
        logits: (B, C) on any device, finite.
        k: 1..C.
        temperature: positive.

    Returns:
        (B, k) int64 class ids and (B, k) float32 probabilities; of equal probabilities, that of
        the smaller class id comes first.

    Raises:
        UsageError: k or the temperature is out of its range.
    """
    import torch

    if not 0 < temperature < float("inf"):
        raise UsageError(f"the temperature is {temperature}, expected a positive number.")
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    return unpack_keys(top_k_keys(probabilities, k), logits.shape[-1])


def top_k_keys(probabilities: torch.Tensor, k: int) -> torch.Tensor:
    """(B, k) int64 on the same device, largest first: what ``unpack_keys`` makes labels of.

    Args:
        probabilities: (B, C) float32, finite and not negative. k: 1..C.

    Raises:
        UsageError: k is out of its range.
    """
    import torch

    classes = probabilities.shape[-1]
    if not 1 <= k <= classes:
        raise UsageError(
            f"k is {k}, expected 1 to the {classes} classes: choose another.", arguments=("k",)
        )
    if probabilities.device.type == "mps":
        probabilities = probabilities.cpu()
    # Floats of one sign are ordered as their bits are; with the class id below them, no two keys
    # are equal, so that the order never depends on the device's algorithm.
    ranks = torch.arange(classes - 1, -1, -1, device=probabilities.device)
    keys = (probabilities.view(torch.int32).to(torch.int64) << 32) | ranks
    return keys.topk(k, dim=-1).values


def unpack_keys(
    keys: torch.Tensor, classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Class ids (B, k) int64 and probabilities (B, k) float32 of ``top_k_keys`` of C classes."""
    import torch

    indices = classes - 1 - (keys & 0xFFFFFFFF)
    values = (keys >> 32).to(torch.int32).view(torch.float32)
    return indices.cpu().numpy(), values.cpu().numpy()


def softmax(logits: torch.Tensor, temperature: float) -> npt.NDArray[np.float32]:
    """(B, C) float32 ``softmax(logits / temperature)`` of (B, C) logits on any device."""
    import torch

    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    return np.asarray(probabilities.cpu().numpy(), dtype=np.float32)


def places_of(logits: torch.Tensor, classes: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """(B,) how many classes come before one of each label, largest first; of equal logits, that of
    the smaller class id comes first.

    Of logits, since probabilities far below the largest one are all 0.

    Args:
        logits: (B, C) on any device. classes: (B,) class ids, 0..C-1.
    """
    z, rows = logits.float().cpu().numpy(), np.arange(len(classes))
    own = z[rows, classes][:, None]
    before = np.arange(z.shape[1]) < classes[:, None]
    return np.asarray(((z > own) | ((z == own) & before)).sum(axis=1))
