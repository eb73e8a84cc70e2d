"""Fashion-MNIST for the distillation benchmark: photos, three teachers, their stores, crops.

Everything is made once below a cache folder and found there again. The data are those of Debian's
package ``dataset-fashion-mnist`` (60,000 + 10,000 grey images of 28 x 28 pixels, 10 classes).
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import labelstore
from benchmarks.support.debian_packages import unpacked
from benchmarks.support.distill_rows import FORMS
from benchmarks.support.distill_stores import exact_stores, forms_of
from labelstore.images.decoding import decode
from labelstore.images.pixels import cut
from labelstore.images.sources.folder import FolderSource

if TYPE_CHECKING:
    from collections.abc import Iterable

CACHE_VARIABLE = "LABELSTORE_FASHION"
"""Environment variable by which the teachers' factories find their weights."""

CLASSES = (
    "0-t-shirt",
    "1-trouser",
    "2-pullover",
    "3-dress",
    "4-coat",
    "5-sandal",
    "6-shirt",
    "7-sneaker",
    "8-bag",
    "9-ankle-boot",
)
MEAN, STD, SIDE = 0.286, 0.353, 28
SCALE = (0.25, 1.0)
"""Area of a crop: a twelfth of such an image, ImageNet's usual 0.08, would be 8 x 8 pixels."""

PACKAGE = "dataset-fashion-mnist"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load(folder: Path) -> dict[str, np.ndarray]:
    """Images (n, 28, 28) uint8 and labels (n,) uint8 of ``train`` and ``test``."""
    found = {}
    for part, name in (("train", "train"), ("test", "t10k")):
        pixels = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes())
        found[f"{part}_images"] = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, SIDE, SIDE)
        found[f"{part}_labels"] = np.frombuffer(labels, np.uint8, offset=8)
    return found


def fetch(cache: Path) -> Path:
    """The folder of the data's files; fetched with apt and unpacked, not installed."""
    installed = Path("/usr/share/datasets/fashion-mnist")
    for folder in (installed, cache / "package" / installed.relative_to("/")):
        if (folder / "train-images-idx3-ubyte.gz").exists():
            return folder
    try:
        root = unpacked(PACKAGE, cache / "package")
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(
            f"Fashion-MNIST is not here ({error}): put its four .gz files into a folder and give "
            f"--data-folder, or install Debian's package {PACKAGE}."
        ) from error
    return root / installed.relative_to("/")


