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

from labelstore.teachers import normalize
from labelstore.torch.collate import TorchSoftLabels, collate_views
from labelstore.torch.dataset import Show, SoftLabelDataset
from labelstore.torch.loss import soft_cross_entropy
from labelstore.torch.sampler import ViewSampler

__all__ = [
    "Show",
    "SoftLabelDataset",
    "TorchSoftLabels",
    "ViewSampler",
    "collate_views",
    "normalize",
    "soft_cross_entropy",
]
