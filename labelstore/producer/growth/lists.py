"""Images that get more views keep their lists of likely classes: labels are ranks in them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import MismatchError
from labelstore.format import codecs
from labelstore.format.arrays import LABELLED
from labelstore.format.codecs.base import FloatGrid
from labelstore.format.encoding import decode_labels, decode_prior

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.format.blocks import BlockCodes, BlockData
    from labelstore.format.manifest import Manifest

    BoolArray = npt.NDArray[np.bool_]

__all__ = ["with_lists"]

ROUNDING = 0.05
"""By how much of itself the mass of a label may be less, since codes round down."""


def with_lists(data: BlockData, old: BlockCodes, kept: BoolArray, manifest: Manifest) -> BlockData:
    """A block's data with the old store's lists for the images that it has labels of.

    Args:
        kept: (n,) which of the block's first images these are. manifest: the old store's.
    """
    if data.prior_classes is None or data.kept is None:
        raise MismatchError("a block of a store with lists of likely classes was made without.")
    lists = decode_prior(old.priors).classes
    classes, most = data.prior_classes.copy(), data.kept.copy()
    classes[: len(kept)][kept] = lists[kept]
    most[: len(kept)][kept] = _classes_kept(old, lists, manifest)[kept]
    return dataclasses.replace(data, prior_classes=classes, kept=most)


def _classes_kept(
    old: BlockCodes, lists: npt.NDArray[np.int32], manifest: Manifest
) -> npt.NDArray[np.int32]:
    """(n,) int32: how many classes each image's labels store at most, as its list was fitted to.

    That is not stored. It shows where a label ends before it has the mass that it may have.
    """
    count, views = old.views["labels/top_prob"].shape[:2]
    if isinstance(codecs.get(manifest.quantizer).rest, FloatGrid):
        return np.full(count, manifest.k, dtype=np.int32)
    flat = {
        name: values.reshape(count * views, *values.shape[2:]) for name, values in old.views.items()
    }
    rows = np.repeat(np.arange(count), views)
    _, values = decode_labels(flat, lists, rows, manifest)
    values = values.reshape(count, views, manifest.k)
    stored = (values > 0).sum(axis=-1)
    most = np.maximum(stored.max(axis=-1), 1)
    ends = values.sum(axis=-1) < (1 - ROUNDING) * (manifest.top_p or 1.0)
    is_cut = ((stored == most[:, None]) & ends).any(axis=-1)
    labelled = old.images["images/status"] == LABELLED
    return np.where(is_cut & labelled, most, manifest.k).astype(np.int32)
