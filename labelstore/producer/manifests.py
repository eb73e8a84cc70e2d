"""What the manifests of a run's stores say, proved before anything is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from labelstore.errors import LabelStoreError, MismatchError, UsageError
from labelstore.format.manifest import LOGITS_PROBE, Manifest, differences, fingerprint
from labelstore.format.settings import (
    ACCELERATOR_BLOCK_VIEWS,
    CPU_BLOCK_VIEWS,
    default_block_images,
    default_group_views,
)
from labelstore.producer.crops.cutter import shape_of
from labelstore.producer.pixel_probe import make_probe
from labelstore.producer.probe import library_versions
from labelstore.store.backends.registry import backend_of, unit_images_of
from labelstore.store.store import Store
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.engines.protocol import Engine
    from labelstore.producer.growth.growth import Growth
    from labelstore.producer.settings import LabelSettings, Output, Resize, RunOptions

__all__ = [
    "StoreSizes",
    "blocks_on",
    "manifests_of",
    "plan_of",
    "sizes_of",
    "stored_manifest",
]


@dataclass(frozen=True)
class StoreSizes:
    """How a store is divided; the names are those of ``Manifest``."""

    num_images: int
    block_images: int
    group_views: int
    unit_images: int | None


class Labelling(Protocol):
    """What a manifest needs of a teacher."""

    @property
    def num_classes(self) -> int:
        """C."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """C names, or None when unknown."""

    def describe(self) -> dict[str, Any]:
        """As ``Teacher.describe``."""


def manifests_of(
    source: ImageSource, outputs: Sequence[Output], options: RunOptions, engine: Engine
) -> list[Manifest]:
    """The manifest of each store, with the probes of one that is there already."""
    manifests = []
    if outputs[0].growth is not None:
        return [_grown_manifest(outputs[0], outputs[0].growth, options, engine)]
    new: dict[int, Manifest] = {}
    begun = [stored_manifest(output.path, overwrite=options.overwrite) for output in outputs]
    block_images = next((stored.block_images for stored in begun if stored), None)
    if block_images is None:
        device, num_views = engine.teachers[0].device, outputs[0].settings.num_views
        block_images = blocks_on(device, len(source), num_views)
    for number, (output, teacher) in enumerate(zip(outputs, engine.teachers, strict=True)):
        settings = output.settings
        stored = begun[number]
        manifest = plan_of(source, output, teacher, options.resize, block_images, stored)
        if stored is None:
            probe = make_probe(
                source, shape_of(teacher.preprocessing), settings.law, settings.num_views
            )
            new[number] = replace(manifest, probe=probe)
        manifests.append(new[number] if stored is None else replace(manifest, probe=stored.probe))
    if new:
        answers = engine.prove(source, new, [str(output.path) for output in outputs])
        for number, logits in answers.items():
            described = {**(new[number].teacher or {}), LOGITS_PROBE: list(logits)}
            manifests[number] = replace(new[number], teacher=described)
    return manifests


def _grown_manifest(
    output: Output, growth: Growth, options: RunOptions, engine: Engine
) -> Manifest:
    """The manifest of a store that grows, once settings, photos and teacher were proved."""
    old, where = growth.store.manifest, str(growth.store.path)
    teacher = engine.teachers[0]
    asked = plan_of(growth.source, output, teacher, options.resize, old.block_images, old)
    # What may differ, and what the request says nothing of.
    asked = replace(
        asked,
        num_images=old.num_images,
        num_views=old.num_views,
        fingerprint=old.fingerprint,
        probe=old.probe,
        origin=old.origin,
        encoding=old.encoding,
        producer=old.producer if options.allow_version_drift else asked.producer,
    )
    lines = differences(old, asked)
    if lines:
        only_versions = all(line.startswith("producer.") for line in lines)
        raise MismatchError(
            f"{where} was made with other settings ({'; '.join(lines[:6])}), and grows with the "
            f"same: give those{', or allow the drift' if only_versions else ''}.",
            arguments=("allow_version_drift",) if only_versions else (),
        )
    # Partners of mixed views are named by their places in the store.
    photos = growth.source if output.settings.law.mixing is not None else growth.photos
    engine.prove(photos, {0: growth.provable}, [where])
    return growth.manifest(output.targets)


def blocks_on(device: str, num_images: int, num_views: int) -> int:
    """Images of a block of what a teacher labels on a device, where nothing is said of blocks."""
    on_cpu = device.startswith("cpu")
    views = CPU_BLOCK_VIEWS if on_cpu else ACCELERATOR_BLOCK_VIEWS
    return default_block_images(num_images, num_views, views)


def sizes_of(
    path: str | os.PathLike[str],
    settings: LabelSettings,
    num_images: int,
    block_images: int,
    stored: Manifest | None = None,
) -> StoreSizes:
    """How the store that is to be made at a path is divided.

    Args:
        path, settings, num_images: of the store.
        block_images, stored: as for ``plan_of``.

    Raises:
        UsageError: units were asked for, and the store is to be in Parquet.
    """
    store = settings.store
    block_images = store.block_images or block_images
    group_views = store.group_views or (stored.group_views if stored else None)
    if group_views is None:
        least = backend_of(path).group_views
        group_views = default_group_views(settings.num_views, block_images, least)
    group_views = min(group_views, settings.num_views)
    unit_images = unit_images_of(path, settings.layout, group_views, stored)
    return StoreSizes(num_images, block_images, group_views, unit_images)


def plan_of(
    source: ImageSource,
    output: Output,
    teacher: Labelling,
    resize: Resize,
    block_images: int,
    stored: Manifest | None,
) -> Manifest:
    """The manifest of a store to be made, without its probes.

    Args:
        source, output, teacher, resize: what is to be made, of what, by what, and how.
        block_images: of a block, where the settings say nothing of it.
        stored: what the store's manifest says where there is one. Where the settings say nothing
            of groups, or of the layout, it has them as it was begun.

    Raises:
        UsageError: settings that do not go with one another. MismatchError: a law whose views are
            mixed with those of other images.
    """
    settings = output.settings
    law = settings.law
    if law.mixing is not None:
        law = law.among(hash_keys(source.keys))
    if resize == "device" and settings.law.stages:
        raise UsageError(
            f"crops were to be resized on the device, and what is done to them then "
            f"({' '.join(map(str, settings.law.stages))}) is done by workers: resize by workers "
            "(resize='workers'), or leave the augmentations out.",
            arguments=("resize", "augment"),
        )
    sizes = sizes_of(output.path, settings, len(source), block_images, stored)
    store = settings.store_of(teacher.num_classes)
    return Manifest(
        num_views=settings.num_views,
        num_classes=teacher.num_classes,
        fingerprint=fingerprint(source.keys, output.targets),
        law=law,
        label_type=settings.label_type,
        temperature=settings.temperature,
        class_names=teacher.class_names,
        # Crops from the device are Pillow's, or refused; but that they came from there is said.
        teacher=teacher.describe() | ({"resize": resize} if resize == "device" else {}),
        producer=library_versions(),
        **{**store.chosen(), **asdict(sizes)},
    )


def stored_manifest(path: str | os.PathLike[str], *, overwrite: bool) -> Manifest | None:
    """The manifest of a store that may be gone on with; None where the writer has to decide, and
    where what is there is to be overwritten."""
    if overwrite:
        return None
    try:
        return Store(path).manifest
    except LabelStoreError:
        return None
