"""Labels joined by key to photos that come from a pipeline of another library.

    views = WebDatasetViews(store, views_per_image=4)
    data = webdataset.WebDataset("shards/{000..099}.tar", shardshuffle=100).shuffle(1000).map(views)
    loader = DataLoader(data, batch_size=64, collate_fn=collate_views, num_workers=8)
    for epoch in range(300):
        views.set_epoch(epoch)

There the pipeline decides which photo comes when, and the join what the photo shows: the views that
``ViewSampler`` with the same arguments would show in that epoch.
"""

from __future__ import annotations

import warnings
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import numpy as np
import torch

from labelstore.errors import NotFoundError, PartialDataWarning, UsageError
from labelstore.images.formats import IMAGE_SUFFIXES
from labelstore.images.reduced_jpeg import Photo
from labelstore.store.ensembles import opened_reader
from labelstore.torch.dataset import Show, SoftLabelDataset, ViewOptions
from labelstore.torch.photos import as_photo, file_of
from labelstore.training.epochs import EpochOrder, ScheduleOptions
from labelstore.training.options import part_of, require_known

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.store.label_reader import LabelReader
    from labelstore.torch.identity import CheckPhotos
    from labelstore.torch.labels.soft_labels import TorchSoftLabels
    from labelstore.torch.labels.stored_labels import StoredLabels

    Sample = tuple[torch.Tensor, TorchSoftLabels | StoredLabels]

__all__ = ["HuggingFaceViews", "ViewJoin", "WebDatasetViews"]

Unknown = Literal["raise", "skip"]

_STRANGE = 100
"""Samples after which it is told that the store has none of them."""


class PhotoOptions(ViewOptions, total=False):
    """What a ``SoftLabelDataset`` makes of photos that come from elsewhere."""

    labels: Literal["recovered", "stored"]
    """``"recovered"`` when it is not given."""
    check_pixels: bool | Literal["raise"]
    """True when it is not given. Each view is compared when its photo comes."""
    check_photos: CheckPhotos
    """``"digest"`` when it is not given. Of photos that the pipeline has decoded, the size alone
    can be compared: leave them encoded, and each file's digest is."""


class JoinOptions(ScheduleOptions, PhotoOptions, total=False):
    """The keywords of ``ViewJoin``."""


class ViewJoin:
    """Photos with their keys -> the views that they show in the present epoch, with labels.

    The epoch is held in shared memory, so that DataLoader's workers see it change.
    """

    def __init__(
        self,
        store: LabelReader | str | os.PathLike[str],
        views_per_image: int = 1,
        **options: Unpack[JoinOptions],
    ) -> None:
        """Plan epochs over a store.

        Args:
            store: a store, as it is or by its path or URL, or an ensemble; complete.
            views_per_image: as for ``ViewSampler``.
            options: ``seed``, ``schedule``, ``epochs`` and ``budget``, see
                ``labelstore.training.epochs.ScheduleOptions``; ``labels``, ``check_pixels``
                and ``check_photos``, as for ``SoftLabelDataset``; and all of
                ``labelstore.torch.dataset.ViewOptions``.

        Raises:
            UsageError, MismatchError, IncompleteError, TypeError: as ``SoftLabelDataset`` and
                ``ViewSampler``.
        """
        require_known(type(self).__name__, options, JoinOptions)
        store = opened_reader(store)
        self.data = SoftLabelDataset(None, store, **part_of(PhotoOptions, options))
        check_pixels = options.get("check_pixels", True)
        self.order = EpochOrder(store, views_per_image, **part_of(ScheduleOptions, options))
        self._strict = check_pixels == "raise"
        self._to_probe = self.data.probed() if check_pixels else set()
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._shown: tuple[int, npt.NDArray[np.bool_]] = (-1, np.zeros(0, dtype=bool))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: ``datasets`` copies its transform with a table, and ``set_epoch`` must reach
        it."""
        return self

    @property
    def epoch(self) -> int:
        """The present epoch."""
        return int(self._epoch[0])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0..2**32-1; UsageError for another, or one that a curriculum lacks."""
        self.order.check(epoch)
        self._epoch[0] = epoch

    def image_of(self, *keys: str) -> int:
        """The number of the image with the first of these keys that the store has.

        Raises:
            NotFoundError: it has none of them.
        """
        for key in keys[:-1]:
            try:
                return int(self.data.store.index_of([key])[0])
            except NotFoundError:
                continue
        return int(self.data.store.index_of([keys[-1]])[0])

    def shown(self, image: int) -> bool:
        """Whether an image has labels and is shown in the present epoch."""
        epoch = self.epoch
        if self._shown[0] != epoch:
            mask = np.zeros(self.data.store.num_images, dtype=bool)
            mask[self.order.present(epoch)] = True
            self._shown = (epoch, mask)
        return bool(self._shown[1][image])

    def join(self, images: Sequence[int], photos: Sequence[Any]) -> list[Sample]:
        """Pixels and labels of the views that photos show in the present epoch.

        Args:
            images: (n,) numbers in the store.
            photos: n PIL images, encoded bytes or uint8 tensors.

        Returns:
            n pairs of pixels (m, 3, height, width) and m labels, as a ``SoftLabelDataset`` gives.

        Raises:
            MismatchError: a photo is not the one that was labelled. SourceError: it
                cannot be decoded. NotFoundError: an image has no labels. UsageError: no photo.
        """
        views = self.order.views(np.asarray(images, dtype=np.int64), self.epoch).tolist()
        told = None if self.data.recovery.phases is None else self.epoch
        shows = [Show(image, tuple(row), told) for image, row in zip(images, views, strict=True)]
        upright = (self._upright(*pair) for pair in zip(images, photos, strict=True))
        return self.data.views_of(shows, upright)

    def _upright(self, image: int, photo: Any) -> Any:
        upright = as_photo(photo, self.data.store.keys[image])
        whole = Photo.whole(upright)
        data = photo if isinstance(photo, bytes) else None
        self.data.identity.check(whole, image, data=data, path=file_of(photo))
        if image in self._to_probe:
            self._to_probe.discard(image)
            self.data.tell(*self.data.differing(whole, image), self._strict)
        return upright


