"""Generation against the bare teacher: what share of its forward throughput a whole run keeps.

The teacher is a timm network with untrained weights, the photos are the 20 of the package foolbox.
``bare``: the forward of ready batches of the same size, softmax and top-k included. ``generate``:
the whole run, from files to a committed store.

    python -m benchmarks.generate
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import alternate, ratio, summary, write_result
from labelstore.demo import place_photos
from labelstore.generate import Recipe, generate
from labelstore.images import FolderSource
from labelstore.targets import resolve_targets
from labelstore.teachers import load_teacher, top_k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--views", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    write_result("generate", result, options.out)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both ways over the same number of views, in turns."""
    photos = folder / "photos"
    place_photos(photos)
    source = FolderSource(photos)
    teacher = load_teacher(
        f"timm:{options.model}",
        checkpoint="none",
        device=options.device,
        precision=options.precision,
    )
    targets = resolve_targets(
        source, num_classes=teacher.num_classes, class_names=None, targets="none"
    )
    recipe = Recipe(num_views=options.views)
    views = len(source) * options.views
    rng = np.random.default_rng(0)
    size = (options.batch_size, *teacher.preprocessing.input_size, 3)
    batch = rng.integers(0, 256, size, dtype=np.uint8)

    def bare() -> None:
        for start in range(0, views, options.batch_size):
            top_k(teacher.logits(batch[: views - start]), recipe.k, recipe.temperature)

    def whole() -> None:
        store = folder / "store.zarr"
        shutil.rmtree(store, ignore_errors=True)
        generate(
            source,
            targets,
            teacher,
            store,
            recipe,
            batch_size=options.batch_size,
            workers=options.workers,
        )

    start = time.perf_counter()
    seconds = alternate({"bare": bare, "generate": whole}, options.rounds)
    return {
        "setting": {
            "model": options.model,
            "device": teacher.device,
            "precision": options.precision,
            "batch_size": options.batch_size,
            "workers": options.workers,
            "images": len(source),
            "views": options.views,
        },
        "bare": summary(seconds["bare"]),
        "generate": summary(seconds["generate"]),
        "views_per_second": {
            name: round(views / summary(times)["median_s"], 1) for name, times in seconds.items()
        },
        "share_of_bare_throughput": round(ratio(seconds["bare"], seconds["generate"]), 3),
        "measured_for_s": round(time.perf_counter() - start, 1),
    }


if __name__ == "__main__":
    main()
