"""A teacher that costs nothing, and what a run with it takes: the ceiling of the producer."""

from __future__ import annotations

import resource
import shutil
import time
from typing import TYPE_CHECKING, Any

import torch

from labelstore.images.ground_truth import resolve_targets
from labelstore.images.preprocessing import Preprocessing
from labelstore.producer.generation import generate
from labelstore.producer.settings import FIDELITIES, LabelSettings, RunOptions
from labelstore.teachers.teacher import Teacher

if TYPE_CHECKING:
    from pathlib import Path

    from labelstore.images.sources.folder import FolderSource

__all__ = ["FreeTeacher", "pipeline_costs"]

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


def pipeline_costs(
    source: FolderSource, folder: Path, views: int, workers: int, interpolation: str
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
        options=RunOptions(workers=workers),
    )
    ended = resource.getrusage(resource.RUSAGE_SELF)
    seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return {
        "processor_s": seconds,
        "clock_s": time.perf_counter() - clock,
        "views": report.views_made,
        "views_per_processor_second": report.views_made / seconds,
    }
