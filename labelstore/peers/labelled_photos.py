"""Which photo another project's label file is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelstore.errors import MismatchError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
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
        MismatchError: a label file has no photo; two photos have the same name but for the ending;
            the label files fit the photos of several folders.
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
    for lost, folders in _ends(stems[0], photos):
        # Of a folder that does not fit, a few label files tell.
        whole = [
            folder
            for folder in folders
            if all(stem.startswith(lost) and _at(folder, stem, lost) in photos for stem in stems)
        ]
        if len(whole) > 1:
            raise MismatchError(
                f"the label files in {where} fit the photos in {whole[0]!r} and in {whole[1]!r} of "
                f"{source.path} alike, and nothing tells whose they are: give the folder of photos "
                "that was labelled, or the folder above these labels."
            )
        if whole:
            return [photos[_at(whole[0], stem, lost)] for stem in stems]
        lacking = [
            stem
            for stem in stems
            if not stem.startswith(lost) or _at(folders[0], stem, lost) not in photos
        ]
        if len(stems) - len(lacking) > 1:
            raise MismatchError(
                f"the label file {lacking[0]!r} in {where} has no photo in {source.path} "
                f"({len(lacking)} of {len(stems)} have none): give all the photos that were "
                "labelled, or take these label files away."
            )
    hint = did_you_mean(stems[0], list(photos))
    raise MismatchError(
        f"the label file {stems[0]!r} in {where} has no photo in {source.path}"
        f"{f' ({hint})' if hint else ''}: give the folder of the photos that were labelled."
    )


def _at(folder: str, stem: str, lost: str) -> str:
    """A label file's path with a folder in front in the place of another."""
    return folder + stem.removeprefix(lost)


def _ends(stem: str, photos: dict[str, int]) -> Iterator[tuple[str, list[str]]]:
    """What a label file's path has to lose in front to be the end of a photo's, and what it has to
    be given there: nothing, or any of some folders. Of the longest common end first."""
    parts = stem.split("/")
    for count in range(len(parts)):
        lost, end = "".join(f"{part}/" for part in parts[:count]), "/".join(parts[count:])
        if end in photos:
            yield lost, [""]
        elif folders := [p.removesuffix(end) for p in photos if p.endswith(f"/{end}")]:
            yield lost, folders
