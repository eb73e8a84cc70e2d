"""Make the blocks of a store anew that are damaged, missing or lack images, and no others."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from labelstore.errors import MismatchError, StoreError, UsageError
from labelstore.format.arrays import LABELLED, UNREADABLE
from labelstore.format.encoding import decode_confidence
from labelstore.format.manifest import differences
from labelstore.images.sources.ordered import OrderedSource
from labelstore.operations.verify import STEP, TOLERANCE, VerifyReport, verify
from labelstore.producer.engines.local import LocalEngine
from labelstore.producer.generation import (
    Report,
    SkippedPhotos,
    check_photos,
    generate_together,
    undecodable,
)
from labelstore.producer.growth.growth import made_otherwise
from labelstore.producer.growth.regrowth import Regrowth
from labelstore.producer.probe import check_description, library_versions, prove
from labelstore.producer.progress import Silent
from labelstore.producer.settings import LabelSettings, Output, RunOptions
from labelstore.store.store import Store, opened
from labelstore.store.writer import Remake, StoreWriter
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os

    from labelstore.format.blocks import BlockCodes
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.progress import Progress
    from labelstore.teachers.teacher import Teacher

__all__ = ["repair"]


def repair(
    store: Store | str | os.PathLike[str],
    source: ImageSource,
    teacher: Teacher,
    *,
    skipped: bool = False,
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> tuple[VerifyReport, Report | None]:
    """Read every block, and let the teacher make the damaged and the missing ones again.

    Blocks that are right are not touched. A damaged block stays as it is until the one that
    replaces it has been made: a run that cannot make it takes nothing away. A run that is
    interrupted leaves at most the block that was being exchanged uncommitted, never wrong, and is
    gone on with by the same call.

    Args:
        store: one that ``generate`` made or let grow, or a part or copy of such a one, open or as a
            path or URL; its manifest says with what settings. Blocks of a store that has grown are
            labelled as it grew, so that lists of likely classes are of the same views as before;
            but lists of parts of other stores, and of photos that were labelled anew when it grew,
            are then of the views that the store, or the one that grew, has.
        source, teacher: those it was made with, the teacher on the same kind of device.
        skipped: label the images, too, that could not be decoded when their block was made and can
            be now, and with them the photos that their views are mixed with. The labels of the
            block's other images stay as they are, to the bit.
        options: as for ``generate``, but that ``resize`` and ``compiled`` are the store's, and
            nothing is overwritten; when None those of ``generate``, with ``on_error="skip"`` where
            ``skipped`` is asked for.
        progress: as for ``generate``.

    Returns:
        What was found, and what was made; None for the latter where nothing was to be made.

    Raises:
        MismatchError: the photos, teacher, device or libraries are not those of the store, or its
            labels are not one teacher's; the teacher says something else than it said of the images
            that stay. CorruptError: the manifest or the table of images is damaged, from which
            nothing can be made. StoreError: the system refuses to read a part, of which nothing is
            known then. The others of ``generate``.
    """
    store = opened(store)
    manifest = store.manifest
    how = made_otherwise(manifest)
    if how is not None:
        raise MismatchError(
            f"{store.path} was made {how}, not by a teacher's run: make it again from the stores "
            "or labels that it came from."
        )
    if not isinstance(manifest.law, ViewLaw):
        raise UsageError(f"{store.path} has no view law, so its views cannot be cut again.")
    if manifest.law.mixing is not None and manifest.origin is not None:
        # Blocks are made anew one by one then, and their partners are photos of other blocks.
        raise UsageError(
            f"{store.path} has views that are mixed with other photos and is not of one run, so "
            "its blocks cannot be made anew: grow the old store again, or make the part or copy "
            "again from its store."
        )
    source_keys = set(source.keys)
    source = _in_its_order(source, store)
    made_by = manifest.teacher or {}
    check_description(teacher.describe(), made_by, store.path, but=frozenset({"compiled"}))
    # Before anything is withdrawn.
    probe = tuple(entry for entry in manifest.probe if entry["key"] in source_keys)
    prove(source, teacher, replace(manifest, probe=probe), store.path)
    report = verify(store)
    refused = next((p for p in report.problems if p.kind == StoreError.kind), None)
    if refused is not None:
        raise StoreError(f"{refused.message} (No block was made anew.)")
    damaged = {p.block for p in report.problems if p.kind != "incomplete"}
    mended = _mended(store, source, damaged) if skipped else set()
    if report.whole and not mended:
        return report, None
    settings = LabelSettings.of_manifest(manifest)
    options = options or RunOptions(on_error="skip" if skipped else "stop")
    options = replace(options.as_made(manifest), overwrite=False, share=None)

    def adopt(block: int, codes: BlockCodes) -> BlockCodes:
        return _with_labels_that_stay(store, block, codes) if block in mended else codes

    remake = Remake(frozenset(damaged | mended), adopt)
    with LocalEngine([teacher], options) as engine:
        if manifest.origin is not None:
            run = Regrowth(store, source, engine, options, progress)
            return report, _regrown(store, run, remake, options, progress)
        (remade,) = generate_together(
            source,
            [Output(store.targets, store.path, settings, remake)],
            engine,
            options=options,
            progress=progress,
        )
    return report, remade


def _in_its_order(source: ImageSource, store: Store) -> ImageSource:
    """A source of a store's images; MismatchError where it has others."""
    if tuple(source.keys) == store.keys:
        return source
    # Of a part the folder may have more photos, of one that has grown it may lack some, and new
    # photos stand behind the old ones.
    if store.manifest.origin is None or not set(source.keys) & set(store.keys):
        raise MismatchError(
            f"{source.path} has other images than {store.path}: give the folder that it was made "
            "from."
        )
    return cast("ImageSource", OrderedSource(source, store.keys))


