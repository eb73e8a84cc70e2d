"""Image sources: folders, WebDataset's tar shards, and Parquet files with encoded images.

All sources have the attributes and methods of ``labelstore.images.FolderSource``; ``open_source``
takes whichever a path is. Keys carry identity: an image's key, not its place, names its crops.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from labelstore.errors import SourceError, UsageError, require_packages
from labelstore.images.formats import is_image_name
from labelstore.images.sources.folder import FolderSource
from labelstore.images.sources.listing import is_folder, remote_sizes, walk
from labelstore.images.sources.parquet import ParquetSource
from labelstore.images.sources.patterns import expand_braces, is_pattern
from labelstore.images.sources.remote_folder import RemoteFolderSource
from labelstore.images.sources.tar import TarSource
from labelstore.storage.location import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ImageSource", "check_outside", "in_order", "open_source"]

_SHARDS = (".tar", ".parquet")

_COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)$")

_BESIDE_PHOTOS = frozenset({"metadata.parquet"})
"""Tables that Hugging Face's image folders have beside their pictures."""

_SPLIT = re.compile(
    r"(?:^|[-_./])(train|training|val|valid|validation|test|testing|dev|eval)(?=$|[-_./0-9])"
)
_SPLITS = {"training": "train", "val": "validation", "valid": "validation", "testing": "test"}
"""Other names of a split -> its name."""


ImageSource = FolderSource | RemoteFolderSource | TarSource | ParquetSource
"""Any source."""


def open_source(
    path: str | os.PathLike[str],
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    image_field: str | None = None,
) -> ImageSource:
    """The images at a path, or behind a URL (``s3://``, ``gs://``; of files also ``https://``).

    A ``.tar`` or ``.parquet`` file, a folder that holds such files and no images (or whose
    subfolders do, as a hub's snapshot), and a glob or brace list of such files
    (``data/train-*.parquet``, ``train-{000..127}.tar``) is a ``TarSource`` or ``ParquetSource``;
    any other folder a ``FolderSource``.

    Args:
        path: where the images are.
        image_column, label_column: of Parquet files.
        image_field: of tar shards, such as ``"input.jpg"``.

    Raises:
        NotFoundError: nothing is there. UsageError: an option of another kind of source was given.
        SourceError: it holds no images, images and shards beside each other, or the shards of
            several splits (train, validation); shards are compressed; the system refuses to look.
        MissingPackageError: it is in Parquet, and pyarrow is not installed.
    """
    try:
        return _open_source(path, image_column, label_column, image_field)
    except OSError as error:
        raise SourceError(
            f"cannot look at {path} ({error.strerror or error}): mount it, or restore the right to "
            "read it."
        ) from error


def _open_source(
    path: str | os.PathLike[str],
    image_column: str | None,
    label_column: str | None,
    image_field: str | None,
) -> ImageSource:
    place = place_of(path)
    sizes: dict[str, int] | None = None
    if is_pattern(place):
        kind = _kind_of_pattern(str(place))
    elif isinstance(place, str) and not _shard_kind(place, place):
        sizes = remote_sizes(place)
        kind = _kind_of_names(place, sizes)
    else:
        kind = _kind_of_path(place)
    _check_options(str(place), kind, bool(image_column or label_column), bool(image_field))
    if kind == ".tar":
        return TarSource(path, image_field)
    if kind == ".parquet":
        require_packages("reading photos in Parquet", "pyarrow")
        return ParquetSource(path, image_column, label_column)
    return FolderSource(place) if isinstance(place, Path) else RemoteFolderSource(place, sizes)


def check_outside(source: ImageSource, path: str | os.PathLike[str]) -> None:
    """Refuse to write a store into the folder of its photos.

    Raises:
        UsageError: it would lie there.
    """
    photos, store = place_of(source.path), place_of(path)
    if isinstance(photos, Path) and isinstance(store, Path):
        within = photos.is_dir() and store.resolve().is_relative_to(photos.resolve())
    else:
        within = isinstance(photos, str) and f"{store}/".startswith(f"{photos}/")
    if within:
        raise UsageError(
            f"the store {path} would lie in the photos' folder {source.path}, among what is "
            "labelled: give a path beside it."
        )


def in_order(source: ImageSource, keys: Sequence[str]) -> ImageSource:
    """A source with its images in the order of these keys, where it has just these images.

    Parquet files are read in the order of their rows; a store of them may have another.
    """
    if (
        isinstance(source, ParquetSource)
        and len(keys) == len(source)
        and source.keys != tuple(keys)
        and set(source.keys) == set(keys)
    ):
        return source.in_order(keys)
    return source


