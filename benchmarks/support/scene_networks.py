"""Networks for the scenes' 48-pixel crops: four teachers, the student, and the teachers' training.

Three teachers are trained as those of the FerKD paper were, with label smoothing and MixUp; the
fourth has the first one's make and neither of the two.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from benchmarks.support.fashion_mnist import Residual, convolution

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CACHE_VARIABLE",
    "DEVICE",
    "SIDE",
    "TEACHERS",
    "accuracy",
    "as_input",
    "network",
    "patches",
    "plain",
    "residual",
    "teacher",
    "train_teachers",
    "unsmoothed",
]

SIDE = 48
"""Pixels of a crop as the networks see it."""

CLASSES = 58
MEAN, STD = 0.45, 0.25
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CACHE_VARIABLE = "LABELSTORE_SCENES"
"""Environment variable by which the teachers' factories find their weights."""

TEACHERS = ("residual", "plain", "patches", "unsmoothed")
SMOOTHING, MIXUP = 0.1, 0.2
"""Label smoothing, and the parameter of MixUp's beta distribution, of the first three teachers."""

BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 3e-3, 0.05


def network(name: str) -> nn.Module:
    """An untrained network on (B, 3, 48, 48)."""
    if name in ("residual", "unsmoothed"):
        layers = [convolution(3, 24, 2), Residual(24, 48), Residual(48, 96), _head(96)]
    elif name == "plain":
        layers = [convolution(3, 24, 2), convolution(24, 32, 2), convolution(32, 64)]
        layers += [convolution(64, 96, 2), convolution(96, 96), _head(96)]
    elif name == "patches":
        layers = [convolution(3, 64, 4), convolution(64, 96, 2), convolution(96, 128)]
        layers += [convolution(128, 128, 2), _head(128)]
    elif name == "student":
        layers = [convolution(3, 12, 2), convolution(12, 24, 2), convolution(24, 48, 2)]
        layers += [convolution(48, 96, 2), _head(96)]
    else:
        raise SystemExit(f"no network is called {name!r}")
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def as_input(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 48, 48, 3) uint8 as (B, 3, 48, 48) normalised floats on the device."""
    return ((pixels.to(DEVICE).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of (n, 48, 48, 3) images whose largest output is their label."""
    model.eval()
    right = sum(
        int((model(as_input(part)).argmax(1).cpu() == truth).sum())
        for part, truth in zip(images.split(500), labels.split(500), strict=True)
    )
    model.train()
    return right / len(labels)


def train_teachers(
    names: Sequence[str], cache: Path, crops: Path, truth: np.ndarray, epochs: int
) -> None:
    """Train the teachers that are not there.

    Args:
        names: which. cache: where their weights are kept.
        crops: a .npy file, (N, V, 48, 48, 3) uint8: random crops that no student sees.
        truth: (N,) classes. epochs: each has a crop of every image.
    """
    missing = [name for name in names if not (cache / f"{name}.pt").exists()]
    context = multiprocessing.get_context("spawn")
    count = 1 if DEVICE == "cuda" else os.cpu_count() or 1
    with concurrent.futures.ProcessPoolExecutor(count, context) as pool:
        for done in [pool.submit(_train, name, cache, crops, truth, epochs) for name in missing]:
            print(done.result(), file=sys.stderr, flush=True)


def _train(name: str, cache: Path, crops: Path, truth: np.ndarray, epochs: int) -> str:
    started = time.process_time()
    if DEVICE == "cpu":
        torch.set_num_threads(1)
    number = TEACHERS.index(name)
    torch.manual_seed(100 + number)
    rng = np.random.default_rng(number)
    model = network(name).to(DEVICE)
    images, labels = np.load(crops, mmap_mode="r"), torch.from_numpy(truth.astype(np.int64))
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs * steps)
    smoothing, mixup = (0.0, 0.0) if name == "unsmoothed" else (SMOOTHING, MIXUP)
    for epoch in range(epochs):
        order = rng.permutation(len(images))[: steps * BATCH].reshape(steps, BATCH)
        for rows in order:
            rows = np.sort(rows)
            x = as_input(torch.from_numpy(images[rows, epoch % images.shape[1]]))
            y = labels[rows].to(DEVICE)
            share = float(rng.beta(mixup, mixup)) if mixup else 1.0
            other = torch.from_numpy(rng.permutation(BATCH)).to(DEVICE)
            if mixup:
                x = share * x + (1 - share) * x[other]
            # Numbers of half the length: the labels that are stored come from float32.
            with torch.autocast(DEVICE, torch.bfloat16):
                logits = model(x).float()
            loss = share * nn.functional.cross_entropy(logits, y, label_smoothing=smoothing)
            if mixup:
                loss = loss + (1 - share) * nn.functional.cross_entropy(
                    logits, y[other], label_smoothing=smoothing
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    partial = cache / f"{name}.partial"
    torch.save({key: value.cpu() for key, value in model.state_dict().items()}, partial)
    partial.rename(cache / f"{name}.pt")
    return f"teacher {name}: {time.process_time() - started:.0f} s of a core"


def teacher(cache: Path, name: str) -> nn.Module:
    """A trained teacher on its device, for evaluation."""
    model = network(name)
    weights = torch.load(cache / f"{name}.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(weights)
    return model.to(DEVICE).eval()


def _factory(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """What ``labelstore generate --teacher python:...`` asks for."""
    cache = Path(os.environ[CACHE_VARIABLE])
    preprocessing = {
        "input_size": (SIDE, SIDE),
        "mean": (MEAN,) * 3,
        "std": (STD,) * 3,
        "interpolation": "bilinear",
        "class_names": (cache / "classes.txt").read_text().split(),
    }
    return teacher(cache, name).cpu(), preprocessing


def residual() -> tuple[nn.Module, dict[str, Any]]:
    """Factory of a teacher for ``labelstore generate --teacher``."""
    return _factory("residual")


def plain() -> tuple[nn.Module, dict[str, Any]]:
    """Factory of a teacher for ``labelstore generate --teacher``."""
    return _factory("plain")


def patches() -> tuple[nn.Module, dict[str, Any]]:
    """Factory of a teacher for ``labelstore generate --teacher``."""
    return _factory("patches")


def unsmoothed() -> tuple[nn.Module, dict[str, Any]]:
    """Factory of a teacher for ``labelstore generate --teacher``."""
    return _factory("unsmoothed")
