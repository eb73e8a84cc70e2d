"""The FerKD paper's tables in small: students of Fashion-MNIST, trained from labelstore's stores.

Three teachers are trained on random crops of all 60,000 images and run over 48 views of the first
6,000 by ``labelstore generate``. A student of 14,000 weights then sees these crops alone, 4 of an
image side by side, for 12 epochs; rows differ in their labels, their mixing, or in which crops are
shown, and in nothing else: the same number of steps, of crops, the same optimizer, for each seed
the same first weights. Thresholds and the like are the paper's; nothing was tuned.

    python -m benchmarks.distill             # every row, 3 seeds
    python -m benchmarks.distill --small     # a few minutes: does it all run

What was done is kept below ``--cache`` and not done again. It uses a GPU where torch sees one.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import labelstore
from benchmarks.support import distill_report, fashion_mnist as fashion
from benchmarks.support.measuring import alternate, ratio, summary, write_result
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
from labelstore.training.decisions import decisions

BATCH_IMAGES, VIEWS_PER_IMAGE = 64, 4
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.02
FINE_TUNING = 0.25
"""Share of the learning rate with which a trained student is trained on."""


@dataclass(frozen=True)
class Row:
    """One way to train a student."""

    name: str
    labels: str = "stored"
    """``stored``; ``hard``, ``smoothing``: the ground truth; ``online``: the teacher runs along."""
    teachers: tuple[str, ...] = ("residual",)
    ferkd: tuple[float, float, float] | None = None
    """Low, middle, top; None for FKD's labels as they are."""
    mixing: tuple[str, ...] = ()
    """One of these at each step."""
    schedule: str | None = None
    epochs: float = 1.0
    """Share of the epochs of a whole training."""
    start: str = "scratch"
    """``scratch``, or ``smoothing``: the student of the row with label smoothing."""


PAPER = (labelstore.FerKD.low, labelstore.FerKD.middle, labelstore.FerKD.top)
SELFMIX = ("selfmix-mixup", "selfmix-cutmix")
THREE = fashion.TEACHERS

ROWS: dict[str, list[Row]] = {
    "Labels": [
        Row("hard labels", labels="hard"),
        Row("label smoothing", labels="smoothing"),
        Row("online KD", labels="online"),
        Row("FKD"),
        Row("FKD, teacher plain", teachers=("plain",)),
        Row("FKD, teacher separable", teachers=("separable",)),
    ],
    "Mixing (table 2)": [
        Row("FKD + MixUp", mixing=("mixup",)),
        Row("FKD + CutMix", mixing=("cutmix",)),
        Row("FKD + SelfMix", mixing=SELFMIX),
        Row("FKD + MixUp or CutMix", mixing=("mixup", "cutmix")),
        Row("FKD + MixUp, CutMix or SelfMix", mixing=("mixup", "cutmix", *SELFMIX)),
    ],
    "Calibrated range, nothing discarded (table 4)": [
        Row(f"calibrated [0, {top}]", ferkd=(0.0, top, 1.0)) for top in (0.2, 0.3, 0.4, 0.5, 0.6)
    ],
    "FerKD step by step (table 5)": [
        Row("FerKD", ferkd=PAPER),
        Row("FerKD, nothing too easy", ferkd=(0.15, 0.30, 1.0)),
        Row("FerKD + SelfMix", ferkd=PAPER, mixing=SELFMIX),
        Row("FerKD + SelfMix + 2 teachers", ferkd=PAPER, mixing=SELFMIX, teachers=THREE[:2]),
        Row("FerKD + SelfMix + 3 teachers", ferkd=PAPER, mixing=SELFMIX, teachers=THREE),
        Row(
            "FerKD + SelfMix + 3 teachers + twice the epochs",
            ferkd=PAPER,
            mixing=SELFMIX,
            teachers=THREE,
            epochs=2.0,
        ),
    ],
    "Ensembles without calibration (table 6)": [
        Row("FKD, 2 teachers", teachers=THREE[:2]),
        Row("FKD, 3 teachers", teachers=THREE),
    ],
    "Curricula (table 7)": [
        Row("easy to hard", schedule="easy-to-hard"),
        Row("hard to easy", schedule="hard-to-easy"),
    ],
    "Reduced budgets (figure 6)": [
        Row(f"{name}, {share} of the epochs", ferkd=ferkd, epochs=value)
        for name, ferkd in (("FerKD", PAPER), ("FKD", None))
        for share, value in (("1/6", 1 / 6), ("1/3", 1 / 3), ("1/2", 1 / 2), ("2/3", 2 / 3))
    ],
    "Fine-tuning a trained student (table 9)": [
        Row("label smoothing, fine-tuned", labels="smoothing", start="smoothing", epochs=0.5),
        Row("FKD, fine-tuned", start="smoothing", epochs=0.5),
        Row("FerKD, fine-tuned", ferkd=PAPER, start="smoothing", epochs=0.5),
        Row(
            "FerKD + SelfMix, fine-tuned",
            ferkd=PAPER,
            mixing=SELFMIX,
            start="smoothing",
            epochs=0.5,
        ),
    ],
}
"""Every row by table. The paper's letters are in brackets; "FKD" is the single teacher, random."""

