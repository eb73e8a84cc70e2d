"""The producer: what is to be made, what is there already, and the run over what is missing."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from labelstore.errors import LabelStoreError, MismatchError, SourceError, UsageError
from labelstore.format.blocks import check_table, default_block_images
from labelstore.format.manifest import LOGITS_PROBE, Manifest, fingerprint
from labelstore.images.pixels import decode
from labelstore.images.sources.choose import check_outside
from labelstore.producer.crops import RESIZES
from labelstore.producer.engines.local import LocalEngine
from labelstore.producer.probe import library_versions, make_probe, other_photo
from labelstore.producer.progress import Silent
from labelstore.producer.run import Run, Settings
from labelstore.producer.settings import Output, Recipe
from labelstore.store.backends.registry import backend_of
from labelstore.store.store import Store
from labelstore.store.writer import StoreWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.crops import Resize
    from labelstore.producer.engines.ray_engine import RayEngine
    from labelstore.producer.progress import Progress
    from labelstore.store.writer import Share
    from labelstore.teachers.teacher import Teacher

__all__ = ["Report", "generate", "generate_together", "plan_of", "stored_manifest", "undecodable"]


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


@dataclass(frozen=True)
class Report:
    """What a run of ``generate`` did."""

    path: str
    num_images: int
    num_views: int
    unreadable: Mapping[str, str]
    """Key of each image of the store that could not be decoded, and why: in this run, or as found
    by a look at it now."""
    blocks_made: int
    blocks_found: int
    """Blocks that were committed before this run."""
    views_made: int
    seconds: float
    """From the first decoded image to the last commit of this run."""
    views_per_second: float | None
    waiting_share: float | None
    """Share of these seconds in which the teacher had no pixels to work on."""
    blocks_elsewhere: int = 0
    """Blocks that other processes made meanwhile."""
    blocks_missing: int = 0
    """Blocks that are not there yet: other processes have them, or died over them."""
    passed_over: Mapping[str, Any] = field(default_factory=dict)
    """Files of the source that are none of its images: ``count`` of all, ``suffixes`` with the
    count of each, and ``first``, up to ten names."""
    notes: tuple[str, ...] = ()
    """What is to be known of this run's labels: made again in fp32, in smaller batches, ..."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def generate(
    source: ImageSource,
    targets: npt.NDArray[np.int32],
    teacher: Teacher,
    path: str | os.PathLike[str],
    recipe: Recipe,
    *,
    batch_size: int | None = None,
    workers: int = 2,
    resize: Resize = "workers",
    compiled: bool = False,
    on_error: Literal["stop", "skip"] = "stop",
    overwrite: bool = False,
    allow_version_drift: bool = False,
    share: Share | None = None,
    progress: Progress | None = None,
) -> Report:
    """Label every view of every image with a teacher; resumes by itself.

    Args:
        source: the images.
        targets: (num_images,) int32 ground truth in the teacher's classes, -1 unknown.
        teacher: the teacher.
        path: the store's folder; one that the same call was interrupted in is gone on with.
        recipe: what labels.
        batch_size: views in one forward; when None by the device, on a GPU by its free memory.
        workers: threads that decode and cut.
        resize: where crops are resized, by Pillow in the ``workers`` or on the teacher's
            ``device``; the pixels are the same.
        compiled: run the network through torch.compile; the manifest says so.
        on_error: what to do about an image that was read whole and cannot be decoded: ``stop``, or
            ``skip`` it (its place in the store stays, marked unreadable). What cannot be read stops
            the run in either case.
        overwrite: replace a store that is there.
        allow_version_drift: go on with a store that other library versions began.
        share: which of several processes this is that make the same store. In a folder it returns
            once all blocks are there, those of processes that died meanwhile among them; on an
            object store, where there are no locks, once it has made its own.
        progress: told after each batch.

    Raises:
        UsageError, SourceError, TeacherError, MismatchError, StoreError: see their classes.
    """
    return generate_together(
        source,
        [Output(teacher, targets, path, recipe)],
        batch_size=batch_size,
        workers=workers,
        resize=resize,
        compiled=compiled,
        on_error=on_error,
        overwrite=overwrite,
        allow_version_drift=allow_version_drift,
        share=share,
        progress=progress,
    )[0]


