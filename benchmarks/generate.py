"""Generation against the bare teacher: what share of its forward throughput a whole run keeps.

The teacher is a timm network with untrained weights, the photos are the 20 of the package foolbox.
``bare``: the forward of ready batches of the same size, softmax and top-k included. ``generate``:
the whole run, from files to a committed store. ``fkd``: the same crops by FKD's way of generating.

With ``--teacher free`` nothing is taught: what a run takes of a processor at 10 and at 100 views a
photo, with the compiled part that resizes and, in turns, without it; and how much of it is under
the interpreter's lock, of which a process has one, with threads and batches as on a GPU.

    python -m benchmarks.generate
    python -m benchmarks.generate --teacher free
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

import labelstore
from benchmarks.support.free_teacher import lock_costs, pipeline_costs
from benchmarks.support.measuring import alternate, ratio, summary, write_result
from labelstore.images import resampling
from labelstore.images.decoding import decode
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.images.pixels import cut, render
from labelstore.images.resampling import can_resize
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.demo import place_photos
from labelstore.producer.generation import generate
from labelstore.producer.settings import FIDELITIES, LabelSettings, RunOptions
from labelstore.teachers.device_memory import default_batch_size
from labelstore.teachers.forward import Forward
from labelstore.teachers.load import load_teacher
from labelstore.teachers.top_k import top_k
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from labelstore.teachers.teacher import Teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", choices=["timm", "free"], default="timm")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=int, help="as labelstore generate chooses it")
    parser.add_argument("--views", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resize", choices=["workers", "device"], default="workers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.teacher == "free":
            write_result("generate_free", measure_free(Path(folder), options), options.out)
            return
        result = measure(Path(folder), options)
    write_result("generate", result, options.out)


compiled_part = resampling._compiled


def measure_free(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Views a second of one processor, by the median over rounds in turns."""
    torch.set_num_threads(1)
    photos = folder / "photos"
    place_photos(photos)
    source = FolderSource(photos)
    compiled = can_resize((224, 224), "bicubic")
    ways = {"compiled": compiled_part, "pillow": lambda: None}
    rows = []
    for views in (10, 100):
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name, part in ways.items():
                with mock.patch.object(resampling, "_compiled", part):
                    costs = pipeline_costs(source, folder, views, options.workers, "bicubic")
                if number:
                    rates[name].append(costs["views_per_processor_second"])
        rows.append(
            {
                "views_per_photo": views,
                "views_per_processor_second": {
                    name: round(statistics.median(values), 1) for name, values in rates.items()
                },
                "times_as_fast_as_pillow": round(ratio(rates["compiled"], rates["pillow"]), 3),
            }
        )
    lock = [lock_row(views, options) for views in (100, 200)]
    return {
        "setting": {
            "images": len(source),
            "interpolation": "bicubic",
            "workers": options.workers,
            "rounds": options.rounds,
            "compiled_part": compiled,
        },
        "rows": rows,
        "lock": lock,
    }


