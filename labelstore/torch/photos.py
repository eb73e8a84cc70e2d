"""The photos of a data set, found by a store's keys and decoded for its views."""

from __future__ import annotations

import os
import warnings
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from labelstore.errors import (
    MismatchError,
    NotFoundError,
    PartialDataWarning,
    SourceError,
    UsageError,
    one_line,
)
from labelstore.images import decoding
from labelstore.images.preprocessing import normalize
from labelstore.images.reduced_jpeg import Photo, decode_reduced, reduction_for
from labelstore.images.sources.choose import ImageSource
from labelstore.images.sources.classes import other_form
from labelstore.images.sources.folder import read_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.store.label_reader import LabelReader
    from labelstore.torch.identity import PhotoIdentity

__all__ = ["Decoding", "Photos", "as_photo", "file_of", "normalize", "validation_folder"]

Decoding = Literal["whole", "reduced"]
"""Whether photos are decoded whole, or JPEG files as small as their views allow."""


class Photos:
    """A map-style data set of photos, in the order of a store's images."""

    def __init__(
        self,
        dataset: Any,
        store: LabelReader,
        keys: Sequence[str] | None,
        decoding: Decoding,
        identity: PhotoIdentity,
    ) -> None:
        """Align a data set with a store; the arguments are ``SoftLabelDataset``'s.

        Raises:
            UsageError: keys that are missing or stand there twice, or another way of decoding.
            MismatchError: no image with labels has a photo. Warns (PartialDataWarning) where some
                have none.
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
        self._identity = identity
        self._paths = _paths_of(dataset)
        self._rows: npt.NDArray[np.int64] | None = None
        if dataset is not None:
            self._rows = _align(store, _keys_of(dataset, keys, self._paths, store))
        self._reduced = decoding == "reduced"

    def present(self) -> npt.NDArray[np.bool_] | None:
        """(num_images,) bool: which of the store's images have a photo; None without a data set."""
        return None if self._rows is None else self._rows >= 0

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
            MismatchError: there is none, or it is another file than the one that was labelled.
            SourceError: it cannot be read or decoded. UsageError: the data set gives something
                else, or there is no data set.
        """
        key = self._keys[image]
        if self._rows is None:
            raise UsageError(
                "a SoftLabelDataset without photos was asked for one, expected views_of: make it "
                "with a data set of photos."
            )
        row = int(self._rows[image])
        if row < 0:
            raise MismatchError(
                f"the data set has no image {key!r} and was asked for it: give a sampler the data "
                "set instead of its store, so that images without a photo are left out."
            )
        reduction = 1
        if self._reduced and boxes is not None and size is not None:
            reduction = reduction_for(boxes, size)
        if isinstance(self._dataset, ImageSource):
            data = self._dataset.read(row)
            photo = decode_reduced(data, str(self._dataset.path_of(row)), reduction)
            self._identity.check(photo, image, data=data)
            return photo
        try:
            item = self._dataset[row]
        except OSError as error:
            # Of files that are gone, cut off, or no images, by Pillow in torchvision's loaders.
            raise SourceError(
                f"the data set cannot read its image {key!r} ({one_line(error)}): restore the file "
                "or its permissions, or make the data set anew of what is there."
            ) from error
        data = _first(item)
        if isinstance(data, bytes):
            photo = decode_reduced(data, key, reduction)
            self._identity.check(photo, image, data=data)
            return photo
        if self._reduced:
            raise UsageError(
                f'decode is "reduced" and the data set gives a {type(data).__name__} for {key!r}, '
                "expected encoded bytes: give labelstore.open_source(folder), or decode "
                "whole."
            )
        path = file_of(item) if self._paths is None else self._paths[row]
        photo = Photo.whole(as_photo(item, key))
        # After the data set has read the file, so that it is in memory.
        self._identity.check(photo, image, path=path)
        return photo


def _paths_of(dataset: Any) -> list[str] | None:
    """The file of each item of an ImageFolder or DatasetFolder, or of a Subset; None where unknown.

    A source's files are not looked for: it gives their bytes.
    """
    if isinstance(dataset, torch.utils.data.Subset):
        paths = _paths_of(dataset.dataset)
        return None if paths is None else [paths[index] for index in dataset.indices]
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, (list, tuple)) or not all(
        isinstance(sample, (list, tuple)) and sample and isinstance(sample[0], (str, os.PathLike))
        for sample in samples
    ):
        return None
    return [os.fspath(sample[0]) for sample in samples]


def _keys_of(
    dataset: Any, keys: Sequence[str] | None, paths: list[str] | None, store: LabelReader
) -> Sequence[str]:
    """The key of each item of a data set."""
    if keys is None and isinstance(dataset, ImageSource):
        return dataset.keys
    if keys is None:
        folder = dataset
        while isinstance(folder, torch.utils.data.Subset):
            folder = folder.dataset
        root = getattr(folder, "root", None)
        if paths is None or root is None:
            raise UsageError(
                f"the keys of a {type(dataset).__name__} are unknown: pass keys=, the path of each "
                "image relative to the folder that the store was made from."
            )
        keys = _relative(paths, os.fspath(root), store)
    if len(keys) != len(dataset):
        raise UsageError(
            f"{len(keys)} keys were given for a data set of {len(dataset)} images: give one each."
        )
    return keys


def _relative(paths: list[str], root: str, store: LabelReader) -> list[str]:
    """Paths as keys of a store: relative to the root or, where that has none of them, to the folder
    below or above it that has the most (torchvision's ImageNet has the root of all its splits)."""
    start = os.path.join(root, "")
    # A million paths: only what does not plainly begin with the root is worked out.
    keys = [
        path[len(start) :] if path.startswith(start) else os.path.relpath(path, root)
        for path in paths
    ]
    if os.sep != "/":
        keys = [PurePath(key).as_posix() for key in keys]
    if not keys:
        return keys
    known = set(store.keys)
    some = keys[:: max(1, len(keys) // _TRIED)]
    if any(key in known for key in some):
        return keys
    # Folders that all paths have in common, and the names of those that the root lies in.
    below = os.path.commonpath([os.path.dirname(key) for key in some]).split("/")
    above = PurePath(os.path.abspath(root)).parts[1:]
    cuts = ["/".join(below[:depth]) + "/" for depth in range(1, len(below) + 1) if below[0]]
    starts = ["/".join(above[-depth:]) + "/" for depth in range(1, min(len(above), _ABOVE) + 1)]
    hits = {("cut", cut): sum(key[len(cut) :] in known for key in some) for cut in cuts}
    hits |= {("start", start): sum(start + key in known for key in some) for start in starts}
    if not any(hits.values()):
        return keys
    way, text = max(hits, key=hits.__getitem__)
    if way == "start":
        return [text + key for key in keys]
    return [key.removeprefix(text) for key in keys]


_TRIED = 1000
"""Keys that are looked for, about, to find the folder that a store's keys are relative to."""
_ABOVE = 3
"""How many folders up a store may have been made."""


def _align(store: LabelReader, keys: Sequence[str]) -> npt.NDArray[np.int64]:
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
    labelled = store.labelled()
    missing = np.flatnonzero((rows < 0) & labelled)
    count = int(labelled.sum())
    if missing.size and missing.size == count:
        raise MismatchError(
            f"the data set has none of the {count} labelled images of {store.path}, first "
            f"{store.keys[missing[0]]!r} (a key of the data set is {next(iter(keys), None)!r}"
            f"{other_form(store.keys[missing[0]], keys)}): give the folder that the "
            "store was made from, or keys= as the store has them."
        )
    if missing.size:
        names = ", ".join(repr(store.keys[row]) for row in missing[:_NAMED])
        warnings.warn(
            f"the data set lacks {missing.size} of the {count} labelled images of {store.path} "
            f"({names}{', ...' if missing.size > _NAMED else ''}"
            f"{other_form(store.keys[missing[0]], keys)}): it trains on the other "
            f"{count - missing.size}.",
            PartialDataWarning,
            stacklevel=4,
        )
    return rows


_NAMED = 3
"""Images without a photo that the warning names."""


def file_of(item: Any) -> str | None:
    """The file that the image of an item was opened from, where Pillow knows it."""
    photo = _first(item)
    name = getattr(photo, "filename", None) if isinstance(photo, Image.Image) else None
    return os.fspath(name) if isinstance(name, (str, os.PathLike)) and str(name) else None


def as_photo(item: Any, key: str) -> Image.Image:
    """An item of a data set as an upright RGB photo.

    Args:
        item: a PIL image, encoded bytes, a uint8 tensor (3 or 1, H, W) or (H, W), or a uint8 NumPy
            array (H, W, 3) or (H, W); or a tuple or list that starts with one.
        key: what errors call the photo.

    Raises:
        SourceError: it cannot be decoded. UsageError: it is none of these.
    """
    photo = _first(item)
    if isinstance(photo, bytes):
        return decoding.decode(photo, key)
    if isinstance(photo, Image.Image):
        try:
            return decoding.to_rgb(photo)
        except decoding.PARSER_ERRORS as error:
            raise SourceError(
                f"the image of {key!r} cannot be decoded ({one_line(error)}): it was closed, or "
                "its file is cut off or damaged; leave it open until it is used, or give the "
                "file's bytes."
            ) from error
    if isinstance(photo, torch.Tensor) and photo.dtype == torch.uint8:
        if photo.ndim == 3 and photo.shape[0] == 3:
            return Image.fromarray(photo.permute(1, 2, 0).contiguous().numpy())
        if photo.ndim == 2 or (photo.ndim == 3 and photo.shape[0] == 1):
            grey = photo.reshape(photo.shape[-2:]).contiguous().numpy()
            return Image.fromarray(grey).convert("RGB")
    is_pixels = isinstance(photo, np.ndarray) and photo.dtype == np.uint8
    if is_pixels and (photo.ndim == 2 or photo.shape[2:] == (3,)):
        return Image.fromarray(photo).convert("RGB")
    kind = f"a {type(photo).__name__}"
    if isinstance(photo, (torch.Tensor, np.ndarray)):
        kind = f"{kind} of type {photo.dtype} and shape {tuple(photo.shape)}"
    raise UsageError(
        f"the data set gives {kind} for {key!r}, expected a PIL image, encoded bytes or a uint8 "
        "tensor (3, H, W), (1, H, W) or (H, W), or array (H, W, 3): leave its transform out and "
        "pass it to SoftLabelDataset(transform=...)."
    )


def _first(item: Any) -> Any:
    """The photo of an item that is one or starts with one."""
    return item[0] if isinstance(item, (tuple, list)) and len(item) else item


def validation_folder(folder: str | os.PathLike[str], store: LabelReader) -> Any:
    """Photos to validate a student on: torchvision's ``ImageFolder`` of upright RGB photos, whose
    class ids are those that a store's photos have in class folders of the same names.

    Raises:
        UsageError: a class folder that none of the store's photos with ground truth lies in.
        NotFoundError: there is no such folder. SourceError: it has no class folders, or one of them
            no photo; and of a photo that cannot be read, when it is asked for.
    """
    from torchvision.datasets import ImageFolder

    pairs = zip(store.keys, store.targets.tolist(), strict=True)
    classes = {key.partition("/")[0]: target for key, target in pairs if target >= 0}
    try:
        data = ImageFolder(os.fspath(folder), loader=_upright)
    except OSError as error:
        kind = SourceError if os.path.exists(folder) else NotFoundError
        raise kind(
            f"{folder} holds no photos in class folders ({one_line(error)}): give one that has a "
            "folder with photos for each class, named as those of the labelled photos."
        ) from error
    unknown = [name for name in data.classes if name not in classes]
    if unknown:
        raise UsageError(
            f"no photo of the store tells the class of the folder {unknown[0]!r} in {folder}, "
            "expected class folders named as those of the labelled photos: rename or remove it."
        )
    data.target_transform = [classes[name] for name in data.classes].__getitem__
    return data


def _upright(path: str) -> Image.Image:
    return decoding.decode(read_image(path), path)