def generate_together(
    source: ImageSource,
    outputs: Sequence[Output],
    *,
    batch_size: int | None = None,
    workers: int = 2,
    resize: Resize = "workers",
    compiled: bool = False,
    on_error: Literal["stop", "skip"] = "stop",
    overwrite: bool = False,
    allow_version_drift: bool = False,
    share: Share | None = None,
    engine: RayEngine | None = None,
    progress: Progress | None = None,
) -> list[Report]:
    """Label every view of every image with several teachers, each photo decoded once for all.

    Teachers with the same input size and interpolation share the crops, too. Each store is the one
    that ``generate`` makes with its teacher alone, and each may be at another point: a block is
    made for those that lack it.

    Args:
        outputs: the stores.
        engine: runs the teachers on a cluster; then ``outputs`` have its ``teachers``, and whether
            they are compiled was said to it.
        The others as for ``generate``.

    Returns:
        a report for each output, in order.
    """
    _check(source, outputs, batch_size, workers, resize)
    runner = engine or LocalEngine([output.teacher for output in outputs], batch_size, compiled)
    paths = tuple(str(output.path) for output in outputs)
    manifests = _manifests(source, outputs, resize, overwrite, runner)
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                StoreWriter(
                    output.path,
                    manifest,
                    source.keys,
                    output.targets,
                    overwrite=overwrite,
                    allow_version_drift=allow_version_drift,
                    share=share,
                    remake=output.remake,
                )
            )
            for output, manifest in zip(outputs, manifests, strict=True)
        ]
        run = Run(writers, progress or Silent())
        resumed = {n: writer.manifest for n, writer in enumerate(writers) if writer.resumed}
        if resumed:
            runner.prove(source, resumed, paths)
        for writer in writers:
            if writer.pending_blocks() and writer.resumed:
                _check_photos(source, writer.path)
        if any(writer.pending_blocks() for writer in writers):
            settings = Settings(
                tuple(writer.manifest for writer in writers),
                paths,
                batch_size,
                workers,
                on_error,
                resize,
            )
            run.through(runner.labeller(source, settings), share)
    return [_report(run, number, output, source) for number, output in enumerate(outputs)]


def _report(run: Run, number: int, output: Output, source: ImageSource) -> Report:
    """What was done of one store."""
    views, seconds = run.views[number], run.seconds
    store = Store(output.path)
    manifest = store.manifest
    there = manifest.num_blocks - len(store.missing_blocks())
    return Report(
        path=str(output.path),
        num_images=manifest.num_images,
        num_views=manifest.num_views,
        unreadable=undecodable(store, source, run.undecodable),
        blocks_made=run.blocks[number],
        blocks_found=run.found[number],
        views_made=views,
        seconds=round(seconds, 3),
        views_per_second=round(views / seconds, 2) if views else None,
        waiting_share=round(run.waited_seconds / seconds, 4) if views else None,
        blocks_elsewhere=there - run.found[number] - run.blocks[number],
        blocks_missing=manifest.num_blocks - there,
        passed_over=source.passed_over.to_json(),
        notes=tuple(run.notes[number]),
    )


def undecodable(
    store: Store, source: ImageSource, known: Mapping[int, str] | None = None
) -> dict[str, str]:
    """Key of each image without labels of a store, and why.

    Args:
        source: the images of the store, in its order.
        known: reasons by position; the other images are looked at again, for stores keep none.
    """
    reasons = {}
    for image in np.flatnonzero(store.unreadable_rows()).tolist():
        reason = (known or {}).get(image)
        if reason is None:
            try:
                decode(source.read(image), str(source.path_of(image)))
                reason = (
                    "it can be decoded now (or its teacher gave no finite logits): labelstore "
                    "repair --skipped tries again."
                )
            except SourceError as error:
                reason = str(error)
        reasons[source.keys[image]] = reason
    return reasons


