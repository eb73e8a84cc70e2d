"""What a torch training loop uses: photos with stored labels, their schedule, and the loss.

data = SoftLabelDataset(ImageFolder("photos"), labelstore.open("teacher.zarr"))
sampler = ViewSampler(data, views_per_image=4)
loader = DataLoader(data, batch_size=64, sampler=sampler, collate_fn=collate_views)
for epoch in range(epochs):
    sampler.set_epoch(epoch)
    for images, target in loader:
        loss = soft_cross_entropy(model(images), target)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