class WebDatasetViews(ViewJoin):
    """A function for ``webdataset``'s ``.map``: a sample -> pixels and labels of its views.

    The sample is joined by its ``__key__``: that of a store which was made from such shards, or
    from the folder that the shards were packed from (the key with the image's suffix). Leave images
    encoded, or decode them with ``.decode("pil")``. For images without labels and those that a
    budget leaves out it gives None, which webdataset passes over.
    """

    def __init__(
        self,
        store: LabelReader | str | os.PathLike[str],
        views_per_image: int = 1,
        *,
        field: str | None = None,
        unknown: Unknown = "raise",
        **options: Unpack[JoinOptions],
    ) -> None:
        """Plan epochs over a store.

        Args:
            store, views_per_image, options: as for ``ViewJoin``.
            field: the image's field of a sample, such as ``"jpg"``; the one that is named like an
                image when None.
            unknown: what becomes of samples that the store does not have: an error, or skipped.

        Raises:
            UsageError, MismatchError, IncompleteError: as ``ViewJoin``.
        """
        super().__init__(store, views_per_image, **options)
        if unknown not in ("raise", "skip"):
            raise UsageError(f'unknown is {unknown!r}, expected "raise" or "skip": choose one.')
        self.field, self.unknown = field, unknown
        self._strange: int | None = 0
        """Samples that were skipped before the first that the store has; None from there on."""

    def __call__(self, sample: Mapping[str, Any]) -> Sample | None:
        """Pixels (m, 3, height, width) and m labels, or None.

        Raises:
            NotFoundError: the store has no such image. UsageError: the sample has no image. Others
            as ``join``.
        """
        key = str(sample["__key__"]).removeprefix("./")
        field = self._field(sample, key)
        keys = [f"{key}.{suffix}" for suffix in _spellings(field)]
        try:
            image = self.image_of(*keys, key)
        except NotFoundError:
            if self.unknown == "skip":
                self._skip(key)
                return None
            raise
        self._strange = None
        return self.join([image], [sample[field]])[0] if self.shown(image) else None

    def _skip(self, key: str) -> None:
        """Note a sample that the store does not have; told where the first ones all are such."""
        if self._strange is None:
            return
        self._strange += 1
        if self._strange == _STRANGE:
            warnings.warn(
                f"none of the first {_STRANGE} samples is an image of {self.data.store.path} (the "
                f"last is {key!r}, a key of the store {self.data.store.keys[0]!r}), and "
                'unknown="skip" leaves all of them out: give the shards that the store was made '
                "from.",
                PartialDataWarning,
                stacklevel=3,
            )

    def _field(self, sample: Mapping[str, Any], key: str) -> str:
        endings = {name: f".{name.lower().rpartition('.')[2]}" for name in sample}
        named = [name for name, ending in endings.items() if ending in IMAGE_SUFFIXES]
        named = [name for name in named if "." not in name] or named
        fields = named if self.field is None else [self.field]
        if len(fields) != 1 or fields[0] not in sample:
            raise UsageError(
                f"the sample {key!r} has the fields {', '.join(map(str, sample))}, expected one "
                f"image{'' if self.field is None else f' called {self.field!r}'}: say which it is "
                "with field=."
            )
        return fields[0]


