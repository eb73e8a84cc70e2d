"""Labels joined by key to photos that come from a pipeline of another library.

There the pipeline decides which photo comes when, and the join what the photo shows: the views that
``ViewSampler`` with the same arguments would show in that epoch.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import numpy as np
import torch

from labelstore.errors import NotFoundError, PartialDataWarning, UsageError
from labelstore.images.reduced_jpeg import Photo
from labelstore.store.ensembles import opened_reader
from labelstore.torch.dataset import Show, SoftLabelDataset, ViewOptions
from labelstore.torch.photos import as_photo, file_of
from labelstore.training.epochs import EpochOrder, ScheduleOptions
from labelstore.training.options import part_of, require_known

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.store.label_reader import LabelReader
    from labelstore.torch.identity import CheckPhotos
    from labelstore.torch.labels.soft_labels import TorchSoftLabels
    from labelstore.torch.labels.stored_labels import StoredLabels

    Sample = tuple[torch.Tensor, TorchSoftLabels | StoredLabels]

__all__ = ["StreamJoin", "ViewJoin"]

Unknown = Literal["raise", "skip"]

_STRANGE = 100
"""Samples after which it is told that the store has none of them."""


class PhotoOptions(ViewOptions, total=False):
    """What a ``SoftLabelDataset`` makes of photos that come from elsewhere."""

    labels: Literal["recovered", "stored"]
    """``"recovered"`` when it is not given."""
    check_pixels: bool | Literal["raise"]
    """True when it is not given. Each view is compared when its photo comes."""
    partners: Any
    """Of a store whose views are mixed with those of other photos: all photos by key, as for
    ``SoftLabelDataset``. Such a store is refused without, for a stream brings each photo alone."""
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
                ``labelstore.training.epochs.ScheduleOptions``; ``labels``, ``check_pixels``,
                ``check_photos`` and ``partners``, as for ``SoftLabelDataset``; and all of
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
        self._to_probe = self.data.probe.images() if check_pixels else set()
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
        """Choose the epoch, 0..2**32-1; UsageError for another, or one that a curriculum, or labels
        in phases, lack."""
        self.order.check(epoch)
        if self.data.recovery.phases is not None:
            self.data.recovery.phases.check(epoch)
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
        # Read once: in a worker that reads ahead it may change meanwhile.
        epoch = self.epoch
        views = self.order.views(np.asarray(images, dtype=np.int64), epoch).tolist()
        shown = None if self.data.recovery.phases is None else epoch, self.order.replaces
        shows = [Show(image, tuple(row), *shown) for image, row in zip(images, views, strict=True)]
        upright = (self._upright(*pair) for pair in zip(images, photos, strict=True))
        return self.data.views_of(shows, upright)

    def _upright(self, image: int, photo: Any) -> Any:
        upright = as_photo(photo, self.data.store.keys[image])
        whole = Photo.whole(upright)
        data = photo if isinstance(photo, bytes) else None
        self.data.identity.check(whole, image, data=data, path=file_of(photo))
        if image in self._to_probe:
            self._to_probe.discard(image)
            self.data.probe.tell(*self.data.probe.differing(whole, image), self._strict)
        return upright


class StreamJoin(ViewJoin):
    """A join of samples as a stream brings them: those of images without labels, and those that a
    budget leaves out, are passed over."""

    def __init__(
        self,
        store: LabelReader | str | os.PathLike[str],
        views_per_image: int = 1,
        *,
        unknown: Unknown = "raise",
        **options: Unpack[JoinOptions],
    ) -> None:
        """Plan epochs over a store.

        Args:
            store, views_per_image, options: as for ``ViewJoin``.
            unknown: what becomes of samples that the store does not have: an error, or skipped.

        Raises:
            UsageError, MismatchError, IncompleteError: as ``ViewJoin``.
        """
        super().__init__(store, views_per_image, **options)
        if unknown not in ("raise", "skip"):
            raise UsageError(f'unknown is {unknown!r}, expected "raise" or "skip": choose one.')
        self.unknown = unknown
        self._strange: int | None = 0
        """Samples that were skipped before the first that the store has; None from there on."""

    def shown_image(self, *keys: str) -> int | None:
        """The number of the image with the first of these keys that the store has.

        Returns:
            None where the sample is to be passed over: the image is not shown in the present epoch,
            or the store has none of the keys and ``unknown`` is ``"skip"``.

        Raises:
            NotFoundError: the store has none of them.
        """
        try:
            image = self.image_of(*keys)
        except NotFoundError:
            if self.unknown == "skip":
                self._skip(keys[-1])
                return None
            raise
        self._strange = None
        return image if self.shown(image) else None

    def _skip(self, key: str) -> None:
        """Note a sample that the store does not have; told where the first ones all are such."""
        if self._strange is None:
            return
        self._strange += 1
        if self._strange == _STRANGE:
            warnings.warn(
                f"none of the first {_STRANGE} samples is an image of {self.data.store.path} (the "
                f"last is {key!r}, a key of the store {self.data.store.keys[0]!r}), and "
                'unknown="skip" leaves all of them out: give the photos that the store was made '
                "from.",
                PartialDataWarning,
                stacklevel=4,
            )
