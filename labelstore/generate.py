"""The producer: what is to be made, what is there already, and the run over what is missing."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import labelstore
from labelstore.blocks import check_table, default_block_images
from labelstore.errors import LabelStoreError, MismatchError, SourceError, UsageError
from labelstore.images import content_digest, cut, decode, pixel_digest
from labelstore.manifest import Manifest, fingerprint
from labelstore.philox import hash_keys
from labelstore.pipeline import Labeller
from labelstore.store import Store, backend_of
from labelstore.views import ViewLaw
from labelstore.writer import StoreWriter

if TYPE_CHECKING:
    import os

    import numpy as np
    import numpy.typing as npt

    from labelstore.labels import LabelType
    from labelstore.pipeline import Progress
    from labelstore.sources import ImageSource
    from labelstore.teachers import Teacher

__all__ = ["FIDELITIES", "Recipe", "Report", "generate", "replay_probe"]

FIDELITIES: dict[str, dict[str, Any]] = {
    "small": {"k": 1, "quantizer": "ratio16", "prior_size": 64},
    "balanced": {"k": 4, "quantizer": "ratio16", "prior_size": 64, "top_p": 0.95},
    "fast": {"k": 5, "quantizer": "u8", "prior_size": 0},
}
"""Settings of ``Recipe`` by the name of what they are good at."""

PROBE_IMAGES, PROBE_VIEWS = 4, 2
"""How many images, and views of each, the manifest's pixel probe holds."""

BATCH_SIZES = {"cpu": 16, "cuda": 256, "mps": 64}


@dataclass(frozen=True)
class Recipe:
    """What labels are to be made; all of it goes into the manifest."""

    num_views: int
    k: int = 4
    law: ViewLaw = field(default_factory=ViewLaw)
    temperature: float = 1.0
    label_type: LabelType = "top-k"
    quantizer: str = "ratio16"
    prior_size: int = 64
    """Classes of each image's prior list; 0 for none."""
    top_p: float | None = None
    """Keep only as many of the k classes as this probability mass needs."""
    block_images: int | None = None
    """Images of a block; by the number of images when None."""
    group_views: int | None = None
    """Views of a group; by the backend when None."""


@dataclass(frozen=True)
class Report:
    """What a run of ``generate`` did."""

    path: str
    num_images: int
    num_views: int
    unreadable: tuple[str, ...]
    """Keys of all images of the store that could not be decoded."""
    blocks_made: int
    blocks_found: int
    """Blocks that were committed before this run."""
    views_made: int
    seconds: float
    """From the first decoded image to the last commit of this run."""
    views_per_second: float | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "unreadable": list(self.unreadable)}


class _Silent:
    def resumed(self, images: int) -> None:
        pass

    def update(self, images: int, views: int) -> None:
        pass


