"""A store of ImageNet's size, made in minutes: the blocks of a small one, over and over.

Keys, ground truth and commits are each image's own; labels and lists of likely classes are those of
``TEMPLATE_BLOCKS`` blocks of synthetic labels, whose compressed objects are laid down again and
again. Reading, decompressing and verifying them takes what other labels would take.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.support.measuring import synthetic_labels

if TYPE_CHECKING:
    from labelstore.format.manifest import Manifest

__all__ = ["CLASSES", "IMAGES", "VIEWS", "make"]

IMAGES, VIEWS, CLASSES = 1_281_167, 500, 1000
TEMPLATE_BLOCKS = 4
DIFFERENT = 256
"""Images of different labels; the others of a template have other class ids."""


def table(images: int) -> tuple[list[str], np.ndarray]:
    """Keys as ImageNet's, class by class, and ground truth (images,) int32."""
    classes = np.arange(images) * CLASSES // images
    keys = [f"n{c:08}/n{c:08}_{number}.JPEG" for number, c in enumerate(classes.tolist())]
    return keys, classes.astype(np.int32)


def manifest_of(keys: list[str], targets: np.ndarray, views: int) -> Manifest:
    """What ``generate`` says of ImageNet on an accelerator, of so many images."""
    from labelstore.format.blocks import (
        ACCELERATOR_BLOCK_VIEWS,
        default_block_images,
        default_group_views,
    )
    from labelstore.format.manifest import Manifest, fingerprint
    from labelstore.producer.settings import FIDELITIES
    from labelstore.store.backends.registry import backend_of
    from labelstore.views.law import ViewLaw

    block_images = default_block_images(IMAGES, VIEWS, ACCELERATOR_BLOCK_VIEWS)
    least = backend_of("labels.zarr").group_views
    settings = {
        **FIDELITIES["balanced"].chosen(),
        "block_images": min(block_images, len(keys)),
        "group_views": default_group_views(views, block_images, least),
    }
    return Manifest(
        num_images=len(keys),
        num_views=views,
        num_classes=CLASSES,
        fingerprint=fingerprint(keys, targets),
        law=ViewLaw(1),
        **settings,
    )


def make(path: str, images: int, views: int = VIEWS) -> dict[str, Any]:
    """A finished store of so many images."""
    import labelstore
    from labelstore.format.blocks import BlockCodes
    from labelstore.store.rewrite import write_blocks
    from labelstore.store.writer import StoreWriter

    keys, targets = table(images)
    manifest = manifest_of(keys, targets, views)
    with tempfile.TemporaryDirectory() as folder:
        source = str(Path(folder, "template.zarr"))
        _template(source, manifest)
        blocks = [labelstore.open(source).stored_block(number) for number in range(TEMPLATE_BLOCKS)]

    def block(rows: slice) -> BlockCodes:
        own = blocks[rows.start // manifest.block_images % TEMPLATE_BLOCKS]
        count = rows.stop - rows.start
        if count == manifest.block_images:
            return own
        parts = ({name: a[:count] for name, a in p.items()} for p in _parts(own))
        return BlockCodes(*parts)

    with StoreWriter(path, manifest, keys, targets) as writer:
        write_blocks(writer, block)
    return {}


def _parts(block: Any) -> tuple[dict[str, Any], ...]:
    return block.images, block.priors, block.views


def _template(path: str, like: Manifest) -> None:
    from labelstore.format.blocks import BlockData, BlockPriors
    from labelstore.format.manifest import fingerprint
    from labelstore.store.rewrite import write_blocks
    from labelstore.store.writer import StoreWriter

    keys, targets = table(TEMPLATE_BLOCKS * like.block_images)
    manifest = dataclasses.replace(
        like, num_images=len(keys), fingerprint=fingerprint(keys, targets)
    )
    different = min(DIFFERENT, like.block_images)
    ids, probs = synthetic_labels(different, like.num_views, manifest.k, CLASSES)
    lists = BlockPriors(manifest, different)
    for row in range(different):
        mean = np.full(CLASSES, (1 - probs[row].sum() / like.num_views) / CLASSES)
        np.add.at(mean, ids[row].ravel(), probs[row].ravel() / like.num_views)
        lists.fit([row], mean[None], ids[row][None], probs[row][None])
    prior = lists.arrays()

    def block(rows: slice) -> BlockData:
        rng = np.random.default_rng(rows.start)
        chosen = rng.integers(different, size=rows.stop - rows.start)
        move = int(rng.integers(CLASSES))
        own = {name: array[chosen] for name, array in prior.items()}
        held = own["prior_classes"]
        own["prior_classes"] = np.where(held < 0, held, (held + move) % CLASSES)
        side = np.full(len(chosen), 400)
        return BlockData(
            (ids[chosen] + move) % CLASSES, probs[chosen], widths=side, heights=side, **own
        )

    with StoreWriter(path, manifest, keys, targets) as writer:
        write_blocks(writer, block)
