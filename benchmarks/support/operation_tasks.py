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
from benchmarks.support.whole_store import make as make_store

__all__ = [
    "classes_of",
    "copy",
    "export",
    "ferkd",
    "first_half",
    "fit",
    "gc",
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
