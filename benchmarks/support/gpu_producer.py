"""Rows of ``benchmarks.gpu`` about the producer: generate, its batch size, two ranks on a card."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.support.synthetic_photos import place_synthetic_photos

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.support.gpu_place import Place, Record
    from labelstore.images.sources.folder import FolderSource
    from labelstore.teachers.teacher import Teacher

__all__ = ["batch_size", "generate", "sharing"]

MODELS = ("resnet50", "vit_base_patch16_224", "convnext_base")
SMALL_MODELS = ("test_resnet",)
"""For dry runs."""
VIEWS = 200
VIEWS_OF_A_CORE = 600
"""About as many views of 500 x 375 photos a second as a core cuts."""


def generate(place: Place, record: Record) -> None:
    """Whole runs from JPEG files to a committed store, against the bare forward.

    For each network, place of resizing and number of cores: views a second, share of the bare
    forward of ready batches of the same size, and the share of the time that the teacher waited.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = _Work(place, Path(folder))
        _crops_equal(place, work.source, record)
        cores = work.cores_to_try()
        usual = [
            (how, count) for count in (*cores[:1], *cores[2:]) for how in ("workers", "device")
        ]
        others = [(how, count) for count in cores[1:2] for how in ("workers", "device")]
        work.try_all(usual, record)
        for model in work.models:
            if record.has_time(0 if place.dry else 5, model=model, stages=None):
                with record.attempt(model=model, stages=None):
                    record.add(model=model, **work.stages(model))
        work.try_all(others, record)
        for model in work.models:
            entry = {"model": model, "resize": "workers", "cores": cores[0], "compiled": True}
            if not place.dry and record.has_time(40, **entry):
                with record.attempt(**entry):
                    record.add(**entry, **work.run(model, "workers", cores[0], compiled=True))


def batch_size(place: Place, record: Record) -> None:
    """The batch size that ``generate`` chooses, against the fastest of a sweep, and its memory."""
    for model in SMALL_MODELS if place.dry else MODELS:
        if not record.has_time(0 if place.dry else 10, model=model):
            continue
        with record.attempt(model=model):
            teacher = _teacher(model, place)
            free = total = None
            if place.device.type == "cuda":
                torch.cuda.empty_cache()
                free, total = torch.cuda.mem_get_info()
            chosen = teacher.fitting_batch()
            sizes = (4, 16) if place.dry else (16, 32, 64, 128, 256, 512, 1024)
            sweep = {size: _forward(place, teacher, size, free) for size in sizes}
            fastest = max(sweep, key=lambda size: sweep[size]["views_per_second"])
            best = sweep[fastest]["views_per_second"]
            record.add(
                model=model,
                chosen=chosen,
                fastest=fastest,
                chosen_over_fastest=(
                    round(sweep[chosen]["views_per_second"] / best, 4) if chosen in sweep else None
                ),
                free_bytes=free,
                total_bytes=total,
                sweep=sweep,
            )


def _forward(place: Place, teacher: Teacher, size: int, free: int | None) -> dict[str, Any]:
    """Speed and memory of forwards of ``size`` views."""
    placed = _pixels(teacher, size).to(teacher.place)
    peak = place.peak_bytes(lambda: teacher.outputs(placed))
    timing = place.milliseconds(lambda: _bare(teacher, placed), 0.2)
    return {
        "views_per_second": round(size / timing["median_ms"] * 1000, 1),
        "peak_bytes": peak,
        "share_of_free": round(peak / free, 4) if peak is not None and free else None,
    }


