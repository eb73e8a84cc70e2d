"""One student of the distillation benchmark: what a row says, done."""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import labelstore
from benchmarks.support.distill_rows import FASHION, SCENES, Row
from labelstore.labels.calibration.phases import LabelPhases
from labelstore.labels.soft_labels import hard, smooth
from labelstore.torch import (
    CutMix,
    MixUp,
    OneOf,
    SelfMix,
    TorchSoftLabels,
    ViewSampler,
    soft_cross_entropy,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["RULES", "SETTINGS", "Setting", "Trainer", "World", "file_of", "run", "student"]


@dataclass(frozen=True)
class Setting:
    """What all students of a data set share."""

    batch_images: int
    views_per_image: int
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    fine_tuning: float = 0.25
    """Share of the learning rate with which a trained student is trained on."""


SETTINGS = {"fashion": Setting(64, 4), "scenes": Setting(32, 3)}

MODULES = {
    "fashion": "benchmarks.support.fashion_mnist",
    "scenes": "benchmarks.support.scenes_data",
}
"""Each has ``DEVICE``, ``network``, ``teacher``, ``as_input``, ``accuracy``, ``test_set`` and
``crops_of``."""

TABLES = {"fashion": FASHION, "scenes": SCENES}

RULES: dict[str, Callable[[Any], Any]] = {
    "fitted": labelstore.FerKD.fit,
    "fitted by class": lambda store: labelstore.FerKD.fit(store, by="class"),
    "fitted, loca": lambda store: labelstore.FerKD.fit(store, calibrate="loca"),
    # Whatever the teacher is sure of: what LoCa leaves alone leads already.
    "loca": lambda _: labelstore.FerKD(0.0, 1.0, 1.0, calibrate="loca"),
}
"""Rules that depend on the labels: the name that a row gives -> the rule of a store."""

_LATER_FIELDS = ("store", "temperature", "crops", "augment", "phases")
"""Of a row: left out of a run's name where a row has the default, so that runs of before count."""


@dataclass(frozen=True)
class World:
    """What all runs share; small enough to be handed to another process."""

    kind: str
    """``fashion`` or ``scenes``."""
    cache: Path
    data: Path
    """Where the test images are."""
    photos: Path
    """The folder of the students' images."""
    images: int
    views: int
    epochs: int
    stores: dict[str, Path]
    """By teacher, by ``teacher/form@temperature``, or by ``teacher+stage+stage``."""

    @property
    def module(self) -> Any:
        """The data's networks and pixels."""
        return importlib.import_module(MODULES[self.kind])

    @property
    def setting(self) -> Setting:
        """How students are trained."""
        return SETTINGS[self.kind]

    def stores_of(self, row: Row) -> list[Path]:
        """The stores whose labels a row reads, by teacher."""
        if row.augment:
            return [self.stores["+".join((name, *row.augment))] for name in row.teachers]
        if not row.store and row.temperature == 1:
            return [self.stores[name] for name in row.teachers]
        return [self.stores[f"{name}/{row.store}@{row.temperature}"] for name in row.teachers]

    def has(self, row: Row) -> bool:
        """Whether the stores of a row are among these."""
        try:
            return bool(self.stores_of(row))
        except KeyError:
            return False


def file_of(world: World, row: Row, seed: int) -> Path:
    """Where a run's result is kept: named by everything that it depends on."""
    fields = asdict(row)
    default = asdict(Row(row.name))
    for name in _LATER_FIELDS:
        if fields[name] == default[name]:
            del fields[name]
    what = {
        **fields,
        "seed": seed,
        "world": [world.images, world.views, world.epochs],
        "stores": {
            name: labelstore.open(store).manifest.id
            for name, store in zip(row.teachers, world.stores_of(row), strict=True)
        },
        "training": list(asdict(world.setting).values()),
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    return world.cache / "runs" / f"{row.name.replace('/', '-').replace(' ', '_')}-{digest}.json"


def run(world: World, row: Row, seed: int) -> dict[str, Any]:
    """Train one student and keep what came out."""
    if world.module.DEVICE == "cpu":
        torch.set_num_threads(1)
    test, truth = world.module.test_set(world.data)
    model = student(world, row, seed)
    trainer = Trainer(world, row, seed, model)
    curve, seconds, used = [], 0.0, 0.0
    for epoch in range(trainer.epochs):
        started, begun = time.perf_counter(), time.process_time()
        trainer.train(epoch)
        seconds += time.perf_counter() - started
        used += time.process_time() - begun
        curve.append(round(world.module.accuracy(model, test, truth), 4))
    result = {
        "accuracy": curve[-1],
        "curve": curve,
        "seconds": round(seconds, 2),
        "core_seconds": round(used, 2),
        "steps": trainer.step,
        "seed": seed,
    }
    file = file_of(world, row, seed)
    file.parent.mkdir(exist_ok=True)
    torch.save(model.state_dict(), file.with_suffix(".pt"))
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    partial.rename(file)
    return result


def student(world: World, row: Row, seed: int) -> torch.nn.Module:
    """A student at its start: untrained, or that of the row with label smoothing."""
    torch.manual_seed(seed)
    device = world.module.DEVICE
    model: torch.nn.Module = world.module.network("student").to(device)
    if row.start != "scratch":
        labels = TABLES[world.kind]["Labels"]
        first = next(row for row in labels if row.name == "label smoothing")
        weights = file_of(world, first, seed).with_suffix(".pt")
        model.load_state_dict(torch.load(weights, weights_only=True, map_location=device))
    return model


class Trainer:
    """A row's training: which crops, with which labels."""

    def __init__(self, world: World, row: Row, seed: int, model: torch.nn.Module) -> None:
        self.row, self.model, self.data, self.setting = row, model, world.module, world.setting
        self.seed = seed
        self.epochs = max(1, round(world.epochs * row.epochs))
        members = [labelstore.open(store) for store in world.stores_of(row)]
        self.reader = members[0] if len(members) == 1 else labelstore.ensemble(members)
        self.rule = _rule(row, self.reader)
        self.sampler = ViewSampler(
            self.reader,
            self.setting.views_per_image,
            seed=seed,
            ferkd=self.rule,
            schedule=row.schedule,
            epochs=self.epochs,
        )
        self.crops = self.data.crops_of(world.cache, world.photos, members[0])
        self.mixing = mixing_of(row.mixing, seed)
        self.phases = LabelPhases(self.epochs) if row.phases else None
        self.teacher = None
        if row.labels == "online":
            self.teacher = self.data.teacher(world.cache, row.teachers[0])
        self.batches = len(self.sampler) // self.setting.batch_images
        rate = self.setting.learning_rate
        rate *= 1.0 if row.start == "scratch" else self.setting.fine_tuning
        self.optimizer = torch.optim.AdamW(
            model.parameters(), rate, weight_decay=self.setting.weight_decay
        )
        self.rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, self.epochs * self.batches
        )
        self.step = 0

    def train(self, epoch: int, batches: int | None = None) -> None:
        """One epoch, or its first batches."""
        count, together = self.setting.views_per_image, self.setting.batch_images
        self.sampler.set_epoch(epoch)
        shows = list(self.sampler)[: (batches or self.batches) * together]
        images = np.array([show.image for show in shows])
        views = np.array([show.views for show in shows])
        if self.row.crops:
            views = few_views(views.shape, self.row.crops, [self.seed, epoch])
        labels = self.labels(images, views, epoch)
        rows = torch.arange(len(shows) * count)
        places = torch.from_numpy(images).repeat_interleave(count)
        numbers = torch.from_numpy(views).reshape(-1)
        for batch in rows.split(together * count):
            x = self.data.as_input(self.crops[places[batch], numbers[batch]])
            loss = self.loss(x, None if labels is None else labels[batch].to(self.data.DEVICE))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.rate.step()
            self.step += 1

    def loss(self, x: torch.Tensor, labels: TorchSoftLabels | None) -> torch.Tensor:
        """Cross-entropy with the row's labels."""
        if labels is None:
            if self.teacher is None:
                raise ValueError("neither labels nor a teacher")
            with torch.no_grad():
                probs = torch.softmax(self.teacher(x), 1)
            return torch.nn.functional.cross_entropy(self.model(x), probs)
        if self.mixing is not None:
            x, labels, _ = self.mixing(x, labels, step=self.step)
        tau = float(self.row.temperature)
        return soft_cross_entropy(self.model(x), labels, temperature=tau, temperature_squared=True)

    def labels(self, images: np.ndarray, views: np.ndarray, epoch: int) -> TorchSoftLabels | None:
        """Labels of the epoch's crops, read in one go; None for the teacher in the loop."""
        if self.row.labels == "online":
            return None
        places = np.repeat(images, self.setting.views_per_image)
        truth = self.reader.targets[places]
        if self.row.labels == "hard":
            labels = hard(truth, self.reader.num_classes)
        elif self.row.labels == "smoothing":
            labels = smooth(truth, self.reader.num_classes, 0.1)
        elif self.phases is not None and self.phases.is_hard(epoch):
            classes = self.reader.num_classes
            labels = smooth(truth, classes, self.phases.smoothing_of_others(classes))
        else:
            topk = self.reader.read(places, views.reshape(-1))
            # The tail goes over the image's list of likely classes where the store has lists.
            labels = topk.recover() if self.rule is None else self.rule.apply(topk, truth).labels
        return TorchSoftLabels.from_numpy(labels, target=truth, image=places)


def few_views(shape: tuple[int, ...], count: int, seed: list[int]) -> np.ndarray:
    """(n, m) int64: m of an image's first ``count`` views at random, each as often as the next."""
    images, shown = shape
    draw = np.random.default_rng(seed)
    rounds = [
        draw.permuted(np.tile(np.arange(count), (images, 1)), axis=1)
        for _ in range(-(-shown // count))
    ]
    return np.concatenate(rounds, axis=1)[:, :shown]


def _rule(row: Row, reader: Any) -> Any:
    if row.ferkd is None:
        return None
    if isinstance(row.ferkd, str):
        return RULES[row.ferkd](reader)
    return labelstore.FerKD(*row.ferkd)


def mixing_of(names: tuple[str, ...], seed: int) -> Any:
    """One of the named rules at each step; None without any."""
    rules = {
        "mixup": MixUp(alpha=0.8),
        "cutmix": CutMix(alpha=1.0),
        "selfmix-mixup": SelfMix("mixup", alpha=0.8),
        "selfmix-cutmix": SelfMix("cutmix", alpha=1.0),
    }
    return OneOf(tuple(rules[name] for name in names), seed=seed) if names else None
