"""A teacher of your own: a network that you trained, what it expects of a photo, and its classes.

Fine-tune a ResNet-18 on a folder with one folder a class, look at its accuracy, and label with it,
all in the folder that holds this file:

    python own_teacher.py photos --epochs 5
    labelstore evaluate validation --teacher python:own_teacher:teacher
    labelstore generate photos --teacher python:own_teacher:teacher --views 200 -o own.zarr

Of a network that you have already, only ``teacher`` is needed: build it, load its weights, and say
how its photos were prepared. Copy this file and change ``network``, ``PREPROCESSING`` and
``teacher``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import v2 as transforms

from labelstore.images import Preprocessing

CHECKPOINT = Path(os.environ.get("OWN_TEACHER", Path(__file__).with_name("own_teacher.pt")))
"""Where the weights are. A factory has no arguments: what changes from run to run comes from the
environment, as here, or there is a factory for each."""

PREPROCESSING = Preprocessing(
    input_size=(224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bilinear",
    crop_share=224 / 256,
)
"""What the network was trained with. A wrong value makes no error, only worse labels: compare the
accuracy that ``labelstore evaluate`` tells with your own."""


def network(num_classes: int, weights: str | None = None) -> torch.nn.Module:
    """torchvision's ResNet-18 with a classifier for as many classes."""
    model: Any = torchvision.models.resnet18(weights=weights)
    model.fc = torch.nn.Linear(model.fc.in_features, num_classes)
    return model  # type: ignore[no-any-return]


def teacher() -> tuple[torch.nn.Module, dict[str, Any]]:
    """The factory that ``python:own_teacher:teacher`` names.

    The network returns logits (B, C). Evaluation mode, the device, precision and batches are
    labelstore's business. With the names of the classes, photos in folders of these names need no
    class map.
    """
    saved = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
    model = network(len(saved["classes"]))
    model.load_state_dict(saved["state_dict"])
    return model, {**dataclasses.asdict(PREPROCESSING), "class_names": saved["classes"]}


def fine_tune(photos: str, epochs: int, weights: str | None, workers: int) -> None:
    """Train on a folder of class folders, and save weights and class names to ``CHECKPOINT``."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    crops = transforms.Compose(
        [
            transforms.PILToTensor(),
            transforms.RandomResizedCrop(PREPROCESSING.input_size, antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std),
        ]
    )
    data = torchvision.datasets.ImageFolder(photos, crops)
    loader = DataLoader(data, batch_size=64, shuffle=True, num_workers=workers)
    model = network(len(data.classes), weights).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for epoch in range(epochs):
        right = 0
        for images, targets in loader:
            images, targets = images.to(device), targets.to(device)
            logits = model(images)
            loss = F.cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            right += int((logits.argmax(1) == targets).sum())
        print(f"epoch {epoch}: {right / len(data):.1%} of the crops right", flush=True)
    torch.save({"state_dict": model.state_dict(), "classes": data.classes}, CHECKPOINT)
    print(f"saved {CHECKPOINT}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", help="a folder with one folder a class")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--from-scratch", action="store_true", help="without ImageNet's weights")
    parser.add_argument("--workers", type=int, default=8, help="processes that decode")
    options = parser.parse_args()
    weights = None if options.from_scratch else "DEFAULT"
    fine_tune(options.photos, options.epochs, weights, options.workers)


if __name__ == "__main__":
    main()
