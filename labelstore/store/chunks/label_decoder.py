"""From the codes of views to labels: of a store, and of what is in memory of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import NotFoundError
from labelstore.format import codecs
from labelstore.format.arrays import NO_LIST, view_arrays
from labelstore.format.codecs.one_label import OneLabel
from labelstore.format.encoding import (
    decode_image_prior,
    decode_label_classes,
    decode_label_probs,
    decode_labels,
    decode_power,
)
from labelstore.labels.prior import ImagePrior
from labelstore.labels.top_k import TopK

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.store.chunks.image_table import ImageTable
    from labelstore.store.chunks.memory_cache import Place
    from labelstore.store.chunks.prior_lists import PriorLists

    Codes = Mapping[str, npt.NDArray[Any]]

__all__ = ["LabelDecoder"]

_INT32 = np.dtype(np.int32)


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
        self._has_lists, self._num_classes = manifest.prior_size > 0, manifest.num_classes
        self._one_label = None
        if manifest.encoding == "codes":
            quantizer = codecs.get(manifest.quantizer)
            self._one_label = OneLabel.of(quantizer, manifest.k, manifest.prior_size)
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

    def label(self, image: int, codes: Codes, place: Place) -> TopK | None:
        """As ``labels``, of one view, in a fraction of the time; None where more is to be done.

        Args:
            image: its number.
            codes: (*places, ...) by array name, verified; place: of the view, among them. Nothing
                of them is in what is returned.
        """
        lists = self._prior_lists.holding(image) if self._has_lists else None
        if self._has_lists and lists is None:
            return None
        if self._one_label is None or not isinstance(place, int):
            return self._label_by_numpy(image, codes, place, lists)
        if lists is None:
            label = self._one_label.decode(codes, place)
            return label and TopK.of_arrays(*label, self._num_classes, None)
        pair = lists["images/prior_classes"], lists["images/prior_probs"]
        parts = self._one_label.decode_listed(codes, place, pair, image)
        if parts is None:
            return None
        classes, probs, listed, listed_probs = parts
        prior = ImagePrior(listed, listed_probs, decode_power(lists, image))
        return TopK.of_arrays(classes, probs, self._num_classes, prior)

    def _label_by_numpy(
        self, image: int, codes: Codes, place: Place, lists: Codes | None
    ) -> TopK | None:
        """As ``label``, where labels are not codes of tables or the compiled part is not there."""
        ids = codes["labels/classes"][place]
        if ids.item(0) == self._no_class:
            return None
        probs = decode_label_probs(codes, place, self._manifest)
        prior = None if lists is None else decode_image_prior(lists, image)
        if lists is None or self._manifest.encoding == "plain":
            classes = ids.astype(_INT32)
        else:
            classes = decode_label_classes(ids, probs, lists["images/prior_classes"][image])
        return TopK.of_arrays(classes, probs, self._num_classes, prior)
