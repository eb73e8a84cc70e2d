"""Photos and their stored labels, view by view."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack

import numpy as np
import torch
from PIL import Image

from labelstore.errors import (
    DiscardedViewsWarning,
    MismatchError,
    UsageError,
    require_choice,
)
from labelstore.images import preprocessing
from labelstore.images.pixels import INTERPOLATIONS
from labelstore.images.reduced_jpeg import Photo
from labelstore.labels.actions import Action
from labelstore.store.ensembles import opened_reader
from labelstore.store.mixed_views import is_mixed, view_truth
from labelstore.torch.collate import batch_memory
from labelstore.torch.identity import PhotoIdentity
from labelstore.torch.labels.soft_labels import TorchSoftLabels
from labelstore.torch.labels.stored_labels import StoredLabels
from labelstore.torch.photos import Photos
from labelstore.torch.view_cutter import PixelProbe, ViewCutter
from labelstore.training.options import part_of, require_known
from labelstore.training.recovery import NO_EPOCH, Recovery, RecoveryOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.top_k import LabelType, TopK
    from labelstore.store.label_reader import LabelReader
    from labelstore.torch.identity import CheckPhotos
    from labelstore.torch.photos import Decoding
    from labelstore.views.law import Views

    Boxes = npt.NDArray[np.int32]
    Channels = Sequence[float]
    Sample = tuple[torch.Tensor, TorchSoftLabels | StoredLabels]

__all__ = ["Show", "SoftLabelDataset", "ViewOptions"]


class Show(NamedTuple):
    """One image and the views of it that are to be shown: what a ``ViewSampler`` yields."""

    image: int
    """The image's number in the store."""
    views: tuple[int, ...]
    """View numbers."""
    epoch: int | None = None
    """Which epoch shows them; needed, and told, where labels are in phases (``LabelPhases``)."""
    by_rule: bool = False
    """Whether a rule had a say in which: it discards none of them but where an image has no other,
    or where the order of epochs was asked to heed it not."""


class ViewOptions(RecoveryOptions, total=False):
    """How the pixels of views are made, and their labels."""

    size: int | tuple[int, int] | None
    """Side, or (height, width), of the views in pixels; the teacher's when None."""
    interpolation: str | None
    """A name from ``labelstore.images.INTERPOLATIONS``; the teacher's when None."""
    normalize: Literal["teacher"] | tuple[Channels, Channels] | None
    """``"teacher"``, which it is when not given: as the teacher's input was; (mean, std) of three
    channels in 0..1; None: uint8 pixels as they are."""
    transform: Callable[[Image.Image], torch.Tensor] | None
    """Applied to each view as a PIL image instead of ``normalize``; returns a tensor of the same
    shape for every view. None."""
    decode: Decoding
    """``"reduced"``: JPEG files are decoded to a half, a quarter or an eighth of their size where
    all views of an item still have their pixels (``labelstore.images.reduced_jpeg``): faster for
    photos much larger than the views, but not quite the pixels that the teacher saw. For a source,
    or items that are encoded bytes. ``"whole"`` when it is not given."""


