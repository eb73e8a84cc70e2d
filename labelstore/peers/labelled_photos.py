"""Which photo another project's label file is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelstore.errors import MismatchError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from labelstore.images.sources.choose import ImageSource

__all__ = ["matched_photos"]


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
        places = [
            photos.get(before + stem.removeprefix(after)) if stem.startswith(after) else None
            for stem in stems
        ]
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
    """What a label file's path has to be given, and to lose, in front to be a photo's; of the
    longest common end first."""
    parts = stem.split("/")
    pairs = []
    for count in range(len(parts)):
        lost, end = "".join(f"{part}/" for part in parts[:count]), "/".join(parts[count:])
        if end in photos:
            pairs.append(("", lost))
        else:
            longer = next((photo for photo in photos if photo.endswith(f"/{end}")), None)
            if longer is not None:
                pairs.append((longer.removesuffix(end), lost))
    return pairs
