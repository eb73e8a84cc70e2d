"""Apple's dataset reinforcement (ml-dr): a file an image, explicit parameters and top-k labels.

``NUMBER.pth.tar`` is ``torch.save((NUMBER, samples))``, NUMBER the image's place in the data set,
samples V dicts ``{"params", "prob"}``: ``prob`` is (k floats, k class ids), in no order; ``params``
a list with the parameters of each augmentation that has some, in a fixed order, or a dict of pairs,
the image's own parameters first and then those of the image that it may be mixed with.
``config.pth.tar`` says which augmentations these are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import (
    FormatError,
    LabelError,
    MismatchError,
    UsageError,
)
from labelstore.peers import image_folder
from labelstore.peers.label_files import numbered_entries, require_all, require_folder
from labelstore.peers.peer_labels import PeerLabels, files_digest
from labelstore.peers.pickles.safe_pickle import MEND, load_torch
from labelstore.storage.untrusted import parsed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.labels.top_k import LabelType
    from labelstore.peers.peer_labels import PeerOptions, Values

__all__ = ["MlDrReader"]

CONFIG = "config.pth.tar"

_CROP, _FLIP = "random_resized_crop", "random_horizontal_flip"

_PLAIN = frozenset({"uint8", _CROP, _FLIP, "to_tensor", "normalize"})
"""Augmentations after which a view is a crop of the photo, mirrored or not."""

_CHANGES = {
    "resize": "resized before they were cropped",
    "center_crop": "cropped again",
    "random_crop": "cropped without being resized",
    "rand_augment": "changed by RandAugment",
    "random_erase": "erased in part",
    "mixup": "mixed",
    "cutmix": "mixed",
}
"""The others that ml-dr knows -> what they do to pixels."""

_OWN_ORDER = frozenset({"cifar100", "flowers102", "food101"})
"""Data sets that torchvision numbers otherwise than by folders."""

_SUM_TOLERANCE = 2e-3


class MlDrReader:
    """Reads the folder ``reinforced_data``; see ``PeerReader``.

    Views are crops with a flip, or unknown: what else was done to the pixels, and whom they were
    mixed with, no store of this version can say.
    """

    values: Values = "top-k"
    law = None
    class_names = None
    label_type: LabelType = "top-k"
    temperature = 1.0
    """``ClassificationEnsembleNet``'s, which the labelling script does not change."""
    targets = None

    def __init__(self, path: Path, options: PeerOptions) -> None:
        self._path, self._photos = path, options.photos
        files = _numbered_files(path)
        config = _read_config(path / CONFIG)
        self._files = [files[number] for number in range(len(files))]
        self._augmentations = config["augmentations"]
        self.num_classes = options.num_classes or config["num_classes"]
        if config["num_classes"] not in (None, self.num_classes):
            raise MismatchError(
                f"{path / CONFIG} says {config['num_classes']} classes, and {self.num_classes} "
                "were asked for: leave the number out, the files say it.",
                arguments=("num_classes",),
            )
        self._order = self._photo_order(config["dataset"])
        self.keys = [str(number) for number in range(len(files))]
        if self._photos is not None and self._order is not None:
            self.keys = [self._photos.keys[index] for index in self._order]
        samples = self._samples(0)
        self.num_views = len(samples)
        if config["num_samples"] not in (None, self.num_views):
            raise MismatchError(
                f"{self._files[0]} has {self.num_views} samples, and {path / CONFIG} says "
                f"{config['num_samples']}: they are of two runs; {MEND}."
            )
        self.k = len(_pair(samples[0])[0])
        changes = [_CHANGES[name] for name in self._augmentations if name not in _PLAIN]
        plain = not changes and _CROP in self._augmentations
        self.explicit = plain and options.boxes
        with parsed(path, MEND):
            self.digest = files_digest(path, [*self._files, path / CONFIG])
        self.notes = tuple(self._notes(plain, list(dict.fromkeys(changes))))
        self.extra = {"views": ", ".join(self._augmentations)}
        if config["teacher"]:
            self.extra["teacher"] = config["teacher"]

    def images(self, numbers: Sequence[int]) -> PeerLabels:
        """As ``PeerReader.images``."""
        shape = (len(numbers), self.num_views)
        indices = np.zeros((*shape, self.k), np.int32)
        probs = np.zeros((*shape, self.k), np.float64)
        boxes, flips = np.zeros((*shape, 4), np.int32), np.zeros(shape, bool)
        for row, number in enumerate(numbers):
            file, samples = self._files[number], self._samples(number)
            with parsed(file, MEND):
                if len(samples) != self.num_views:
                    raise ValueError(f"it has {len(samples)} samples, expected {self.num_views}")
                for view, sample in enumerate(samples):
                    values, ids = _pair(sample)
                    if len(values) != self.k:
                        raise ValueError(f"its sample {view} has {len(values)} classes")
                    order = np.argsort(-values, kind="stable")
                    probs[row, view], indices[row, view] = values[order], ids[order]
                    if self.explicit:
                        boxes[row, view], flips[row, view] = self._crop(sample["params"])
            self._check(file, indices[row], probs[row])
        if not self.explicit:
            return PeerLabels(indices, probs, **self._sizes_of(numbers))
        return PeerLabels(
            indices, probs, boxes=boxes, flips=flips, **self._sizes_of(numbers, boxes)
        )

    def _sizes_of(
        self, numbers: Sequence[int], boxes: npt.NDArray[np.int32] | None = None
    ) -> dict[str, Any]:
        """What ``PeerLabels`` has of photos, where there are some; ``boxes`` must lie in them."""
        if self._photos is None or self._order is None:
            return {}
        places = [self._order[number] for number in numbers]
        facts = image_folder.photo_table(self._photos, places, cropped=boxes is not None)
        if boxes is not None:
            names = [self.keys[number] for number in numbers]
            image_folder.check_inside(boxes, facts, names, self._path)
        return facts._asdict()

    def _photo_order(self, dataset: str) -> list[int] | None:
        """The photo of each label file, as an index of the source."""
        if self._photos is None:
            return None
        if dataset in _OWN_ORDER:
            raise UsageError(
                f"{self._path / CONFIG} says that the labels are of {dataset}, which torchvision "
                "numbers in an order of its own: give no photos; keys are then these numbers.",
                arguments=("photos",),
            )
        order = image_folder.in_folder_order(self._photos)
        if len(order) != len(self._files):
            raise MismatchError(
                f"{self._path} has labels of {len(self._files)} images, and {self._photos.path} "
                f"{len(order)} photos in class folders: a label names its photo by its number, so "
                "that one more or less moves them all; give the folder that was labelled.",
                arguments=("photos",),
            )
        return order

    def _samples(self, number: int) -> list[dict[str, Any]]:
        """A file's samples, whose number is the image's."""
        file = self._files[number]
        content = load_torch(file)
        with parsed(file, MEND):
            if not isinstance(content, tuple) or len(content) != 2:
                raise ValueError("it is no pair of a number and samples")
            own, samples = content
            if own != number:
                raise ValueError(f"it holds the labels of image {own!r}: it was exchanged")
            if not isinstance(samples, list) or not samples:
                raise ValueError("it has no list of samples")
            for sample in samples:
                if not isinstance(sample, dict) or not sample.keys() >= {"params", "prob"}:
                    raise ValueError("a sample has no params and prob")
            return samples

    def _crop(self, params: Any) -> tuple[tuple[int, ...], bool]:
        """Box and flip of an image's own crop; ValueError where there is none."""
        if isinstance(params, dict):
            # Each is a pair: the image's own, and that of the one it might have been mixed with.
            own = {name: pair[0] for name, pair in params.items() if pair}
            box, flip = own.get(_CROP), own.get(_FLIP, False)
        else:
            names = [name for name in self._augmentations if name in (_CROP, _FLIP)]
            if not isinstance(params, list) or len(params) != len(names):
                raise ValueError(f"its params are not those of {' and '.join(names)}")
            own = dict(zip(names, params, strict=True))
            box, flip = own[_CROP], own.get(_FLIP, False)
        if not isinstance(box, (tuple, list)) or len(box) != 4 or type(flip) is not bool:
            raise ValueError("its params are no crop and no flip")
        if not all(type(side) is int and 0 <= side < 2**31 for side in box) or 0 in box[2:]:
            raise ValueError(f"its crop is {tuple(box)!r}")
        return tuple(box), flip

    def _check(
        self, file: Path, indices: npt.NDArray[np.int32], probs: npt.NDArray[np.float64]
    ) -> None:
        """Raise LabelError where an image's labels are no top-k of a distribution."""
        good = (probs >= 0) & (probs <= 1 + _SUM_TOLERANCE)
        if not good.all() or (probs.sum(axis=-1) > 1 + _SUM_TOLERANCE).any():
            raise LabelError(
                f"{file} has probabilities below 0, above 1 or with a sum above 1, expected those "
                f"of a softmax: it is damaged; {MEND}."
            )
        ordered = np.sort(indices, axis=-1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise LabelError(f"{file} has a class twice in a label: it is damaged; {MEND}.")
        if indices.min() < 0 or (self.num_classes and indices.max() >= self.num_classes):
            raise LabelError(
                f"{file} has class ids from {indices.min()} to {indices.max()}, expected 0 to "
                f"{(self.num_classes or 2**31) - 1}: give the teacher's number of classes.",
                arguments=("num_classes",),
            )

    def _notes(self, plain: bool, changes: list[str]) -> list[str]:
        notes = []
        if not plain:
            treatment = " and ".join(changes) or "not cropped at random"
            notes.append(
                f"The labelled pixels were {treatment}, which this version of the format cannot "
                "describe: views are unknown, so the labels can be read, and no data set shows "
                "their pixels."
            )
        if self._photos is None:
            notes.append("No photos were given: keys are the images' numbers in ml-dr's data set.")
        return notes


def _pair(sample: dict[str, Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """(k,) probabilities and (k,) class ids of a sample, in the file's order; ValueError."""
    pair = sample["prob"]
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError("its prob is no pair of probabilities and class ids")
    values, ids = np.asarray(pair[0]), np.asarray(pair[1])
    if values.dtype.kind != "f" or ids.dtype.kind != "i" or values.shape != ids.shape:
        raise ValueError("its prob is no pair of probabilities and class ids")
    if values.ndim != 1 or not values.size or abs(ids).max() >= 2**31:
        raise ValueError("its prob is no pair of probabilities and class ids")
    return values.astype(np.float64), ids.astype(np.int64)


_NAME = "{}.pth.tar"
"""What a photo's label file is called."""


def _numbered_files(path: Path) -> dict[int, Path]:
    """Label files by number, 0 to N - 1.

    Raises:
        NotFoundError, FormatError, CorruptError: there are none, or one is missing.
    """
    require_folder(path, "reinforced_data of ml-dr's archive")
    files = numbered_entries(path, _NAME)
    if not files:
        raise FormatError(
            f"{path} has no NUMBER.pth.tar, expected ml-dr's folder reinforced_data: unpack its "
            "archive, and give that folder."
        )
    require_all(path, _NAME, files)
    return files


def _read_config(file: Path) -> dict[str, Any]:
    """What the run's configuration says of the labels.

    Raises:
        FormatError: there is none, or it is of a kind that cannot be read. CorruptError: it is
            damaged.
    """
    if not file.exists():
        raise FormatError(
            f"{file} is missing, and it alone says what the numbers in the label files mean: get "
            "it from the same archive."
        )
    content = load_torch(file)
    with parsed(file, MEND):
        reinforce = content["reinforce"]
        augmentations = reinforce["image_augmentation"]
        enabled = {name for name, settings in augmentations.items() if settings.get("enable", True)}
        if reinforce.get("joblib", False):
            raise FormatError(
                f"{file} says that the labels were saved by joblib, whose files ml-dr's own loader "
                "does not read either: save them again with torch.save."
            )
        known: tuple[str, ...]
        known = ("uint8", "resize", "center_crop", "random_crop", _CROP, _FLIP, "rand_augment")
        known += ("to_tensor", "random_erase", "normalize", "mixup", "cutmix")
        teacher = content.get("teacher", {})
        numbers = {"num_classes": content.get("num_classes")}
        numbers["num_samples"] = reinforce.get("num_samples")
        if any(not (value is None or type(value) is int) for value in numbers.values()):
            raise ValueError("it has a number of classes or samples that is none")
        return {
            # In the order in which they are applied, whatever the file's.
            "augmentations": tuple(name for name in known if name in enabled),
            "dataset": str(content.get("dataset", "imagenet")).lower(),
            "teacher": str(teacher.get("name") or teacher.get("arch") or "")[:200],
            **numbers,
        }
