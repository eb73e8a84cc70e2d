"""What a run of ``generate`` will take, from a sample: bytes, time, and what FerKD would do."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import DecodeError, SourceError
from labelstore.images.pixels import cut, decode
from labelstore.labels.ferkd import Action, FerKD
from labelstore.operations.plan import Setting, measure
from labelstore.storage.local_files import free_bytes
from labelstore.storage.location import place_of, suffix_of
from labelstore.teachers.top_k import softmax
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.settings import LabelSettings
    from labelstore.teachers.teacher import Teacher

__all__ = ["Forecast", "forecast"]

FIXED_BYTES_AN_IMAGE = 60
"""The image table's share: key, size, digest, ground truth and status, compressed; a generous guess
for paths of usual length."""


@dataclass(frozen=True)
class Forecast:
    """What is expected of a run. Figures of time and bytes are estimates from the sample."""

    images: int
    views: int
    crops: int
    sample_images: int
    sample_views: int
    bytes: int
    """Of the store."""
    bytes_per_crop: float
    free_bytes: int | None
    """On the file system where the store goes; None behind a URL, which does not tell."""
    seconds: float
    """Of the whole run on this machine, the sample's pace held."""
    seconds_forward: float
    """Of them for the teacher alone."""
    seconds_pixels: float
    """For decoding and cutting on all workers; beside the teacher's on a GPU, on a CPU on top of
    it."""
    bottleneck: str
    """``teacher`` or ``pixels``, whichever takes longer."""
    kl_nats: float
    """Mean KL divergence of the recovered labels from the teacher's full output."""
    ferkd: dict[str, float]
    """Shares of the sample's views that the paper's thresholds discard, calibrate and keep."""

    @property
    def fits(self) -> bool:
        """Whether the disk has room, as far as is known."""
        return self.free_bytes is None or self.bytes <= self.free_bytes

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "fits": self.fits}


def forecast(
    source: ImageSource,
    teacher: Teacher,
    path: str | os.PathLike[str],
    settings: LabelSettings,
    *,
    batch_size: int,
    workers: int,
    images: int = 24,
    views: int = 32,
) -> Forecast:
    """Label a sample as ``generate`` would, and reckon up.

    Args:
        source, teacher, path, settings, batch_size, workers: as for ``generate``; nothing is
            written to ``path``.
        images: of the sample, spread over the source; views: the first ones of each.

    Raises:
        SourceError: none of the sampled images can be decoded. TeacherError: the network fails.
    """
    size, filter = teacher.preprocessing.input_size, teacher.preprocessing.interpolation
    places = np.linspace(0, len(source) - 1, min(images, len(source)))
    chosen = np.unique(places.round().astype(int))
    views = min(views, settings.num_views)
    hashes = hash_keys(source.keys)
    truth: list[npt.NDArray[np.float32]] = []
    decoding = cutting = forward = 0.0
    for image in chosen.tolist():
        started = time.perf_counter()
        try:
            photo = decode(source.read(image), str(source.path_of(image)))
        except DecodeError:
            continue
        decoded = time.perf_counter()
        geometry = settings.law(hashes[image], np.arange(views), photo.width, photo.height)
        pixels = np.stack(
            [
                cut(photo, box.tolist(), bool(flip), size, filter)
                for box, flip in zip(geometry.box, geometry.flip, strict=True)
            ]
        )
        ready = time.perf_counter()
        parts = [
            softmax(teacher.logits(pixels[start : start + batch_size]), settings.temperature)
            for start in range(0, views, batch_size)
        ]
        done = time.perf_counter()
        if truth:
            # The first image pays for warming up.
            decoding += decoded - started
            cutting += ready - decoded
            forward += done - ready
        truth.append(np.concatenate(parts))
    if not truth:
        raise SourceError("none of the sampled images could be decoded: check the source.")
    labels = np.stack(truth)
    setting = Setting("", settings.store_of(teacher.num_classes))
    place = place_of(path)
    row = measure(
        labels, setting, settings.num_views, suffix_of(place), class_names=teacher.class_names
    )
    crops = len(source) * settings.num_views
    timed = max(len(labels) - 1, 1)
    teachers = forward / timed / views * crops
    pixels_s = (decoding / timed * len(source) + cutting / timed / views * crops) / workers
    action = FerKD().decide(labels.max(axis=-1))
    return Forecast(
        images=len(source),
        views=settings.num_views,
        crops=crops,
        sample_images=len(labels),
        sample_views=views,
        bytes=(
            round(row.bytes_per_crop * crops) + FIXED_BYTES_AN_IMAGE * len(source) + row.fixed_bytes
        ),
        bytes_per_crop=round(row.bytes_per_crop, 3),
        free_bytes=free_bytes(place) if isinstance(place, Path) else None,
        seconds=teachers + pixels_s if teacher.device == "cpu" else max(teachers, pixels_s),
        seconds_forward=teachers,
        seconds_pixels=pixels_s,
        bottleneck="teacher" if teachers >= pixels_s else "pixels",
        kl_nats=round(row.distances.kl_nats, 5),
        ferkd={item.name.lower(): float((action == item).mean()) for item in Action},
    )
