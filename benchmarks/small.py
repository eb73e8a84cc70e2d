"""Small and middle stores: labelstore beside FKD's and TinyViT's files, in one process.

600 images x 500 views, top 5: how long writing takes, how many bytes there are, how long a random
batch of 256 images x 4 views takes after ten batches, and one label a call, of chunks that have
been read. FKD's files are loaded whole for a label; TinyViT's are held open, a record is sought in
the file of its view, and read. ``lists``: labelstore with a list of likely classes an image.

100,000 images, one view, top 10: writing alone. TinyViT's own code writes a record at a time
(``tinyvit``); ``tinyvit_at_once`` is one write of an array, which it has not.

10,000 images, one view, all 1,000 classes: writing alone, by labelstore.

Seconds are the process's own (``time.process_time``, all threads), so that neighbours on the
machine do not count; ``wall_s`` is by the clock, with waiting for the disk: labelstore waits until
labels are on it, the others do not.

    python -m benchmarks.small
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import labelstore
from benchmarks.support.measuring import size_of, synthetic_labels, write_result
from benchmarks.support.peer_files import PEERS, Labels

if TYPE_CHECKING:
    from collections.abc import Callable

    Task = Callable[[], object]

BATCH, SHOWN, CLASSES, WARM_BATCHES = 256, 4, 1000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--views", type=int, default=500)
    parser.add_argument("--many", type=int, default=100_000, help="images with one view")
    parser.add_argument("--dense", type=int, default=10_000, help="images with all classes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "setting": {
                "images": options.images,
                "views": options.views,
                "k": 5,
                "batch": f"{BATCH} images x {SHOWN} views",
                "labels": "synthetic, seed 0",
                "seconds": "process time",
            },
            **measure(Path(folder), options.images, options.views, options.rounds),
            "one_view_top_10": write_many(Path(folder), options.many, options.rounds),
            "all_classes": write_dense(Path(folder), options.dense),
        }
    write_result("small", result, options.out)


def measure(folder: Path, images: int, views: int, rounds: int) -> dict[str, Any]:
    """Write all three, check that they agree, read from them in turns."""
    ids, probs = synthetic_labels(images, views, 5, CLASSES)
    means = np.full((images, CLASSES), 1e-4)
    np.put_along_axis(means, ids[:, 0].astype(np.int64), 0.15, axis=1)
    writers: dict[str, Callable[[Path], object]] = {
        "labelstore": lambda path: labelstore.write(path, ids, probs, CLASSES),
        "lists": lambda path: labelstore.write(path, ids, probs, CLASSES, means=means),
        "fkd": lambda path: write_fkd(path, ids, probs),
        "tinyvit": lambda path: write_tinyvit(path, ids, probs),
    }
    written = timed_writes(folder, writers, rounds)
    stores = {name: labelstore.open(folder / name) for name in ("labelstore", "lists")}
    handles = [file.open("rb") for file in tinyvit_files(folder / "tinyvit", views)]
    try:
        readers = {
            **{name: store_reader(store) for name, store in stores.items()},
            "fkd": fkd_reader(folder / "fkd"),
            "tinyvit": tinyvit_reader(handles),
        }
        rng = np.random.default_rng(1)
        work = [
            (rng.integers(0, images, BATCH), rng.integers(0, views, (BATCH, SHOWN)))
            for _ in range(WARM_BATCHES)
        ]
        check(readers, work[0], ids)
        return {
            "systems": {
                name: {
                    "write_s": written[name]["process_s"],
                    "write_wall_s": written[name]["wall_s"],
                    "bytes": size_of(folder / name),
                }
                for name in readers
            },
            **reads(readers, work, rounds),
        }
    finally:
        for handle in handles:
            handle.close()


def timed_writes(
    folder: Path, writers: dict[str, Callable[[Path], object]], rounds: int
) -> dict[str, dict[str, float]]:
    """Medians of seconds of each writer, which take turns; what was written last stays."""
    process: dict[str, list[float]] = {name: [] for name in writers}
    wall: dict[str, list[float]] = {name: [] for name in writers}
    for _ in range(rounds):
        for name, write in writers.items():
            folder.mkdir(exist_ok=True)
            shutil.rmtree(folder / name, ignore_errors=True)
            start, clock = time.process_time(), time.perf_counter()
            write(folder / name)
            process[name].append(time.process_time() - start)
            wall[name].append(time.perf_counter() - clock)
    return {
        name: {
            "process_s": statistics.median(process[name]),
            "wall_s": statistics.median(wall[name]),
        }
        for name in writers
    }


Reader = tuple["Callable[[Any, Any], Any]", "Callable[[int, int], Any]"]
"""What reads the class ids of a batch (images, (images, views)), and what reads one label."""


def store_reader(store: Any) -> Reader:
    """labelstore's own calls."""
    return lambda images, views: store.read(images[:, None], views).indices, store.read


