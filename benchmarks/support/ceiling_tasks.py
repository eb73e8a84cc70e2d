"""What ``benchmarks.ceiling`` measures, each in a process of its own."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

__all__ = [
    "copy",
    "create",
    "ferkd",
    "fill",
    "inspect",
    "merge",
    "open_store",
    "recode",
    "sampler",
    "schedule",
    "verify",
]

TEMPLATE = 256
"""Images of different labels; the others have other class ids."""


def _table(images: int) -> tuple[list[str], np.ndarray]:
    """Keys as ImageNet's, and ground truth."""
    from benchmarks.ceiling import CLASSES

    keys = [f"n{number // 641:08}/n{number // 641:08}_{number}.JPEG" for number in range(images)]
    return keys, (np.arange(images) // 641 % CLASSES).astype(np.int32)


def _manifest(views: int, keys: list[str], targets: np.ndarray) -> Any:
    from benchmarks.ceiling import CLASSES, IMAGES, VIEWS
    from benchmarks.support.synthetic_stores import manifest_of

    return manifest_of(keys, targets, views, CLASSES, (IMAGES, VIEWS))


def create(path: str, count: str) -> dict[str, Any]:
    """The empty store, as ``generate`` makes it before its first block; then open it."""
    from benchmarks.ceiling import CLASSES, VIEWS
    from labelstore.format.blocks import check_table
    from labelstore.store.writer import StoreWriter

    keys, targets = _table(int(count))
    begun, used = time.perf_counter(), time.process_time()
    check_table(keys, targets, len(keys), CLASSES)
    with StoreWriter(path, _manifest(VIEWS, keys, targets), keys, targets):
        pass
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - used,
    }


def fill(path: str, count: str, views: str, seed: str) -> dict[str, Any]:
    """A finished store of synthetic labels; the seconds are those of encoding and writing."""
    from benchmarks.support.synthetic_stores import synthetic_blocks
    from labelstore.store.rewrite import write_blocks
    from labelstore.store.writer import StoreWriter

    keys, targets = _table(int(count))
    manifest = _manifest(int(views), keys, targets)
    block, fitting = synthetic_blocks(manifest, TEMPLATE, int(seed))
    begun, used = time.perf_counter(), time.process_time()
    with StoreWriter(path, manifest, keys, targets) as writer:
        write_blocks(writer, block)
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - used,
        "fitting_a_list_cpu_seconds": fitting,
    }


def open_store(path: str, _other: str) -> dict[str, Any]:
    """Open it, look up what is missing, and read one label."""
    import labelstore

    store = labelstore.open(path)
    store.read([store.num_images - 1], [0])
    return {"missing_blocks": len(store.missing_blocks())}


def verify(path: str, _other: str) -> dict[str, Any]:
    from labelstore.operations.verify import verify as checked

    return {"problems": len(checked(path).problems)}


def inspect(path: str, _other: str) -> dict[str, Any]:
    from labelstore.operations.inspection.inspect import report

    return {"crops": report(path)["store"]["labelled_crops"]}


def schedule(path: str, _other: str) -> dict[str, Any]:
    from labelstore.operations.schedule import dry_run

    return {"views": dry_run(path, views_per_image=4, epochs=50)["epoch"]["views"]}


def sampler(path: str, _other: str) -> dict[str, Any]:
    """A sampler without a rule, and the first views of an epoch."""
    return _sampled(path, None)


def ferkd(path: str, _other: str) -> dict[str, Any]:
    """A sampler with FerKD's rule, which looks at all labels, and the first views of an epoch."""
    from labelstore import FerKD

    return _sampled(path, FerKD())


def _sampled(path: str, rule: Any) -> dict[str, Any]:
    import labelstore
    from labelstore.torch import ViewSampler

    store = labelstore.open(path)
    options = {} if rule is None else {"ferkd": rule}
    views = ViewSampler(store, 4, num_replicas=1, rank=0, **options)
    begun, used = time.perf_counter(), time.process_time()
    views.set_epoch(0)
    next(iter(views))
    return {"first_s": time.perf_counter() - begun, "first_cpu_s": time.process_time() - used}


def copy(path: str, other: str) -> dict[str, Any]:
    from labelstore.operations.lifecycle.copy import copy as copied

    copied(path, other, overwrite=True)
    return {}


def recode(path: str, other: str) -> dict[str, Any]:
    """To fewer classes: lists are made anew."""
    from labelstore.operations.recode import recode as recoded

    recoded(path, other, k=2, overwrite=True)
    return {}


def merge(first: str, second: str, other: str) -> dict[str, Any]:
    from labelstore.operations.merge import merge as merged

    merged([first, second], other, overwrite=True)
    return {}
