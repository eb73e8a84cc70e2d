"""FKD's label files: one a photo, where FKD's loader looks for it, with what it unpacks.

A file is what ``torch.save`` makes of ``[coords, flip, labels]``: float32 (V, 4) crops as top,
left, height and width, relative to the photo's height and width; bool (V,) flips; and labels by
type, as ``generate_soft_label.py`` of szq0214/FKD writes them:

| type | array | |
|---|---|---|
| `hard` | int64 (V,) | the class |
| `smoothing` | float32 (V, 2) | the class and its probability |
| `marginal_smoothing_k5` | float32 (V, 2, 5) | classes, then their probabilities |
| `marginal_smoothing_k10` | float32 (V, 2, 10) | the same of ten |

Its loader takes the file ``FOLDER/CLASS/NAME.tar``: the last three parts of the photo's path, cut
at their first dot. It multiplies the crops by the photo's size and Pillow rounds both corners.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from labelstore.errors import LabelError, MismatchError, UsageError, require_packages
from labelstore.images.photo_file import is_same_size, is_turned, read_size
from labelstore.peers.exports.part import require_unique, safe_key
from labelstore.peers.exports.photos import PhotosOf
from labelstore.storage.whole_outputs import PieceFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.labels.top_k import TopK
    from labelstore.peers.exports.part import ExportPart, Tell

__all__ = ["Fkd", "FkdArrays", "FkdLabels", "fkd_labels", "label_file", "relative_boxes"]

FkdLabels = Literal["hard", "smoothing", "marginal_smoothing_k5", "marginal_smoothing_k10"]
"""FKD's names of what its files hold."""

FkdArrays = Literal["tensors", "numpy"]
"""As what the three arrays are saved: tensors, which ``torch.load`` of any release opens as FKD
calls it; or NumPy's arrays, as FKD's own script has them, for which torch 2.6 and later ask for
``weights_only=False``."""

_PLACES = {"marginal_smoothing_k5": 5, "marginal_smoothing_k10": 10}

TURNED = "turned by EXIF"
"""Why a photo has no label file: FKD's loader ignores EXIF and would cut other crops."""

_EXACT_CLASSES = 2**24
"""Class ids below this are exact as float32."""


def label_file(key: str, folder: str) -> str:
    """Where FKD's loader looks for the labels of a photo, below its ``softlabel_path``.

    Args:
        key: the photo's path below the folder that FKD trains from.
        folder: the name of that folder.

    Raises:
        UsageError: a key that is no path of a photo in a class folder.
    """
    parts = safe_key(key, "its label file").split("/")
    if len(parts) < 2:
        raise UsageError(
            f"the key {key!r} lies in no class folder, and FKD's loader reads photos of class "
            "folders alone: put the photos into one, and label them there."
        )
    return "/".join([folder, *parts][-3:]).split(".")[0] + ".tar"


def relative_boxes(
    box: npt.NDArray[np.int32], width: int, height: int, key: str
) -> npt.NDArray[np.float32]:
    """(V, 4) float32 crops as FKD stores them, such that its loader cuts these very boxes.

    Args:
        box: (V, 4) top, left, height, width in pixels. width, height: of the photo. key: for
            messages.

    Raises:
        LabelError: the photo is so large that float32 does not tell its pixels apart.
    """
    side = np.array([height, width, height, width], dtype=np.float64)
    relative = (box / side).astype(np.float32)
    # As its loader and Pillow: float64 products, and both corners to the nearest pixel.
    near = relative.astype(np.float64) * side
    corners = np.rint(np.concatenate([near[:, :2], near[:, :2] + near[:, 2:]], axis=1))
    if (corners != np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)).any():
        raise LabelError(
            f"{key!r} has {width} x {height} pixels, too many for crops as float32, which is how "
            "FKD stores them: leave that image out."
        )
    return relative