def _check(
    source: ImageSource,
    outputs: Sequence[Output],
    batch_size: int | None,
    workers: int,
    resize: str,
) -> None:
    """Refuse what cannot be made, before anything is written."""
    if not outputs:
        raise UsageError("there is no teacher: give at least one.")
    for name, value in (("batch size", batch_size), ("workers", workers)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}, expected at least 1.")
    if resize not in RESIZES:
        raise UsageError(f"resize is {resize!r}, expected one of {', '.join(RESIZES)}.")
    paths = [Path(output.path).absolute() for output in outputs]
    if len(set(paths)) < len(paths):
        raise UsageError("two teachers write to one path: give each a store of its own.")
    first = outputs[0]
    for output in outputs:
        recipe, teacher = output.recipe, output.teacher
        if recipe.label_type != "top-k" and recipe.k not in (None, 1):
            raise UsageError(
                f"label type {recipe.label_type!r} stores one class a view and top-k is "
                f"{recipe.k}: leave k out, or choose label_type='top-k'.",
                arguments=("k", "label_type"),
            )
        for name in ("law", "num_views", "block_images"):
            if getattr(recipe, name) != getattr(first.recipe, name):
                raise UsageError(
                    f"{output.path} and {first.path} differ in {name.replace('_', ' ')}, and one "
                    "run makes the same views for all its teachers: make them in two runs."
                )
        if teacher.device != first.teacher.device:
            raise UsageError(
                f"one teacher runs on {first.teacher.device} and another on {teacher.device}: put "
                "them on one device, or make their stores in two runs."
            )
        check_table(source.keys, output.targets, len(source), teacher.num_classes)
        check_outside(source, output.path)


def _manifests(
    source: ImageSource,
    outputs: Sequence[Output],
    resize: Resize,
    overwrite: bool,
    runner: LocalEngine | RayEngine,
) -> list[Manifest]:
    """The manifest of each store, with the probes of one that is there already."""
    manifests = []
    new: dict[int, Manifest] = {}
    for number, output in enumerate(outputs):
        recipe, teacher = output.recipe, output.teacher
        group_views = recipe.group_views or backend_of(output.path).group_views
        manifest = plan_of(source, output.targets, teacher, recipe, group_views, resize)
        stored = None if overwrite else stored_manifest(output.path)
        if stored is None:
            probe = make_probe(source, teacher.preprocessing, recipe.law, recipe.num_views)
            new[number] = replace(manifest, probe=probe)
        manifests.append(new[number] if stored is None else replace(manifest, probe=stored.probe))
    if new:
        said = runner.prove(source, new, [str(output.path) for output in outputs])
        for number, logits in said.items():
            teacher_of = {**(new[number].teacher or {}), LOGITS_PROBE: list(logits)}
            manifests[number] = replace(new[number], teacher=teacher_of)
    return manifests


def _check_photos(source: ImageSource, path: str | os.PathLike[str]) -> None:
    """Refuse to go on with other files than those that the store began with."""
    key = other_photo(source, Store(path))
    if key is not None:
        raise MismatchError(
            f"{path} was begun with another file {key!r}: give the source that it was begun with, "
            "or make a new store."
        )


def plan_of(
    source: ImageSource,
    targets: npt.NDArray[np.int32],
    teacher: Labelling,
    recipe: Recipe,
    group_views: int,
    resize: Resize,
) -> Manifest:
    """The manifest of a store to be made, without its probes."""
    return Manifest(
        num_images=len(source),
        num_views=recipe.num_views,
        num_classes=teacher.num_classes,
        k=recipe.classes_of(teacher.num_classes),
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
        # Crops from the device are Pillow's, or refused; but that they came from there is said.
        teacher=teacher.describe() | ({"resize": resize} if resize == "device" else {}),
        producer=library_versions(),
    )


def stored_manifest(path: str | os.PathLike[str]) -> Manifest | None:
    """The manifest of a store that may be gone on with; None where the writer has to decide."""
    try:
        return Store(path).manifest
    except LabelStoreError:
        return None
