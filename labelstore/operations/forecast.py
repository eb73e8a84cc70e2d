"""What a run of ``generate`` would take, by a sample, before GPU time is spent."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelstore.labels.actions import action_shares
from labelstore.labels.ferkd import FerKD
from labelstore.operations.plan import Setting, measure, sample_of_teacher
from labelstore.producer.engines.local import LocalEngine
from labelstore.producer.manifests import StoreSizes, manifests_of
from labelstore.producer.store_bytes import empty_store_bytes
from labelstore.storage.local_files import free_bytes
from labelstore.storage.location import place_of, suffix_of
from labelstore.teachers.device_memory import BATCH_SIZES

if TYPE_CHECKING:
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.settings import Output, RunOptions
    from labelstore.teachers.teacher import Teacher

__all__ = ["Forecast", "forecast"]


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
    output: Output,
    options: RunOptions,
    *,
    images: int = 24,
    views: int = 32,
) -> Forecast:
    """Label a sample as ``generate`` would, and reckon up.

    Args:
        source, teacher, options: as for ``generate``. output: the store, of which nothing is
            written.
        images: of the sample, at least, spread over the source; views: the first ones of each.
            Where the store has fewer views, more images make up for them.

    Raises:
        SourceError: none of the sampled images can be decoded. TeacherError: the network fails.
        UsageError: settings that make no store.
    """
    settings = output.settings
    shown = min(views, settings.num_views)
    # A compiled network takes minutes to compile, and says the same.
    as_it_is = replace(options, compiled=False)
    with LocalEngine([teacher], as_it_is) as engine:
        (manifest,) = manifests_of(source, [output], as_it_is, engine)
    sample = sample_of_teacher(
        source,
        teacher,
        settings.law,
        temperature=settings.temperature,
        images=max(images, -(-images * views // shown)),
        views=shown,
        batch_size=options.batch_size or BATCH_SIZES[teacher.device],
    )
    place = place_of(output.path)
    sizes = StoreSizes(
        manifest.num_images, manifest.block_images, manifest.group_views, manifest.unit_images
    )
    row = measure(
        sample.labels,
        Setting("", settings.store_of(teacher.num_classes)),
        settings.num_views,
        suffix_of(place),
        sizes=sizes,
        photo_sizes=sample.sizes,
    )
    empty = empty_store_bytes(manifest, source.keys, output.targets, suffix_of(place))
    crops = len(source) * settings.num_views
    seconds_forward = sample.forward_seconds * crops
    seconds_pixels = (
        sample.decode_seconds * len(source) + sample.cut_seconds * crops
    ) / options.workers
    seconds = max(seconds_forward, seconds_pixels)
    if teacher.device == "cpu":
        seconds = seconds_forward + seconds_pixels
    action = FerKD().decide(sample.labels.max(axis=-1))
    return Forecast(
        images=len(source),
        views=settings.num_views,
        crops=crops,
        sample_images=len(sample.labels),
        sample_views=shown,
        bytes=(round(row.bytes_per_crop * crops + row.table_bytes_per_image * len(source)) + empty),
        bytes_per_crop=round(row.bytes_per_crop, 3),
        free_bytes=free_bytes(place) if isinstance(place, Path) else None,
        seconds=seconds,
        seconds_forward=seconds_forward,
        seconds_pixels=seconds_pixels,
        bottleneck="teacher" if seconds_forward >= seconds_pixels else "pixels",
        kl_nats=round(row.distances.kl_nats, 5),
        ferkd=action_shares(action),
    )
