"""What stored labels add to a training step, against hard labels and against an online teacher.

Three loops over the same photos and crops, taking turns batch by batch: decode, cut, forward,
backward, optimizer step. ``hard`` trains on the photos' classes, ``labelstore`` on stored labels,
``online`` on what a teacher says of the very crops at its own input size. A photo is shown with m
views side by side, so it is decoded once for m crops.

The photos are the demo's 20, at four sizes each. On a CPU the student is ResNet-18 at 64 pixels, on
a GPU ResNet-50 at 224; the teacher is EfficientNet-Lite0, of the extra ``demo``. Loading is in
the training process, on the CPU: with loader workers it would run beside the steps. Labels are read
from chunks that the step before has just read: what a disk takes is not in these figures.

    python -m benchmarks.train_step
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import labelstore
from benchmarks.support.measuring import ratio, summary, write_result
from labelstore.images.decoding import decode
from labelstore.images.pixels import cut
from labelstore.images.preprocessing import normalize
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.demo import place_photos, place_teacher
from labelstore.teachers.load import load_teacher
from labelstore.teachers.timm_networks import create_model
from labelstore.torch import (
    Show,
    SoftLabelDataset,
    TorchSoftLabels,
    collate_views,
    soft_cross_entropy,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TEACHER = "tf_efficientnet_lite0"
SIDES = (256, 288, 320, 352)
"""Shorter sides of the photos' copies, pixels."""
LOOPS = ("hard", "labelstore", "online")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--batch-size", type=int, default=64, help="crops of a step")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), device, max(options.views))
        rows = [work.measure(m, options.batch_size, options.rounds) for m in options.views]
        setting = {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "threads": options.threads,
            "batch_size": options.batch_size,
            "student": work.name,
            "size": work.size,
            "teacher": f"{TEACHER} at {work.store.manifest.teachers[0]['input_size']}",
            "photos": len(work.source),
        }
    write_result("train_step", {"setting": setting, "rows": rows}, options.out)


class Counted(FolderSource):
    """A folder that counts the photos it was asked for."""

    count = 0

    def read(self, index: int) -> bytes:
        self.count += 1
        return super().read(index)


