"""Images by their place in torchvision's ``ImageFolder``, and boxes in the pixels that it loads.

Projects that name an image by its number mean its place in that data set: classes in the order of
their names, in each its folders, in each the file names. A store's keys are paths, sorted as text,
which is another order where a class's name begins with another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.errors import LabelError, UsageError
from labelstore.images.decoding import examine, is_upright, quiet_pillow, upright_size
from labelstore.images.pixels import content_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource

__all__ = ["PhotoTable", "boxes_of_shares", "check_inside", "in_folder_order", "photo_table"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What ``torchvision.datasets.folder.IMG_EXTENSIONS`` holds: it sees no other files."""


def in_folder_order(photos: ImageSource) -> list[int]:
    """The photos that ``ImageFolder`` sees, in its order, as indices of the source.

    Raises:
        UsageError: a photo lies in no class folder, where ``ImageFolder`` sees none.
    """
    keys = photos.keys
    seen = [index for index, key in enumerate(keys) if key.lower().endswith(_SUFFIXES)]
    outside = [keys[index] for index in seen if "/" not in keys[index]]
    if outside or not seen:
        raise UsageError(
            f"{photos.path} has {'the photo ' + repr(outside[0]) if outside else 'no photo'} "
            f"{'outside of' if outside else 'in'} class folders, and the labels name photos by "
            "their place in folders of classes: give the folder that they were made from.",
            arguments=("photos",),
        )

    def place(index: int) -> tuple[str, str, str]:
        folder, _, name = keys[index].rpartition("/")
        return folder.partition("/")[0], folder, name

    return sorted(seen, key=place)


class PhotoTable(NamedTuple):
    """What a converted store keeps of photos."""

    widths: npt.NDArray[np.int32]
    """(n,) pixels."""
    heights: npt.NDArray[np.int32]
    """(n,) pixels."""
    digests: npt.NDArray[np.uint64]
    """(n,) xxh3_64 of the encoded files."""


def photo_table(photos: ImageSource, indices: Sequence[int], *, cropped: bool = True) -> PhotoTable:
    """Sizes and digests of some photos, of which the heads alone are decoded.

    Args:
        photos: where they lie. indices: which.
        cropped: whether labels have crops of them.

    Raises:
        SourceError: a photo cannot be read. LabelError: one that is cropped is turned by its EXIF
            data. Other projects' loaders ignore these, so that their crops are of the photo as it
            is stored, which a store's are not.
    """
    facts = PhotoTable(
        np.zeros(len(indices), np.int32),
        np.zeros(len(indices), np.int32),
        np.zeros(len(indices), np.uint64),
    )
    with quiet_pillow:
        _look(photos, indices, cropped, facts)
    return facts


def _look(photos: ImageSource, indices: Sequence[int], cropped: bool, facts: PhotoTable) -> None:
    """As ``photo_table``, into ``facts``."""
    for row, index in enumerate(indices):
        data, name = photos.read(index), str(photos.path_of(index))
        (width, height), upright = examine(data, name, _size)
        if cropped and not upright:
            raise LabelError(
                f"the photo {name} is turned by its EXIF orientation, which the labels' own loader "
                "ignored, so that their crops are of other pixels: remove the tag from the file "
                "(exiftool -Orientation=1 -n), which leaves what the teacher saw."
            )
        facts.widths[row], facts.heights[row] = width, height
        facts.digests[row] = content_digest(data)


def _size(image: Any) -> tuple[tuple[int, int], bool]:
    # EXIF data is looked at once for most.
    upright = is_upright(image)
    return image.size if upright else upright_size(image), upright


def boxes_of_shares(
    shares: npt.NDArray[np.floating], widths: npt.NDArray[np.int32], heights: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """The pixels that Pillow crops where torchvision's ``resized_crop`` is given floats.

    It takes the crop's two corners and rounds each, halves to even (``Image.crop``).

    Args:
        shares: (n, V, 4) top / H, left / W, height / H, width / W.
        widths, heights: (n,) pixels.

    Returns:
        (n, V, 4) int32 top, left, height, width; edge by edge in memory.
    """
    edges = np.moveaxis(shares, -1, 0)
    boxes = np.empty(edges.shape, dtype=np.int32)
    # An axis of four is slow to go along.
    for edge, sides in enumerate((heights, widths)):
        pixels = sides[:, None].astype(np.float64)
        exact = edges[edge] * pixels
        start = np.rint(exact)
        exact += edges[edge + 2] * pixels
        boxes[edge] = start
        boxes[edge + 2] = np.rint(exact, out=exact) - start
    return np.moveaxis(boxes, 0, -1)


def check_inside(
    boxes: npt.NDArray[np.int32], facts: PhotoTable, keys: Sequence[str], where: Path | str
) -> None:
    """Raise LabelError for a box that is empty or leaves its photo.

    Args:
        boxes: (n, V, 4). facts, keys: of the n photos. where: the labels' file or folder.
    """
    top, left, height, width = np.moveaxis(boxes, -1, 0)
    wrong = (np.minimum(top, left) < 0) | (np.minimum(height, width) < 1)
    wrong |= (top + height > facts.heights[:, None]) | (left + width > facts.widths[:, None])
    if wrong.any():
        row, view = (int(place) for place in np.argwhere(wrong)[0])
        raise LabelError(
            f"{where} has for {keys[row]!r} the crop {boxes[row, view].tolist()} (top, left, "
            f"height, width), and that photo has {facts.widths[row]} x {facts.heights[row]} pixels "
            "(width x height): the labels are of other photos, or of these in another order or "
            "size; give those that they were made from."
        )