def sharing(place: Place, record: Record) -> None:
    """Two processes and one card: refused by torchrun's numbers, and what it takes if insisted on.

    ``torchrun``: two processes of one machine, with a sentence for the one that has no GPU;
    ``alone`` and ``two``: a whole run in one process, and in two that are told the same GPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = _Work(place, Path(folder))
        model = work.models[0]
        command = ["-m", "labelstore", "generate", str(work.photos)]
        command += ["--teacher", f"timm:{model}", "--checkpoint", "none", "--targets", "none"]
        command += ["--views", str(work.views), "--precision", place.precision, "--quiet"]
        command += ["--device", place.device.type, "--workers", str(max(1, work.cores // 2))]
        if not place.dry:
            # As many for one process as for each of two: the card, not the choice, is measured.
            command += ["--batch-size", "256"]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        start = time.perf_counter()
        done = subprocess.run(
            [*launcher, *command, "-o", str(work.folder / "torchrun.zarr")],
            capture_output=True,
            text=True,
            check=False,
            timeout=max(record.left, 1),
        )
        lines = [line for line in done.stderr.splitlines() if "Error: " in line]
        record.add(
            way="torchrun",
            gpus=torch.cuda.device_count() if place.device.type == "cuda" else 0,
            exit_code=done.returncode,
            sentences=sorted(set(lines)),
            seconds=round(time.perf_counter() - start, 2),
        )
        for way, world in (("alone", 1), ("two", 2)):
            if (place.dry and world == 1) or not record.has_time(0 if place.dry else 20, way=way):
                continue
            with record.attempt(way=way):
                run = [sys.executable, *command, "-o", str(work.folder / f"{way}.zarr")]
                record.add(way=way, **_together(run, world, place, record.left))


class _Work:
    """Photos, and what runs over them."""

    def __init__(self, place: Place, folder: Path) -> None:
        from labelstore.images.sources.folder import FolderSource

        self.place = place
        self.folder = folder
        self.models = SMALL_MODELS if place.dry else MODELS
        self.views = 4 if place.dry else VIEWS
        self.photos = folder / "photos"
        place_synthetic_photos(self.photos, 4 if place.dry else 128, distinct=4 if place.dry else 8)
        self.source: FolderSource = FolderSource(self.photos)
        self._sources = {len(self.source): self.source}
        self.cores = len(os.sched_getaffinity(0))
        self._teachers: dict[tuple[str, bool], tuple[Teacher, int, float]] = {}

    def cores_to_try(self) -> list[int]:
        """Numbers of cores, the largest first."""
        wanted = (1,) if self.place.dry else (16, 8, 4)
        return [count for count in wanted if count <= self.cores] or [self.cores]

    def try_all(self, trials: list[tuple[str, int]], record: Record) -> None:
        """A run of each model for each place of resizing and number of cores, as time allows."""
        for resize, cores in trials:
            for model in self.models:
                entry = {"model": model, "resize": resize, "cores": cores, "compiled": False}
                if record.has_time(0 if self.place.dry else 11, **entry):
                    with record.attempt(**entry):
                        record.add(**entry, **self.run(model, resize, cores))

    def run(self, model: str, resize: Any, cores: int, *, compiled: bool = False) -> dict[str, Any]:
        """One run, its threads bound to some cores; of about 6 seconds and four blocks."""
        from labelstore.producer.generation import generate
        from labelstore.producer.settings import RunOptions

        teacher, batch, bare = self.teacher(model, compiled)
        fastest = bare if resize == "device" else min(bare, cores * VIEWS_OF_A_CORE)
        source = self.source_of(4 if self.place.dry else int(6 * fastest / self.views))
        store = self.folder / "store.zarr"
        shutil.rmtree(store, ignore_errors=True)
        targets = np.full(len(source), -1, dtype=np.int32)
        pace = _Pace(len(source) * self.views)
        with _bound_to(cores):
            start = time.perf_counter()
            report = generate(
                source,
                targets,
                teacher,
                store,
                self.recipe(-(-len(source) // 4)),
                options=RunOptions(batch_size=batch, workers=cores, resize=resize),
                progress=pace,
            )
            seconds = time.perf_counter() - start
        return {
            "batch_size": batch,
            "views": report.views_made,
            "views_per_second": report.views_per_second,
            "steady_views_per_second": round(pace.steady(), 1),
            "bare_views_per_second": round(bare, 1),
            "share_of_bare": round(pace.steady() / bare, 4),
            "waiting_share": report.waiting_share,
            "seconds_with_start": round(seconds, 2),
        }

    def source_of(self, count: int) -> FolderSource:
        """So many photos, 48 to 512 of them but in a dry run."""
        from labelstore.images.sources.folder import FolderSource

        count = count if self.place.dry else min(max(count, 48), 512)
        if count not in self._sources:
            photos = self.folder / f"photos-{count}"
            place_synthetic_photos(photos, count)
            self._sources[count] = FolderSource(photos)
        return self._sources[count]

    def recipe(self, block_images: int | None = None) -> Any:
        from labelstore.producer.settings import FIDELITIES, LabelSettings

        store = replace(FIDELITIES["balanced"], block_images=block_images)
        return LabelSettings(self.views, store)

    def teacher(self, model: str, compiled: bool) -> tuple[Teacher, int, float]:
        """A teacher, its batch size, and the views a second of its forward alone."""
        key = (model, compiled)
        if key not in self._teachers:
            from labelstore.teachers.device_memory import default_batch_size

            teacher = _teacher(model, self.place)
            batch = 8 if self.place.dry else default_batch_size([teacher])
            if compiled:
                teacher.compile(batch)
            placed = _pixels(teacher, batch).to(teacher.place)
            timing = self.place.milliseconds(lambda: _bare(teacher, placed), 0.5)
            self._teachers[key] = teacher, batch, batch / timing["median_ms"] * 1000
        return self._teachers[key]

    def stages(self, model: str) -> dict[str, Any]:
        """Seconds of each stage alone, of four photos: one thread but for the teacher."""
        from benchmarks.generate import measure_stages
        from labelstore.images.sources.folder import FolderSource
        from labelstore.producer.generation import generate
        from labelstore.producer.settings import RunOptions

        teacher, batch, _ = self.teacher(model, compiled=False)
        folder = self.folder / f"stages-{model}"
        place_synthetic_photos(folder / "photos", 4, distinct=4)
        source = FolderSource(folder / "photos")
        targets = np.full(len(source), -1, dtype=np.int32)
        generate(
            source,
            targets,
            teacher,
            folder / "store.zarr",
            self.recipe(),
            options=RunOptions(batch_size=batch),
        )
        pixels = _pixels(teacher, batch)
        seconds = measure_stages(source, teacher, self.recipe(), pixels, folder)
        return {
            "stages_s": {name: round(value, 4) for name, value in seconds.items()},
            "stages_of_views": len(source) * self.views,
        }


class _Pace:
    """When how many views were labelled: of a whole run the start and the end are left out."""

    def __init__(self, views: int) -> None:
        self._all = views
        self._done = 0
        self._times: list[tuple[float, int]] = []

    def resumed(self, images: int) -> None:
        """Nothing: each run is a new one."""

    def update(self, images: int, views: int) -> None:
        """Another batch is there."""
        self._done += views
        self._times.append((time.perf_counter(), self._done))

    def waited(self, seconds: float) -> None:
        """Nothing: the run's report says it."""

    def steady(self) -> float:
        """Views a second between the first fifth of a run and its last tenth."""
        middle = [(at, n) for at, n in self._times if 0.2 * self._all <= n <= 0.9 * self._all]
        if len(middle) < 2:
            middle = self._times
        (start, before), (end, after) = middle[0], middle[-1]
        return (after - before) / max(end - start, 1e-9)


