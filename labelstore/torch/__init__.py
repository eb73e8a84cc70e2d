"""What a torch training loop uses: photos with stored labels, their schedule, and the loss.

data = SoftLabelDataset(ImageFolder("photos"), labelstore.open("teacher.zarr"))
sampler = ViewSampler(data, views_per_image=4)
loader = DataLoader(data, batch_size=64, sampler=sampler, collate_fn=collate_views)
for epoch in range(epochs):
    sampler.set_epoch(epoch)
    for images, target in loader:
        loss = soft_cross_entropy(model(images), target)
"""

from __future__ import annotations

from labelstore.errors import require_packages

try:
    from labelstore.teachers import normalize
    from labelstore.torch.collate import TorchSoftLabels, collate_views
    from labelstore.torch.dataset import Show, SoftLabelDataset
    from labelstore.torch.join import HuggingFaceViews, ViewJoin, WebDatasetViews
    from labelstore.torch.loss import (
        ferkd_loss,
        fkd_loss,
        label_entropy,
        mean_weight,
        soft_cross_entropy,
        soft_kl_divergence,
        vanilla_kd_loss,
    )
    from labelstore.torch.mixing import CutMix, InTurn, Mixed, MixUp, OneOf, SelfMix, mix_batch
    from labelstore.torch.recover import recover
    from labelstore.torch.sampler import ViewSampler
    from labelstore.torch.stored import StoredLabels
except ModuleNotFoundError:
    require_packages("labelstore.torch", "torch")
    raise

__all__ = [
    "CutMix",
    "HuggingFaceViews",
    "InTurn",
    "MixUp",
    "Mixed",
    "OneOf",
    "SelfMix",
    "Show",
    "SoftLabelDataset",
    "StoredLabels",
    "TorchSoftLabels",
    "ViewJoin",
    "ViewSampler",
    "WebDatasetViews",
    "collate_views",
    "ferkd_loss",
    "fkd_loss",
    "label_entropy",
    "mean_weight",
    "mix_batch",
    "normalize",
    "recover",
    "soft_cross_entropy",
    "soft_kl_divergence",
    "vanilla_kd_loss",
]
