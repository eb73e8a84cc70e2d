"""The producer: what is to be made, what is there already, and the run over what is missing."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from labelstore.errors import DecodeError, MismatchError, SourceError, UsageError
from labelstore.format.blocks import (
    check_table,
)
from labelstore.images.decoding import decode
from labelstore.images.sources.choose import check_outside
from labelstore.images.sources.ordered import OrderedSource
from labelstore.producer.engines.local import LocalEngine
from labelstore.producer.manifests import manifests_of
from labelstore.producer.probe import other_photo
from labelstore.producer.progress import Silent
from labelstore.producer.run import StoreRun
from labelstore.producer.settings import (
    DEFAULT_OPTIONS,
    LabelSettings,
    Output,
    RunOptions,
    RunPlan,
)
from labelstore.producer.stopping import StopRequest
from labelstore.store.store import Store
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.engines.protocol import Engine
    from labelstore.producer.progress import Progress
    from labelstore.teachers.info import TeacherInfo
    from labelstore.teachers.teacher import Teacher

__all__ = [
    "Report",
    "SkippedPhotos",
    "check_photos",
    "generate",
    "generate_together",
    "undecodable",
]


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
    settings: LabelSettings,
    *,
    options: RunOptions = DEFAULT_OPTIONS,
    progress: Progress | None = None,
) -> Report:
    """Label every view of every image with a teacher; resumes by itself.

    Args:
        source: the images.
        targets: (num_images,) int32 ground truth in the teacher's classes, -1 unknown.
        teacher: the teacher.
        path: the store's folder; one that the same call was interrupted in is gone on with.
        settings: what labels.
        options: how the work is done, and what becomes of a store that is there.
        progress: told after each batch.

    Raises:
        UsageError, SourceError, TeacherError, MismatchError, StoreError: see their classes.
    """
    with LocalEngine([teacher], options) as engine:
        return generate_together(
            source,
            [Output(targets, path, settings)],
            engine,
            options=options,
            progress=progress,
        )[0]


def generate_together(
    source: ImageSource,
    outputs: Sequence[Output],
    engine: Engine,
    *,
    options: RunOptions = DEFAULT_OPTIONS,
    progress: Progress | None = None,
) -> list[Report]:
    """Label every view of every image with several teachers, each photo decoded once for all.

    Teachers with the same input size and interpolation share the crops, too. Each store is the one
    that ``generate`` makes with its teacher alone, and each may be at another point: a block is
    made for those that lack it.

    Args:
        source: the images.
        outputs: the stores, in the order of the engine's teachers.
        engine: runs the teachers: a ``LocalEngine``, or a ``RayEngine`` on a cluster. Whether they
            are compiled was said to it.
        options, progress: as for ``generate``.

    Returns:
        a report for each output, in order.

    Raises:
        As ``generate``.
    """
    teachers = engine.teachers
    _check(source, outputs, teachers)
    if outputs[0].growth is not None and not isinstance(engine, LocalEngine):
        raise UsageError(
            f"{outputs[0].path} is to grow by another engine than a LocalEngine, and others label "
            "blocks from the beginning: take that one; processes may share its work (share)."
        )
    paths = tuple(str(output.path) for output in outputs)
    manifests = manifests_of(source, outputs, options, engine)
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                StoreWriter(
                    output.path,
                    manifest,
                    source.keys,
                    output.targets,
                    overwrite=options.overwrite,
                    allow_version_drift=options.allow_version_drift,
                    share=options.share,
                    remake=output.remake,
                )
            )
            for output, manifest in zip(outputs, manifests, strict=True)
        ]
        growth = outputs[0].growth
        run = StoreRun(writers, progress or Silent(), StopRequest(options.grace), growth)
        resumed = {n: writer.manifest for n, writer in enumerate(writers) if writer.resumed}
        # What grows was proved, and every old photo compared, before.
        if resumed and growth is None:
            engine.prove(source, resumed, paths)
        photos = source if growth is None else growth.photos
        for writer in writers:
            if writer.pending_blocks() and writer.resumed:
                check_photos(photos, writer.path)
        if any(writer.pending_blocks() for writer in writers):
            plan = RunPlan(
                tuple(writer.manifest for writer in writers),
                paths,
                options,
                None if growth is None else growth.plan.first_views,
            )
            run.through(engine.labeller(source, plan), options.share)
        else:
            run.close_records()
    return [_report(run, number, output, source) for number, output in enumerate(outputs)]


def _report(run: StoreRun, number: int, output: Output, source: ImageSource) -> Report:
    """What was done of one store."""
    views, seconds = run.views[number], run.seconds
    store = Store(output.path)
    manifest = store.manifest
    missing = len(store.missing_blocks())
    return Report(
        path=str(output.path),
        num_images=manifest.num_images,
        num_views=manifest.num_views,
        unreadable=undecodable(store, source, run.undecodable),
        blocks_made=run.blocks[number],
        blocks_found=run.committed[number],
        views_made=views,
        seconds=round(seconds, 3),
        views_per_second=round(views / seconds, 2) if views else None,
        waiting_share=round(run.waited_seconds / seconds, 4) if views else None,
        blocks_elsewhere=manifest.num_blocks - missing - run.committed[number] - run.blocks[number],
        blocks_missing=missing,
        passed_over=source.passed_over.to_json(),
        notes=tuple(run.notes[number]),
    )


def undecodable(
    store: Store, source: ImageSource, known: Mapping[int, str] | None = None
) -> dict[str, str]:
    """Key of each image without labels of a store, and why.

    Args:
        source: the images of the store, in any order.
        known: reasons by position; the other images are looked at again, for stores keep none.
    """
    reasons: dict[str, str] = {}
    images = np.flatnonzero(store.unreadable_rows()).tolist()
    if not images:
        # The names of a million photos are not put in order for none of them.
        return reasons
    look = SkippedPhotos(store, cast("ImageSource", OrderedSource(source, store.keys)))
    for image in images:
        reason = (known or {}).get(image)
        if reason is None:
            try:
                reason = look.fault(image) or (
                    "it can be decoded now (or its teacher gave no finite logits): labelstore "
                    "repair --skipped tries again."
                )
            except SourceError as error:
                reason = str(error)
        reasons[store.keys[image]] = reason
    return reasons


class SkippedPhotos:
    """Whether images that a store has no labels of can have them now.

    Args:
        store: it. photos: its images, in its order.
    """

    def __init__(self, store: Store, photos: ImageSource) -> None:
        self._store, self._photos = store, photos
        law = store.law
        mixed = isinstance(law, ViewLaw) and law.mixing is not None
        self._law = law.among(store.key_hashes) if isinstance(law, ViewLaw) and mixed else None
        self._seen: dict[int, str | None] = {}

    def fault(self, image: int) -> str | None:
        """Why an image, by position, cannot be labelled: it cannot be decoded, or a photo that its
        views are mixed with cannot. None where nothing speaks against it.

        Raises:
            SourceError: a file cannot be read, of which nothing is known then.
        """
        own = self._undecodable(image)
        if own is not None or self._law is None:
            return own
        numbers = np.arange(self._store.num_views)
        # Who is a partner does not depend on the photo's size.
        views = self._law(self._store.key_hashes[image], numbers, 1, 1)
        partners = np.array([]) if views.partners is None else np.unique(views.partners.image)
        for partner in partners[partners >= 0].tolist():
            reason = self._undecodable(partner)
            if reason is not None:
                return (
                    f"{self._store.keys[image]!r} can be decoded, and views of it are mixed with a "
                    f"photo that cannot: {reason}"
                )
        return None

    def _undecodable(self, image: int) -> str | None:
        if image not in self._seen:
            self._seen[image] = None
            try:
                decode(self._photos.read(image), str(self._photos.path_of(image)))
            except DecodeError as error:
                self._seen[image] = str(error)
        return self._seen[image]


def _check(source: ImageSource, outputs: Sequence[Output], teachers: Sequence[TeacherInfo]) -> None:
    """Refuse what cannot be made, before anything is written."""
    if not outputs:
        raise UsageError("there is no teacher: give at least one.")
    if len(outputs) != len(teachers):
        raise UsageError(
            f"{len(outputs)} stores were asked of an engine of {len(teachers)} teachers: give each "
            "teacher a store."
        )
    if len(outputs) > 1 and any(output.growth for output in outputs):
        raise UsageError("a store that grows was given among several: let them grow one by one.")
    paths = [Path(output.path).absolute() for output in outputs]
    if len(set(paths)) < len(paths):
        raise UsageError("two teachers write to one path: give each a store of its own.")
    first = outputs[0]
    for output, teacher in zip(outputs, teachers, strict=True):
        settings = output.settings
        if settings.label_type != "top-k" and settings.store.k not in (None, 1):
            raise UsageError(
                f"label type {settings.label_type!r} stores one class a view and top-k is "
                f"{settings.store.k}: leave k out, or choose label_type='top-k'.",
                arguments=("k", "label_type"),
            )
        shared = {
            "law": (settings.law, first.settings.law),
            "num views": (settings.num_views, first.settings.num_views),
            "block images": (settings.store.block_images, first.settings.store.block_images),
        }
        for name, (value, of_first) in shared.items():
            if value != of_first:
                raise UsageError(
                    f"{output.path} and {first.path} differ in {name}, and one run makes the same "
                    "views for all its teachers: make them in two runs."
                )
        if teacher.device != teachers[0].device:
            raise UsageError(
                f"one teacher runs on {teachers[0].device} and another on {teacher.device}: put "
                "them on one device, or make their stores in two runs."
            )
        check_table(source.keys, output.targets, len(source), teacher.num_classes)
        check_outside(source, output.path)


def check_photos(source: ImageSource, path: str | os.PathLike[str]) -> None:
    """Refuse to go on with other files than those that the store began with; some are compared.

    Raises:
        MismatchError: names one.
    """
    key = other_photo(source, Store(path))
    if key is not None:
        raise MismatchError(
            f"{path} was begun with another file {key!r}: give the source that it was begun with, "
            "or make a new store."
        )
