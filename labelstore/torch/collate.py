"""Soft labels as tensors, and how samples become a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from labelstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labelstore.torch.labels.soft_labels import TorchSoftLabels


__all__ = ["batch_memory", "collate_views"]


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
    return _joined([pair[0] for pair in pairs]), type(labels[0]).cat(labels)


def batch_memory(shape: tuple[int, ...], dtype: torch.dtype, shared: bool) -> torch.Tensor:
    """A batch's pixels, not yet filled.

    Args:
        shape, dtype: of the tensor.
        shared: in a worker of a DataLoader, take memory that the training process sees, so that
            nothing is copied on the way.
    """
    if not shared or torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    plan = torch.empty(shape, dtype=dtype, device="meta")
    storage: Any = torch.UntypedStorage._new_shared(  # type: ignore[no-untyped-call]
        plan.numel() * plan.element_size(), device="cpu"
    )
    return torch.empty(0, dtype=dtype).set_(storage, 0, plan.shape, plan.stride())


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Tensors one after another; without a copy where they are all of a batch, in order."""
    batch = parts[0]._base
    if batch is not None and batch.is_contiguous():
        place = batch.storage_offset()
        for part in parts:
            if (
                part._base is not batch
                or part.shape[1:] != batch.shape[1:]
                or part.storage_offset() != place
                or not part.is_contiguous()
            ):
                break
            place += part.numel()
        else:
            if place == batch.storage_offset() + batch.numel():
                return batch
    return torch.cat(parts)
