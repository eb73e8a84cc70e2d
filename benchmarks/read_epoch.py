"""Reading one epoch of ImageNet's labels: 1,281,167 images, one view of each or four.

A store of synthetic top-10 labels in groups of four views (blocks repeat the labels of a few
thousand images with other class ids; each is compressed by itself). Its slab of one group is read,
decompressed and verified (``ready``), then every label of the epoch is read from it in random
order, 256 images at a time, decoded (``labels``). Cold: the page cache was asked to drop the files
(``posix_fadvise``); the hypervisor's cache cannot be dropped. ``raw`` reads the very same
compressed bytes and does nothing with them. Peers: ``benchmarks.support.peer_epochs``.

    python -m benchmarks.read_epoch                  # under 5 minutes, the store is kept in --cache
    python -m benchmarks.read_epoch --images 50000
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import labelstore
from benchmarks.support import epoch_report
from benchmarks.support.measuring import RESULTS, alternate, synthetic_labels, write_result
from benchmarks.support.peer_epochs import PEERS, floor
from labelstore.format import doubtful
from labelstore.format.arrays import array_digest, view_arrays
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.format.validity import label_problem
from labelstore.store.backends.zarr.shards import entry, index_bytes, parse_index
from labelstore.store.writer import StoreWriter
from labelstore.training.cycle import random_views
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES, VIEWS, GROUP, CLASSES, BLOCK = 1_281_167, 8, 4, 1000, 1024
TEMPLATE = 4
"""Blocks of different labels; the others are made of them."""

BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2, 8])
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "labelstore-benchmarks"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    path = options.cache / f"epoch-{options.images}x{VIEWS}-top{options.top_k}.zarr"
    build(path, options.images, options.top_k)
    result = measure(path, options)
    write_result("read_epoch", result, options.out)
    epoch_report.plot(result, (options.out or RESULTS / "read_epoch.json").with_suffix(".png"))


def template(k: int) -> tuple[np.ndarray, np.ndarray]:
    return synthetic_labels(TEMPLATE * BLOCK, VIEWS, k, CLASSES)


def block_labels(ids: np.ndarray, probs: np.ndarray, block: int, count: int) -> Any:
    """The labels of a block: other images of the template, with other class ids."""
    rng = np.random.default_rng(block)
    rows = rng.permutation(len(ids))[:count]
    return (ids[rows] + rng.integers(CLASSES)) % CLASSES, probs[rows]


def build(path: Path, images: int, k: int) -> None:
    """Make the store, or go on making it."""
    keys = [f"{image:08d}" for image in range(images)]
    targets = np.zeros(images, dtype=np.int32)
    manifest = Manifest(
        images, VIEWS, CLASSES, k, fingerprint(keys, targets), None,
        block_images=min(BLOCK, images), group_views=GROUP,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    ids, probs = template(k)
    with StoreWriter(path, manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            rows = manifest.block_slice(block)
            chosen = block_labels(ids, probs, block, rows.stop - rows.start)
            writer.write_block(block, BlockData(*chosen))
    print(f"{path} is there ({time.perf_counter() - start:.0f} s)", file=sys.stderr)


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time it all."""
    hashes = hash_keys([str(image) for image in range(options.images)])
    order = np.random.default_rng(0).permutation(options.images)
    shown = {
        count: random_views(
            hashes, 0, num_views=VIEWS, group_views=GROUP, views_per_image=count, seed=0
        )
        for count in (1, 4)
    }
    group = int(shown[1][0, 0]) // GROUP
    timed: dict[str, list[float]] = {}
    slab_bytes = bytes_per_label = 0.0
    for _ in range(options.rounds):
        for state in ("cold", "warm"):
            for what, task in (("raw", raw), ("ready", ready)):
                if state == "cold":
                    drop(path)
                seconds, found = task(path, group)
                timed.setdefault(f"{what}_{state}", []).append(seconds)
                if what == "ready":
                    slab_bytes, bytes_per_label, busy = found
                    timed.setdefault(f"ready_{state}_processor", []).append(busy)
                else:
                    compressed = found
    for count, views in shown.items():
        timed[f"labels_{count}"] = [labels(path, group, order, views) for _ in range(3)]
    median = {name: statistics.median(values) for name, values in timed.items()}
    epochs = {}
    for count in shown:
        whole = median["ready_warm"] + median[f"labels_{count}"]
        epochs[f"{count} view{'s' * (count > 1)}"] = {
            "slab_ready_s": {"cold": median["ready_cold"], "warm": median["ready_warm"]},
            "slab_ready_warm_processor_s": median["ready_warm_processor"],
            "every_label_decoded_s": median[f"labels_{count}"],
            "whole_s": whole,
            "labels_per_second": options.images * count / whole,
        }
    return {
        "setting": {
            "images": options.images, "k": options.top_k, "group_views": GROUP,
            "block_images": BLOCK, "labels": "synthetic, seed 0", "quantizer": "u8",
        },
        "seconds": timed,
        "group_of_views": {
            "compressed_bytes": compressed,
            "slab_bytes": slab_bytes,
            "slab_bytes_per_label": bytes_per_label,
            "labels": options.images * GROUP,
            "cold_against_raw": round(median["ready_cold"] / median["raw_cold"], 2),
            "warm_against_raw": round(median["ready_warm"] / median["raw_warm"], 2),
        },
        "epochs": epochs,
        "shares_of_reading": shares(path, group),
        "memory_per_worker": [memory(path, workers) for workers in options.workers],
        "peers": peers(options, order, shown, group),
    }  # fmt: skip


