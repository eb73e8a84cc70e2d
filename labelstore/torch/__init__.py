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

from typing import Any

import lazy_loader

from labelstore.errors import require_packages

_get, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _get(name)
    except ModuleNotFoundError:
        require_packages("labelstore.torch", "torch")
        raise
