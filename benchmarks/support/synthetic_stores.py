"""Stores of synthetic labels, laid out as ``generate`` lays out a whole data set."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.support.measuring import synthetic_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from labelstore.format.blocks import BlockData
    from labelstore.format.manifest import Manifest

__all__ = ["manifest_of", "synthetic_blocks"]


def manifest_of(
    keys: list[str], targets: np.ndarray, views: int, classes: int, whole: tuple[int, int]
) -> Manifest:
    """What ``generate`` says on an accelerator of a part of a data set.

    Args:
        whole: images and views of the whole data set, whose blocks it has.
    """
    from labelstore.format.manifest import Manifest, fingerprint
    from labelstore.format.settings import (
        ACCELERATOR_BLOCK_VIEWS,
        default_block_images,
        default_group_views,
    )
    from labelstore.producer.settings import FIDELITIES
    from labelstore.store.backends.registry import backend_of
    from labelstore.views.law import ViewLaw

    block_images = default_block_images(*whole, ACCELERATOR_BLOCK_VIEWS)
    least = backend_of("labels.zarr").group_views
    settings = {
        **FIDELITIES["balanced"].chosen(),
        "block_images": min(block_images, len(keys)),
        "group_views": default_group_views(views, block_images, least),
    }
    return Manifest(
        num_images=len(keys),
        num_views=views,
        num_classes=classes,
        fingerprint=fingerprint(keys, targets),
        law=ViewLaw(1),
        **settings,
    )


def synthetic_blocks(
    manifest: Manifest, different: int, seed: int = 0
) -> tuple[Callable[[slice], BlockData], float]:
    """What makes the labels of a run of images, with lists of likely classes.

    Args:
        different: images of different labels; the others have other class ids.

    Returns:
        it, and the seconds of the processor that fitting a list took.
    """
    from labelstore.format.blocks import BlockData, BlockPriors

    views, classes = manifest.num_views, manifest.num_classes
    ids, probs = synthetic_labels(different, views, manifest.k, classes, seed=seed)
    lists, fitting = BlockPriors(manifest, different), 0.0
    for row in range(different):
        mean = np.full(classes, (1 - probs[row].sum() / views) / classes)
        np.add.at(mean, ids[row].ravel(), probs[row].ravel() / views)
        used = time.process_time()
        lists.fit([row], mean[None], ids[row][None], probs[row][None])
        fitting += time.process_time() - used
    prior = lists.arrays()

    def block(rows: slice) -> BlockData:
        rng = np.random.default_rng(rows.start)
        chosen = rng.integers(different, size=rows.stop - rows.start)
        move = int(rng.integers(classes))
        own = {name: array[chosen] for name, array in prior.items()}
        held = own["prior_classes"]
        own["prior_classes"] = np.where(held < 0, held, (held + move) % classes)
        side = np.full(len(chosen), 400)
        return BlockData(
            (ids[chosen] + move) % classes, probs[chosen], widths=side, heights=side, **own
        )

    return block, fitting / different