class SoftLabelDataset(torch.utils.data.Dataset[Any]):
    """Views of photos with their stored labels.

        data = SoftLabelDataset(ImageFolder("photos"), labelstore.open("teacher.zarr"))
        sampler = ViewSampler(data, views_per_image=4)
        loader = DataLoader(data, batch_size=64, sampler=sampler, collate_fn=collate_views)

    ``data[Show(image, views)]`` decodes the photo once, cuts the views that the teacher saw and
    reads their labels: pixels (m, 3, height, width) and ``TorchSoftLabels`` of m rows. Pixels are
    float32 normalised, uint8 with ``normalize=None``, or what ``transform`` makes.
    """

    def __init__(
        self,
        dataset: Any,
        store: LabelReader | str | os.PathLike[str],
        *,
        keys: Sequence[str] | None = None,
        labels: Literal["recovered", "stored"] = "recovered",
        check_pixels: bool | Literal["raise"] = True,
        check_photos: CheckPhotos = "digest",
        partners: Any = None,
        **options: Unpack[ViewOptions],
    ) -> None:
        """Align photos with a store's labels.

        Args:
            dataset: a source of ``labelstore.open_source``, or any map-style
                data set whose items are photos or start with one: a PIL image, a uint8 tensor (3 or
                1, H, W) or (H, W), or encoded bytes. In any order, possibly with more images than
                the store, or with fewer: images without a photo are then left out by
                ``ViewSampler``, with a warning that says how many (PartialDataWarning). None where
                photos are read elsewhere (``views_of``); nothing is then probed.
            store: where the labels are; a store, its path or URL, or an ensemble, whose first
                member is "the teacher" below.
            keys: the store's key of each item. When None: those of a source, or the paths of an
                ImageFolder or DatasetFolder (or a Subset of one) relative to its ``root``, or to
                the folder below or above it that the store was made from, as for torchvision's
                ImageNet.
            labels: ``"recovered"``: ``TorchSoftLabels``, calibrated and averaged over the teachers;
                ``"stored"``: ``StoredLabels``, of which ``labelstore.torch.recover(stored,
                data.recovery)`` makes the same on the device. Not of another
                temperature than the store's.
            check_pixels: whether to compare a few views with what the store's producer saw: True
                warns (``ReplayWarning``), ``"raise"`` raises, False skips it.
            check_photos: what is compared of each photo, when it is read, with the one that was
                labelled. ``"digest"``: its size, and the digest of its file where encoded bytes
                are at hand (a source, items that are bytes: each time) or a path is (ImageFolder,
                DatasetFolder, PIL images that know their file: the first time that the photo is
                met). Of tensors, and of images without a file, that is no more than the size: an
                exchanged photo of the same size is not noticed, nor one that EXIF mirrors or turns
                upside down, unless it is one of the few that check_pixels looks at. ``"size"``: the
                size alone, for copies that were encoded anew. ``"none"``: nothing.
            partners: for a store whose views are mixed with those of other photos (MixUp, CutMix),
                where those photos are: a data set as above, with all photos of the store. They are
                found by key and decoded whole. ``dataset`` itself when None; without a data set
                such a store needs it.
            options: ``size``, ``interpolation``, ``normalize``, ``transform`` and ``decode``, see
                ``labelstore.torch.dataset.ViewOptions``; ``tail``, ``label_type``, ``ferkd``,
                ``phases`` and ``temperature``, see
                ``labelstore.training.recovery.RecoveryOptions``. With a ferkd that replaces
                discarded views, and with phases, give a ``ViewSampler`` this data set.

        Raises:
            UsageError: arguments that are missing or do not fit each other. TypeError: an option
                that is none.
            MismatchError: the photos are not those of the store, or it has no replayable views.
        """
        require_known("SoftLabelDataset", options, ViewOptions)
        self.store = store = opened_reader(store)
        self.transform, temperature = options.get("transform"), options.get("temperature")
        self.recovery = Recovery.of(store, **part_of(RecoveryOptions, options))
        self.ferkd, self.tail = self.recovery.ferkd, self.recovery.tail
        self.label_type: LabelType = self.recovery.label_type
        if labels not in ("recovered", "stored"):
            raise UsageError(f'labels is {labels!r}, expected "recovered" or "stored": choose one.')
        if labels == "stored" and self.recovery.factors is not None:
            raise UsageError(
                f'labels is "stored" and temperature is {temperature}, expected None or the '
                "store's: labels at another temperature are recovered here "
                '(labels="recovered").'
            )
        self._stored = labels == "stored"
        replaces = self.ferkd is not None and self.ferkd.discard == "replace"
        self._warns_of_discarded = replaces and not self._stored
        if store.law is None:
            raise MismatchError(
                f"{store.path} does not say which crops its labels belong to: make it with a view "
                "law or with boxes and flips."
            )
        self.identity = PhotoIdentity(store, check_photos)
        self._photos = Photos(dataset, store, keys, options.get("decode", "whole"), self.identity)
        all_photos = None if dataset is None else self._photos
        if partners is not None and is_mixed(store):
            all_photos = Photos(partners, store, None, "whole", self.identity)
        self._cutter = ViewCutter(store, all_photos)
        self.probe = PixelProbe(store, self._cutter)
        self.size = _size(store, options.get("size"))
        self.interpolation = str(
            options.get("interpolation")
            or _teacher(store, "interpolation", 'pass interpolation="bilinear"')
        )
        require_choice("interpolation", self.interpolation, INTERPOLATIONS)
        normalize = options.get("normalize", "teacher") if self.transform is None else None
        self._normalize = _channels(store, normalize)
        if check_pixels not in (True, False, "raise"):
            raise UsageError(
                f'check_pixels is {check_pixels!r}, expected True, False or "raise": choose one.'
            )
        if check_pixels and dataset is not None:
            self._replay_probe(strict=check_pixels == "raise")

    def __len__(self) -> int:
        """How many images the store has; not all of them need be labelled (``ViewSampler``)."""
        return self.store.num_images

    @property
    def has_photo(self) -> npt.NDArray[np.bool_] | None:
        """(num_images,) bool: which images have a photo here; None where photos are read
        elsewhere."""
        return self._photos.present()

    def __getitem__(self, show: Show) -> Sample:
        """Pixels (m, 3, height, width) and m labels of one image's views.

        Raises:
            UsageError: an item that is no photo as it was stored, or a plain index.
            MismatchError: the photo is not the one that was labelled (``check_photos``).
            SourceError: the photo cannot be decoded. StoreError, NotFoundError: as ``Store.read``.
        """
        return self.__getitems__([show])[0]

    def __getitems__(self, shows: list[Show]) -> list[Sample]:
        """Samples of a batch, its labels read together; DataLoader calls this."""
        for show in shows:
            if not isinstance(show, Show):
                raise UsageError(
                    f"a SoftLabelDataset was indexed with {show!r}, expected a Show (an image and "
                    "its views): give DataLoader sampler=ViewSampler(dataset)."
                )
        photos = [partial(self._photo, show.image) for show in shows]
        return self._samples(shows, photos, shared=True)

    def views_of(self, shows: Sequence[Show], photos: Iterable[Image.Image]) -> list[Sample]:
        """Samples of photos that were read elsewhere, their labels read together.

        Args:
            shows: images by number, and the views of each.
            photos: the upright RGB photo of each (``as_photo``), compared with the one that was
                labelled by whoever read it (``identity``).

        Raises:
            MismatchError: a view reaches outside its photo. StoreError, NotFoundError: as
                ``Store.read``.
        """
        return self._samples(shows, (partial(_decoded_elsewhere, photo) for photo in photos))

    def _samples(
        self,
        shows: Sequence[Show],
        photos: Iterable[Callable[[Boxes], Photo]],
        shared: bool = False,
    ) -> list[Sample]:
        """As ``views_of``, of photos that are made for the boxes of their views; their pixels are
        parts of one tensor. shared: they are a batch, on its way to the training process."""
        counts = [len(show.views) for show in shows]
        numbers = np.repeat(np.array([show.image for show in shows], dtype=np.int64), counts)
        views = np.array([view for show in shows for view in show.views], dtype=np.int64)
        epochs = self._epochs(shows, counts)
        topk = self.store.read(numbers, views)
        geometry = self.store.views(numbers, views)
        labels = self._labels(topk, numbers, views, geometry, epochs)
        if self._warns_of_discarded and not all(show.by_rule for show in shows):
            self._look_for_discarded(labels, np.repeat([show.by_rule for show in shows], counts))
        batch: torch.Tensor | None = None
        if self.transform is None:
            dtype = torch.uint8 if self._normalize is None else torch.float32
            batch = batch_memory((len(views), 3, *self.size), dtype, shared)
        samples: list[Sample] = []
        start = 0
        for show, count, photo_for in zip(shows, counts, photos, strict=True):
            rows = slice(start, start + count)
            photo = photo_for(geometry.box[rows])
            out = None if batch is None else batch[rows]
            pixels = self._pixels(photo, geometry[rows], show.image, out)
            samples.append((pixels, labels[rows]))
            start += count
        return samples

    def _epochs(self, shows: Sequence[Show], counts: Sequence[int]) -> npt.NDArray[np.int64] | None:
        """(n,) the epoch of each view; None where it is of no matter."""
        if self.recovery.phases is None:
            return None
        epochs = [show.epoch for show in shows]
        if None in epochs:
            raise UsageError(NO_EPOCH)
        return np.repeat(np.array(epochs, dtype=np.int64), counts)

    def _labels(
        self,
        topk: TopK | EnsembleTopK,
        numbers: npt.NDArray[np.int64],
        views: npt.NDArray[np.int64],
        geometry: Views,
        epochs: npt.NDArray[np.int64] | None,
    ) -> Any:
        target = view_truth(self.store, numbers, geometry)
        if self._stored:
            return StoredLabels.from_numpy(topk, target, numbers, views, epochs)
        labels, weight, action = self.recovery(topk, target, epochs)
        return TorchSoftLabels.from_numpy(
            labels, weight=weight, target=target, action=action, image=numbers, view=views
        )

    def _look_for_discarded(self, labels: TorchSoftLabels, by_rule: npt.NDArray[np.bool_]) -> None:
        """Warn, once, of views that the rule discards and in which it had no say."""
        if labels.action is None:
            return
        discarded = int((labels.action.numpy()[~by_rule] == Action.DISCARDED).sum())
        if discarded:
            self._warns_of_discarded = False
            warnings.warn(
                f"{discarded} of {len(by_rule)} views of a batch are discarded by FerKD's rule, "
                'which has discard="replace", and shown all the same: give ViewSampler this data '
                "set, or the rule (ferkd=), so that it shows others.",
                DiscardedViewsWarning,
                stacklevel=2,
            )

    def _photo(self, image: int, boxes: Boxes) -> Photo:
        return self._photos.read(image, boxes, self.size)

    def _pixels(
        self,
        photo: Photo,
        views: Views,
        image: int,
        out: torch.Tensor | None,
    ) -> torch.Tensor:
        """(m, 3, height, width) of views of a photo, in ``out`` where there is no transform."""
        cuts = self._cutter.cut(photo, image, views, self.size, self.interpolation)
        if out is None:
            return torch.stack([self._transformed(view) for view in cuts])
        last = torch.from_numpy(cuts).permute(0, 3, 1, 2)
        if self._normalize is None:
            return out.copy_(last)
        return preprocessing.normalize(last, *self._normalize, out=out)

    def _transformed(self, view: npt.NDArray[np.uint8]) -> torch.Tensor:
        tensor = self.transform(Image.fromarray(view)) if self.transform else None
        if not isinstance(tensor, torch.Tensor):
            raise UsageError(
                f"the transform made a {type(tensor).__name__}, expected a tensor: end it with a "
                "conversion to a tensor."
            )
        return tensor

    def _replay_probe(self, strict: bool) -> None:
        """Cut the views whose digests the producer kept, and tell when any differs."""
        has_photo = self.has_photo
        images = [i for i in sorted(self.probe.images()) if has_photo is None or has_photo[i]]
        counts = [self.probe.differing(self._photos.read(image), image) for image in images]
        self.probe.tell(sum(row[0] for row in counts), sum(row[1] for row in counts), strict, 3)


