"""What cannot be tried here, on paper: ImageNet-21k, 14 M images x 200 views, 21,841 classes.

Stores of synthetic labels in the layout that ``generate`` gives so many images, each twice as large
as the one before; what each operation takes of them in a process of its own: seconds of the
processor, seconds of the clock, the most memory (``VmHWM``), bytes on disk. Each figure is then
drawn out to 14 M images in a straight line through the last two sizes. ``growth`` is the exponent
by which the processor's seconds grow between them: at most 1 where the line is right, 2 where the
work is that of pairs.

What costs much a view is measured of smaller stores: a quarter of ``--images``, and ``--merged``.
What depends on the number of images more than on that of labels (creating an empty store, opening
one, a sampler without a rule) is measured of more images (``--many``) with 4 views.

``stages`` tells which stage of generation binds, from the results of ``benchmarks.generate``: what
the processor does for a view, and how many views a second a GPU must label before it waits.

    python -m benchmarks.ceiling                                   # four minutes of the processor
    python -m benchmarks.ceiling --images 140000 --many 1400000    # a hundredth, and a tenth
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.support import own_process
from benchmarks.support.measuring import RESULTS, size_of, write_result
from labelstore.operations.inspection.tally import LABEL_CROPS

IMAGES, VIEWS, CLASSES = 14_000_000, 200, 21_841
GPUS, CORES = 8, 128
OPERATIONS = ("verify", "schedule", "ferkd", "copy")
COSTLY = ("inspect", "recode")
OF_IMAGES = ("open_store", "sampler")
"""Functions of ``ceiling_tasks`` that are given the store and where a new one may go."""
IN_A_MOMENT = (*OF_IMAGES, "verify", "schedule", "ferkd")
FEW_VIEWS = 4
"""Of the stores of many images."""
FEWEST_FOR_MEMORY = 4 * 1024
"""Images, four blocks: of fewer the blocks in work at a time still grow with the store."""
LIMIT_S = 240
"""A task that takes longer is given up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16_384, help="of the largest store")
    parser.add_argument("--merged", type=int, default=256, help="of the largest that is merged")
    parser.add_argument("--many", type=int, default=140_000, help="of the largest of few views")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = operations(Path(folder), options)
    setting = {
        "images": IMAGES, "views": VIEWS, "classes": CLASSES, "fidelity": "balanced",
        "labels": "synthetic, seeds 0 and 1", "gpus": GPUS, "cores": CORES,
    }  # fmt: skip
    result = {"setting": setting, "operations": rows, "stages": stages(rows)}
    write_result("ceiling", result, options.out)