def test_set(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(10,000, 28, 28) uint8 test images and their int64 classes."""
    data = load(folder)
    truth = data["test_labels"].astype(np.int64)
    return torch.from_numpy(data["test_images"].copy()), torch.from_numpy(truth)


def teacher(cache: Path, name: str) -> nn.Module:
    """A trained teacher on its device, for evaluation."""
    os.environ[CACHE_VARIABLE] = str(cache)
    return _factory(name)[0].to(DEVICE).eval()


class Residual(nn.Module):
    """Two convolutions beside a shortcut, at half the resolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Conv2d(before, after, 1, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def convolution(before: int, after: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution of 3 x 3 pixels, normalised."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def head(width: int) -> nn.Sequential:
    """Mean over the pixels, and a class for each output."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, len(CLASSES)))


def network(name: str) -> nn.Module:
    """An untrained network on (B, 1, 28, 28): three teachers of different make, and the student."""
    if name == "residual":
        stem = nn.Sequential(convolution(1, 24), nn.MaxPool2d(2))
        return nn.Sequential(stem, Residual(24, 48), Residual(48, 96), head(96))
    if name == "plain":
        layers = [convolution(1, 16), convolution(16, 32, 2), convolution(32, 48)]
        return nn.Sequential(*layers, convolution(48, 64, 2), convolution(64, 64), head(64))
    if name == "separable":
        layers = [convolution(1, 32, 2)]
        for before, after, stride in ((32, 64, 1), (64, 96, 2), (96, 128, 1)):
            layers += [convolution(before, before, stride, groups=before)]
            layers += [
                nn.Sequential(
                    nn.Conv2d(before, after, 1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                )
            ]
        return nn.Sequential(*layers, head(128))
    if name == "student":
        layers = [convolution(1, 12, 2), convolution(12, 24, 2), convolution(24, 48, 2)]
        return nn.Sequential(*layers, head(48))
    raise SystemExit(f"no network is called {name!r}")


TEACHERS = ("residual", "plain", "separable")


class Grey(nn.Module):
    """A network of grey images behind the three equal channels that labelstore gives it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x[:, :1])


def _factory(name: str) -> tuple[nn.Module, dict[str, Any]]:
    inner = network(name)
    weights = Path(os.environ[CACHE_VARIABLE]) / f"{name}.pt"
    inner.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    preprocessing = {
        "input_size": (SIDE, SIDE),
        "mean": (MEAN,) * 3,
        "std": (STD,) * 3,
        "interpolation": "bilinear",
        "class_names": list(CLASSES),
    }
    return Grey(inner), preprocessing


def residual() -> tuple[nn.Module, dict[str, Any]]:
    """Factory of a teacher for ``labelstore generate --teacher``."""
    return _factory("residual")


def plain() -> tuple[nn.Module, dict[str, Any]]:
    """Factory of a teacher for ``labelstore generate --teacher``."""
    return _factory("plain")


def separable() -> tuple[nn.Module, dict[str, Any]]:
    """Factory of a teacher for ``labelstore generate --teacher``."""
    return _factory("separable")


def as_input(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 28, 28) uint8 as (B, 1, 28, 28) normalised floats on the device."""
    return (pixels.to(DEVICE).float()[:, None] / 255 - MEAN) / STD


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of test images whose largest logit is the ground truth."""
    model.eval()
    right = sum(
        int((model(as_input(batch)).argmax(1).cpu() == truth).sum())
        for batch, truth in zip(images.split(1000), labels.split(1000), strict=True)
    )
    model.train()
    return right / len(labels)


def train_teachers(cache: Path, data: dict[str, np.ndarray], epochs: int) -> dict[str, float]:
    """Train the teachers that are not there on random crops with hard labels; test accuracies."""
    images = torch.from_numpy(data["train_images"].copy())
    labels = torch.from_numpy(data["train_labels"].astype(np.int64))
    test = torch.from_numpy(data["test_images"].copy())
    truth = torch.from_numpy(data["test_labels"].astype(np.int64))
    found = {}
    for number, name in enumerate(TEACHERS):
        torch.manual_seed(100 + number)
        model = network(name).to(DEVICE)
        file = cache / f"{name}.pt"
        if file.exists():
            model.load_state_dict(torch.load(file, weights_only=True, map_location=DEVICE))
        else:
            started = time.perf_counter()
            _fit(model, images, labels, epochs, seed=number)
            torch.save({key: value.cpu() for key, value in model.state_dict().items()}, file)
            print(f"teacher {name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        found[name] = accuracy(model, test, truth)
    return found


def _fit(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int, seed: int
) -> None:
    batch = 256
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    law = labelstore.ViewLaw(seed=1000 + seed, scale=SCALE)
    hashes = np.arange(len(images), dtype=np.uint64)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: steps * batch].split(batch):
            views = law(hashes[rows.numpy()], np.full(batch, epoch), SIDE, SIDE)
            x = resample(as_input(images[rows]), views.box, views.flip)
            loss = nn.functional.cross_entropy(model(x), labels[rows].to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def resample(x: torch.Tensor, boxes: np.ndarray, flips: np.ndarray) -> torch.Tensor:
    """Boxes of (B, C, 28, 28) images at full size, on the device: close to Pillow's, and fast."""
    box = torch.as_tensor(boxes, dtype=torch.float32, device=x.device) / SIDE
    top, left, height, width = box.unbind(1)
    sign = 1.0 - 2.0 * torch.as_tensor(flips, dtype=torch.float32, device=x.device)
    zero = torch.zeros_like(top)
    across = torch.stack([sign * width, zero, 2 * left + width - 1], 1)
    down = torch.stack([zero, height, 2 * top + height - 1], 1)
    grid = nn.functional.affine_grid(
        torch.stack([across, down], 1), list(x.shape), align_corners=False
    )
    return nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def place_photos(cache: Path, data: dict[str, np.ndarray], count: int) -> Path:
    """The first ``count`` training images as PNG files in class folders."""
    folder = cache / f"photos-{count}"
    if not folder.exists():
        partial = cache / f"photos-{count}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        for name in CLASSES:
            (partial / name).mkdir(parents=True)
        for number in range(count):
            name = CLASSES[data["train_labels"][number]]
            Image.fromarray(data["train_images"][number]).save(partial / name / f"{number:05}.png")
        partial.rename(folder)
    return folder


def make_stores(cache: Path, photos: Path, views: int, seed: int = 0) -> dict[str, Path]:
    """One store a teacher, by the command; FKD's top-5 labels with an even tail."""
    stores = {}
    for name in TEACHERS:
        stores[name] = cache / f"{name}-{photos.name}-{views}.zarr"
        command = [sys.executable, "-m", "labelstore", "generate", str(photos)]
        command += [
            "--teacher",
            f"python:benchmarks.support.fashion_mnist:{name}",
            "--views",
            str(views),
        ]
        command += ["--scale", *map(str, SCALE), "--seed", str(seed), "--device", DEVICE]
        command += ["--top-k", "5", "--prior-size", "0", "--quantizer", "u16"]
        command += ["--batch-size", "512", "-o", str(stores[name])]
        environment = {**os.environ, CACHE_VARIABLE: str(cache)}
        subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2])
    return stores


def make_forms(
    cache: Path, photos: Path, views: int, temperatures: Iterable[int]
) -> dict[str, Path]:
    """The first teacher's labels in each form that rows compare, by ``residual/form@temperature``.

    They are of the same crops as those of ``make_stores``.
    """
    stores = {}
    for tau in temperatures:
        exact = cache / f"residual-{photos.name}-{views}-at-{tau}.zarr"
        if not (exact.exists() and labelstore.open(exact).complete):
            options = ["--views", str(views), "--scale", *map(str, SCALE), "--seed", "0"]
            options += ["--top-k", str(len(CLASSES)), "--batch-size", "512", "--device", DEVICE]
            teacher_spec = "python:benchmarks.support.fashion_mnist:residual"
            outputs = [(teacher_spec, exact, tau)]
            exact_stores(outputs, photos, options, {CACHE_VARIABLE: str(cache)})
        names = [form for form in FORMS if form not in ("exact", "top10")]
        for form, store in forms_of(exact, names).items():
            stores[f"residual/{form}@{tau}"] = store
    return stores


def crops_of(cache: Path, photos: Path, store: labelstore.Store) -> torch.Tensor:
    """(N, V, 28, 28) uint8: every view of a store, cut once; what the teachers saw."""
    file = cache / f"crops-{photos.name}-{store.num_views}.npy"
    if not file.exists():
        source = FolderSource(photos)
        views = np.arange(store.num_views)
        out = np.empty((store.num_images, store.num_views, SIDE, SIDE), dtype=np.uint8)
        rows = store.index_of(source.keys)
        for place, key in enumerate(source.keys):
            photo = decode(source.read(place), key)
            found = store.views(int(rows[place]), views)
            for view in views:
                pixels = cut(
                    photo,
                    found.box[view].tolist(),
                    bool(found.flip[view]),
                    (SIDE, SIDE),
                    "bilinear",
                )
                out[rows[place], view] = pixels[..., 0]
        partial = file.with_suffix(".partial.npy")
        np.save(partial, out)
        partial.rename(file)
    return torch.from_numpy(np.load(file))