def fkd_reader(folder: Path) -> Reader:
    """A file is loaded whole."""

    def one(image: int, view: int) -> np.ndarray:
        # These files were just written here; arrays among tensors need the unrestricted loader.
        label = torch.load(folder / f"{image}.tar", weights_only=False)[2]
        return np.asarray(label[torch.as_tensor(view)])

    def batch(images: Any, views: Any) -> np.ndarray:
        return np.stack([one(i, row)[:, 0] for i, row in zip(images, views, strict=True)])

    return batch, one


def tinyvit_reader(handles: list[Any]) -> Reader:
    """A record is sought and read, as its ``TxtReader`` does, and its bytes told apart."""
    record = _record(5)

    def one(image: int, view: int) -> tuple[np.ndarray, np.ndarray]:
        handle = handles[view]
        handle.seek(image * record.itemsize)
        data = handle.read(record.itemsize)
        return np.frombuffer(data[4:14], "<i2"), np.frombuffer(data[14:], "<f2")

    def batch(images: Any, views: Any) -> np.ndarray:
        pairs = zip(images.tolist(), views.tolist(), strict=True)
        return np.stack([[one(image, view)[0] for view in row] for image, row in pairs])

    return batch, one


def check(readers: dict[str, Reader], work: tuple[Any, Any], ids: np.ndarray) -> None:
    """The largest classes, which are those that every file holds exactly, are the same."""
    images, views = work
    expected = ids[images[:, None], views][..., 0]
    for name, (batch, _) in readers.items():
        if not np.array_equal(np.asarray(batch(images, views))[..., 0], expected):
            raise SystemExit(f"{name} reads other labels: the benchmark would be worth nothing")


def reads(readers: dict[str, Reader], work: list[Any], rounds: int) -> dict[str, Any]:
    """Seconds of a batch and of a label, and how many times faster than the peers' they are."""
    for batch, _ in readers.values():
        for entry in work:
            batch(*entry)
    places = [
        (int(i), int(v[0])) for images, views in work for i, v in zip(images, views, strict=True)
    ]
    batches: dict[str, Task] = {}
    labels: dict[str, Task] = {}
    few = {"fkd": 50}
    for name, (batch, one) in readers.items():
        batches[name] = lambda batch=batch: batch(*work[0])  # type: ignore[misc]
        some = places[: few.get(name, 1000)]
        labels[name] = lambda one=one, some=some: [one(*place) for place in some]  # type: ignore[misc]
    of_batch, of_label = in_turns(batches, rounds), in_turns(labels, rounds)
    per_label = {name: [s / few.get(name, 1000) for s in of_label[name]] for name in labels}
    return {
        "batch_s": {name: statistics.median(times) for name, times in of_batch.items()},
        "label_us": {name: statistics.median(t) * 1e6 for name, t in per_label.items()},
        "label_us_least": {name: min(t) * 1e6 for name, t in per_label.items()},
        "batch_times_faster_than_fkd": against(of_batch, "fkd"),
        "batch_times_faster_than_tinyvit": against(of_batch, "tinyvit"),
        "label_times_faster_than_fkd": against(per_label, "fkd"),
        "label_times_faster_than_tinyvit": against(per_label, "tinyvit"),
    }