def operations(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Each operation's rows by size, and what they come to."""
    rows: dict[str, list[dict[str, Any]]] = {}

    def measure(name: str, task: str, images: int, *arguments: str) -> None:
        row = measured(task, *arguments)
        rows.setdefault(name, []).append({"images": images, **row})
        print(name, rows[name][-1], file=sys.stderr, flush=True)

    for images in sizes(options.many):
        measure("create", "create", images, str(root / f"empty{images}.zarr"), str(images))
        store = root / f"many{images}.zarr"
        measured("fill", str(store), str(images), str(FEW_VIEWS), "0")
        for task in OF_IMAGES:
            measure(task, task, images, str(store), "")
    for images in (options.images // 16, options.images // 8, *sizes(options.images)):
        store, other = root / f"labels{images}.zarr", root / "other.zarr"
        measure("write blocks", "fill", images, str(store), str(images), str(VIEWS), "0")
        rows["write blocks"][-1]["disk_bytes"] = size_of(store)
        for task in OPERATIONS + (COSTLY if images <= options.images // 4 else ()):
            measure(task, task, images, str(store), str(other))
    for images in sizes(options.merged):
        stores = [str(root / f"part{images}.{seed}.zarr") for seed in ("0", "1")]
        for seed, store in enumerate(stores):
            measured("fill", store, str(images), str(VIEWS), str(seed))
        measure("merge", "merge", images, *stores, str(root / "merged.zarr"))
    return drawn_out_all(rows)


def drawn_out_all(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What each operation comes to.

    ``inspect`` looks at the whole labels of no more than ``LABEL_CROPS``, and then at confidences
    alone, as a schedule does: its line goes so far, and the schedule's from there.
    """
    found = {name: {"measured": row, **drawn_out(row)} for name, row in rows.items()}
    known, rest = found["inspect"], found["schedule"]["drawn_out"]
    known["drawn_out"] = drawn_out(rows["inspect"], LABEL_CROPS // VIEWS)["drawn_out"]
    known["drawn_out"] = {name: part + rest[name] for name, part in known["drawn_out"].items()}
    return found


def sizes(largest: int) -> tuple[int, int, int]:
    """A quarter, a half, the whole."""
    return largest // 4, largest // 2, largest


def measured(task: str, *arguments: str) -> dict[str, Any]:
    """What a task of ``ceiling_tasks`` takes; of what is done in a moment the best of four."""
    times = 4 if task in IN_A_MOMENT else 1
    return own_process.measured(
        "benchmarks.support.ceiling_tasks", task, *arguments, times=times, limit=LIMIT_S
    )


def drawn_out(rows: list[dict[str, Any]], images: int = IMAGES) -> dict[str, Any]:
    """The figures at so many images, and how the processor's seconds grow."""
    middle, last = rows[-2:]
    figures = {}
    for name in ("cpu_seconds", "seconds", "most_memory_bytes", "disk_bytes"):
        memory = name == "most_memory_bytes"
        if name in last and not (memory and middle["images"] < FEWEST_FOR_MEMORY):
            slope = (last[name] - middle[name]) / (last["images"] - middle["images"])
            figures[name] = last[name] + max(slope, 0.0) * (images - last["images"])
    growth = math.log2(max(last["cpu_seconds"], 1e-6) / max(middle["cpu_seconds"], 1e-6))
    return {"drawn_out": figures, "growth": round(growth, 2)}


def stages(rows: dict[str, Any]) -> dict[str, Any]:
    """Which stage of generation binds, from what was measured of each."""
    free = json.loads((RESULTS / "generate_free.json").read_text())
    lite = json.loads((RESULTS / "generate.json").read_text())
    few, many = (
        (row["views_per_photo"], 1 / row["views_per_processor_second"]["compiled"])
        for row in free["rows"]
    )
    # Seconds a view are those of a view and a share of those of its photo.
    of_photo = (few[1] - many[1]) / (1 / few[0] - 1 / many[0])
    of_view = many[1] - of_photo / many[0]
    # Lists are of 21,841 classes here, of 1,000 there: a fifth of their time is counted twice.
    fitting = max(row["fitting_a_list_cpu_seconds"] for row in rows["write blocks"]["measured"])
    host = of_view + (of_photo + fitting) / VIEWS
    writing = rows["write blocks"]["drawn_out"]["cpu_seconds"] / IMAGES / VIEWS
    # Its network took all cores of that machine.
    views = lite["setting"]["images"] * lite["setting"]["views"]
    teacher = lite["stages_s"]["teacher"] * lite["machine"]["cores"] / views
    all_views = IMAGES * VIEWS
    return {
        "processor_s_of_a_photo": of_photo,
        "processor_s_of_a_view": of_view,
        "processor_s_of_fitting_a_photos_list": fitting,
        "processor_s_a_view_in_all": host,
        "of_it_encoding_and_writing_here": writing,
        "views_per_second_of_the_cores": CORES / host,
        "views_per_second_a_gpu_before_the_cores_bind": CORES / host / GPUS,
        "cores_a_gpu_at_1000_views_per_second": 1000 * host,
        "hours_where_the_cores_bind": all_views * host / CORES / 3600,
        "hours_by_views_per_second_of_a_gpu": {
            str(rate): all_views / min(rate * GPUS, CORES / host) / 3600
            for rate in (1000, 2000, 5000, 10_000, 20_000)
        },
        "photos_per_second_where_the_cores_bind": CORES / host / VIEWS,
        "days_of_the_cores_with_lite0_and_no_gpu": all_views * teacher / CORES / 3600 / 24,
    }


if __name__ == "__main__":
    main()
