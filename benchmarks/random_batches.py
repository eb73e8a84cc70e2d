"""A batch at random from a store in units that is newly opened, at any size of store, against FKD.

A batch is 256 images x 4 views of stores of some blocks of 1,024 images x 128 views, read by one
thread, opening the store included; FKD's reader loads one file an image, of those images that are
read and no others. All files are in the page cache. Of large stores eight blocks alone are
different: the objects of the others are the same files under other names, with commit rows of
their own. Seconds are the processor's, the tasks take turns, and ratios are those of one round.

    python -m benchmarks.random_batches
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import labelstore
from benchmarks.read_labels import BATCH, SHOWN, read_files, write_files
from benchmarks.support.measuring import alternate, ratio, summary, synthetic_labels, write_result
from labelstore.format.blocks import BlockCodes
from labelstore.format.manifest import fingerprint
from labelstore.store.backends.registry import backend_of

BLOCK_IMAGES, VIEWS, DIFFERENT = 1024, 128, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[8, 32, 1250])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ids, probs = synthetic_labels(DIFFERENT * BLOCK_IMAGES, VIEWS, 5, 1000)
        source = labelstore.write(
            Path(folder, "u.zarr"), ids, probs, 1000, block_images=BLOCK_IMAGES, layout="units"
        )
        paths = {n: repeated(source, Path(folder, f"{n}.zarr"), n) for n in options.blocks}
        tasks: dict[str, Any] = {}
        for blocks, path in paths.items():
            tasks |= of_store(path, Path(folder, f"files-{blocks}"), f"{blocks} blocks")
        seconds = alternate(tasks, options.rounds, clock=time.process_time)
    names = [f"{blocks} blocks" for blocks in options.blocks]
    result = {
        "setting": {
            "block_images": BLOCK_IMAGES,
            "views": VIEWS,
            "k": 5,
            "batch": f"{BATCH} images x {SHOWN} views",
            "labels": f"synthetic, {DIFFERENT} different blocks",
        },
        "per_batch": {name: summary(times) for name, times in seconds.items()},
        "times_faster_than_fkd": {
            name: round(ratio(seconds[f"{name}: fkd"], seconds[f"{name}: units"]), 1)
            for name in names
        },
    }
    write_result("random_batches", result, options.out)


def repeated(source: Any, path: Path, blocks: int) -> Path:
    """A store of many blocks, which have the labels of the source's in turn."""
    keys = [str(image) for image in range(blocks * BLOCK_IMAGES)]
    targets = np.full(len(keys), -1, dtype=np.int32)
    manifest = dataclasses.replace(
        source.manifest, num_images=len(keys), fingerprint=fingerprint(keys, targets)
    )
    backend = backend_of(path)
    backend.create(manifest, keys, targets)
    backend.open_for_writing(manifest)
    codes = [BlockCodes(*source.block_codes(block)) for block in range(min(DIFFERENT, blocks))]
    digests: list[Any] = []
    for block in range(blocks):
        part = block % len(codes)
        if block == part:
            objects, of_units = backend.encode_block(block, codes[part].arrays)
            backend.write_objects(objects)
            digests.append(of_units)
        else:
            names = zip(backend.block_objects(part), backend.block_objects(block), strict=True)
            for first, name in names:
                # What holds fill alone is left out.
                if not (path / first).is_file():
                    continue
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(path / first, path / name)
        backend.write_commit(block, codes[part].commit_row(manifest, block, digests[part]))
    return path


def of_store(path: Path, files: Path, name: str) -> dict[str, Any]:
    """The tasks of a store, which have been seen to read the same labels."""
    store, rng = labelstore.open(path), np.random.default_rng(1)
    images = rng.integers(0, store.num_images, BATCH)
    views = rng.integers(0, VIEWS, (BATCH, SHOWN))
    every, where = np.unique(images, return_inverse=True)
    read = [store.read(image, np.arange(VIEWS)) for image in every]
    paths = write_files(
        files, np.stack([r.indices for r in read]), np.stack([r.probs for r in read])
    )
    mine, theirs = store.read(images[:, None], views), read_files(paths, where, views)
    if not np.array_equal(mine.indices, theirs[0]) or not np.array_equal(mine.probs, theirs[1]):
        raise SystemExit("the two readers disagree: the benchmark would be worth nothing")
    return {
        f"{name}: units": lambda: labelstore.open(path).read(images[:, None], views),
        f"{name}: fkd": lambda: read_files(paths, where, views),
    }


if __name__ == "__main__":
    main()
