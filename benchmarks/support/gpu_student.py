"""Rows of ``benchmarks.gpu`` about training: labels on the device, and whole steps."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.support.gpu_place import Place, Record

__all__ = ["labels", "train_step"]


def labels(place: Place, record: Record) -> None:
    """Recover, calibrate and SelfMix, in NumPy on one core and on the device, and its waits.

    ``waits``: how often torch says that one pass made the processor wait for the device
    (``torch.cuda.set_sync_debug_mode``), and where.
    """
    torch.set_num_threads(1)
    for images, views in ((4, 2),) if place.dry else ((256, 4), (2048, 4)):
        for k, listed in ((4, 64), (10, 0)):
            entry = {"views": images * views, "k": k, "prior_size": listed}
            if record.has_time(0 if place.dry else 3, **entry):
                with record.attempt(**entry):
                    record.add(**entry, **_label_times(place, images, views, k, listed))


def _label_times(place: Place, images: int, views: int, k: int, listed: int) -> dict[str, Any]:
    """Both ways over the labels of one batch."""
    from benchmarks.batch import stored
    from labelstore import FerKD
    from labelstore.torch import SelfMix, StoredLabels, TorchSoftLabels, mix_batch, recover
    from labelstore.training.mixing import mixed_labels
    from labelstore.training.recovery import Recovery

    topk, targets, numbers = stored(k, listed, images, views)
    rule, mix = FerKD(), SelfMix("mixup", alpha=0.8)
    recovery = Recovery(None, "top-k", rule, None)

    def in_numpy() -> TorchSoftLabels:
        done = rule.apply(topk, targets)
        plan = mix.plans(numbers, (224, 224), 1)[0]
        return TorchSoftLabels.from_numpy(mixed_labels(plan, done.labels), target=targets)

    rows = StoredLabels.from_numpy(topk, targets, numbers, numbers)
    if place.device.type == "cuda":
        rows = rows.pin_memory()
    # Tiny pixels: they have to be mixed too, and labels are what is measured.
    pixels = torch.rand(images * views, 3, 4, 4, device=place.device)
    image = torch.from_numpy(numbers)

    def on_device() -> Any:
        here = recover(rows.to(place.device, non_blocking=True), recovery)
        return mix_batch(mix, pixels, here, image, step=1)

    host = [_seconds(in_numpy) * 1000 for _ in range(2 if place.dry else 10)]
    return {
        "numpy_one_core_ms": round(statistics.median(host), 3),
        "device": place.milliseconds(on_device),
        "device_processor_ms": round(_processor_ms(place, on_device), 3),
        "waits": _waits(place, on_device),
    }


def train_step(place: Place, record: Record) -> None:
    """A ResNet-50 at 224 pixels, bf16, uint8 batches normalised on the device: steps a second.

    ``hard``: the ground truth; ``stored``: labels that loader workers have recovered; ``stored, on
    the device``: labels as stored, recovered there; ``online NAME``: a teacher of that size in the
    loop. Batches lie in pinned memory, so loading is not part of it.
    """
    work = _Steps(place)
    for way, step in work.ways().items():
        if not record.has_time(0 if place.dry else 6, way=way):
            continue
        with record.attempt(way=way):
            timing = place.milliseconds(step, 3.0)
            work.medians[way] = timing["median_ms"]
            record.add(
                way=way,
                batch_size=work.batch,
                steps_per_second=round(1000 / timing["median_ms"], 3),
                peak_bytes=place.peak_bytes(step),
                waits=_waits(place, step),
                **timing,
            )
    if "hard" not in work.medians:
        return
    hard = work.medians["hard"]
    record.add(
        over_hard={way: round(value / hard, 4) for way, value in work.medians.items()},
        # Negative where the step with stored labels was the faster one: noise.
        label_share_of_step={
            way: round((value - hard) / value, 4)
            for way, value in work.medians.items()
            if way.startswith("stored")
        },
        labels_in_a_worker_ms=round(work.host_milliseconds(), 3),
    )


class _Steps:
    """A student, batches of pixels, and their labels of each kind."""

    def __init__(self, place: Place) -> None:
        from benchmarks.batch import stored
        from labelstore import FerKD
        from labelstore.teachers.timm_networks import create_model
        from labelstore.torch import StoredLabels, TorchSoftLabels
        from labelstore.training.recovery import Recovery

        self.place = place
        images, views = (2, 2) if place.dry else (64, 4)
        self.batch = images * views
        self.size = 64 if place.dry else 224
        self.student_name = "test_resnet" if place.dry else "resnet50"
        self.teachers = ("test_efficientnet",) if place.dry else ("efficientnet_b0", "resnet50")
        self.medians: dict[str, float] = {}
        student = create_model(self.student_name, num_classes=1000).train()
        self.student = student.to(place.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.01, momentum=0.9)
        rng = np.random.default_rng(0)
        shape = (self.batch, self.size, self.size, 3)
        pixels = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).permute(0, 3, 1, 2)
        self.rule = FerKD(discard="keep")
        self.topk, self.targets, self.numbers = stored(4, 64, images, views)
        self.recovery = Recovery(None, "top-k", self.rule, None)
        self.recovered = TorchSoftLabels.from_numpy(self.rule.apply(self.topk, self.targets).labels)
        rows = StoredLabels.from_numpy(self.topk, self.targets, self.numbers, self.numbers)
        pinned = place.device.type == "cuda"
        self.pixels = pixels.pin_memory() if pinned else pixels
        self.stored = rows.pin_memory() if pinned else rows
        self.recovered = self.recovered.pin_memory() if pinned else self.recovered
        truth = torch.from_numpy(np.asarray(self.targets, dtype=np.int64))
        self.truth = truth.pin_memory() if pinned else truth

    def ways(self) -> dict[str, Callable[[], None]]:
        """What a step is, each way."""
        from labelstore.torch import recover, soft_cross_entropy

        device = self.place.device

        def hard(x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
            truth = self.truth.to(device, non_blocking=True)
            return lambda logits: F.cross_entropy(logits.float(), truth)

        def stored(x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
            target = self.recovered.to(device, non_blocking=True)
            return lambda logits: soft_cross_entropy(logits, target)

        def on_device(x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
            target = recover(self.stored.to(device, non_blocking=True), self.recovery)
            return lambda logits: soft_cross_entropy(logits, target)

        ways = {
            "hard": lambda: self.step(hard),
            "stored": lambda: self.step(stored),
            "stored, on the device": lambda: self.step(on_device),
        }
        for name in self.teachers:
            ways[f"online {name}"] = lambda name=name: self.step(self.online(name))
        return ways

    def online(self, name: str) -> Callable[..., Any]:
        """A teacher in the loop, made at its first step."""
        if name not in self.__dict__:
            from labelstore.teachers.timm_networks import create_model

            teacher = create_model(name, num_classes=1000).eval().requires_grad_(False)
            setattr(self, name, teacher.to(self.place.device, memory_format=torch.channels_last))
        teacher = getattr(self, name)

        def make(x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
            with torch.no_grad(), self.half():
                label = teacher(x).float().softmax(1)
            return lambda logits: F.cross_entropy(logits.float(), label)

        return make

    def half(self) -> Any:
        """Autocast to bf16; on the CPU nothing."""
        kind = self.place.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.place.precision == "bf16")

    def step(self, label: Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]) -> None:
        """Copy a batch, normalize it, forward, loss, backward, optimizer."""
        from labelstore.images.preprocessing import normalize

        pixels = self.pixels.to(self.place.device, non_blocking=True)
        x = normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        loss = label(x)
        with self.half():
            logits = self.student(x)
        value = loss(logits)
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()

    def host_milliseconds(self) -> float:
        """What recovering a batch's labels takes a loader's worker, on one core."""
        torch.set_num_threads(1)
        times = [_seconds(lambda: self.rule.apply(self.topk, self.targets)) for _ in range(5)]
        return statistics.median(times) * 1000


def _seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _processor_ms(place: Place, task: Callable[[], object]) -> float:
    """Milliseconds until a task has handed its work to the device, once it is warm."""
    task()
    place.synchronize()
    taken = _seconds(task) * 1000
    place.synchronize()
    return taken


def _waits(place: Place, task: Callable[[], object]) -> dict[str, Any] | None:
    """How often a task waits for the device, and the lines that do; None on the CPU."""
    if place.device.type != "cuda":
        return None
    place.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            task()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if "called a synchronizing" in str(one.message)]
    lines = [f"{one.filename.rpartition('labelstore/')[2]}:{one.lineno}" for one in waits]
    return {"count": len(waits), "lines": sorted(set(lines))}
