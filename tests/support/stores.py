"""What the tests of stores share: labels with known statistics, and small stores."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np

import labelstore
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.labels.lists.fit import fit
from labelstore.store.rewrite import write_selection
from labelstore.store.selection import Selection
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw


def distributions(images, views, classes, seed=0):
    """(images, views, classes) probabilities: the views of an image are alike."""
    rng = np.random.default_rng(seed)
    z = 2.5 * rng.normal(size=(images, 1, classes)) + rng.normal(size=(images, views, classes))
    p = np.exp(z)
    return p / p.sum(-1, keepdims=True)


def top_of(p, k):
    """The k largest classes and probabilities."""
    order = np.argsort(-p, axis=-1, kind="stable")[..., :k]
    return order, np.take_along_axis(p, order, -1).astype(np.float32)


def written(path, images=20, views=6, k=3, classes=30, seed=0, **options):
    """A store of ``labelstore.write`` and the labels in it."""
    indices, probs = top_of(distributions(images, views, classes, seed), k)
    options.setdefault("block_images", 8)
    options.setdefault("law", ViewLaw(seed=1))
    if options["law"] is not None:
        options.setdefault("widths", np.arange(images) + 40)
        options.setdefault("heights", np.arange(images) + 30)
    options.setdefault("targets", np.arange(images) % classes)
    options.setdefault("keys", [f"c/{number:03}.jpg" for number in range(images)])
    return labelstore.write(path, indices, probs, classes, **options), indices, probs


def planned(images=20, views=6, k=3, classes=30, prior_size=8, **options):
    """A manifest with a prior, its keys and targets, and the data of each of its blocks."""
    p, indices, probs, fitted = _fitted(images, views, k, classes, prior_size)
    keys = [f"c/{number:03}.jpg" for number in range(images)]
    targets = (np.arange(images) % classes).astype(np.int32)
    settings = {"block_images": 8, "group_views": 4, "quantizer": "ratio16", **options}
    manifest = Manifest(
        images,
        views,
        classes,
        k,
        fingerprint(keys, targets),
        ViewLaw(seed=1),
        prior_size=prior_size,
        **settings,
    )

    def data(block):
        rows = manifest.block_slice(block)
        return BlockData(
            indices[rows].copy(),
            probs[rows].copy(),
            widths=np.arange(images)[rows] + 40,
            heights=np.arange(images)[rows] + 30,
            digests=np.arange(images)[rows] + 1,
            prior_classes=np.stack([entry[0] for entry in fitted[rows]]),
            prior_probs=np.stack([entry[1] for entry in fitted[rows]]),
            prior_power=np.array([entry[2] for entry in fitted[rows]], dtype=np.uint8),
        )

    return manifest, keys, targets, data, p.copy()


@functools.cache
def _fitted(images, views, k, classes, prior_size):
    """What ``planned`` stores: the labels, their largest, and each image's list."""
    p = distributions(images, views, classes)
    indices, probs = top_of(p, k)
    return (
        p,
        indices,
        probs,
        list(zip(*fit(p.mean(1), indices, probs, prior_size), strict=True)),
    )


def make_planned(path, blocks=None, **options):
    """Write the planned store, or some of its blocks."""
    manifest, keys, targets, data, p = planned(**options)
    with StoreWriter(path, manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            if blocks is None or block in blocks:
                writer.write_block(block, data(block))
    return labelstore.open(path), p


def in_units(store, path, unit_images):
    """A finished store's labels in units of some images."""
    manifest = dataclasses.replace(store.manifest, unit_images=unit_images)
    with StoreWriter(path, manifest, store.keys, store.targets) as writer:
        write_selection(writer, Selection.of_store(store))
    return labelstore.open(path)


def once(make):
    """A function like ``make(path, ...)`` that makes a store of the same arguments once.

    From then on it copies that one: a tenth of the work, for tests of what is done with a store. A
    test of how stores are written, or of two that are the same, takes ``make``.

    Args:
        make: gives the open store, alone or before others in a tuple; its arguments are pickled.
    """

    @functools.wraps(make)
    def copied(path, *arguments, **options):
        path = Path(path)
        asked = pickle.dumps((make.__module__, make.__qualname__, arguments, options))
        results = MADE[0] / f"{hashlib.sha256(asked).hexdigest()}-{path.suffix[1:]}"
        if path.exists():
            return make(path, *arguments, **options)
        whole = results.with_suffix(path.suffix)
        if not results.exists():
            made = make(whole, *arguments, **options)
            results.write_bytes(pickle.dumps(made[1:] if isinstance(made, tuple) else None))
        lay_down(whole, path)
        others = pickle.loads(results.read_bytes())
        store = labelstore.open(path)
        return store if others is None else (store, *others)

    return copied


def lay_down(whole, path):
    """Make a copy of a folder that does not change: files of their own times, as new ones are."""
    folders, files = _contents(whole)
    path.mkdir(parents=True)
    for folder in folders:
        os.mkdir(f"{path}/{folder}")
    for name, data in files:
        with open(f"{path}/{name}", "wb", 0) as file:
            file.write(data)


@functools.lru_cache(maxsize=64)
def _contents(folder):
    """The folders below a folder, each after the one that it is in, and all files with bytes."""
    entries = [(entry.relative_to(folder).as_posix(), entry) for entry in sorted(folder.rglob("*"))]
    return (
        [name for name, entry in entries if entry.is_dir()],
        [(name, entry.read_bytes()) for name, entry in entries if entry.is_file()],
    )


MADE = []
"""Where ``once`` keeps stores: a folder of this run of pytest, and of this process."""


def read_everything(path):
    """All that a store says, as bytes; raises what reading it raises."""
    store = labelstore.open(path)
    said = repr((store.keys, store.manifest.to_json(), store.missing_blocks())).encode()
    return said_of_labels(store) + said


def said_of_labels(store):
    """What a store says of images and labels, as bytes; raises what reading it raises."""
    topk = store.read(np.arange(store.num_images)[:, None], np.arange(store.num_views))
    parts = [topk.indices, topk.probs, store.confidence(), store.targets]
    parts += [np.stack(store.sizes(np.arange(store.num_images))), store.labelled()]
    parts.append(store.image_digests(np.arange(store.num_images)))
    if topk.prior is not None:
        parts += [topk.prior.classes, topk.prior.probs, topk.prior.power]
    if store.law is not None:
        views = store.views(np.arange(store.num_images)[:, None], np.arange(store.num_views))
        parts += [views.box, views.flip]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def files_of(path):
    """Digest of every file of a store, by name."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def few_photos(folder, count):
    """A flat folder below ``folder`` with the first of the demo's photos."""
    from labelstore.operations.demo import place_photos

    place_photos(folder / "all")
    few = folder / "few"
    few.mkdir()
    for file in sorted((folder / "all").glob("*/*"))[:count]:
        shutil.copy(file, few / file.name)
    return few
