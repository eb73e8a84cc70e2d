"""Samples of litdata's and mosaicml-streaming's ``StreamingDataset``, joined by key.

    views = StreamingViews(store, views_per_image=4, key_column="key", image_column="image")
    loader = StreamingDataLoader(data, batch_size=64, collate_fn=views, num_workers=8)
    for epoch in range(300):
        views.set_epoch(epoch)

Both libraries bring samples as dicts and take a ``collate_fn``; nothing else of them is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from labelstore.errors import UsageError
from labelstore.torch.collate import collate_views
from labelstore.torch.joins.view_join import JoinOptions, StreamJoin, Unknown

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import torch

    from labelstore.store.label_reader import LabelReader
    from labelstore.torch.labels.soft_labels import TorchSoftLabels
    from labelstore.torch.labels.stored_labels import StoredLabels

__all__ = ["StreamingViews"]


class StreamingViews(StreamJoin):
    """A ``collate_fn`` for the loaders of litdata and mosaicml-streaming: samples -> a batch.

    A sample is a dict with an image and its key. Write images as encoded bytes: then each file is
    compared with the one that was labelled by its digest. Images without labels and those that a
    budget leaves out are left out of their batch.
    """

    def __init__(
        self,
        store: LabelReader | str | os.PathLike[str],
        views_per_image: int = 1,
        *,
        key_column: str = "key",
        image_column: str = "image",
        unknown: Unknown = "raise",
        **options: Unpack[JoinOptions],
    ) -> None:
        """Plan epochs over a store.

        Args:
            store, views_per_image, options: as for ``ViewJoin``.
            key_column: the column with the images' keys, as the store has them.
            image_column: images: encoded bytes, or what ``SoftLabelDataset`` takes.
            unknown: as for ``StreamJoin``.

        Raises:
            UsageError, MismatchError, IncompleteError: as ``ViewJoin``.
        """
        super().__init__(store, views_per_image, unknown=unknown, **options)
        self.key_column, self.image_column = key_column, image_column

    def __call__(
        self, samples: Sequence[Mapping[str, Any]]
    ) -> tuple[torch.Tensor, TorchSoftLabels | StoredLabels]:
        """A batch of n samples.

        Returns:
            pixels (n * m, 3, height, width) and n * m labels, as ``collate_views``; n is less by
            the samples that are left out.

        Raises:
            NotFoundError: the store has no such image. UsageError: a sample without these columns,
            or a batch of which nothing is left. Others as ``join``.
        """
        images, photos = [], []
        for sample in samples:
            key, photo = self._columns(sample)
            image = self.shown_image(key)
            if image is not None:
                images.append(image)
                photos.append(photo)
        if not images:
            raise UsageError(
                f"none of the {len(samples)} samples of a batch is shown in epoch {self.epoch}, "
                "expected one at least: shuffle the data set, or choose a larger batch size."
            )
        joined: list[Any] = list(self.join(images, photos))
        return collate_views(joined)

    def _columns(self, sample: Any) -> tuple[str, Any]:
        if not isinstance(sample, Mapping):
            raise UsageError(
                f"a sample is a {type(sample).__name__}, expected a dict with the columns "
                f"{self.key_column!r} and {self.image_column!r}: write the data set with these."
            )
        for column in (self.key_column, self.image_column):
            if column not in sample:
                raise UsageError(
                    f"a sample has the columns {', '.join(map(str, sample))} and no {column!r}: "
                    "give image_column= and key_column=."
                )
        return str(sample[self.key_column]), sample[self.image_column]