def lock_row(views: int, options: argparse.Namespace) -> dict[str, Any]:
    """What a view takes under the interpreter's lock, by the median over rounds."""
    costs = [lock_costs(views, options.workers, "bicubic") for _ in range(options.rounds)]
    parts = {
        part: statistics.median(cost["under_the_lock"].get(part, 0.0) for cost in costs)
        for part in costs[0]["under_the_lock"]
    }
    return {
        "views_per_photo": views,
        "us_a_view": round(statistics.median(cost["us_a_view"] for cost in costs), 1),
        "us_a_view_under_the_lock": {part: round(value, 2) for part, value in parts.items()},
        "share_of_a_worker": round(statistics.median(cost["of_a_worker"] for cost in costs), 4),
        # A process makes fewer: threads wait for each other before the lock is never free.
        "views_per_second_of_the_lock": round(1e6 / sum(parts.values())),
    }


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All ways over the same number of views, in turns."""
    photos = folder / "photos"
    place_photos(photos)
    source = FolderSource(photos)
    teacher = load_teacher(
        f"timm:{options.model}",
        checkpoint="none",
        device=options.device,
        precision=options.precision,
    )
    options.batch_size = options.batch_size or default_batch_size([teacher])
    targets = resolve_targets(
        source, num_classes=teacher.num_classes, class_names=None, targets="none"
    )
    recipe = LabelSettings(options.views, FIDELITIES["balanced"])
    views = len(source) * options.views
    rng = np.random.default_rng(0)
    size = (options.batch_size, *teacher.preprocessing.input_size, 3)
    batch = torch.from_numpy(rng.integers(0, 256, size, dtype=np.uint8))
    # The forward alone: its pixels are where it wants them.
    placed = batch.to(teacher.place)

    def bare() -> None:
        for start in range(0, views, options.batch_size):
            forward = Forward(
                teacher, placed[: views - start], recipe.store.k, recipe.temperature, None
            )
        # On a GPU the last one is done when all are.
        forward.result()

    def whole() -> None:
        store = folder / "store.zarr"
        shutil.rmtree(store, ignore_errors=True)
        generate(
            source,
            targets,
            teacher,
            store,
            recipe,
            options=RunOptions(
                batch_size=options.batch_size, workers=options.workers, resize=options.resize
            ),
        )

    def like_fkd() -> None:
        generate_like_fkd(source, teacher, recipe, folder / "fkd")

    start = time.perf_counter()
    seconds = alternate({"bare": bare, "generate": whole, "fkd": like_fkd}, options.rounds)
    stages = measure_stages(source, teacher, recipe, batch, folder)
    least = statistics.median(seconds["bare"])
    pixels = (stages["decode"] + stages["cut"]) / min(options.workers, os.cpu_count() or 1)
    return {
        "setting": {
            "model": options.model,
            "device": teacher.device,
            "precision": options.precision,
            "batch_size": options.batch_size,
            "workers": options.workers,
            "resize": options.resize,
            "images": len(source),
            "views": options.views,
        },
        "bare": summary(seconds["bare"]),
        "generate": summary(seconds["generate"]),
        "fkd": summary(seconds["fkd"]),
        "views_per_second": {
            name: round(views / summary(times)["median_s"], 1) for name, times in seconds.items()
        },
        "share_of_bare_throughput": round(ratio(seconds["bare"], seconds["generate"]), 3),
        "times_as_fast_as_fkd": round(ratio(seconds["fkd"], seconds["generate"]), 3),
        "stages_s": {name: round(value, 3) for name, value in stages.items()},
        "bottleneck": max(
            {"teacher": least, "pixels": pixels, "writing": stages["encode and write"]}.items(),
            key=lambda item: item[1],
        )[0],
        # On a CPU teacher and pixels share the cores: no pipeline can hide the pixels there.
        "share_possible": round(least / (least + pixels) if teacher.device == "cpu" else 1.0, 3),
        "cores_for_95_percent": math.ceil(0.95 * (stages["decode"] + stages["cut"]) / least),
        "measured_for_s": round(time.perf_counter() - start, 1),
    }


def measure_stages(
    source: FolderSource, teacher: Teacher, recipe: LabelSettings, batch: torch.Tensor, folder: Path
) -> dict[str, float]:
    """Seconds of each stage of the same work alone, in one thread but for the teacher."""
    hashes = hash_keys(source.keys)
    size = teacher.preprocessing.input_size
    seconds = dict.fromkeys(
        ("decode", "cut", "teacher", "softmax, top-k, sums", "encode and write"), 0.0
    )
    for image in range(len(source)):
        start = time.perf_counter()
        photo = decode(source.read(image), source.keys[image])
        decoded = time.perf_counter()
        geometry = recipe.law(hashes[image], np.arange(recipe.num_views), photo.width, photo.height)
        render(photo, geometry, size, teacher.preprocessing.interpolation)
        seconds["decode"] += decoded - start
        seconds["cut"] += time.perf_counter() - decoded
    views = len(source) * recipe.num_views
    for first in range(0, views, len(batch)):
        part = batch[: views - first]
        start = time.perf_counter()
        logits = teacher.outputs(part)
        synchronize(teacher.device)
        done = time.perf_counter()
        probabilities = torch.softmax(logits, dim=-1)
        top_k(logits, recipe.store.k, 1.0)
        probabilities.sum(dim=0).cpu()
        seconds["teacher"] += done - start
        seconds["softmax, top-k, sums"] += time.perf_counter() - done
    store = labelstore.open(folder / "store.zarr")
    images = np.arange(store.num_images)
    labels = store.read(images[:, None], np.arange(store.num_views))
    width, height = store.sizes(images)
    start = time.perf_counter()
    labelstore.write(
        folder / "again.zarr",
        labels.indices,
        labels.probs,
        store.num_classes,
        store.keys,
        store.targets,
        widths=width,
        heights=height,
        law=recipe.law,
        prior_size=0,
        overwrite=True,
    )
    seconds["encode and write"] = time.perf_counter() - start
    return seconds


def generate_like_fkd(
    source: FolderSource, teacher: Teacher, recipe: LabelSettings, folder: Path, segment: int = 50
) -> None:
    """What FKD's script does: all crops of an image as float tensors, a forward for each 50 of
    them, an argsort in Python for each crop, a pickled file for each image."""
    folder.mkdir(exist_ok=True)
    size, mean = teacher.preprocessing.input_size, teacher.preprocessing.mean
    centre = torch.tensor(mean).view(3, 1, 1)
    spread = torch.tensor(teacher.preprocessing.std).view(3, 1, 1)
    hashes = hash_keys(source.keys)
    for image in range(len(source)):
        photo = decode(source.read(image), source.keys[image])
        geometry = recipe.law(hashes[image], np.arange(recipe.num_views), photo.width, photo.height)
        crops = []
        for box, flip in zip(geometry.box.tolist(), geometry.flip.tolist(), strict=True):
            pixels = cut(photo, box, flip, size, teacher.preprocessing.interpolation)
            values = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255)
            crops.append(values.sub(centre).div(spread))
        stacked = torch.stack(crops)
        kept = []
        for start in range(0, len(stacked), segment):
            probabilities = torch.softmax(
                teacher.network(stacked[start : start + segment].to(teacher.device)), dim=-1
            ).cpu()
            for row in probabilities:
                order = torch.argsort(row, descending=True)[:5]
                kept.append((order.tolist(), row[order].tolist()))
        torch.save(
            [torch.from_numpy(geometry.box.astype(np.float32)), geometry.flip, kept],
            folder / f"{image}.tar",
        )


def synchronize(device: str) -> None:
    """Wait for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