def _check_options(where: str, kind: str, has_columns: bool, has_field: bool) -> None:
    """Raise UsageError for options that a kind of source does not know."""
    for asked, suffix, noun in ((has_columns, ".parquet", "column"), (has_field, ".tar", "field")):
        if asked and kind != suffix:
            raise UsageError(
                f"a {noun} was asked for, which {suffix} files have, and {where} holds "
                f"{kind or 'image'} files: leave it out."
            )


def _kind_of_pattern(pattern: str) -> str:
    """``".tar"`` or ``".parquet"``."""
    kinds = {_shard_kind(name, pattern) for name in expand_braces(pattern)}
    kind = kinds.pop()
    if kinds or not kind:
        raise SourceError(
            f"the pattern {pattern} names no shards, expected names ending in .tar, or in "
            ".parquet: give such a pattern, or a folder of images."
        )
    return kind


def _kind_of_path(place: Path | str) -> str:
    """``".tar"``, ``".parquet"``, or ``""`` for a folder of images."""
    if isinstance(place, str) or not place.is_dir():
        return (
            _shard_kind(str(place), str(place)) if isinstance(place, str) or place.exists() else ""
        )
    try:
        # A folder may hold a million files, none of which needs to be looked at by itself.
        with os.scandir(place) as listing:
            entries = [(entry.name, is_folder(entry)) for entry in listing if entry.name[0] != "."]
    except OSError:
        # FolderSource says so.
        return ""
    names = [name for name, is_nested in entries if not is_nested]
    if len(names) == len(entries) or any(map(is_image_name, names)):
        return _kind_of_names(str(place), names)
    if any(map(is_image_name, walk(place))):
        return ""
    return _kind_of_names(str(place), walk(place))


def _kind_of_names(where: str, names: Iterable[str]) -> str:
    """What a folder holds, by the names of the files below it."""
    shards: dict[str, list[str]] = {suffix: [] for suffix in (*_SHARDS, "compressed")}
    has_images, picture = False, ""
    for name in names:
        if is_image_name(name):
            has_images = True
            picture = picture or ("" if "/" in name else name)
        elif _COMPRESSED.search(name.lower()):
            shards["compressed"].append(name)
        elif name.rpartition("/")[2] not in _BESIDE_PHOTOS and _suffix(name) in _SHARDS:
            shards[_suffix(name)].append(name)
    direct = [name for kind in shards.values() for name in kind if "/" not in name]
    if picture and direct:
        raise SourceError(
            f"{where} holds pictures (such as {picture!r}) and shards (such as {direct[0]!r}) side "
            f"by side, so it is not clear which are the photos: give {where}/*{_suffix(direct[0])}"
            ", or move one of the two away."
        )
    if has_images:
        return ""
    if shards["compressed"]:
        _shard_kind(shards["compressed"][0], where)
    for suffix in _SHARDS:
        own = [name for name in shards[suffix] if "/" not in name] or shards[suffix]
        if own:
            _check_split(where, own)
            return suffix
    return ""


def _shard_kind(name: str, where: str) -> str:
    """The suffix of a shard, ``""`` for another file.

    Raises:
        SourceError: it is compressed.
    """
    if _COMPRESSED.search(name.lower()):
        raise SourceError(
            f"{name!r} (of {where}) is a compressed archive, which cannot be read at random: "
            "unpack it to a plain .tar (photos hardly shrink), or extract its files into a folder."
        )
    return _suffix(name) if _suffix(name) in _SHARDS else ""


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix


def _check_split(where: str, names: list[str]) -> None:
    """Refuse the shards of several splits, of which one is meant."""
    splits: dict[str, str] = {}
    for name in sorted(names):
        for split in _SPLIT.findall(name.lower()):
            splits.setdefault(_SPLITS.get(split, split), name)
    if len(splits) > 1:
        shown = " and ".join(repr(name) for name in splits.values())
        first = splits.get("train") or next(iter(splits.values()))
        pattern = re.sub(r"[0-9][0-9a-f-]*(-of-[0-9]+)?[^/]*(?=\.\w+$)", "*", first)
        raise SourceError(
            f"{where} holds the shards of {len(splits)} splits ({shown}): give those of one, such "
            f"as {where}/{pattern if pattern != first else first}, or all of them by a glob."
        )