def _teacher(store: LabelReader, name: str, mend: str) -> Any:
    """A value of the store's (first) teacher; UsageError where the store does not say."""
    teachers = store.manifest.teachers
    if not teachers or name not in teachers[0]:
        raise UsageError(
            f"{store.path} does not tell its teacher's {name.replace('_', ' ')}: {mend}."
        )
    return teachers[0][name]


def _size(store: LabelReader, size: int | tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        size = tuple(_teacher(store, "input_size", "pass size=, in pixels"))
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise UsageError(f"size is {size}, expected at least 1 pixel: choose another.")
    return int(height), int(width)


def _channels(
    store: LabelReader, normalize: Any
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of three channels; None for pixels as they are."""
    if normalize is None:
        return None
    if isinstance(normalize, str):
        if normalize != "teacher":
            raise UsageError(
                f'normalize is {normalize!r}, expected "teacher", (mean, std) or None: choose one.'
            )
        mend = "pass normalize=(mean, std), or None for uint8 pixels"
        normalize = _teacher(store, "mean", mend), _teacher(store, "std", mend)
    if len(normalize) != 2 or any(len(channels) != 3 for channels in normalize):
        raise UsageError(
            f"normalize is {normalize!r}, expected (mean, std) of three channels each: give both."
        )
    mean, std = (tuple(float(value) for value in channels) for channels in normalize)
    return mean, std


def _decoded_elsewhere(photo: Image.Image, boxes: Boxes) -> Photo:
    """A photo that was decoded elsewhere, whatever its boxes are."""
    return Photo.whole(photo)