def _spellings(field: str) -> list[str]:
    """Suffixes that a file of a folder may have had which webdataset's writers pack as a field."""
    jpeg = ["jpg", "jpeg"] if field.lower() in ("jpg", "jpeg") else []
    names = dict.fromkeys([field, field.upper(), *jpeg, *map(str.upper, jpeg)])
    return list(names)


class HuggingFaceViews(ViewJoin):
    """A transform for ``set_transform`` of Hugging Face's ``datasets``.

    ``dataset[i]`` becomes ``{"pixels": (m, 3, height, width), "labels": TorchSoftLabels}``;
    ``collate_views`` makes batches of these. Every row must have labels: ``select`` the rows whose
    keys are in ``labelstore.open(path).keys``.
    """

    def __init__(
        self,
        store: LabelReader | str | os.PathLike[str],
        views_per_image: int = 1,
        *,
        key_column: str | None = None,
        image_column: str = "image",
        root: str | None = None,
        **options: Unpack[JoinOptions],
    ) -> None:
        """Plan epochs over a store.

        Args:
            store, views_per_image, options: as for ``ViewJoin``, but for ``budget``: choose rows
                with ``select`` instead.
            key_column: the column with the images' keys. When None: the ``path`` of images that are
                not decoded (``cast_column("image", datasets.Image(decode=False))``).
            image_column: images, decoded or not.
            root: a folder that keys are relative to, as with local files (``imagefolder``).

        Raises:
            UsageError, MismatchError, IncompleteError: as ``ViewJoin``.
        """
        if "budget" in options:
            raise UsageError(
                "a budget was asked for and a transform cannot leave rows out: choose rows with "
                "dataset.select."
            )
        super().__init__(store, views_per_image, **options)
        self.key_column, self.image_column, self.root = key_column, image_column, root

    def __call__(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Columns ``pixels`` and ``labels`` of rows.

        Raises:
            NotFoundError: the store has no such image. UsageError: a column is missing, or the keys
            are unknown. Others as ``join``.
        """
        for column in (self.image_column, self.key_column):
            if column is not None and column not in rows:
                raise UsageError(
                    f"the rows have the columns {', '.join(rows)} and no {column!r}: give "
                    "image_column= and key_column=."
                )
        photos = [_encoded(item) for item in rows[self.image_column]]
        numbers = [self.image_of(key) for key in self._keys(rows)]
        samples = self.join(numbers, photos)
        return {
            "pixels": [pixels for pixels, _ in samples],
            "labels": [labels for _, labels in samples],
        }

    def _keys(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        if self.key_column is not None:
            keys = [str(key) for key in rows[self.key_column]]
        else:
            items = rows[self.image_column]
            paths = [item.get("path") if isinstance(item, dict) else None for item in items]
            if None in paths:
                raise UsageError(
                    f"the images of column {self.image_column!r} come without their paths, "
                    "expected a path or a key for each: give key_column=, or cast the column to "
                    "datasets.Image(decode=False)."
                )
            keys = [str(path) for path in paths]
        if self.root is None:
            return keys
        try:
            return [PurePath(key).relative_to(self.root).as_posix() for key in keys]
        except ValueError as error:
            raise UsageError(
                f"a key lies outside the folder {self.root} ({error}): give root= as the folder "
                "that the store was made from."
            ) from error


def _encoded(item: Any) -> Any:
    """An image of Hugging Face's: the bytes of one that is not decoded, else as it is."""
    if not isinstance(item, dict):
        return item
    if item.get("bytes") is not None:
        return item["bytes"]
    return _file(item.get("path"))


def _file(path: Any) -> bytes:
    if path is None:
        raise UsageError("a row has an image without bytes and without a path: leave it out.")
    with open(path, "rb") as file:
        return file.read()