def generate(
    source: ImageSource,
    targets: npt.NDArray[np.int32],
    teacher: Teacher,
    path: str | os.PathLike[str],
    recipe: Recipe,
    *,
    batch_size: int | None = None,
    workers: int = 2,
    on_error: Literal["stop", "skip"] = "stop",
    overwrite: bool = False,
    allow_version_drift: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Label every view of every image with a teacher; resumes by itself.

    Args:
        source: the images.
        targets: (num_images,) int32 ground truth in the teacher's classes, -1 unknown.
        teacher: the teacher.
        path: the store's folder; one that the same call was interrupted in is gone on with.
        recipe: what labels.
        batch_size: views in one forward; by the device when None.
        workers: threads that decode and cut.
        on_error: what to do about an image that cannot be decoded: ``stop``, or ``skip`` it (its
            place in the store stays, marked unreadable).
        overwrite: replace a store that is there.
        allow_version_drift: go on with a store that other library versions began.
        progress: told after each batch.

    Raises:
        UsageError, SourceError, TeacherError, MismatchError, StoreError: see their classes.
    """
    if batch_size is None:
        batch_size = BATCH_SIZES[teacher.device]
    for name, value in (("batch size", batch_size), ("workers", workers)):
        if value < 1:
            raise UsageError(f"{name} is {value}, expected at least 1.")
    if recipe.label_type != "top-k" and recipe.k != 1:
        raise UsageError(
            f"label type {recipe.label_type!r} stores one class a view and top-k is {recipe.k}: "
            "leave --top-k out, or use --label-type top-k."
        )
    path = Path(path)
    check_table(source.keys, targets, len(source), teacher.num_classes)
    group_views = recipe.group_views or backend_of(path).group_views
    manifest = _plan(source, targets, teacher, recipe, group_views)
    stored = None if overwrite else _stored_manifest(path)
    probe = stored.probe if stored else _probe(source, teacher, recipe)
    manifest = Manifest(**{**_fields(manifest), "probe": probe})
    with StoreWriter(
        path,
        manifest,
        source.keys,
        targets,
        overwrite=overwrite,
        allow_version_drift=allow_version_drift,
    ) as writer:
        pending = writer.pending_blocks()
        found = manifest.num_blocks - len(pending)
        if pending and writer.resumed:
            _check_resumable(source, teacher, writer.manifest, path)
        watcher = progress or _Silent()
        todo = sum(_images_of(writer.manifest, block) for block in pending)
        watcher.resumed(manifest.num_images - todo)
        started = time.monotonic()
        made = 0
        labeller = Labeller(source, teacher, writer.manifest, batch_size, workers, on_error)
        for block, data, views in labeller.blocks(pending, watcher):
            writer.write_block(block, data)
            made += views
        seconds = time.monotonic() - started
    return Report(
        path=str(path),
        num_images=manifest.num_images,
        num_views=manifest.num_views,
        unreadable=tuple(Store(path).unreadable()),
        blocks_made=len(pending),
        blocks_found=found,
        views_made=made,
        seconds=round(seconds, 3),
        views_per_second=round(made / seconds, 2) if made else None,
    )


def replay_probe(
    probe: tuple[Any, ...], source: ImageSource, law: ViewLaw, size: tuple[int, int], filter: str
) -> list[str]:
    """Keys of the probe's images whose pixels come out differently on this machine.

    Args:
        probe: of a manifest.
        source: the images.
        law: the store's view law.
        size: (height, width) of the teacher's input; filter: its interpolation.
    """
    rows = {key: row for row, key in enumerate(source.keys)}
    return [
        entry["key"]
        for entry in probe
        if entry["key"] not in rows
        or _view_digest(source, rows[entry["key"]], entry["view"], law, size, filter)
        != entry["digest"]
    ]


def _plan(
    source: ImageSource,
    targets: npt.NDArray[np.int32],
    teacher: Teacher,
    recipe: Recipe,
    group_views: int,
) -> Manifest:
    versions = {"labelstore": labelstore.__version__}
    for name in ("Pillow", "torch", "timm"):
        versions[name] = metadata.version(name)
    return Manifest(
        num_images=len(source),
        num_views=recipe.num_views,
        num_classes=teacher.num_classes,
        k=recipe.k,
        fingerprint=fingerprint(source.keys, targets),
        law=recipe.law,
        block_images=recipe.block_images or default_block_images(len(source)),
        group_views=min(group_views, recipe.num_views),
        quantizer=recipe.quantizer,
        prior_size=min(recipe.prior_size, teacher.num_classes),
        top_p=recipe.top_p,
        label_type=recipe.label_type,
        temperature=recipe.temperature,
        class_names=teacher.class_names,
        teacher=teacher.describe(),
        producer=versions,
    )


def _images_of(manifest: Manifest, block: int) -> int:
    rows = manifest.block_slice(block)
    return int(rows.stop - rows.start)


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}


def _stored_manifest(path: Path) -> Manifest | None:
    """The manifest of a store that may be gone on with; None where the writer has to decide."""
    try:
        return Store(path).manifest
    except LabelStoreError:
        return None


def _probe(source: ImageSource, teacher: Teacher, recipe: Recipe) -> tuple[dict[str, Any], ...]:
    """Digests of a few views of the first readable images."""
    preprocessing = teacher.preprocessing
    entries: list[dict[str, Any]] = []
    # A source whose first hundred images are all broken has a problem that the run itself reports.
    for image in range(min(len(source), 100)):
        if len(entries) >= PROBE_IMAGES * min(PROBE_VIEWS, recipe.num_views):
            break
        try:
            entries += [
                {
                    "key": source.keys[image],
                    "view": view,
                    "digest": _view_digest(
                        source,
                        image,
                        view,
                        recipe.law,
                        preprocessing.input_size,
                        preprocessing.interpolation,
                    ),
                }
                for view in range(min(PROBE_VIEWS, recipe.num_views))
            ]
        except SourceError:
            continue
    return tuple(entries)


def _view_digest(
    source: ImageSource, image: int, view: int, law: ViewLaw, size: tuple[int, int], filter: str
) -> str:
    upright = decode(source.read(image), str(source.path_of(image)))
    hashes = hash_keys([source.keys[image]])
    geometry = law(hashes, view, upright.width, upright.height)
    box = geometry.box[0].tolist()
    return pixel_digest(cut(upright, box, bool(geometry.flip[0]), size, filter))


def _check_resumable(source: ImageSource, teacher: Teacher, manifest: Manifest, path: Path) -> None:
    """Refuse to go on when the photos or the pixels are not those that the store began with."""
    preprocessing = teacher.preprocessing
    if isinstance(manifest.law, ViewLaw):
        other = replay_probe(
            manifest.probe,
            source,
            manifest.law,
            preprocessing.input_size,
            preprocessing.interpolation,
        )
        if other:
            raise MismatchError(
                f"{path} was begun with other pixels: views of {other[0]!r} come out differently "
                f"here (the store's producer had Pillow {manifest.producer.get('Pillow')}): go on "
                "with the same photos and that Pillow, or make a new store."
            )
    store = Store(path)
    committed = sorted(set(range(manifest.num_blocks)) - set(store.missing_blocks()))
    # One image of each of a few blocks, by its file's digest: nothing is decoded.
    for block in committed[:: max(1, len(committed) // 8)]:
        image = manifest.block_slice(block).start
        stored = int(store.image_digests(image))
        if stored and content_digest(source.read(image)) != stored:
            raise MismatchError(
                f"{path} was begun with another file {source.keys[image]!r}: give the source that "
                "it was begun with, or make a new store."
            )
