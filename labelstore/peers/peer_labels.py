"""What a reader of another project's label files hands over, whichever project that is.

A reader is a class of ``labelstore/peers/NAME.py`` that is a ``PeerReader``: made of a path and of
``PeerOptions``, it looks at what is there and says so in attributes; ``images`` reads labels, some
images at a time. It tells what the files say and never what they leave out: that is asked for, or
stays None. ``labelstore.operations.convert`` makes a store of any reader.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import xxhash

from labelstore.errors import LabelError
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.labels.top_k import LabelType

__all__ = ["PeerLabels", "PeerOptions", "PeerReader", "Values", "files_digest", "require_integers"]

Values = Literal["top-k", "probs", "logits"]
"""What a reader's labels are: the k largest probabilities; those of all classes; logits of all."""


@dataclass(frozen=True)
class PeerLabels:
    """What files say of n images, V views each: ``indices`` and ``probs``, or ``dense``."""

    indices: npt.NDArray[Any] | None = None
    """(n, V, k) integer class ids, of values "top-k"; different within a row but for those of
    probability 0."""
    probs: npt.NDArray[Any] | None = None
    """(n, V, k) float32 or float64, falling along a row, of values "top-k"."""
    dense: npt.NDArray[Any] | None = None
    """(n, V, C) probabilities, of values "probs", or logits, of values "logits"."""
    boxes: npt.NDArray[np.int32] | None = None
    """(n, V, 4) top, left, height, width in pixels of the upright photo, of an explicit reader."""
    flips: npt.NDArray[np.bool_] | None = None
    """(n, V) whether a crop is mirrored after it, of an explicit reader."""
    widths: npt.NDArray[np.int32] | None = None
    """(n,) pixels of the upright photos, -1 where unknown; None where none is known."""
    heights: npt.NDArray[np.int32] | None = None
    """(n,) as widths."""
    digests: npt.NDArray[np.uint64] | None = None
    """(n,) xxh3_64 of the encoded photos, 0 where unknown; None where none was read."""


@dataclass(frozen=True)
class PeerOptions:
    """What is told to a reader because files do not say it."""

    num_classes: int | None = None
    """Of the teacher; None: as the files say, if they do."""
    photos: ImageSource | None = None
    """The labelled photos, for formats whose boxes are shares of a photo's sides, or that name
    images by their place; None: there are none."""
    boxes: bool = True
    """Whether views are to be replayed; where False, photos are not needed for their sizes."""
    views: int | None = None
    """How many views of a photo, for formats that have a label for any crop."""
    law: ViewLaw = dataclasses.field(default_factory=ViewLaw)
    """Which crops these are."""


class PeerReader(Protocol):
    """Reads one project's files. Attributes do not change once it is made.

    ``__init__(path: Path, options: PeerOptions)`` raises NotFoundError where nothing is there,
    FormatError where it is no such thing, CorruptError and LabelError for files that are damaged or
    say what no label says, UsageError where an option is missing or does not fit. Every message
    names the file.
    """

    keys: list[str]
    """One unique key an image, in the store's order."""
    num_views: int
    num_classes: int | None
    """None: the files do not say it, and ``PeerOptions`` did not."""
    class_names: tuple[str, ...] | None
    """C, in their order; None where the files do not name the classes."""
    values: Values
    k: int | None
    """Classes of a label, of values "top-k"; None for dense ones."""
    explicit: bool
    """Whether labels have boxes and flips: False where views cannot be replayed, or have a law."""
    law: ViewLaw | None
    """Of a format that has a label for any crop, which crops were taken; None for all others."""
    label_type: LabelType
    """What a label is recovered to, as ``Manifest.label_type``: "top-k" for all but FKD's hard and
    smoothing labels."""
    temperature: float | None
    """Of the softmax, where the project's own code fixes it; None: unknown. Not asked of logits."""
    targets: npt.NDArray[np.int32] | None
    """(images,) ground truth, -1 unknown; None where the files have none."""
    digest: str
    """32 hexadecimal digits that differ for other files: ``files_digest``."""
    notes: tuple[str, ...]
    """Sentences for the person who converts: what the files do not say, or say of themselves."""
    extra: Mapping[str, str]
    """What else the manifest keeps, as its ``producer`` has it: names and short texts."""

    def images(self, numbers: Sequence[int]) -> PeerLabels:
        """The labels of some images, numbered as ``keys``; called in rising runs.

        Raises:
            CorruptError, LabelError: as above. SourceError: a photo cannot be read.
        """
        ...


def files_digest(root: Path, files: Iterable[Path | str]) -> str:
    """xxh3_128, as hexadecimal, of names below ``root`` and sizes: which files these are.

    Reading a million files twice would cost more than what it finds: a run that goes on compares
    this alone.

    Raises:
        OSError: a file is not there, or the system refuses to look.
    """
    digest, start = xxhash.xxh3_128(), len(os.path.join(root, ""))
    for file in files:
        name, size = os.fspath(file)[start:], os.stat(file).st_size
        digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
    return str(digest.hexdigest())


def require_integers(
    values: npt.NDArray[Any], num_classes: int | None, where: Path | str, *, half: bool = False
) -> npt.NDArray[np.int32]:
    """Class ids that a project keeps as floats, as integers.

    Floats of 16 bits have gaps above 2,048, so that an id there may be another class's.

    Args:
        values: any shape. num_classes: the ids are below it; None: unknown. where: for the message.
        half: whether they were of half precision before.

    Returns:
        (same shape) int32.

    Raises:
        LabelError: an id is no integer, out of range, or above 2,048 in float16.
    """
    values = np.asarray(values)
    if not values.size:
        return values.astype(np.int32)
    most = 2**31 if num_classes is None else num_classes
    lowest, largest = float(values.min()), float(values.max())
    if (half or values.dtype == np.float16) and largest > 2048:
        raise LabelError(
            f"{where} has the class id {largest:g} in half precision, which holds integers up to "
            "2048 exactly: other classes became this one when it was saved; convert the files of "
            "single precision."
        )
    # NaN fails the comparison, too.
    if not (lowest >= 0 and largest < most):
        raise LabelError(
            f"{where} has class ids from {lowest:g} to {largest:g}, expected 0 to {most - 1}: give "
            "the number of classes of the teacher that made it, or get the file anew."
        )
    ids = values.astype(np.int32)
    if (ids != values).any():
        wrong = float(values[ids != values][0])
        raise LabelError(
            f"{where} has the class id {wrong:g}, expected integers: its labels are no class ids "
            "stacked on probabilities, or the file is damaged."
        )
    return ids