def _regrown(
    store: Store,
    run: Regrowth,
    remake: Remake,
    options: RunOptions,
    progress: Progress | None,
) -> Report:
    """Make blocks of a store anew whose labels are a teacher's, and not of one run."""
    manifest, started = store.manifest, time.monotonic()
    now = replace(manifest, producer=library_versions())
    drift = differences(manifest, now)
    if drift and not options.allow_version_drift:
        raise MismatchError(
            f"{store.path} was made by other library versions ({'; '.join(drift)}), which may make "
            "other pixels: install those versions, or allow the drift.",
            arguments=("allow_version_drift",),
        )
    check_photos(run.source, store.path)
    with StoreWriter(store.path, manifest, store.keys, store.targets, remake=remake) as writer:
        pending = writer.pending_blocks()
        images = sum(len(store.keys[manifest.block_slice(block)]) for block in pending)
        (progress or Silent()).resumed(manifest.num_images - images)
        for block in pending:
            writer.write_codes(block, run.codes(block))
    seconds = time.monotonic() - started
    return Report(
        path=str(store.path),
        num_images=manifest.num_images,
        num_views=manifest.num_views,
        unreadable=undecodable(Store(store.path), run.source, run.undecodable),
        blocks_made=len(pending),
        blocks_found=manifest.num_blocks - len(pending),
        views_made=run.views,
        seconds=round(seconds, 3),
        views_per_second=round(run.views / seconds, 2) if run.views else None,
        waiting_share=None,
        passed_over=run.source.passed_over.to_json(),
    )


def _mended(store: Store, source: ImageSource, damaged: set[int]) -> set[int]:
    """Whole blocks with an image that was skipped and can be labelled now."""
    blocks: set[int] = set()
    photos = SkippedPhotos(store, source)
    for block in set(range(store.manifest.num_blocks)) - damaged - set(store.missing_blocks()):
        rows = store.manifest.block_slice(block)
        status = store.block_codes(block, 1)[0]["images/status"]
        skipped = (rows.start + np.flatnonzero(status == UNREADABLE)).tolist()
        if any(photos.fault(image) is None for image in skipped):
            blocks.add(block)
    return blocks


def _with_labels_that_stay(store: Store, block: int, codes: BlockCodes) -> BlockCodes:
    """A block that was made anew, with the labels that it had; new are those of skipped images.

    The last bits of a network's output depend on what else is in a batch, so labels that come out
    the same to within the tolerance of ``verify`` are not written again.
    """
    kept_images, kept_priors, kept_views = store.block_codes(block)
    stays = kept_images["images/status"] == LABELLED
    keys = store.keys[store.manifest.block_slice(block)]
    other = stays & (kept_images["images/digest"] != codes.images["images/digest"])
    if other.any():
        raise MismatchError(
            f"the photo {keys[int(np.argmax(other))]!r} is another file than was labelled: give "
            f"the folder that {store.path} was made from. (The block stays as it was.)"
        )
    before, now = (
        decode_confidence(view["labels/top_prob"], store.manifest)
        for view in (kept_views, codes.views)
    )
    apart = np.abs(before[stays] - now[stays]).max(axis=1, initial=0.0)
    if (apart > TOLERANCE + STEP).any():
        first = int(np.flatnonzero(stays)[int(np.argmax(apart))])
        raise MismatchError(
            f"the teacher's largest probability for a view of {keys[first]!r} is {apart.max():.3f} "
            f"away from the label in {store.path}: give the teacher, device and libraries that it "
            "was made with. (The block stays as it was.)"
        )
    for new, kept in (
        (codes.images, kept_images),
        (codes.priors, kept_priors),
        (codes.views, kept_views),
    ):
        for name, values in new.items():
            values[stays] = kept[name][stays]
    return codes