SMALL = ("hard labels", "label smoothing", "FKD", "FerKD + SelfMix + 2 teachers", "easy to hard")


@dataclass(frozen=True)
class World:
    """What all runs share; small enough to be handed to another process."""

    cache: Path
    data: Path
    images: int
    views: int
    epochs: int
    stores: dict[str, Path]

    @property
    def photos(self) -> Path:
        """The folder of the students' images."""
        return self.cache / f"photos-{self.images}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="five rows, one seed, few images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=6000, help="images that students see")
    parser.add_argument("--views", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--teacher-epochs", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's four .gz files")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "labelstore-benchmarks" / "fashion"
    )
    parser.add_argument("--jobs", type=int, help="runs at a time; one a core without a GPU")
    parser.add_argument("--out", type=Path, help="the JSON; the table and plot go beside it")
    options = parser.parse_args()
    if options.small:
        options.images, options.views, options.epochs = 2000, 32, 8
        options.seeds, options.teacher_epochs = 1, 1
        options.cache = options.cache / "small"
    options.cache = options.cache.resolve()
    options.cache.mkdir(parents=True, exist_ok=True)
    folder = options.data or fashion.fetch(options.cache)
    data = fashion.load(folder)
    teachers = fashion.train_teachers(options.cache, data, options.teacher_epochs)
    photos = fashion.place_photos(options.cache, data, options.images)
    stores = fashion.make_stores(options.cache, photos, options.views)
    world = World(options.cache, folder, options.images, options.views, options.epochs, stores)
    fashion.crops_of(options.cache, photos, labelstore.open(stores["residual"]))
    chosen = {
        table: [row for row in rows if not options.small or row.name in SMALL]
        for table, rows in ROWS.items()
    }
    runs = run_all(world, chosen, options.seeds, options.jobs)
    result = {
        "setting": {
            "images": options.images,
            "views": options.views,
            "views_per_image": VIEWS_PER_IMAGE,
            "batch": BATCH_IMAGES * VIEWS_PER_IMAGE,
            "epochs": options.epochs,
            "seeds": options.seeds,
            "scale": list(fashion.SCALE),
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "fine_tuning": FINE_TUNING,
            "device": fashion.DEVICE,
        },
        "teachers": {name: round(value, 4) for name, value in teachers.items()},
        "ferkd_shares": shares(world),
        "tables": {
            table: [distill_report.summarize(row, runs[row.name]) for row in rows]
            for table, rows in chosen.items()
            if rows
        },
        "online_against_offline": timing(world),
    }
    out = options.out or Path(__file__).parent / "results" / "distill.json"
    write_result("distill", result, out)
    distill_report.write(result, out)