def in_turns(tasks: dict[str, Task], rounds: int) -> dict[str, list[float]]:
    """Process seconds of each task in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(2 * rounds):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            seconds[name].append(time.process_time() - start)
    return seconds


def against(seconds: dict[str, list[float]], peer: str) -> dict[str, float]:
    """How many times faster than a peer: the median over rounds, paired by round."""
    return {
        name: statistics.median(
            theirs / mine for theirs, mine in zip(seconds[peer], seconds[name], strict=True)
        )
        for name in ("labelstore", "lists")
    }


def write_many(folder: Path, images: int, rounds: int) -> dict[str, Any]:
    """One view of many images."""
    ids, probs = synthetic_labels(images, 1, 10, CLASSES)
    labels = Labels(
        ids, probs, np.zeros((images, 1, 4), int), np.zeros((images, 1), bool), (1, 1), CLASSES
    )
    (peer,) = (peer for peer in PEERS if peer.name == "TinyViT top-10")

    def at_once(path: Path) -> None:
        path.mkdir()
        peer.write(path, labels)

    writers: dict[str, Callable[[Path], object]] = {
        "labelstore": lambda path: labelstore.write(path, ids, probs, CLASSES),
        "tinyvit": lambda path: write_tinyvit(path, ids, probs),
        "tinyvit_at_once": at_once,
    }
    written = timed_writes(folder / "many", writers, rounds)
    return {
        "images": images,
        **{name: row | {"bytes": size_of(folder / "many" / name)} for name, row in written.items()},
    }


def write_dense(folder: Path, images: int) -> dict[str, Any]:
    """All classes of one view of each image, in the finest and the default codes."""
    z = np.random.default_rng(0).normal(size=(images, 1, CLASSES)) * 3
    p = np.exp(z)
    p /= p.sum(axis=-1, keepdims=True)
    ids = np.argsort(-p, axis=-1)
    probs = np.take_along_axis(p, ids, -1).astype(np.float32)
    writers: dict[str, Callable[[Path], object]] = {
        name: lambda path, name=name: labelstore.write(  # type: ignore[misc]
            path, ids, probs, CLASSES, quantizer=name
        )
        for name in ("u8", "fp32")
    }
    return {"images": images, **timed_writes(folder / "dense", writers, 2)}


def write_fkd(path: Path, ids: np.ndarray, probs: np.ndarray) -> None:
    """As FKD's script: boxes, flips and labels of all views, as float32."""
    path.mkdir()
    views = ids.shape[1]
    boxes, flips = np.zeros((views, 4), np.float32), np.zeros(views, bool)
    for image in range(len(ids)):
        stacked = np.stack([ids[image], probs[image]], axis=1).astype(np.float32)
        torch.save([boxes, flips, torch.from_numpy(stacked)], path / f"{image}.tar")


def write_tinyvit(path: Path, ids: np.ndarray, probs: np.ndarray) -> None:
    """As TinyViT's ``TxtWriter``: a key and a record at a time, an epoch's files at a time."""
    path.mkdir(parents=True)
    for view, file in enumerate(tinyvit_files(path, ids.shape[1])):
        file.parent.mkdir()
        keys = file.with_name("rank0-keys.txt")
        with file.open("wb") as values, keys.open("w") as names:
            for image in range(len(ids)):
                names.write(f"{image}\n")
                values.write(np.int32(image).tobytes())
                values.write(ids[image, view].astype("<i2").tobytes())
                values.write(probs[image, view].astype("<f2").tobytes())


def tinyvit_files(folder: Path, views: int) -> list[Path]:
    """The file of values of each view."""
    return [folder / f"logits_epoch{view}" / "rank0-values.bin" for view in range(views)]


def _record(k: int) -> np.dtype[Any]:
    return np.dtype([("seed", "<i4"), ("ids", "<i2", (k,)), ("probs", "<f2", (k,))])


if __name__ == "__main__":
    main()
