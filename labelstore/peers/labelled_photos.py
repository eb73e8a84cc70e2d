"""Photos of other projects' labels: which photo a label file is of, and how large photos are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import MismatchError, SourceError, did_you_mean
from labelstore.images.photo_file import read_upright_size
from labelstore.images.pixels import content_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource

__all__ = ["PhotoSizes", "matched_photos", "sizes_of"]


@dataclass(frozen=True)
class PhotoSizes:
    """Of n photos."""

    names: tuple[str, ...]
    """What errors call them."""
    widths: npt.NDArray[np.int32]
    """(n,) pixels of the upright photos."""
    heights: npt.NDArray[np.int32]
    """(n,) as widths."""
    digests: npt.NDArray[np.uint64]
    """(n,) of the encoded files."""
    turned: npt.NDArray[np.bool_]
    """(n,) whether EXIF turns or mirrors a photo."""

    def require_upright(self, reason: str) -> None:
        """Refuse photos that EXIF turns, where a project's loader does not.

        Raises:
            SourceError: one of them is; ``reason`` begins the sentence.
        """
        if self.turned.any():
            others = int(self.turned.sum()) - 1
            more = f" and {others} more of this run" if others else ""
            raise SourceError(
                f"{reason}, and the EXIF data of {self.names[int(np.argmax(self.turned))]}{more} "
                "turn the photo, so that its boxes mean other pixels here: take the orientation "
                "out of the file (exiftool -Orientation= FILE), and train on it so."
            )


def sizes_of(source: ImageSource, places: Sequence[int]) -> PhotoSizes:
    """Sizes and digests of some photos of a source; pixels are not decoded.

    Raises:
        SourceError: a photo cannot be read, or is none.
    """
    names, sizes, digests = [], [], []
    for place in places:
        data = source.read(place)
        names.append(str(source.path_of(place)))
        sizes.append(read_upright_size(data, names[-1]))
        digests.append(content_digest(data))
    return PhotoSizes(
        tuple(names),
        np.array([size[0] for size in sizes], dtype=np.int32),
        np.array([size[1] for size in sizes], dtype=np.int32),
        np.array(digests, dtype=np.uint64),
        np.array([size[2] for size in sizes], dtype=bool),
    )


def matched_photos(
    stems: Sequence[str], source: ImageSource, where: Path | str, *, first_dot: bool = False
) -> list[int]:
    """The place of each label file's photo in a source.

    Label files have the paths of their photos but for the ending, and for folders before them that
    are the same for all: labels in ``imagenet/train/a/1.tar`` are those of a photo ``a/1.JPEG`` of
    a source that begins at ``train``, or of ``train/a/1.JPEG``.

    Args:
        stems: relative POSIX paths of label files without their ending.
        source: the photos. where: of the label files, for messages.
        first_dot: whether a photo's name ends at its first dot, not its last.

    Raises:
        MismatchError: a label file has no photo, or two photos have the same name but for the
            ending.
    """
    photos: dict[str, int] = {}
    for place, key in enumerate(source.keys):
        folder, slash, name = key.rpartition("/")
        base = name.partition(".")[0] if first_dot else name.rpartition(".")[0] or name
        stem = folder + slash + base
        if stem in photos:
            raise MismatchError(
                f"the photos {source.keys[photos[stem]]!r} and {key!r} of {source.path} have the "
                f"same label file {base!r}, and nothing tells whose it is: take one of them away."
            )
        photos[stem] = place
    for before, after in _prefixes(stems[0], photos):
        places = [photos.get(before + stem.removeprefix(after)) for stem in stems]
        if None not in places:
            return [place for place in places if place is not None]
        if sum(place is not None for place in places) > 1 or len(stems) == 1:
            lacking = stems[places.index(None)]
            raise MismatchError(
                f"the label file {lacking!r} in {where} has no photo in {source.path} "
                f"({places.count(None)} of {len(stems)} have none): give all the photos that were "
                "labelled, or take these label files away."
            )
    hint = did_you_mean(stems[0], list(photos))
    raise MismatchError(
        f"the label file {stems[0]!r} in {where} has no photo in {source.path}"
        f"{f' ({hint})' if hint else ''}: give the folder of the photos that were labelled."
    )


def _prefixes(stem: str, photos: dict[str, int]) -> list[tuple[str, str]]:
    """What a label file's path has to be given, and to lose, in front to be a photo's."""
    parts = stem.split("/")
    pairs = [
        ("", "".join(f"{part}/" for part in parts[:count]))
        for count in range(len(parts))
        if "/".join(parts[count:]) in photos
    ]
    # Photos below folders that the labels do not have; the first that ends so.
    ends = [photo for photo in photos if photo.endswith(f"/{stem}")]
    return pairs + [(photo.removesuffix(stem), "") for photo in ends[:1]]
