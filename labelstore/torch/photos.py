"""The photos of a data set, found by a store's keys and decoded for its views."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from labelstore import images
from labelstore.errors import MismatchError, UsageError
from labelstore.reduced import Photo, decode, reduction_for
from labelstore.sources import ImageSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.ensembles import Ensemble
    from labelstore.store import Store

__all__ = ["Decoding", "Photos", "as_photo"]

Decoding = Literal["whole", "reduced"]
"""Whether photos are decoded whole, or JPEG files as small as their views allow."""


class Photos:
    """A map-style data set of photos, in the order of a store's images."""

    def __init__(
        self, dataset: Any, store: Store | Ensemble, keys: Sequence[str] | None, decoding: Decoding
    ) -> None:
        """Align a data set with a store; the arguments are ``SoftLabelDataset``'s.

        Raises:
            UsageError: keys that are missing or stand there twice, or another way of decoding.
            MismatchError: an image with labels has no photo.
        """
        if decoding not in ("whole", "reduced"):
            raise UsageError(f'decode is {decoding!r}, expected "whole" or "reduced": choose one.')
        if decoding == "reduced" and dataset is None:
            raise UsageError(
                'decode is "reduced" and the photos are read elsewhere, expected "whole": what is '
                "decoded already cannot be reduced."
            )
        self._dataset = dataset
        self._keys = store.keys
        self._rows = None if dataset is None else _align(store, _keys_of(dataset, keys))
        self._reduced = decoding == "reduced"

    def read(
        self,
        image: int,
        boxes: npt.NDArray[np.int32] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Photo:
        """The photo of an image of the store.

        Args:
            image: its number in the store.
            boxes, size: the views (m, 4) that it is for, and their (height, width): what it may be
                reduced for. Whole when None.

        Raises:
            MismatchError: there is none. SourceError: it cannot be decoded. UsageError: the data
                set gives something else, or there is no data set.
        """
        key = self._keys[image]
        if self._rows is None:
            raise UsageError(
                "a SoftLabelDataset without photos was asked for one, expected views_of: make it "
                "with a data set of photos."
            )
        row = int(self._rows[image])
        if row < 0:
            raise MismatchError(f"the data set has no image {key!r}: it has no stored labels.")
        reduction = 1
        if self._reduced and boxes is not None and size is not None:
            reduction = reduction_for(boxes, size)
        if isinstance(self._dataset, ImageSource):
            return decode(self._dataset.read(row), str(self._dataset.path_of(row)), reduction)
        item = self._dataset[row]
        data = _first(item)
        if isinstance(data, bytes):
            return decode(data, key, reduction)
        if self._reduced:
            raise UsageError(
                f'decode is "reduced" and the data set gives a {type(data).__name__} for {key!r}, '
                "expected encoded bytes: give labelstore.sources.open_source(folder), or decode "
                "whole."
            )
        return Photo.whole(as_photo(item, key))


def _keys_of(dataset: Any, keys: Sequence[str] | None) -> Sequence[str]:
    """The key of each item of a data set."""
    if keys is None and isinstance(dataset, ImageSource):
        return dataset.keys
    if keys is None:
        samples, root = getattr(dataset, "samples", None), getattr(dataset, "root", None)
        if samples is None or root is None:
            raise UsageError(
                f"the keys of a {type(dataset).__name__} are unknown: pass keys=, the path of each "
                "image relative to the folder that the store was made from."
            )
        keys = [PurePath(sample[0]).relative_to(root).as_posix() for sample in samples]
    if len(keys) != len(dataset):
        raise UsageError(
            f"{len(keys)} keys were given for a data set of {len(dataset)} images: give one each."
        )
    return keys


def _align(store: Store | Ensemble, keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """(num_images,) int64: the place of each of the store's images in the data set, or -1."""
    places = {key: place for place, key in enumerate(keys)}
    if len(places) != len(keys):
        raise UsageError(
            f"{len(keys) - len(places)} keys of the data set stand in it twice: keys must be "
            "unique."
        )
    rows = np.fromiter(
        (places.get(key, -1) for key in store.keys), dtype=np.int64, count=store.num_images
    )
    missing = np.flatnonzero((rows < 0) & store.labelled())
    if missing.size:
        raise MismatchError(
            f"the data set lacks {missing.size} of the {store.num_images} images of {store.path}, "
            f"first {store.keys[missing[0]]!r} (a key of the data set is {next(iter(keys), None)!r}"
            "): give the folder that the store was made from, or keys= as the store has them."
        )
    return rows


def as_photo(item: Any, key: str) -> Image.Image:
    """An item of a data set as an upright RGB photo.

    Args:
        item: a PIL image, encoded bytes, or a uint8 tensor (3 or 1, H, W) or (H, W); or a tuple or
            list that starts with one.
        key: what errors call the photo.

    Raises:
        SourceError: it cannot be decoded. UsageError: it is none of these.
    """
    photo = _first(item)
    if isinstance(photo, bytes):
        return images.decode(photo, key)
    if isinstance(photo, Image.Image):
        return images.to_rgb(photo)
    if isinstance(photo, torch.Tensor) and photo.dtype == torch.uint8:
        if photo.ndim == 3 and photo.shape[0] == 3:
            return Image.fromarray(photo.permute(1, 2, 0).contiguous().numpy())
        if photo.ndim == 2 or (photo.ndim == 3 and photo.shape[0] == 1):
            grey = photo.reshape(photo.shape[-2:]).contiguous().numpy()
            return Image.fromarray(grey).convert("RGB")
    met = f"a {type(photo).__name__}"
    if isinstance(photo, torch.Tensor):
        met = f"a tensor of type {photo.dtype} and shape {tuple(photo.shape)}"
    raise UsageError(
        f"the data set gives {met} for {key!r}, expected a PIL image, encoded bytes or a uint8 "
        "tensor (3, H, W), (1, H, W) or (H, W): leave its transform out and pass it to "
        "SoftLabelDataset(transform=...)."
    )


def _first(item: Any) -> Any:
    """The photo of an item that is one or starts with one."""
    return item[0] if isinstance(item, (tuple, list)) and len(item) else item
