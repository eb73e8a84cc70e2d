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

from benchmarks.support.one_photo import photo, teacher
from benchmarks.support.synthetic_stores import manifest_of, synthetic_blocks

if TYPE_CHECKING:
    from labelstore.format.blocks import BlockData
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


def make(path: str, images: int, views: int = VIEWS) -> dict[str, Any]:
    """A finished store of so many images."""
    import labelstore
    from labelstore.format.blocks import BlockCodes
    from labelstore.producer.probe import library_versions
    from labelstore.store.rewrite import write_blocks
    from labelstore.store.writer import StoreWriter

    keys, targets = table(images)
    labels = teacher()
    manifest = dataclasses.replace(
        manifest_of(keys, targets, views, CLASSES, (IMAGES, VIEWS)),
        # So that it can grow.
        teacher=labels.describe(),
        class_names=labels.class_names,
        producer=library_versions(),
    )
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
    from labelstore.format.manifest import fingerprint
    from labelstore.images.pixels import content_digest
    from labelstore.store.rewrite import write_blocks
    from labelstore.store.writer import StoreWriter

    keys, targets = table(TEMPLATE_BLOCKS * like.block_images)
    manifest = dataclasses.replace(
        like, num_images=len(keys), fingerprint=fingerprint(keys, targets)
    )
    block, _ = synthetic_blocks(manifest, min(DIFFERENT, like.block_images))
    digest = content_digest(photo())

    def of_photos(rows: slice) -> BlockData:
        digests = np.full(rows.stop - rows.start, digest, dtype=np.uint64)
        return dataclasses.replace(block(rows), digests=digests)

    with StoreWriter(path, manifest, keys, targets) as writer:
        write_blocks(writer, of_photos)
