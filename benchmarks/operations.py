"""Every operation on a whole store of ImageNet's size, and what it takes.

A store of 1,281,167 images x 500 views of synthetic labels, as ``generate`` lays one out
(``benchmarks.support.whole_store`` says how it is made in a minute), and one of a tenth of the
images, so that it shows which memory grows with the store. Each operation runs in a process of its
own: seconds of the processor (all cores), seconds of the clock, the most memory, bytes on disk.
The stores of both sizes take 1.3 GB, and what an operation writes as much again.

    python -m benchmarks.operations                        # a quarter of an hour of the processor
    python -m benchmarks.operations --images 100000        # that and a tenth of it
    python -m benchmarks.operations --only verify inspect  # some; others stay in the result file

One row at a time, of stores that are made once (the first takes a minute of the processor longer):

    python -m benchmarks.operations --folder FOLDER --size whole --only grow
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support.measuring import RESULTS, size_of, write_result
from benchmarks.support.own_process import measured
from benchmarks.support.whole_store import CLASSES, IMAGES, VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOKING = (
    *("open_store", "verify", "inspect", "schedule", "fit", "ferkd", "sampler", "gc"),
    "grow_plan",
)
PARTS = ("export", "classes_of", "first_views")
WRITING = ("copy", "other_targets", "grow", "first_half", "second_half", "merge_parts", "prune")
NAMES = ("make", *LOOKING, *PARTS, *WRITING)
TASKS = "benchmarks.support.operation_tasks"
LIMIT_S = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--size", choices=("tenth", "whole"), help="one of them alone")
    parser.add_argument("--folder", type=Path, help="where stores lie, and stay; else a new one")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or RESULTS / "operations.json"
    rows: dict[str, Any] = {}
    if set(options.only) != set(NAMES) and out.is_file():
        rows = json.loads(out.read_text())["operations"]
    with tempfile.TemporaryDirectory() as folder:
        for images in (options.images // 10, options.images):
            size = "whole" if images == options.images else "tenth"
            if options.size not in (None, size):
                continue
            root = options.folder or Path(folder)
            root.mkdir(parents=True, exist_ok=True)
            for name, row in operations(root, images, size, set(options.only)):
                rows.setdefault(name, {})[size] = row
                # Each as it is known: the whole takes long.
                keep(rows, options.images, out)


def keep(rows: dict[str, Any], images: int, out: Path) -> None:
    """Write what is known so far."""
    setting = {
        "images": images, "views": VIEWS, "classes": CLASSES, "fidelity": "balanced",
        "labels": "synthetic, four blocks over and over",
        "seconds": "of the clock, with neighbours on the machine; cpu_seconds: all cores together",
    }  # fmt: skip
    ordered = {name: rows[name] for name in NAMES if name in rows}
    write_result("operations", {"setting": setting, "operations": ordered}, out)


def operations(
    root: Path, images: int, size: str, wanted: set[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each operation on a store of so many images, and what it takes."""
    store, other = root / f"{size}.zarr", root / f"{size}-other.zarr"
    halves = [root / f"{size}-{half}.zarr" for half in ("first", "second")]

    def measure(name: str, *arguments: Path | str) -> tuple[str, dict[str, Any]]:
        row = measured(TASKS, name, *map(str, arguments), limit=LIMIT_S)
        row = {"images": images, **row, "load": round(os.getloadavg()[0], 1)}
        written = Path(arguments[-1])
        if name not in LOOKING and written.suffix == ".zarr" and written.is_dir():
            row["disk_bytes"] = size_of(written)
        print(size, name, row, file=sys.stderr, flush=True)
        return name, row

    if not store.exists():
        name, row = measure("make", str(store), str(images))
        yield name, {**row, "disk_bytes": size_of(store)}
    for name in (*LOOKING, *PARTS, "copy", "other_targets", "grow"):
        if name in wanted:
            yield measure(name, store, other)
    for name, half in zip(("first_half", "second_half"), halves, strict=True):
        if name in wanted or ("merge_parts" in wanted and not half.exists()):
            yield measure(name, store, half)
    if "merge_parts" in wanted:
        yield measure("merge_parts", *halves, other)
    if "prune" in wanted:
        # Names of the same files: a store's are replaced, never changed.
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(store, other, copy_function=os.link)
        yield measure("prune", other, other)


if __name__ == "__main__":
    main()
