"""What augmented and mixed views cost beside a real teacher, in seconds of the processor.

``generate`` labels the same photos (of the package foolbox), the same number of views, plain and
with each augmentation, in turns, by a timm network with untrained weights on one thread of the CPU.
Of partners' photos no more than two are kept, since of many photos one that is kept is seldom met
again; of few photos it is now and then.

    python -m benchmarks.augment
"""

from __future__ import annotations

import argparse
import functools
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.support.measuring import alternate, ratio, write_result
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.images.mixing.partners import PartnerPhotos
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.demo import place_photos
from labelstore.producer import crops
from labelstore.producer.generation import generate
from labelstore.producer.settings import FIDELITIES, LabelSettings, RunOptions
from labelstore.teachers.load import load_teacher
from labelstore.views.law import ViewLaw

AUGMENTATIONS = ("mixup-0.8", "mixup-0.8-r1", "mixup-0.8-r16", "cutmix-1", "ra-n2-m9")
KEPT_BYTES = 2 * 3 * 512 * 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--photos", type=int, default=20, help="at most 20")
    parser.add_argument("--views", type=int, default=32, help="of each photo, a multiple of 16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--augment", nargs="+", default=list(AUGMENTATIONS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    # Threads of the network's library wait busily for each other.
    torch.set_num_threads(1)
    few = functools.partial(PartnerPhotos, kept_bytes=KEPT_BYTES)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(crops, "PartnerPhotos", few):
        result = measure(Path(folder), options)
    write_result("augment", result, options.out)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Views a processor second of each way, and their ratios to plain views, paired by round."""
    photos = folder / "photos"
    place_photos(photos)
    for photo in sorted(photos.glob("*/*"))[options.photos :]:
        photo.unlink()
    source = FolderSource(photos)
    teacher = load_teacher(f"timm:{options.model}", checkpoint="none", device="cpu")
    targets = resolve_targets(
        source, num_classes=teacher.num_classes, class_names=None, targets="none"
    )

    def run(stages: tuple[str, ...], views: int) -> None:
        law = ViewLaw(stages=stages)
        settings = LabelSettings(views, FIDELITIES["balanced"], law=law)
        generate(source, targets, teacher, folder / "s.zarr", settings, options=RunOptions())
        shutil.rmtree(folder / "s.zarr")

    run(("mix-0.8-1",), 2)
    ways = {name: functools.partial(run, (name,), options.views) for name in options.augment}
    ways = {"plain": functools.partial(run, (), options.views), **ways}
    seconds = alternate(ways, options.rounds, warmup=0, clock=time.process_time)
    views = len(source) * options.views
    return {
        "setting": {
            "model": options.model,
            "images": len(source),
            "views": options.views,
            "rounds": options.rounds,
        },
        "rows": [
            {
                "augment": name,
                "processor_s": [round(own, 3) for own in spent],
                "views_per_processor_second": round(views / statistics.median(spent), 2),
                "share_of_plain": round(ratio(seconds["plain"], spent), 3),
            }
            for name, spent in seconds.items()
        ],
    }


if __name__ == "__main__":
    main()