def run_all(
    world: World, tables: dict[str, list[Row]], seeds: int, jobs: int | None
) -> dict[str, list[dict[str, Any]]]:
    """Results of every row and seed; those that are in the cache are not made again."""
    rows = [row for group in tables.values() for row in group]
    # Students that others start from come first.
    rows.sort(key=lambda row: (row.start != "scratch", row.name != "label smoothing"))
    wanted = [(row, seed) for row in rows for seed in range(seeds)]
    open_runs = [(row, seed) for row, seed in wanted if not file_of(world, row, seed).exists()]
    count = jobs or (1 if fashion.DEVICE == "cuda" else os.cpu_count() or 1)
    started, done = time.perf_counter(), 0
    for later in (False, True):
        part = [one for one in open_runs if (one[0].start != "scratch") == later]
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(count, context) as pool:
            futures = {pool.submit(run, world, row, seed): (row, seed) for row, seed in part}
            for future in concurrent.futures.as_completed(futures):
                row, seed = futures[future]
                found, done = future.result(), done + 1
                left = (time.perf_counter() - started) / done * (len(open_runs) - done)
                print(
                    f"[{done}/{len(open_runs)}, {left / 60:.0f} min left] {row.name}, seed {seed}: "
                    f"{found['accuracy']:.2%} in {found['seconds']:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
    return {
        row.name: [json.loads(file_of(world, row, seed).read_text()) for seed in range(seeds)]
        for row in rows
    }


def file_of(world: World, row: Row, seed: int) -> Path:
    """Where a run's result is kept: named by everything that it depends on."""
    what = {
        **asdict(row),
        "seed": seed,
        "world": [world.images, world.views, world.epochs],
        "stores": {name: labelstore.open(world.stores[name]).manifest.id for name in row.teachers},
        "training": [BATCH_IMAGES, VIEWS_PER_IMAGE, LEARNING_RATE, WEIGHT_DECAY, FINE_TUNING],
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    return world.cache / "runs" / f"{row.name.replace('/', '-').replace(' ', '_')}-{digest}.json"


def run(world: World, row: Row, seed: int) -> dict[str, Any]:
    """Train one student and keep what came out."""
    if fashion.DEVICE == "cpu":
        torch.set_num_threads(1)
    data = fashion.load(world.data)
    test = torch.from_numpy(data["test_images"].copy())
    truth = torch.from_numpy(data["test_labels"].astype(np.int64))
    model = student(world, row, seed)
    trainer = Trainer(world, row, seed, model)
    curve, seconds = [], 0.0
    for epoch in range(trainer.epochs):
        started = time.perf_counter()
        trainer.train(epoch)
        seconds += time.perf_counter() - started
        curve.append(round(fashion.accuracy(model, test, truth), 4))
    found = {
        "accuracy": curve[-1],
        "curve": curve,
        "seconds": round(seconds, 2),
        "steps": trainer.step,
        "seed": seed,
    }
    file = file_of(world, row, seed)
    file.parent.mkdir(exist_ok=True)
    torch.save(model.state_dict(), file.with_suffix(".pt"))
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.rename(file)
    return found


def student(world: World, row: Row, seed: int) -> torch.nn.Module:
    """A student at its start: untrained, or that of the row with label smoothing."""
    torch.manual_seed(seed)
    model = fashion.network("student").to(fashion.DEVICE)
    if row.start != "scratch":
        first = next(one for one in ROWS["Labels"] if one.name == "label smoothing")
        weights = file_of(world, first, seed).with_suffix(".pt")
        model.load_state_dict(torch.load(weights, weights_only=True, map_location=fashion.DEVICE))
    return model


class Trainer:
    """A row's training: which crops, with which labels."""

    def __init__(self, world: World, row: Row, seed: int, model: torch.nn.Module) -> None:
        self.row, self.model = row, model
        self.epochs = max(1, round(world.epochs * row.epochs))
        members = [labelstore.open(world.stores[name]) for name in row.teachers]
        self.reader = members[0] if len(members) == 1 else labelstore.ensemble(members)
        self.rule = None if row.ferkd is None else labelstore.FerKD(*row.ferkd)
        self.sampler = ViewSampler(
            self.reader,
            VIEWS_PER_IMAGE,
            seed=seed,
            ferkd=self.rule,
            schedule=row.schedule,
            epochs=self.epochs,
        )
        self.crops = fashion.crops_of(world.cache, world.photos, members[0])
        self.mixing = mixing_of(row.mixing, seed)
        self.teacher = None
        if row.labels == "online":
            os.environ[fashion.CACHE_VARIABLE] = str(world.cache)
            self.teacher = fashion.residual()[0].to(fashion.DEVICE).eval()
        self.batches = len(self.sampler) // BATCH_IMAGES
        rate = LEARNING_RATE * (1.0 if row.start == "scratch" else FINE_TUNING)
        self.optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=WEIGHT_DECAY)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, self.epochs * self.batches
        )
        self.step = 0

    def train(self, epoch: int, batches: int | None = None) -> None:
        """One epoch, or its first batches."""
        self.sampler.set_epoch(epoch)
        shows = list(self.sampler)[: (batches or self.batches) * BATCH_IMAGES]
        images = np.array([show.image for show in shows])
        views = np.array([show.views for show in shows])
        labels = self.labels(images, views)
        rows = torch.arange(len(shows) * VIEWS_PER_IMAGE)
        places = torch.from_numpy(images).repeat_interleave(VIEWS_PER_IMAGE)
        numbers = torch.from_numpy(views).reshape(-1)
        for batch in rows.split(BATCH_IMAGES * VIEWS_PER_IMAGE):
            x = fashion.as_input(self.crops[places[batch], numbers[batch]])
            loss = self.loss(x, None if labels is None else labels[batch].to(fashion.DEVICE))
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
        return soft_cross_entropy(self.model(x), labels)

    def labels(self, images: np.ndarray, views: np.ndarray) -> TorchSoftLabels | None:
        """Labels of the epoch's crops, read in one go; None for the teacher in the loop."""
        if self.row.labels == "online":
            return None
        truth = np.repeat(self.reader.targets[images], VIEWS_PER_IMAGE)
        if self.row.labels == "hard":
            labels = hard(truth, self.reader.num_classes)
        elif self.row.labels == "smoothing":
            labels = smooth(truth, self.reader.num_classes, 0.1)
        else:
            places = np.repeat(images, VIEWS_PER_IMAGE)
            topk = self.reader.read(places, views.reshape(-1))
            if self.rule is None:
                labels = topk.recover("uniform")
            else:
                labels = self.rule.apply(topk, truth, "uniform").labels
        return TorchSoftLabels.from_numpy(
            labels, target=truth, image=np.repeat(images, VIEWS_PER_IMAGE)
        )