def _teacher(model: str, place: Place) -> Teacher:
    """An untrained network: it takes the time of a trained one."""
    from labelstore.teachers.load import load_teacher

    return load_teacher(
        f"timm:{model}", checkpoint="none", device=place.device.type, precision=place.precision
    )


def _pixels(teacher: Teacher, count: int) -> torch.Tensor:
    """(count, H, W, 3) uint8 of noise: not of zeros, which a GPU multiplies faster."""
    shape = (count, *teacher.preprocessing.input_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return torch.from_numpy(pixels)


def _bare(teacher: Teacher, placed: torch.Tensor) -> Any:
    """A forward with softmax and top-k, as ``generate`` does it, not waited for."""
    from labelstore.teachers.forward import Forward

    return Forward(teacher, placed, 4, 1.0, None)


def _crops_equal(place: Place, source: FolderSource, record: Record) -> None:
    """Crops resized on the device against Pillow's, value by value, and the time of both."""
    from labelstore.images.decoding import decode
    from labelstore.images.pillow_passes import FILTERS
    from labelstore.images.pixels import cut
    from labelstore.images.resize_on_device import resize_boxes

    photo = decode(source.read(0), "")
    pixels = torch.from_numpy(np.array(photo)).to(place.device)
    rng = np.random.default_rng(0)
    count, side = (4, 64) if place.dry else (128, 224)
    low = min(photo.size)
    sides = rng.integers(1, low + 1, (count, 2))
    boxes = np.concatenate([rng.integers(0, low + 1 - sides), sides], axis=1)
    flips = rng.random(count) < 0.5
    for filter_name in sorted(FILTERS):
        with record.attempt(crops=filter_name):
            start = time.perf_counter()
            expected = np.stack(
                [
                    cut(photo, box, flip, (side, side), filter_name)
                    for box, flip in zip(boxes.tolist(), flips.tolist(), strict=True)
                ]
            )
            by_pillow = time.perf_counter() - start

            def resize(name: str = filter_name) -> torch.Tensor:
                return resize_boxes(pixels, boxes, flips, (side, side), name)

            differing = int((resize().cpu().numpy() != expected).sum())
            record.add(
                crops=filter_name,
                values=expected.size,
                differing_values=differing,
                pillow_ms_a_view=round(by_pillow / count * 1000, 4),
                device_ms_a_view=round(place.wall(resize) / count * 1000, 4),
            )


@contextlib.contextmanager
def _bound_to(cores: int) -> Iterator[None]:
    """This thread, and those that it starts, on some of the cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(allowed)[:cores]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _together(command: list[str], world: int, place: Place, limit: float) -> dict[str, Any]:
    """Processes that are told to be the ranks of one launch, all with GPU 0."""
    launch = {"WORLD_SIZE": str(world), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(world)}
    start = time.perf_counter()
    with _most_memory(place) as most:
        processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **({**launch, "RANK": str(rank)} if world > 1 else {})},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            errors = [process.communicate(timeout=max(limit, 1))[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "exit_codes": [process.returncode for process in processes],
        "most_bytes_of_the_card": most[0],
        "said": sorted({line[:300] for text in errors for line in text.splitlines()[-2:]}),
    }


@contextlib.contextmanager
def _most_memory(place: Place) -> Iterator[list[int | None]]:
    """The most memory of the card that was taken, by all processes, looked at ten times a second;
    None in a dry run."""
    most: list[int | None] = [None]
    if place.device.type != "cuda":
        yield most
        return
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            free, total = torch.cuda.mem_get_info()
            most[0] = max(most[0] or 0, total - free)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()