def fkd_labels(labels: TopK, places: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The likeliest classes of labels, exactly so many, all different.

    Stored classes are among them, as they are. Where a label has fewer, so are the classes that its
    recovery gives most of the residual mass, with what it gives them.

    Args:
        labels: (n, V, k), of neighbouring views with their image's list. places: at most the number
            of classes.

    Returns:
        (n, V, places) int32 class ids and float32 probabilities, largest first.
    """
    if labels.k >= places and bool((labels.probs[..., places - 1] > 0).all()):
        return labels.indices[..., :places], labels.probs[..., :places]
    soft = labels.recover()
    stored = labels.probs > 0
    base = soft.base[..., None]
    count = stored.shape[-1] + places
    # Of the classes without a share of their own, so many of the first that one is always free.
    fill = np.arange(min(count, labels.num_classes), dtype=np.int32)
    candidates = [np.where(stored, labels.indices, -1)]
    # Whatever a recovered probability is, the stored classes are chosen before it.
    values = [np.where(stored, labels.probs + 2.0, -np.inf)]
    if labels.prior is not None:
        listed = labels.prior.classes
        taken = (listed[..., :, None] == candidates[0][..., None, :]).any(axis=-1)
        candidates.append(listed)
        share = (base + soft.weights[..., labels.k :]).astype(np.float64)
        values.append(np.where((listed >= 0) & ~taken, share, -np.inf))
        fill = _unlisted(listed, count, labels.num_classes)
    fill = np.broadcast_to(fill, (*stored.shape[:-1], fill.shape[-1]))
    free = (fill >= 0) & ~(fill[..., :, None] == candidates[0][..., None, :]).any(axis=-1)
    candidates.append(fill)
    values.append(np.where(free, base, -np.inf))
    classes, ranked = np.concatenate(candidates, axis=-1), np.concatenate(values, axis=-1)
    order = np.argsort(-ranked, axis=-1, kind="stable")[..., :places]
    probs = np.take_along_axis(ranked, order, axis=-1)
    from_store = np.take_along_axis(
        np.concatenate(
            [labels.probs, *[np.zeros_like(v, np.float32) for v in values[1:]]], axis=-1
        ),
        order,
        axis=-1,
    )
    exact = np.where(probs >= 2.0, from_store, probs).astype(np.float32)
    chosen = np.take_along_axis(classes, order, axis=-1).astype(np.int32)
    # What is recovered may be more than the least that is stored, which was rounded down.
    falling = np.argsort(-exact, axis=-1, kind="stable")
    return np.take_along_axis(chosen, falling, axis=-1), np.take_along_axis(exact, falling, axis=-1)


def _unlisted(listed: npt.NDArray[Any], count: int, num_classes: int) -> npt.NDArray[np.int32]:
    """(..., count) the first classes that are not in an image's list, -1 where there are fewer.

    Args:
        listed: (n, V, m) lists, the same for all views of an image.
    """
    out = np.full((len(listed), 1, count), -1, dtype=np.int32)
    numbers = np.arange(min(count + listed.shape[-1], num_classes), dtype=np.int32)
    for row, classes in enumerate(listed[:, 0]):
        others = np.setdiff1d(numbers, classes, assume_unique=False)[:count]
        out[row, 0, : len(others)] = others
    return out


@dataclass(frozen=True)
class Fkd:
    """FKD's files in a folder for the loader's ``softlabel_path``."""

    label_type: FkdLabels | None = None
    """None: as the store's own label type says, with ten classes where it holds as many."""
    folder: str = "train"
    """The name of the folder of photos that FKD trains from; its scripts take ``train``."""
    arrays: FkdArrays = "tensors"
    photos: ImageSource | None = None
    """Photos, for sizes that the store does not know, and to find those that EXIF turns."""

    name: ClassVar[str] = "fkd"
    suffix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for value, known in ((self.label_type, FkdLabels), (self.arrays, FkdArrays)):
            if value is not None and value not in get_args(known):
                raise UsageError(
                    f"{value!r} was asked for, expected one of {', '.join(get_args(known))}."
                )
        if safe_key(self.folder, "a folder") != self.folder.split("/")[0]:
            raise UsageError(f"the folder {self.folder!r} is a path, expected its name alone.")

    def check(self, part: ExportPart) -> None:
        """Refuse labels that FKD's files or loader cannot hold; errors as ``ExportFormat``."""
        require_packages("writing FKD's label files", "torch")
        store, images, keys = part.store, part.images, part.keys
        if len(images):
            # What is said of stores that do not know their crops.
            store.views(images[:1], 0)
        places = _PLACES.get(self._type(part), 1)
        if store.num_classes < places or store.num_classes > _EXACT_CLASSES:
            raise UsageError(
                f"{store.path} has {store.num_classes:,} classes, and FKD's {self._type(part)} "
                f"holds {places} to {_EXACT_CLASSES:,}: take another label type.",
                arguments=("label_type",),
            )
        require_unique(((key, label_file(key, self.folder)) for key in keys), "FKD's label files")
        if self.photos is not None:
            PhotosOf(store, self.photos).require(images)
            return
        widths, heights = store.sizes(images)
        unknown = np.flatnonzero((widths <= 0) | (heights <= 0))
        if len(unknown):
            raise UsageError(
                f"{store.path} does not know how large {keys[unknown[0]]!r} is, nor "
                f"{len(unknown) - 1} more of its photos, and FKD's crops are relative to that: "
                "give the photos.",
                arguments=("photos",),
            )

    def _type(self, part: ExportPart) -> FkdLabels:
        """Of the files."""
        if self.label_type is not None:
            return self.label_type
        own = part.store.manifest.label_type
        if own != "top-k":
            return own
        return "marginal_smoothing_k10" if part.store.k >= 10 else "marginal_smoothing_k5"

    def write(
        self, part: ExportPart, folder: Path, about: Mapping[str, Any], tell: Tell | None
    ) -> Mapping[str, int]:
        """As ``ExportFormat`` says."""
        store, label_type, turned = part.store, self._type(part), 0
        photos = None if self.photos is None else PhotosOf(store, self.photos)
        for run in part.runs(tell):
            if run.crops is None:
                raise MismatchError(f"{store.path} does not say which crops its labels are of.")
            saved = _saved_labels(run.labels, label_type)
            widths, heights = store.sizes(run.images)
            for place, image in enumerate(run.images.tolist()):
                key, size = store.keys[image], (int(widths[place]), int(heights[place]))
                if photos is not None:
                    data = photos.read(image)
                    if is_turned(data, key):
                        turned += 1
                        continue
                    size = _size_of(data, key, size)
                coords = relative_boxes(run.crops.box[place], *size, key)
                arrays = [coords, run.crops.flip[place], saved[place]]
                file = folder / label_file(key, self.folder)
                with contextlib.closing(PieceFile(file)) as piece:
                    piece.write(_file_of(arrays, self.arrays))
        return {TURNED: turned} if turned else {}


def _size_of(data: bytes, key: str, stored: tuple[int, int]) -> tuple[int, int]:
    """A photo's width and height; MismatchError where the store has others."""
    size = read_size(data, key)
    if not is_same_size(size, stored):
        raise MismatchError(
            f"the photo {key!r} has {size[0]} x {size[1]} pixels and the store says {stored[0]} x "
            f"{stored[1]}: give the photos that were labelled."
        )
    return size


def _saved_labels(labels: TopK, label_type: FkdLabels) -> npt.NDArray[Any]:
    """(n, V, ...) labels as a type has them."""
    if label_type == "hard":
        return labels.indices[..., 0].astype(np.int64)
    if label_type == "smoothing":
        pair = [labels.indices[..., 0].astype(np.float32), labels.probs[..., 0]]
        return np.stack(pair, axis=-1)
    classes, probs = fkd_labels(labels, _PLACES[label_type])
    return np.stack([classes.astype(np.float32), probs], axis=-2)


def _file_of(arrays: list[npt.NDArray[Any]], kind: FkdArrays) -> bytes:
    """What ``torch.save`` makes of them."""
    import torch

    file = io.BytesIO()
    parts = [np.ascontiguousarray(array) for array in arrays]
    torch.save([torch.tensor(part) for part in parts] if kind == "tensors" else parts, file)
    return file.getvalue()
