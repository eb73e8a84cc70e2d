"""A teacher that costs nothing, and what a run with it takes: the ceiling of the producer."""

from __future__ import annotations

import contextlib
import functools
import itertools
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

from benchmarks.support.lock_share import LockSampler
from benchmarks.support.synthetic_photos import place_synthetic_photos
from labelstore.format.settings import ACCELERATOR_BLOCK_VIEWS
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.images.preprocessing import Preprocessing
from labelstore.images.sources.folder import FolderSource
from labelstore.producer import manifests
from labelstore.producer.background import PACES
from labelstore.producer.crops import cutter
from labelstore.producer.generation import generate
from labelstore.producer.settings import FIDELITIES, LabelSettings, RunOptions
from labelstore.teachers.device_memory import batch_memory
from labelstore.teachers.teacher import Teacher

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FreeTeacher", "lock_costs", "pipeline_costs"]

CLASSES = 1000


class _Pooled(torch.nn.Module):
    """Logits by a matrix from the mean colour: what ``Teacher`` tries out."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.nn.Linear(3, CLASSES)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.matrix(values.mean(dim=(2, 3)))


class FreeTeacher(Teacher):
    """Looks at one byte of a view and takes its logits from a table: it normalizes no pixel."""

    def __init__(self, interpolation: str, side: int = 224) -> None:
        self._table: torch.Tensor | None = None
        torch.manual_seed(0)
        preprocessing = Preprocessing((side, side), (0.5,) * 3, (0.25,) * 3, interpolation)
        super().__init__(_Pooled(), preprocessing, spec="free", device="cpu")
        self._table = 3 * torch.randn((256, CLASSES))

    def outputs(self, pixels: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        if self._table is None:
            return super().outputs(pixels, exact=exact)
        height, width = pixels.shape[1:3]
        return self._table[pixels[:, height // 2, width // 2, 0].long()]


LOCK_PHOTOS, FEW_PHOTOS = 72, 8
"""Photos of a run whose time under the lock is measured, and of one that is taken off, for what a
run costs at its start and end."""

GPU_BATCH = 512
"""Views of a batch as on a GPU."""

BATCHES_ALIVE = 10
"""More than are cut, waited for and labelled at a time."""

PARTS = {
    "labelstore": "workers",
    "labelstore-ahead": "batches",
    "labelstore-lists": "lists",
    "MainThread": "main thread",
}
"""Name of threads -> what it is called in a result; all others write."""


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Threads, batches, blocks and memory as where the teacher runs on a GPU."""
    memory = functools.cache(lambda _number, *of: batch_memory(*of))
    numbers = itertools.cycle(range(BATCHES_ALIVE))
    with (
        # Pinned memory is kept by torch; here the system would get back, and give, some 77 MB a
        # batch under the lock.
        mock.patch.object(cutter, "batch_memory", lambda *of: memory(next(numbers), *of)),
        mock.patch.dict(PACES, {"cpu": PACES["cuda"]}),
        mock.patch.object(manifests, "CPU_BLOCK_VIEWS", ACCELERATOR_BLOCK_VIEWS),
    ):
        yield


def lock_costs(views: int, workers: int, interpolation: str) -> dict[str, Any]:
    """Microseconds a view under the interpreter's lock, by threads, and what it is of a worker's
    time; of photos of 500 x 375, the producer's threads running as on a GPU."""
    total: dict[str, float] = {}
    held: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, as_on_a_gpu():
        folder = Path(name)
        sampler = LockSampler(folder)
        for photos in (FEW_PHOTOS, LOCK_PHOTOS):
            place_synthetic_photos(folder / str(photos), photos, distinct=FEW_PHOTOS)
        # The first run loads modules.
        for photos, sign in ((FEW_PHOTOS, 0), (FEW_PHOTOS, -1), (LOCK_PHOTOS, 1)):
            source = FolderSource(folder / str(photos))
            costs: dict[str, Any] = {}
            shares = sampler.shares(
                lambda source=source, costs=costs: costs.update(
                    pipeline_costs(source, folder, views, workers, interpolation, GPU_BATCH)
                )
            )
            for thread, (under, free) in shares.items():
                part = PARTS.get(thread, "writing")
                held[part] = held.get(part, 0.0) + sign * under * costs["processor_s"]
                total[part] = total.get(part, 0.0) + sign * (under + free) * costs["processor_s"]
    scale = 1e6 / (views * (LOCK_PHOTOS - FEW_PHOTOS))
    return {
        "us_a_view": sum(total.values()) * scale,
        "under_the_lock": {part: max(seconds, 0.0) * scale for part, seconds in held.items()},
        "of_a_worker": held["workers"] / total["workers"],
    }


def pipeline_costs(
    source: FolderSource,
    folder: Path,
    views: int,
    workers: int,
    interpolation: str,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """What a run takes, from files to a committed store: seconds of processor and of clock."""
    teacher = FreeTeacher(interpolation)
    targets = resolve_targets(
        source, num_classes=teacher.num_classes, class_names=None, targets="none"
    )
    store = folder / "free.zarr"
    shutil.rmtree(store, ignore_errors=True)
    began, clock = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    report = generate(
        source,
        targets,
        teacher,
        store,
        LabelSettings(views, FIDELITIES["balanced"]),
        options=RunOptions(workers=workers, batch_size=batch_size),
    )
    ended = resource.getrusage(resource.RUSAGE_SELF)
    seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return {
        "processor_s": seconds,
        "clock_s": time.perf_counter() - clock,
        "views": report.views_made,
        "views_per_processor_second": report.views_made / seconds,
    }