def drop(path: Path) -> None:
    """Ask the system to forget the files."""
    for file in path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def raw(path: Path, group: int) -> tuple[float, int]:
    """Read the compressed bytes of a group of views; seconds and bytes."""
    arrays = [path / "labels" / name / "c" for name in ("top_prob", "classes", "rest_probs")]
    files = [file for array in arrays for file in sorted(array.rglob("*")) if file.is_file()]
    start = time.perf_counter()
    total, count = 0, -(-VIEWS // GROUP)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            end = opened.seek(0, 2) - index_bytes(count)
            opened.seek(end)
            found = entry(parse_index(opened.read(index_bytes(count))), group, end, end)
            if found is not None:
                opened.seek(found[0])
                total += len(opened.read(found[1]))
    return time.perf_counter() - start, total


def ready(path: Path, group: int) -> tuple[float, tuple[int, float, float]]:
    """Open the store and bring a group of views into memory, verified.

    Seconds, and the slab's bytes, its bytes a label, and the processor's seconds on all cores:
    half of them at least on two cores, where nothing else runs.
    """
    start, busy = time.perf_counter(), time.process_time()
    slab = labelstore.open(path).slab(group)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    size = slab.nbytes, slab.bytes_per_label, busy
    slab.close()
    return seconds, size


def labels(path: Path, group: int, order: np.ndarray, shown: np.ndarray) -> float:
    """Read every label of an epoch from the slab."""
    store = labelstore.open(path)
    slab = store.slab(group)
    start = time.perf_counter()
    for place in range(0, len(order), BATCH):
        rows = order[place : place + BATCH]
        store.read(rows[:, None], shown[rows])
    seconds = time.perf_counter() - start
    slab.close()
    return seconds


def shares(path: Path, group: int) -> dict[str, float]:
    """Share of the processor's time of reading a group that its digests, checksums and checks take,
    and how much the checks would if NumPy looked at every label."""
    import google_crc32c

    store = labelstore.open(path)
    manifest, specs = store.manifest, view_arrays(store.manifest)
    blocks = [(block, group) for block in range(min(manifest.num_blocks, 256))]
    found = list(store.reader.read_chunks(blocks))

    def digests() -> None:
        for (block, _), codes in zip(blocks, found, strict=True):
            for spec in specs:
                array_digest(manifest.id, spec.name, block, group, codes[spec.name])

    def checksums() -> None:
        data = b"0" * 30000
        for _ in range(len(blocks) * len(specs)):
            google_crc32c.value(data)

    def checks() -> None:
        for codes in found:
            images = len(codes["labels/top_prob"])
            lists, unreadable = np.empty((images, 0), np.uint16), np.zeros(images, dtype=bool)
            label_problem(codes, specs, lists, unreadable, manifest)

    def checks_by_numpy() -> None:
        compiled, doubtful._compiled = doubtful._compiled, lambda: None
        try:
            checks()
        finally:
            doubtful._compiled = compiled

    def reading() -> None:
        for _ in store.reader.read_chunks(blocks):
            pass

    tasks = [reading, digests, checksums, checks, checks_by_numpy]
    timed = alternate({task.__name__: task for task in tasks}, 5, clock=time.process_time)
    medians = {name: statistics.median(values) for name, values in timed.items()}
    whole = medians.pop("reading")
    return {name: seconds / whole for name, seconds in medians.items()}


class Reading(torch.utils.data.Dataset):
    """Labels alone."""

    def __init__(self, path: Path, slab_bytes: int) -> None:
        self.store = labelstore.open(path, slab_bytes=slab_bytes)

    def __len__(self) -> int:
        return self.store.num_images

    def __getitems__(self, images: list[int]) -> int:
        rows = np.array(images)
        return len(self.store.read(rows[:, None], np.arange(GROUP)).probs)


class Idle(torch.utils.data.Dataset):
    """Nothing: what a worker takes by itself."""

    def __len__(self) -> int:
        return 64 * BATCH

    def __getitems__(self, images: list[int]) -> int:
        return len(images)


def memory(path: Path, workers: int) -> dict[str, Any]:
    """Proportional set sizes, MiB, in the middle of an epoch of four views."""
    found: dict[str, Any] = {"workers": workers}
    for name, slab_bytes in (("idle", None), ("slab", 2**31), ("chunks", 0)):
        data: Any = Idle() if slab_bytes is None else Reading(path, slab_bytes)
        if slab_bytes:
            data.store.slabs.read_ahead([0])
            data.store.slabs.wait([0])
        loader = torch.utils.data.DataLoader(
            data, BATCH, shuffle=True, num_workers=workers, collate_fn=lambda count: count
        )
        batches = iter(loader)
        for _ in range(min(len(loader) // 2, 32 * max(workers, 1) + 32)):
            next(batches)
        children = [child.pid for child in multiprocessing.active_children()]
        pids = children or [os.getpid()]
        found[f"{name}_mib"] = round(statistics.mean(pss(pid) for pid in pids) / 2**20, 1)
        found[f"{name}_all_mib"] = round(sum(map(pss, {*children, os.getpid()})) / 2**20, 1)
        del batches, loader
        if slab_bytes is not None:
            data.store.slabs.close()
        del data
        gc.collect()
    return found


def pss(pid: int) -> int:
    """Bytes of a process's proportional set size: shared pages count by their share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])


def peers(
    options: argparse.Namespace, order: np.ndarray, shown: dict[int, np.ndarray], group: int
) -> dict[str, Any]:
    """The same labels as others hold them."""
    source = template(options.top_k)
    rows = np.random.default_rng(1).integers(0, len(source[0]), options.images)
    view_slice = slice(group * GROUP, (group + 1) * GROUP)
    held = tuple(part[:, view_slice][rows] for part in source)
    tasks: dict[str, Callable[..., Any]] = {"memory map (floor)": floor, **PEERS}
    found: dict[str, Any] = {}
    for name, task in tasks.items():
        row: dict[str, Any] = {}
        for count, views in shown.items():
            with tempfile.TemporaryDirectory(dir=options.cache) as folder:
                try:
                    row[f"{count}_views"] = task(Path(folder), held, order, views % GROUP)
                except ImportError as error:
                    row = {"not_measured": str(error)}
                    break
        found[name] = row
        print(name, row, file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
