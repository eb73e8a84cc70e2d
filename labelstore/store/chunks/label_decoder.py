"""From the codes of views to labels: of a store, and of what is in memory of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import NotFoundError
from labelstore.format.arrays import NO_LIST, view_arrays
from labelstore.format.encoding import decode_image_prior, decode_label, decode_labels
from labelstore.labels.top_k import TopK

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.labels.prior import ImagePrior
    from labelstore.store.chunks.image_table import ImageTable
    from labelstore.store.chunks.prior_lists import PriorLists

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
        self._no_class = next(
            int(spec.fill) for spec in view_arrays(manifest) if spec.name == "labels/classes"
        )

    def labels(
        self,
        images: npt.NDArray[np.int64],
        codes: Mapping[str, npt.NDArray[Any]],
        shape: tuple[int, ...],
        lists: ImagePrior | None = None,
    ) -> TopK:
        """Labels (*shape, k) of views.

        Args:
            images: (n,) the image of each view, by number.
            codes: (n, ...) of the views, by array name; verified.
            shape: of n entries in all.
            lists: of the different images, in order of their numbers, where these are at hand.

        Raises:
            NotFoundError: an image was unreadable when the store was made. IncompleteError,
            CorruptError: its prior list is not there as it was committed.
        """
        manifest = self._manifest
        broken = codes["labels/classes"][:, 0] == self._no_class
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
        lists = self._prior_lists.of(of_lists) if lists is None else lists
        classes, probs = decode_labels(codes, lists.classes, place, manifest)
        prior = lists[place.reshape(shape)]
        return TopK(classes.reshape(whole), probs.reshape(whole), manifest.num_classes, prior)

    def label(
        self, image: int, codes: Mapping[str, npt.NDArray[Any]], shape: tuple[int, ...]
    ) -> TopK | None:
        """As ``labels``, of one view, in a fraction of the time; None where more is to be done.

        Args:
            image: its number.
            codes: (...) of the view, by array name; verified.
            shape: of one entry.
        """
        manifest = self._manifest
        if codes["labels/classes"].item(0) == self._no_class:
            return None
        prior, listed = None, NO_LIST
        if manifest.prior_size:
            entry = self._prior_lists.entry(image)
            if entry is None:
                return None
            prior, listed = decode_image_prior(entry), entry["images/prior_classes"]
        classes, probs = decode_label(codes, listed, manifest)
        if shape:
            whole = (*shape, manifest.k)
            classes, probs = classes.reshape(whole), probs.reshape(whole)
            prior = None if prior is None else prior[(None,) * len(shape)]
        return TopK(classes, probs, manifest.num_classes, prior)
