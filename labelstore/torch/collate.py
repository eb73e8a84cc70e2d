"""Soft labels as tensors, and how samples become a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from labelstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labelstore.torch.labels.soft_labels import TorchSoftLabels


__all__ = ["collate_views"]


def collate_views(
    samples: Sequence[tuple[torch.Tensor, TorchSoftLabels] | dict[str, Any]],
) -> tuple[torch.Tensor, TorchSoftLabels]:
    """A batch of samples of a ``SoftLabelDataset``: give it to DataLoader as ``collate_fn``.

    Args:
        samples: n pairs of pixels (m, 3, S, S) and m labels, or dicts ``{"pixels", "labels"}`` of
            such (``HuggingFaceViews``).

    Returns:
        pixels (n * m, 3, S, S) and n * m labels, all views of an image side by side.

    Raises:
        UsageError: no samples.
    """
    if not samples:
        raise UsageError("a batch of no samples was to be collated: choose a larger batch size.")
    pairs = [
        (sample["pixels"], sample["labels"]) if isinstance(sample, dict) else sample
        for sample in samples
    ]
    labels = [pair[1] for pair in pairs]
    return torch.cat([pair[0] for pair in pairs]), type(labels[0]).cat(labels)