def mixing_of(names: tuple[str, ...], seed: int) -> Any:
    """One of the named rules at each step; None without any."""
    rules = {
        "mixup": MixUp(alpha=0.8),
        "cutmix": CutMix(alpha=1.0),
        "selfmix-mixup": SelfMix("mixup", alpha=0.8),
        "selfmix-cutmix": SelfMix("cutmix", alpha=1.0),
    }
    return OneOf(tuple(rules[name] for name in names), seed=seed) if names else None


def shares(world: World) -> dict[str, dict[str, float]]:
    """What the paper's thresholds do with the stores' views, teacher by teacher."""
    found = {}
    for name, path in world.stores.items():
        decided = decisions(labelstore.open(path), labelstore.FerKD())
        counts = dataclasses.asdict(decided.counts[0].views)
        total = sum(counts.values())
        found[name] = {part: round(count / total, 4) for part, count in counts.items()}
    return found


def timing(world: World) -> dict[str, Any]:
    """Seconds of whole epochs with the teacher in the loop, with stored labels, with hard ones."""
    if fashion.DEVICE == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
    names = ("hard labels", "FKD", "online KD")
    trainers = {}
    for name in names:
        row = next(one for one in ROWS["Labels"] if one.name == name)
        long = dataclasses.replace(row, epochs=100.0)
        trainers[name] = Trainer(world, long, 0, student(world, row, 0))
    counters = dict.fromkeys(names, 0)

    def steps(name: str) -> None:
        counters[name] += 1
        trainers[name].train(counters[name])
        if fashion.DEVICE == "cuda":
            torch.cuda.synchronize()

    seconds = alternate({name: lambda name=name: steps(name) for name in names}, rounds=5)
    return {
        "steps": trainers["FKD"].batches,
        **{name: summary(values) for name, values in seconds.items()},
        "online_over_offline": round(ratio(seconds["online KD"], seconds["FKD"]), 3),
        "offline_over_hard_labels": round(ratio(seconds["FKD"], seconds["hard labels"]), 3),
    }


if __name__ == "__main__":
    main()
