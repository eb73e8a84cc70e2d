"""From the codes of views to labels: of a store, and of what is in memory of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import NotFoundError
from labelstore.format.arrays import NO_LIST
from labelstore.format.encoding import decode_labels
from labelstore.labels.top_k import TopK

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.store.chunks.prior_lists import PriorLists
    from labelstore.store.image_table import ImageTable

__all__ = ["LabelDecoder"]


class LabelDecoder:
    """What the codes of one store's views say."""

    def __init__(self, manifest: Manifest, prior_lists: PriorLists, table: ImageTable) -> None:
        """Of a store.

        Args:
            manifest: says how labels are coded.
            prior_lists: of its images; class ids may be places in them.
            table: names an image that has no labels.
        """
        self._manifest = manifest
        self._prior_lists = prior_lists
        self._table = table

    def labels(
        self,
        images: npt.NDArray[np.int64],
        codes: Mapping[str, npt.NDArray[Any]],
        shape: tuple[int, ...],
    ) -> TopK:
        """Labels (*shape, k) of views.

        Args:
            images: (n,) the image of each view, by number.
            codes: (n, ...) of the views, by array name; verified.
            shape: of n entries in all.

        Raises:
            NotFoundError: an image was unreadable when the store was made. IncompleteError,
            CorruptError: its prior list is not there as it was committed.
        """
        manifest = self._manifest
        ids = codes["labels/classes"][:, 0]
        broken = ids == np.iinfo(ids.dtype).max
        if broken.any():
            raise NotFoundError(
                f"{self._table.path} has no labels of "
                f"{self._table.keys[int(images[broken][0])]!r}: the image "
                "could not be decoded when the store was made; leave it out (store.labelled())."
            )
        whole = (*shape, manifest.k)
        if not manifest.prior_size:
            classes, probs = decode_labels(codes, NO_LIST, images, manifest)
            return TopK(classes.reshape(whole), probs.reshape(whole), manifest.num_classes)
        # The views of an image share its list, which is decoded once.
        of_lists, place = np.unique(images, return_inverse=True)
        lists = self._prior_lists.of(of_lists)
        classes, probs = decode_labels(codes, lists.classes, place, manifest)
        prior = lists[place.reshape(shape)]
        return TopK(classes.reshape(whole), probs.reshape(whole), manifest.num_classes, prior)
