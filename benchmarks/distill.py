"""The FerKD paper's tables in small, and what compressed labels cost a student.

``--data fashion``: Fashion-MNIST. Three teachers are trained on random crops of all 60,000 images
and run over 48 views of the first 6,000 by ``labelstore generate``. A student of 14,000 weights
then sees these crops alone, 4 of an image side by side, for 12 epochs.

``--data scenes``: photographs of objects on photographic backgrounds (``support/scenes.py``), 58
classes, 150 training images each. Three teachers are trained with label smoothing and MixUp, one
without, and run over 20 views. A student of 60,000 weights sees 3 crops of an image side by side,
48 pixels wide, for 6 epochs.

Rows differ in their labels, their mixing, or in which crops are shown, and in nothing else: the
same number of steps, of crops, the same optimizer, for each seed the same first weights.
Thresholds and the like are the paper's; nothing was tuned.

    python -m benchmarks.distill                   # every row, 3 seeds
    python -m benchmarks.distill --small           # a few minutes: does it all run
    python -m benchmarks.distill --data scenes     # the same of scenes
    python -m benchmarks.distill --data scenes --report   # what there is by now

What was done is kept below ``--cache`` and not done again; a run that is stopped is gone on with.
It uses a GPU where torch sees one.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import labelstore
from benchmarks.support import distill_report, fashion_mnist as fashion, scenes_data as scenes
from benchmarks.support.distill_stores import distance_and_bytes
from benchmarks.support.distill_training import TABLES, Trainer, World, file_of, run, student
from benchmarks.support.measuring import alternate, ratio, summary, write_result
from labelstore.training.decisions import decisions

if TYPE_CHECKING:
    from benchmarks.support.distill_rows import Tables

SMALL = ("hard labels", "label smoothing", "FKD", "FerKD + SelfMix + 2 teachers", "easy to hard")


NOTHING = "none of these rows was trained yet: leave --report out."


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a measurement is."""

    images: int
    """Of the students; of scenes, of each class."""
    views: int
    epochs: int
    teacher_epochs: int
    seeds: int = 3


