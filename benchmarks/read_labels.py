"""Reading the labels of training batches: labelstore against one ``torch.load`` a photo.

The same labels lie in a store and in one file an image, as FKD keeps them (``files``: a pickled
list of float32 boxes, flips, and the class ids stacked with the probabilities as float32, of all
views together) and as ml-dr does (``ml_dr``: a pickled list of parameters, probabilities and class
ids a view). A batch is 256 images x 4 views, as (1024, k) ids and probabilities. ``scheduled``: an
epoch's images in random order with the views that the schedule shows; the time of first reading
each chunk is part of it. ``slab``: likewise, the epoch's slab being made first. ``random``: any
images, any views, with the reader's cache warm and cold. ``materialized``: the same from a decoded
copy, every label of which has been read before; ``materialized_cold``: newly opened. ``units_...``:
the same labels in units (``labelstore recode --layout units``).

    python -m benchmarks.read_labels
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import labelstore
from benchmarks.support.measuring import (
    alternate,
    ratio,
    size_of,
    summary,
    synthetic_labels,
    write_result,
)
from labelstore.operations.materialize import materialize
from labelstore.operations.recode import recode
from labelstore.training.cycle import random_views
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH, SHOWN = 256, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--views", type=int, default=128)
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--block-images", type=int, default=1024, help="as in a large data set")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    write_result("read_labels", result, options.out)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make both stores, check that they agree, time both."""
    ids, probs = synthetic_labels(options.images, options.views, options.top_k, 1000)
    path = folder / "store.zarr"
    labelstore.write(path, ids, probs, num_classes=1000, block_images=options.block_images)
    files = write_files(folder / "files", ids, probs)
    pickles = write_pickles(folder / "pickles", ids[:512], probs[:512])
    materialize(labelstore.open(path), folder / "copy")
    units = folder / "units.zarr"
    recode(path, units, layout="units")
    batches = epoch(options.images, options.views, seed=0)
    anywhere = scattered(options.images, options.views, len(batches))
    store, copy = labelstore.open(path), labelstore.open(folder / "copy")
    in_units = labelstore.open(units)

    mine, theirs = read_store(store, *batches[0]), read_files(files, *batches[0])
    if not np.array_equal(mine[0], theirs[0]) or np.abs(mine[1] - theirs[1]).max() > 0.02:
        raise SystemExit("the two readers disagree: the benchmark would be worth nothing")

    def run(read: Any, source: Any, work: list[Any]) -> Callable[[], object]:
        def task() -> None:
            opened = source()
            for images, views in work:
                read(opened, images, views)

        return task

    part = max(1, len(batches) // 8)
    for images, views in anywhere:
        store.read(images[:, None], views)
        in_units.read(images[:, None], views)
    copy.read(np.arange(options.images)[:, None], np.arange(0, options.views, 4))
    few = [(images % 512, views) for images, views in batches[:part]]

    def slab() -> Any:
        opened = labelstore.open(path)
        opened.slab(int(batches[0][1].min()) // 4)
        return opened

    tasks = {
        "scheduled": run(read_store, lambda: labelstore.open(path), batches),
        "random_warm": run(read_store, lambda: store, anywhere[:part]),
        "random_cold": run(read_store, lambda: labelstore.open(path), anywhere[:1]),
        "units_warm": run(read_store, lambda: in_units, anywhere[:part]),
        "units_cold": run(read_store, lambda: labelstore.open(units), anywhere[:1]),
        "slab": run(read_store, slab, batches),
        "materialized": run(read_store, lambda: copy, anywhere),
        "materialized_cold": run(
            read_store, lambda: labelstore.open(folder / "copy"), anywhere[:1]
        ),
        "files": run(read_files, lambda: files, batches[:part]),
        "ml_dr": run(read_pickles, lambda: pickles, few[:1]),
    }
    seconds = alternate(tasks, options.rounds)
    counts = dict.fromkeys(tasks, 1) | {
        "scheduled": len(batches),
        "slab": len(batches),
        "materialized": len(anywhere),
        "random_warm": part,
        "units_warm": part,
        "files": part,
    }
    per_batch = {name: [s / counts[name] for s in times] for name, times in seconds.items()}
    crops = options.images * options.views
    return {
        "setting": {
            "images": options.images,
            "views": options.views,
            "k": options.top_k,
            "block_images": options.block_images,
            "batch": f"{BATCH} images x {SHOWN} views",
            "labels": "synthetic, seed 0",
        },
        "per_batch": {name: summary(times) for name, times in per_batch.items()},
        "times_faster_than_files": {
            name: round(ratio(per_batch["files"], per_batch[name]), 1)
            for name in tasks
            if name not in ("files", "ml_dr")
        },
        "times_faster_than_ml_dr": {
            name: round(ratio(per_batch["ml_dr"], per_batch[name]), 1)
            for name in tasks
            if name not in ("files", "ml_dr")
        },
        "bytes_per_crop": {
            "store": size_of(path) / crops,
            "units": size_of(units) / crops,
            "files": size_of(folder / "files") / crops,
            "materialized": size_of(folder / "copy") / crops,
        },
    }


def epoch(images: int, views: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The batches of one epoch: images in random order, the views that the schedule shows."""
    hashes = hash_keys([str(image) for image in range(images)])
    shown = random_views(
        hashes, 0, num_views=views, group_views=4, views_per_image=SHOWN, seed=seed
    )
    order = np.random.default_rng(seed).permutation(images)
    return [
        (order[start : start + BATCH], shown[order[start : start + BATCH]])
        for start in range(0, images - BATCH + 1, BATCH)
    ]


def scattered(images: int, views: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of any images and any views."""
    rng = np.random.default_rng(1)
    return [
        (rng.integers(0, images, BATCH), rng.integers(0, views, (BATCH, SHOWN)))
        for _ in range(count)
    ]


def read_store(store: Any, images: np.ndarray, views: np.ndarray) -> tuple[Any, Any]:
    """A batch from a store: (256, 4, k) ids and probabilities."""
    topk = store.read(images[:, None], views)
    return topk.indices, topk.probs


def write_files(
    folder: Path, ids: np.ndarray, probs: np.ndarray, kind: Any = np.float32
) -> list[Path]:
    """One file an image, of all its views, with floats of a kind."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = []
    for image in range(len(ids)):
        views = ids.shape[1]
        boxes = torch.from_numpy(rng.random((views, 4)).astype(kind))
        flips = torch.from_numpy(rng.random(views) < 0.5)
        stacked = np.stack([ids[image].astype(kind), probs[image].astype(kind)], axis=1)
        labels = torch.from_numpy(stacked)
        paths.append(folder / f"{image}.tar")
        torch.save([boxes, flips, labels], paths[-1])
    return paths


def read_files(paths: list[Path], images: np.ndarray, views: np.ndarray) -> tuple[Any, Any]:
    """A batch from the files: each is loaded whole for its few views."""
    labels = np.stack(
        [
            torch.load(paths[image], weights_only=True)[2][torch.from_numpy(row)].numpy()
            for image, row in zip(images, views, strict=True)
        ]
    )
    return labels[:, :, 0].astype(np.int64), labels[:, :, 1]


def write_pickles(folder: Path, ids: np.ndarray, probs: np.ndarray) -> list[Path]:
    """One file an image, of Python lists of all its views."""
    folder.mkdir()
    paths = []
    for image in range(len(ids)):
        samples = [
            {"params": [(0, 0, 224, 224), (False,)], "prob": (values, classes)}
            for values, classes in zip(probs[image].tolist(), ids[image].tolist(), strict=True)
        ]
        paths.append(folder / f"{image}.pth.tar")
        torch.save((image, samples), paths[-1], pickle_protocol=4)
    return paths


def read_pickles(paths: list[Path], images: np.ndarray, views: np.ndarray) -> tuple[Any, Any]:
    """A batch from the pickles."""
    ids, probs = [], []
    for image, row in zip(images, views, strict=True):
        # These files were just written here.
        samples = torch.load(paths[image], weights_only=False)[1]
        probs.append([samples[view]["prob"][0] for view in row])
        ids.append([samples[view]["prob"][1] for view in row])
    return np.array(ids), np.array(probs, dtype=np.float32)


if __name__ == "__main__":
    main()
