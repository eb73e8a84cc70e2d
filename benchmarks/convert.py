"""FKD's label files made a store: files a second against ``torch.load`` of the same, and bytes.

The files are FKD's top-5 of 500 crops with a confident teacher's statistics, in single or half
precision, and a small JPEG for each. ``torch.load`` opens and unpickles each file, on one core, and
does nothing with it; ``labelstore convert`` reads, checks, encodes, writes and commits it, on one
core and on two. With boxes it reads each photo's bytes and head, too, as the other side then does
by Pillow. On a machine that is shared the ratios of CPU seconds hold; those of wall time alone say
what a second core brings.

    python -m benchmarks.convert                      # 10,000 files: some 5 minutes of CPU time
    python -m benchmarks.convert --files 1000 --rounds 2

Beside the result lies a table of it, ``convert.md``; ``benchmarks.redraw convert`` makes it anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

import labelstore
from benchmarks.support import convert_report
from benchmarks.support.measuring import (
    RESULTS,
    alternate,
    ratio,
    size_of,
    summary,
    synthetic_labels,
    write_result,
)
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.convert import convert
from labelstore.peers.peer_labels import PeerOptions

if TYPE_CHECKING:
    from collections.abc import Callable

VIEWS, K, CLASSES, PART = 500, 5, 1000, 200

TWO = ", two cores"
"""How the names of tasks end that have them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "files": options.files,
        "views": VIEWS,
        "k": K,
        "load": os.getloadavg(),
    }
    for kind in (np.float32, np.float16):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), options.files, kind)
            result[np.dtype(kind).name] = measure(Path(folder), options.files, options.rounds)
    write_result("convert", result, options.out)
    convert_report.write(result, options.out or RESULTS / "convert.json")


def make(folder: Path, count: int, kind: Any) -> None:
    """Files as FKD saves them, and their photos."""
    ids, probs = synthetic_labels(min(count, PART), VIEWS, K, CLASSES)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for number in range(count):
        name = f"{number % 100:03}/{number}"
        for top in ("photos", "fkd"):
            (folder / top / name).parent.mkdir(parents=True, exist_ok=True)
        size = rng.integers(8, 48, (VIEWS, 2))
        start = (rng.random((VIEWS, 2)) * ([49, 65] - size)).astype(int)
        coords = (np.concatenate([start, size], axis=1) / [48, 64, 48, 64]).astype(kind)
        flips = rng.random(VIEWS) < 0.5
        row = number % PART
        shifted = (ids[row] + 37 * (number // PART)) % CLASSES
        stacked = np.stack([shifted, probs[row]], axis=1).astype(kind)
        held = torch.from_numpy(stacked) if kind is np.float32 else stacked
        torch.save([coords, flips, held], folder / "fkd" / f"{name}.tar")
        Image.fromarray(pixels).save(folder / "photos" / f"{name}.jpg")


def measure(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Seconds of each task, and what they say."""
    files = sorted((folder / "fkd").rglob("*.tar"))
    photos = sorted((folder / "photos").rglob("*.jpg"))
    cpu: dict[str, list[float]] = {}
    every = sorted(os.sched_getaffinity(0))

    def timed(name: str, task: Callable[[], object]) -> Callable[[], None]:
        cores = every[: 2 if name.endswith(TWO) else 1]

        def run() -> None:
            os.sched_setaffinity(0, cores)
            start = time.process_time()
            task()
            cpu.setdefault(name, []).append(time.process_time() - start)
            os.sched_setaffinity(0, every)

        return run

    def load() -> None:
        for file in files:
            # They were just written here; NumPy's arrays need the unrestricted loader.
            torch.load(file, weights_only=False)

    def load_and_look() -> None:
        for file, photo in zip(files, photos, strict=True):
            torch.load(file, weights_only=False)
            photo.read_bytes()
            with Image.open(photo) as image:
                _ = image.size

    def converted(boxes: bool) -> Callable[[], object]:
        store = folder / f"{boxes}.zarr"

        def run() -> None:
            shutil.rmtree(store, ignore_errors=True)
            source = FolderSource(folder / "photos") if boxes else None
            convert(
                folder / "fkd",
                store,
                format="fkd",
                options=PeerOptions(CLASSES, source, boxes),
                workers=None,
            )

        return run

    tasks = {
        "torch.load": load,
        "convert without boxes": converted(False),
        "torch.load and photos' sizes": load_and_look,
        "convert": converted(True),
    }
    if len(every) > 1:
        for name in ("convert without boxes", "convert"):
            tasks[name + TWO] = tasks[name]
    times = alternate({name: timed(name, task) for name, task in tasks.items()}, rounds)
    cpu = {name: seconds[1:] for name, seconds in cpu.items()}
    before, crops = size_of(folder / "fkd"), count * VIEWS
    pairs = {
        "without boxes": ("torch.load", "convert without boxes"),
        "with boxes": ("torch.load and photos' sizes", "convert"),
    }
    return {
        "tasks": {
            name: {
                **summary(seconds),
                "files_per_s": count / summary(seconds)["median_s"],
                "cpu_s": summary(cpu[name])["median_s"],
            }
            for name, seconds in times.items()
        },
        "speed_against_torch_load": {
            name: {
                "cpu": ratio(cpu[a], cpu[b]),
                "wall": ratio(times[a], times[b]),
                **(
                    {"wall, two cores": ratio(times[a], times[b + TWO])} if b + TWO in times else {}
                ),
            }
            for name, (a, b) in pairs.items()
        },
        "bytes": {
            "files": before,
            "files_per_crop": before / crops,
            **{
                f"store {name}": {
                    "total": size_of(folder / f"{boxes}.zarr"),
                    "per_crop": size_of(folder / f"{boxes}.zarr") / crops,
                    "by_part": labelstore.open(folder / f"{boxes}.zarr").bytes_by_part(),
                }
                for name, boxes in (("without boxes", False), ("with boxes", True))
            },
        },
    }


if __name__ == "__main__":
    main()