SIZES = {"fashion": Size(6000, 48, 12, 3), "scenes": Size(150, 20, 6, 20)}
SMALL_SIZES = {"fashion": Size(2000, 32, 8, 1, 1), "scenes": Size(12, 8, 2, 2, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=tuple(TABLES), default="fashion")
    parser.add_argument("--small", action="store_true", help="five rows, one seed, few images")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--images", type=int, help="that students see; of scenes, of each class")
    parser.add_argument("--views", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these; default: all")
    parser.add_argument("--report", action="store_true", help="train no student; report what is")
    parser.add_argument(
        "--data-folder", type=Path, help="folder with Fashion-MNIST's four .gz files"
    )
    parser.add_argument("--cache", type=Path, help="default: in ~/.cache/labelstore-benchmarks")
    parser.add_argument("--jobs", type=int, help="runs at a time; one a core without a GPU")
    parser.add_argument("--out", type=Path, help="the JSON; the table and plot go beside it")
    options = parser.parse_args()
    usual = (SMALL_SIZES if options.small else SIZES)[options.data]
    asked = {name: getattr(options, name) for name in vars(usual)}
    size = dataclasses.replace(usual, **{key: v for key, v in asked.items() if v is not None})
    cache = options.cache or Path.home() / ".cache" / "labelstore-benchmarks" / options.data
    cache = (cache / "small" if options.small else cache).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    chosen = chosen_rows(options.data, options.rows, options.small)
    if options.data == "fashion":
        world, teachers = fashion_world(cache, size, options.data_folder, chosen)
    else:
        world, teachers = scenes_world(cache, size, chosen, options.report)
    chosen = {table: [row for row in rows if world.has(row)] for table, rows in chosen.items()}
    if not options.report:
        run_all(world, chosen, size.seeds, options.jobs)
    result = results(world, chosen, size.seeds, teachers)
    if not result["tables"]:
        raise SystemExit(NOTHING)
    if options.data == "fashion" and not options.report:
        result["online_against_offline"] = timing(world)
    name = "distill" if options.data == "fashion" else f"distill_{options.data}"
    out = options.out or Path(__file__).parent / "results" / f"{name}.json"
    write_result(name, result, out)
    distill_report.write(result, out)


def fashion_world(
    cache: Path, size: Size, folder: Path | None, tables: Tables
) -> tuple[World, dict[str, float]]:
    """Fashion-MNIST with its teachers, stores and crops; and the teachers' accuracies."""
    folder = folder or fashion.fetch(cache)
    data = fashion.load(folder)
    teachers = fashion.train_teachers(cache, data, size.teacher_epochs)
    photos = fashion.place_photos(cache, data, size.images)
    stores = fashion.make_stores(cache, photos, size.views)
    fashion.crops_of(cache, photos, labelstore.open(stores["residual"]))
    formed = {row.temperature for rows in tables.values() for row in rows if row.store}
    stores |= fashion.make_forms(cache, photos, size.views, sorted(formed))
    world = World("fashion", cache, folder, photos, size.images, size.views, size.epochs, stores)
    return world, teachers


def scenes_world(
    cache: Path, size: Size, tables: Tables, report: bool
) -> tuple[World, dict[str, float]]:
    """The scenes with the teachers and stores that rows need; and the teachers' accuracies.

    For a report no store is made, and rows that have none are left out.
    """
    outputs = scenes.outputs_of(tables)
    photos, test = scenes.photos_and_test(cache, size.images)
    if report:
        outputs = scenes.made(cache, photos, size.views, outputs)
        if not outputs:
            raise SystemExit(NOTHING)
    names = list(dict.fromkeys(output.teacher for output in outputs))
    teachers = scenes.teachers(cache, photos, test, names, size.teacher_epochs)
    stores = scenes.make_stores(cache, photos, size.views, outputs)
    for same in {output.augment: output for output in outputs}.values():
        reader = labelstore.open(scenes.exact_store(cache, photos, size.views, same))
        scenes.crops_of(cache, photos, reader)
    world = World("scenes", cache, test, photos, reader.num_images, size.views, size.epochs, stores)
    return world, teachers


def chosen_rows(kind: str, names: list[str] | None, small: bool) -> Tables:
    """The rows that are asked for, by table, in their order."""
    tables = TABLES[kind]
    known = {row.name for rows in tables.values() for row in rows}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise SystemExit(f"no row is called {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    wanted = set(names or (SMALL if small else known))
    chosen = {table: [row for row in rows if row.name in wanted] for table, rows in tables.items()}
    return {table: rows for table, rows in chosen.items() if rows}


def run_all(world: World, tables: Tables, seeds: int, jobs: int | None) -> None:
    """Train the students that are not in the cache: all rows of a seed before the next seed."""
    rows = [row for group in tables.values() for row in group]
    if any(row.start != "scratch" for row in rows):
        smoothing = next(r for r in TABLES[world.kind]["Labels"] if r.name == "label smoothing")
        rows += [smoothing] if smoothing not in rows else []
    stages = [
        [(row, seed) for row in rows if (row.start != "scratch") == later]
        for seed in range(seeds)
        for later in (False, True)
    ]
    stages = [
        [(row, seed) for row, seed in stage if not file_of(world, row, seed).exists()]
        for stage in stages
    ]
    total = sum(map(len, stages))
    count = jobs or (1 if world.module.DEVICE == "cuda" else os.cpu_count() or 1)
    started, done = time.perf_counter(), 0
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(count, context) as pool:
        # Students that others start from come first, so a stage is done before the next one.
        for stage in stages:
            futures = {pool.submit(run, world, row, seed): (row, seed) for row, seed in stage}
            for future in concurrent.futures.as_completed(futures):
                row, seed = futures[future]
                result, done = future.result(), done + 1
                left = (time.perf_counter() - started) / done * (total - done)
                print(
                    f"[{done}/{total}, {left / 60:.0f} min left] {row.name}, seed {seed}: "
                    f"{result['accuracy']:.2%} in {result['seconds']:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )


def results(world: World, tables: Tables, seeds: int, teachers: dict[str, float]) -> dict[str, Any]:
    """The rows with the seeds that are in the cache, and what they were made with."""
    summaries: dict[str, list[dict[str, Any]]] = {}
    for table, rows in tables.items():
        for row in rows:
            files = [file_of(world, row, seed) for seed in range(seeds)]
            runs = [json.loads(file.read_text()) for file in files if file.exists()]
            if runs:
                summaries.setdefault(table, []).append(distill_report.summarize(row, runs))
    return {
        "data": world.kind,
        "setting": {
            "images": world.images,
            "views": world.views,
            "epochs": world.epochs,
            "seeds": seeds,
            "scale": list(world.module.SCALE),
            "device": world.module.DEVICE,
            **dataclasses.asdict(world.setting),
            "batch": world.setting.batch_images * world.setting.views_per_image,
        },
        "teachers": {name: round(value, 4) for name, value in teachers.items()},
        "ferkd_shares": shares(world),
        "forms": forms(world),
        "tables": summaries,
    }


def forms(world: World) -> dict[str, dict[str, float]]:
    """Bytes a crop and distance from the exact labels, of each form that rows read."""
    return {
        name.partition("/")[2]: distance_and_bytes(store, _exact(world, name))
        for name, store in world.stores.items()
        if name.startswith("residual/")
    }


def _exact(world: World, name: str) -> Path:
    teacher, _, form = name.partition("/")
    return world.stores[f"{teacher}/exact@{form.partition('@')[2]}"]


def shares(world: World) -> dict[str, dict[str, float]]:
    """What the paper's thresholds do with the stores' views, teacher by teacher."""
    found = {}
    for name in world.module.TEACHERS:
        if name not in world.stores:
            continue
        decided = decisions(labelstore.open(world.stores[name]), labelstore.FerKD())
        counts = dataclasses.asdict(decided.counts[0].views)
        total = sum(counts.values())
        found[name] = {part: round(count / total, 4) for part, count in counts.items()}
    return found


def timing(world: World) -> dict[str, Any]:
    """Seconds of whole epochs with the teacher in the loop, with stored labels, with hard ones."""
    if world.module.DEVICE == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
    names = ("hard labels", "FKD", "online KD")
    trainers = {}
    for name in names:
        row = next(row for row in TABLES[world.kind]["Labels"] if row.name == name)
        long = dataclasses.replace(row, epochs=100.0)
        trainers[name] = Trainer(world, long, 0, student(world, row, 0))
    counters = dict.fromkeys(names, 0)

    def steps(name: str) -> None:
        counters[name] += 1
        trainers[name].train(counters[name])
        if world.module.DEVICE == "cuda":
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
