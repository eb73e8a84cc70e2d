"""What the labels of a batch cost a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.benchmark import Timer

from labelstore.errors import UsageError

if TYPE_CHECKING:
    from labelstore.torch.dataset import SoftLabelDataset
    from labelstore.torch.labels.soft_labels import TorchSoftLabels
    from labelstore.torch.recipes import LossFunction

__all__ = ["label_seconds"]


def label_seconds(
    data: SoftLabelDataset, target: TorchSoftLabels, logits: torch.Tensor, loss: LossFunction
) -> float:
    """What a batch's labels take more than hard ones, in seconds: to be read and recovered (which a
    loader's workers do beside the steps), and in the loss, forward and backward.

    Measured now, five times each; the median.

    Args:
        data: where the batch is from.
        target: its labels, which say their images and views.
        logits: (B, num_classes) of it, on the labels' device.
        loss: of ``labelstore.torch``.

    Raises:
        UsageError: labels that do not say their images and views.
    """
    if target.image is None or target.view is None:
        raise UsageError(
            "the labels do not say which images and views they are of, expected a batch of a "
            "SoftLabelDataset: give it as collate_views makes it."
        )
    images, views = target.image.cpu().numpy(), target.view.cpu().numpy()
    truth = data.store.targets[images]
    logits = logits.detach().float().requires_grad_()
    hard = logits.argmax(1)

    def seconds(call: Any) -> float:
        return float(Timer("call()", globals={"call": call}).timeit(5).median)

    read = seconds(lambda: data.recovery(data.store.read(images, views), truth))
    soft = seconds(lambda: torch.autograd.grad(loss(logits, target), logits))
    return read + soft - seconds(lambda: torch.autograd.grad(cross_entropy(logits, hard), logits))
