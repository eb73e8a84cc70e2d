"""What ``benchmarks.operations`` measures, each in a process of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.support.ceiling_tasks import (
    copy,
    ferkd,
    inspect,
    open_store,
    sampler,
    schedule,
    verify,
)
from benchmarks.support.one_photo import OnePhoto, teacher
from benchmarks.support.whole_store import make as make_store

__all__ = [
    "classes_of",
    "copy",
    "export",
    "ferkd",
    "first_half",
    "first_views",
    "fit",
    "gc",
    "grow",
    "grow_plan",
    "inspect",
    "make",
    "merge_parts",
    "open_store",
    "other_targets",
    "prune",
    "sampler",
    "schedule",
    "second_half",
    "verify",
]

CLASSES = 10
"""That a part has."""

FIRST_VIEWS = 100
"""Views that a part has which has fewer."""

NEW_PHOTOS = 4
"""That a store gets which grows: labelling them is not what is measured."""


def make(path: str, images: str) -> dict[str, Any]:
    return make_store(path, int(images))


def first_half(path: str, other: str) -> dict[str, Any]:
    return _half(path, other, first=True)


def second_half(path: str, other: str) -> dict[str, Any]:
    return _half(path, other, first=False)


def _half(path: str, other: str, *, first: bool) -> dict[str, Any]:
    """Whole blocks, about half of them."""
    import labelstore
    from labelstore.operations.lifecycle.subset import subset

    store = labelstore.open(path)
    middle = store.manifest.num_blocks // 2 * store.manifest.block_images
    images = np.arange(middle) if first else np.arange(middle, store.num_images)
    subset(store, other, images=images, overwrite=True)
    return {"of_images": len(images)}


def merge_parts(first: str, second: str, other: str) -> dict[str, Any]:
    from labelstore.operations.lifecycle.parts import join_parts

    join_parts([first, second], other, overwrite=True)
    return {}


def first_views(path: str, other: str) -> dict[str, Any]:
    """``subset --views``: the first views of every image."""
    from labelstore.operations.lifecycle.subset import subset

    subset(path, other, views=range(FIRST_VIEWS), overwrite=True)
    return {"of_views": FIRST_VIEWS}


def grow_plan(path: str, other: str) -> dict[str, Any]:
    """``generate --grow --dry-run``, but for listing the photos: a few photos are added."""
    import labelstore
    from labelstore.cli.reports.growth import growth_document
    from labelstore.operations.forecast import forecast
    from labelstore.producer.growth.growth import Growth
    from labelstore.producer.settings import LabelSettings, Output, RunOptions

    store = labelstore.open(path)
    photos = _more(store)
    growth = Growth.of(store, photos, other, sampled=True)
    settings = LabelSettings.of_manifest(store.manifest, growth.plan.num_views)
    options = RunOptions(batch_size=64, workers=2)
    unknown = np.full(len(photos), -1, dtype=np.int32)
    estimate = forecast(photos, teacher(), Output(unknown, other, settings), options)
    return {"views_to_label": growth_document(growth, estimate)["views"]}


def grow(path: str, other: str) -> dict[str, Any]:
    """``generate --grow``: the last block is made anew, all others are copied."""
    import labelstore
    from labelstore.operations.lifecycle.grow import grow as grown
    from labelstore.producer.settings import RunOptions

    store = labelstore.open(path)
    options = RunOptions(batch_size=64, overwrite=True)
    report = grown(store, _more(store), teacher(), other, options=options)
    return {"views_made": report.views_made, "blocks_made": report.blocks_made}


def _more(store: Any) -> Any:
    return OnePhoto([*store.keys, *(f"new/{number}.jpg" for number in range(NEW_PHOTOS))])


def classes_of(path: str, other: str) -> dict[str, Any]:
    """Some classes, whose images begin in the middle of blocks: blocks are encoded anew."""
    from labelstore.operations.lifecycle.subset import subset

    report = subset(path, other, classes=range(100, 100 + CLASSES), overwrite=True)
    return {"of_images": report.num_images}


def prune(path: str, _other: str) -> dict[str, Any]:
    """The same classes, in the store's place; it is written, verified and exchanged."""
    from labelstore.operations.lifecycle.prune import prune as pruned

    report = pruned(path, classes=range(100, 100 + CLASSES))
    return {"of_images": report.num_images}


def other_targets(path: str, other: str) -> dict[str, Any]:
    """``recode --targets none``."""
    import labelstore
    from labelstore.operations.recode import recode

    store = labelstore.open(path)
    recode(store, other, targets=np.full(store.num_images, -1), overwrite=True)
    return {}


def gc(path: str, _other: str) -> dict[str, Any]:
    from labelstore.operations.lifecycle.gc import gc as collected

    return {"files": collected([path], dry_run=True).files}


def fit(path: str, _other: str) -> dict[str, Any]:
    """Thresholds that fit: ``FerKD.fit``."""
    import labelstore

    labelstore.FerKD.fit(labelstore.open(path))
    return {}


def export(path: str, other: str) -> dict[str, Any]:
    """Some classes as one ``npz`` file."""
    import labelstore
    from labelstore.operations.lifecycle.export import export as exported
    from labelstore.operations.lifecycle.subset import Part, rows_of
    from labelstore.peers.exports.npz import Npz

    store = labelstore.open(path)
    rows = rows_of(store, None, range(100, 100 + CLASSES))
    report = exported(Part.of(store, rows, None), f"{other}.npz", Npz(), overwrite=True)
    return {"of_images": report.num_images, "file_bytes": report.bytes}