class Work:
    """Photos, their stored labels, a student and a teacher."""

    def __init__(self, folder: Path, device: str, views: int) -> None:
        photos, checkpoint = folder / "photos", folder / "teacher.safetensors"
        make_photos(folder / "demo", photos)
        place_teacher(TEACHER, checkpoint)
        command = [sys.executable, "-m", "labelstore", "generate", str(photos)]
        command += ["--teacher", f"timm:{TEACHER}", "--checkpoint", str(checkpoint)]
        command += ["--views", str(views), "-o", str(folder / "labels.zarr")]
        subprocess.run(command, check=True, capture_output=True)
        self.device = device
        self.store = labelstore.open(folder / "labels.zarr")
        self.teacher = load_teacher(f"timm:{TEACHER}", checkpoint=str(checkpoint), device=device)
        self.name, self.size = ("resnet50", 224) if device == "cuda" else ("resnet18", 64)
        self.source = Counted(photos)
        self.data = SoftLabelDataset(self.source, self.store, size=self.size)
        classes = self.store.num_classes
        self.students = {
            loop: create_model(self.name, num_classes=classes).to(device).train() for loop in LOOPS
        }
        self.optimizers = {
            loop: torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
            for loop, student in self.students.items()
        }

    def measure(self, m: int, batch_size: int, rounds: int) -> dict[str, Any]:
        """Steps of the three loops at m views a photo, in turns."""
        rng = np.random.default_rng(m)
        seconds: dict[str, list[float]] = {loop: [] for loop in (*LOOPS, "labels", "loss")}
        decoded: dict[str, int] = dict.fromkeys(LOOPS, 0)
        for number in range(rounds + 1):
            chosen = rng.choice(len(self.source), size=max(1, batch_size // m), replace=False)
            shows = [
                Show(int(image), tuple(rng.permutation(self.store.num_views)[:m].tolist()))
                for image in chosen
            ]
            taken: dict[str, float] = {}
            # Who comes first changes, so that nobody always finds the photos in a cache.
            for loop in np.roll(LOOPS, number).tolist():
                before = self.source.count
                taken[loop] = self.timed(self.step, loop, shows)
                decoded[loop] += self.source.count - before
            taken["labels"] = self.timed(self.labels, shows)
            taken["loss"] = self.loss_beyond_hard(shows)
            if number:  # the first warms up
                for name, value in taken.items():
                    seconds[name].append(value)
        crops = max(1, batch_size // m) * m
        cost = [a + b for a, b in zip(seconds["labels"], seconds["loss"], strict=True)]
        step = statistics.median(seconds["labelstore"])
        row = {
            "views_per_photo": m,
            "crops": crops,
            **{loop: summary(seconds[loop]) for loop in LOOPS},
            "steps_per_second": {
                loop: round(1 / statistics.median(seconds[loop]), 3) for loop in LOOPS
            },
            "decoded_per_crop": {
                loop: round(decoded[loop] / crops / (rounds + 1), 4) for loop in LOOPS
            },
            "reading_labels": summary(seconds["labels"]),
            "loss_beyond_hard": summary(seconds["loss"]),
            "label_share_of_step": round(statistics.median(cost) / step, 5),
            "labelstore_over_hard": round(ratio(seconds["labelstore"], seconds["hard"]), 4),
            "online_over_labelstore": round(ratio(seconds["online"], seconds["labelstore"]), 3),
        }
        print({name: value for name, value in row.items() if "median_s" not in str(value)})
        return row

    def timed(self, task: Callable[..., object], *given: object) -> float:
        start = time.perf_counter()
        task(*given)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def step(self, loop: str, shows: list[Show]) -> None:
        """One batch of a loop."""
        student, optimizer = self.students[loop], self.optimizers[loop]
        if loop == "labelstore":
            pixels, target = collate_views(self.data.__getitems__(shows))
            loss = soft_cross_entropy(student(pixels.to(self.device)), target.to(self.device))
        else:
            sizes = [self.size, self.teacher.preprocessing.input_size[0]]
            cuts = self.cut(shows, sizes if loop == "online" else sizes[:1])
            label = self.truth(shows)
            if loop == "online":
                label = self.teacher.logits(cuts[1]).float().softmax(1).clone()
            how = self.teacher.preprocessing
            pixels = torch.from_numpy(cuts[0]).permute(0, 3, 1, 2).contiguous()
            pixels = normalize(pixels, how.mean, how.std).to(self.device)
            loss = F.cross_entropy(student(pixels), label.to(self.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def cut(self, shows: list[Show], sizes: list[int]) -> list[np.ndarray]:
        """The views of a batch at some sizes, uint8; photos decoded once."""
        interpolation = self.teacher.preprocessing.interpolation
        made: list[list[np.ndarray]] = [[] for _ in sizes]
        views = self.store.views(*numbers_of(shows))
        crops = zip(views.box.tolist(), views.flip.tolist(), strict=True)
        for show in shows:
            photo = decode(self.source.read(show.image), "photo")
            for box, flip in itertools.islice(crops, len(show.views)):
                for size, pixels in zip(sizes, made, strict=True):
                    pixels.append(cut(photo, box, flip, (size, size), interpolation))
        return [np.stack(pixels) for pixels in made]

    def truth(self, shows: list[Show]) -> torch.Tensor:
        """The class of each crop's photo."""
        numbers, _ = numbers_of(shows)
        return torch.from_numpy(self.store.targets[numbers]).long()

    def labels(self, shows: list[Show]) -> TorchSoftLabels:
        """A batch's stored labels, as the data set reads them."""
        numbers, views = numbers_of(shows)
        target = self.store.targets[numbers]
        labels, _, _ = self.data.recovery(self.store.read(numbers, views), target)
        return TorchSoftLabels.from_numpy(labels)

    def loss_beyond_hard(self, shows: list[Show]) -> float:
        """Seconds that the loss and its gradient take more than those of hard labels; least of 5,
        0 where they take less."""
        target, truth = self.labels(shows).to(self.device), self.truth(shows).to(self.device)
        shape = (len(target), self.store.num_classes)
        logits = torch.randn(shape, device=self.device, requires_grad=True)
        soft = min(
            self.timed(lambda: soft_cross_entropy(logits, target).backward()) for _ in range(5)
        )
        hard = min(self.timed(lambda: F.cross_entropy(logits, truth).backward()) for _ in range(5))
        return max(0.0, soft - hard)


def numbers_of(shows: list[Show]) -> tuple[np.ndarray, np.ndarray]:
    """Image and view number of each crop."""
    numbers = np.array([show.image for show in shows for _ in show.views])
    return numbers, np.array([view for show in shows for view in show.views])


def make_photos(demo: Path, folder: Path) -> None:
    """The demo's photos in class folders, at each of ``SIDES``."""
    place_photos(demo)
    for path in sorted(demo.rglob("*.jpg")):
        with Image.open(path) as photo:
            for side in SIDES:
                scale = side / min(photo.size)
                place = folder / path.parent.name / f"{path.stem}_{side}.jpg"
                place.parent.mkdir(parents=True, exist_ok=True)
                size = (round(photo.width * scale), round(photo.height * scale))
                photo.convert("RGB").resize(size).save(place, quality=90)


if __name__ == "__main__":
    main()
