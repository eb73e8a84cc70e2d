"""A layout for random access: labels in units that are read alone, against today's chunks.

The same labels lie in a store in chunks, in stores in units (decision 24) and, of the images that
are read, in one file an image as FKD keeps them. A batch is 256 images x 4 views at random.
``cold``: newly opened, one thread, the files in the page cache; opening the store is part of it.
``warm``: the same batch again. ``slab``: a group of views of all images. ``verify``: whole blocks.
``plane``: the largest probabilities of whole blocks. The last three are read and compared with
digests, labels are not checked in either; opening is no part of them. ``numpy``: without the
compiled part.

``alone``: what chunks of some images x views take at the least for the batch: decompressing them,
checksums and digests, with opening, reading and Python free.

Seconds are the processor's, the tasks take turns, and ratios are those of one round.

    python -m benchmarks.units
    python -m benchmarks.units --store STORE
    python -m benchmarks.units --cost --units 16 --store STORE
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import torch
import xxhash
from numcodecs import blosc

import labelstore
from benchmarks.read_labels import BATCH, SHOWN, read_files, write_files
from benchmarks.support.measuring import (
    alternate,
    ratio,
    size_of,
    synthetic_labels,
    write_result,
)
from labelstore.format.arrays import view_arrays
from labelstore.format.units import unit_code, unit_digests
from labelstore.store.backends.zarr.arrays import level_of
from labelstore.store.rewrite import write_selection
from labelstore.store.selection import Selection
from labelstore.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable

VIEWS = 128
"""Of the synthetic stores."""

CHUNKS = ((1024, 4), (1024, 1), (256, 4), (256, 1), (64, 4), (64, 1), (16, 4))
"""Images x views of the chunks that are decompressed alone."""

BLOCKS = 4
"""Blocks that ``verify`` and ``plane`` read, at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, action="append", default=[], help="of real labels")
    parser.add_argument(
        "--units", type=int, nargs="+", default=[4, 16, 64], help="images of a unit"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, nargs="+", default=[8192, 32768], help="synthetic")
    parser.add_argument(
        "--cost", action="store_true", help="both layouts alone: no FKD, other chunks or NumPy"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for images in () if options.store else options.images:
            path = Path(folder, f"{images}x{VIEWS}.zarr")
            labelstore.write(path, *labels_of(images, VIEWS), num_classes=1000, block_images=1024)
            results[path.stem] = measure(path, Path(folder, f"units-{images}"), options)
        for number, path in enumerate(options.store):
            results[path.stem] = measure(path, Path(folder, f"units-of-{number}"), options)
    write_result("units_cost" if options.cost else "units", {"stores": results}, options.out)


def labels_of(images: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic top-5 labels, made in parts."""
    parts = [synthetic_labels(4096, views, 5, 1000, seed) for seed in range(-(-images // 4096))]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def measure(path: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Bytes and times of one store's labels in both layouts."""
    folder.mkdir()
    store = labelstore.open(path)
    # One thread, as the other readers have.
    type(store._reader).threads = property(lambda _: 1)  # type: ignore[method-assign,assignment]
    manifest = store.manifest
    rng = np.random.default_rng(1)
    images = rng.integers(0, manifest.num_images, BATCH)
    views = rng.integers(0, manifest.num_views, (BATCH, SHOWN))
    every, where = np.unique(images, return_inverse=True)
    topk = store.read(every[:, None], np.arange(manifest.num_views))
    paths = [] if options.cost else write_files(folder / "files", topk.indices, topk.probs)
    expected = store.read(images[:, None], views)
    crops = manifest.num_images * manifest.num_views
    today = sum(size_of(path / spec.name) for spec in view_arrays(manifest))
    tasks: dict[str, Callable[[], object]] = {
        "fkd": lambda: read_files(paths, where, views),
        "open": lambda: labelstore.open(path),
        **of_store(store, images, views),
    }
    bytes_per_crop = {"store": today / crops}
    for unit_images in options.units:
        name = f"units of {unit_images}"
        start = time.process_time()
        units = in_units(store, folder / f"of-{unit_images}.zarr", unit_images)
        print(f"{path.name}: {name} in {time.process_time() - start:.1f} s")
        bytes_per_crop[name] = units.bytes_by_part()["labels/units"] / crops
        topk = units.read(images[:, None], views)
        if not np.array_equal(topk.indices, expected.indices):
            raise SystemExit("the two layouts disagree: the benchmark would be worth nothing")
        tasks |= {f"{name}: {k}": task for k, task in of_store(units, images, views).items()}
    if options.cost:
        del tasks["fkd"]
    for shape in () if options.cost else CHUNKS:
        name = "{} x {} alone".format(*shape)
        chunks = chunks_of(store, images, views, shape)
        bytes_per_crop[name] = chunks.bytes_per_crop
        tasks[name] = chunks.decompress
    numpy = f"units of {options.units[len(options.units) // 2]}"
    for what in () if options.cost else ("cold", "slab"):
        tasks[f"{numpy}: {what}, numpy"] = without_compiled(tasks[f"{numpy}: {what}"])
    seconds = alternate(tasks, options.rounds, clock=time.process_time)
    labels = {
        "slab": manifest.num_images * manifest.group_views,
        "verify": len(blocks_of(store)) * manifest.block_images * manifest.num_views,
    }
    labels["plane"] = labels["verify"]
    return {
        "setting": {
            "images": manifest.num_images,
            "views": manifest.num_views,
            "k": manifest.k,
            "quantizer": manifest.quantizer,
            "list": manifest.prior_size,
            "block_images": manifest.block_images,
            "group_views": manifest.group_views,
        },
        "bytes_per_crop_without_lists": {k: round(v, 3) for k, v in bytes_per_crop.items()},
        "ms": {name: round(1e3 * float(np.median(s)), 2) for name, s in seconds.items()},
        "ns_per_label": {
            name: round(1e9 * float(np.median(s)) / labels[kind], 1)
            for name, s in seconds.items()
            for kind in labels
            if kind in name
        },
        "times_faster_than_fkd": {
            name: round(ratio(seconds["fkd"], s), 1)
            for name, s in seconds.items()
            if "fkd" in seconds and ("cold" in name or "warm" in name or "alone" in name)
        },
        "times_of_chunks": {
            f"{name}: {kind}": round(ratio(seconds[f"{name}: {kind}"], seconds[kind]), 2)
            for name in (f"units of {images}" for images in options.units)
            for kind in ("cold", "warm", "slab", "verify", "plane")
        },
    }


@dataclass(frozen=True)
class Chunks:
    """Compressed chunks of all arrays, as they are stored, that a batch is in."""

    data: list[bytes]
    bytes_per_crop: float

    def decompress(self) -> None:
        """All that compressed bytes need to be labels, but for their digests' comparison."""
        for data in self.data:
            google_crc32c.value(data)
            xxhash.xxh3_64_intdigest(blosc.decompress(data))


def chunks_of(store: Any, images: Any, views: Any, shape: tuple[int, int]) -> Chunks:
    """The chunks of some images x views that a batch would be in, were the store of such."""
    manifest = store.manifest
    rows, columns = shape
    many = -(-manifest.num_views // columns)
    numbers = np.unique(images[:, None] // rows * many + views // columns)
    data, crops, stored = [], 0, 0
    for number in numbers.tolist():
        row, column = divmod(number, many)
        there = np.arange(row * rows, min((row + 1) * rows, manifest.num_images))
        shown = np.arange(column * columns, min((column + 1) * columns, manifest.num_views))
        places = (part.ravel() for part in np.meshgrid(there, shown, indexing="ij"))
        crops += len(there) * len(shown)
        for name, codes in store._reader.gather(*places).items():
            level = level_of(name, manifest)
            shuffle = blosc.SHUFFLE if codes.itemsize > 1 else blosc.NOSHUFFLE
            data.append(blosc.compress(np.ascontiguousarray(codes), b"zstd", level, shuffle))
            # A checksum, and a place in the index.
            stored += len(data[-1]) + 4 + 16
    return Chunks(data, stored / crops)


def in_units(store: Any, path: Path, unit_images: int) -> Any:
    """A finished store's labels in units of some images."""
    manifest = dataclasses.replace(store.manifest, unit_images=unit_images)
    with StoreWriter(path, manifest, store.keys, store.targets) as writer:
        write_selection(writer, Selection.of_store(store))
    return labelstore.open(path)


def of_store(store: Any, images: Any, views: Any) -> dict[str, Callable[[], object]]:
    """The tasks of either layout: a batch, a slab, and whole blocks."""
    manifest, reader = store.manifest, store._reader
    blocks, groups = blocks_of(store), range(manifest.num_groups)

    def compare(places: list[tuple[int, int]]) -> None:
        for _ in reader._verified_chunks(places, units=True):
            pass

    return {
        "cold": lambda: labelstore.open(store.path).read(images[:, None], views),
        "warm": lambda: store.read(images[:, None], views),
        "slab": lambda: compare([(block, 0) for block in range(manifest.num_blocks)]),
        "verify": lambda: [compare([(block, group) for group in groups]) for block in blocks],
        "plane": lambda: [0 for _ in reader.top_probs_of(blocks)],
    }


def blocks_of(store: Any) -> range:
    """Blocks that are read whole, some of the store's."""
    return range(0, store.manifest.num_blocks, max(store.manifest.num_blocks // BLOCKS, 1))


def without_compiled(task: Callable[[], object]) -> Callable[[], object]:
    """A task, done by NumPy alone."""

    def run() -> None:
        held = unit_code._compiled, unit_digests._compiled
        unit_code._compiled = unit_digests._compiled = lambda: None  # type: ignore[assignment]
        try:
            task()
        finally:
            unit_code._compiled, unit_digests._compiled = held

    return run


if __name__ == "__main__":
    main()
