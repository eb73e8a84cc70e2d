"""Image sources beside folders: WebDataset's tar shards, and Parquet files with encoded images.

All sources have the attributes and methods of ``labelstore.images.FolderSource``; ``open_source``
takes whichever a path is. Keys carry identity: an image's key, not its place, names its crops.
"""

from __future__ import annotations

import json
import tarfile
import threading
from collections import OrderedDict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.errors import DecodeError, SourceError
from labelstore.images import IMAGE_SUFFIXES, FolderSource
from labelstore.objects import place_of
from labelstore.source_files import RemoteFiles, files_at, remote_sizes

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from labelstore.source_files import SourceFiles

__all__ = ["ImageSource", "ParquetSource", "RemoteFolderSource", "TarSource", "open_source"]

_ROW_GROUPS = 4
"""Row groups of encoded images that a ``ParquetSource`` keeps."""


class _Place(NamedTuple):
    """Where an image lies in the tar shards."""

    shard: int
    offset: int
    size: int


class TarSource:
    """The images of WebDataset's shards: files of one name but for the suffix are one sample.

    A sample's key is that name, as WebDataset's ``__key__``; its image the member that ends as an
    image does; its class what its ``.cls`` member says (a class id, or a name), else the key's
    first path component. Shards are ``*.tar``, not compressed; they are indexed once and then read
    at random.

    Attributes: those of ``FolderSource``, and ``numbers``: (N,) int64 class ids as the ``.cls``
    members give them, or None.

    Raises:
        SourceError: a shard cannot be read, none holds an image, or two samples have one key.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = place_of(path)
        self._files = files_at(path, ".tar")
        places: dict[str, _Place] = {}
        classes: dict[str, str] = {}
        self.ignored = 0
        for number in range(len(self._files)):
            shard = self._files.place(number)
            for member in _members(self._files, number):
                folder, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                key = key.removeprefix("./")
                if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES:
                    if key in places:
                        raise SourceError(
                            f"{shard} holds a second image with the key {key!r}: keys must be "
                            "unique over all shards, since they name an image's crops."
                        )
                    places[key] = _Place(number, member.offset_data, member.size)
                elif suffix == "cls":
                    classes[key] = _text(self._files, number, member)
                else:
                    self.ignored += 1
        if not places:
            raise SourceError(f"{self.path} holds no image: give shards of images.")
        self.keys = tuple(sorted(places))
        self._places = [places[key] for key in self.keys]
        self.classes, self.mixed, self.numbers, self._names = _classes(
            self.keys, [classes.get(key) for key in self.keys]
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"TarSource({str(self.path)!r})"

    def path_of(self, index: int) -> str:
        """A name of image number ``index`` for messages: its shard and its key."""
        return f"{self._files.place(self._places[index].shard)}/{self.keys[index]}"

    def class_name(self, index: int) -> str | None:
        """What the class of image number ``index`` is called; None where that is unknown."""
        return None if self._names is None else self._names[index]

    def read(self, index: int) -> bytes:
        """The encoded file of image number ``index``; SourceError when it cannot be read."""
        place = self._places[index]
        shard = self._files.place(place.shard)
        try:
            data = self._files.read(place.shard, place.offset, place.size)
        except OSError as error:
            raise SourceError(
                f"cannot read the shard {shard} ({error.strerror or error}): restore it."
            ) from error
        if len(data) != place.size:
            raise SourceError(f"the shard {shard} ends in mid-image: it was cut; restore it.")
        return data


class ParquetSource:
    """The images of Parquet files in Hugging Face's layout.

    A column ``image`` of structs ``{bytes, path}``, or of bytes; by choice a column ``label`` of
    integers, whose names are taken from the files' ``huggingface`` metadata where they are there.
    An image's key is its ``path`` where all have one and no two the same, else its file's name and
    its row.

    Attributes: those of ``FolderSource``, and ``numbers``: (N,) int64 labels, or None.

    Raises:
        SourceError: a file cannot be read, or has no such column.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = place_of(path)
        self._files = files_at(path, ".parquet")
        self.ignored = 0
        names, labels, places, fallback = [], [], [], []
        label_names: list[str] | None = None
        for number in range(len(self._files)):
            table, label_names = _columns(self._files, number)
            paths, found = table
            names += paths
            labels += found
            fallback += [f"{self._files.name(number)}:{row}" for row in range(len(paths))]
            places += [(number, row) for row in range(len(paths))]
        if not places:
            raise SourceError(f"{self.path} holds no rows: give files with images.")
        known = all(names) and len(set(names)) == len(names)
        given = names if known else fallback
        order = sorted(range(len(given)), key=given.__getitem__)
        self.keys = tuple(given[place] for place in order)
        self._places = [places[place] for place in order]
        texts: list[str | None] = [None] * len(order)
        if all(label is not None for label in labels):
            texts = [str(labels[place]) for place in order]
        self.classes, self.mixed, self.numbers, self._names = _classes(self.keys, texts)
        if label_names is not None and self.numbers is not None:
            self._names = [label_names[number] for number in self.numbers.tolist()]
            self.classes = tuple(sorted(set(self._names)))
        self.label_names = None if label_names is None else tuple(label_names)
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"ParquetSource({str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read, for another process."""
        state = dict(self.__dict__)
        del state["_lock"], state["_groups"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._groups = OrderedDict()
        self._lock = threading.Lock()

    def path_of(self, index: int) -> str:
        """A name of image number ``index`` for messages: its file and its row."""
        number, row = self._places[index]
        return f"{self._files.place(number)}/{row}"

    def class_name(self, index: int) -> str | None:
        """What the class of image number ``index`` is called; None where that is unknown."""
        return None if self._names is None else self._names[index]

    def read(self, index: int) -> bytes:
        """The encoded file of image number ``index``; SourceError when it cannot be read."""
        number, row = self._places[index]
        with self._lock:
            data = self._row(number, row)
        if not data:
            raise DecodeError(
                f"row {row} of {self._files.place(number)} has no image bytes: restore it."
            )
        return data

    def _row(self, number: int, row: int) -> bytes | None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self._files.open(number), memory_map=True)
            group, start = 0, 0
            while row >= start + file.metadata.row_group(group).num_rows:
                start += file.metadata.row_group(group).num_rows
                group += 1
            place = (number, group)
            if place not in self._groups:
                column = file.read_row_group(group, columns=["image"]).column("image")
                self._groups[place] = _bytes_of(column.combine_chunks())
                while len(self._groups) > _ROW_GROUPS:
                    self._groups.popitem(last=False)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(
                f"cannot read {self._files.place(number)} ({error}): restore it."
            ) from error
        self._groups.move_to_end(place)
        value: bytes | None = self._groups[place][row - start].as_py()
        return value


class RemoteFolderSource:
    """The images below a URL of a bucket: as ``FolderSource``, with names for paths.

    Raises:
        SourceError: there is no image. NotFoundError: there is nothing.
    """

    numbers = None

    def __init__(self, url: str, sizes: dict[str, int] | None = None) -> None:
        self.path = url
        sizes = remote_sizes(url) if sizes is None else sizes
        images = {name: size for name, size in sizes.items() if _is_image(name)}
        if not images:
            raise SourceError(
                f"{url} holds no image ({len(sizes)} other objects), expected names ending in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}: give a prefix that holds some."
            )
        self.ignored = len(sizes) - len(images)
        self._files = RemoteFiles(url, images)
        self.keys = tuple(sorted(images))
        self.classes, self.mixed, _, self._names = _classes(self.keys, [None] * len(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"RemoteFolderSource({self.path!r})"

    def path_of(self, index: int) -> str:
        """URL of image number ``index``."""
        return self._files.place(index)

    def class_name(self, index: int) -> str | None:
        """Class folder of image number ``index``; None where ``classes`` is None."""
        return None if self._names is None else self._names[index]

    def read(self, index: int) -> bytes:
        """The encoded file of image number ``index``; SourceError when it cannot be read."""
        return self._files.whole(index)


ImageSource = FolderSource | RemoteFolderSource | TarSource | ParquetSource
"""Any source."""


def open_source(path: str | os.PathLike[str]) -> ImageSource:
    """The images at a path, or behind a URL (``s3://``, ``gs://``; of one file also ``https://``).

    A ``.tar`` or ``.parquet`` file, or a folder that holds such files and no images, is a
    ``TarSource`` or ``ParquetSource``; any other folder a ``FolderSource``.

    Raises:
        NotFoundError: nothing is there. SourceError: it holds no images.
    """
    place = place_of(path)
    if isinstance(place, str):
        return _open_remote(place)
    if place.suffix == ".tar" and place.is_file():
        return TarSource(place)
    if place.suffix == ".parquet" and place.is_file():
        return ParquetSource(place)
    if place.is_dir():
        suffixes = {entry.suffix.lower() for entry in place.iterdir() if entry.is_file()}
        folders = any(entry.is_dir() and entry.name[0] != "." for entry in place.iterdir())
        if not folders and not suffixes & set(IMAGE_SUFFIXES):
            if ".tar" in suffixes:
                return TarSource(place)
            if ".parquet" in suffixes:
                return ParquetSource(place)
    return FolderSource(place)


def _open_remote(url: str) -> ImageSource:
    if url.endswith(".tar"):
        return TarSource(url)
    if url.endswith(".parquet"):
        return ParquetSource(url)
    sizes = remote_sizes(url)
    if not any(_is_image(name) for name in sizes):
        suffixes = {PurePosixPath(name).suffix for name in sizes}
        if ".tar" in suffixes:
            return TarSource(url)
        if ".parquet" in suffixes:
            return ParquetSource(url)
    return RemoteFolderSource(url, sizes)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _members(files: SourceFiles, number: int) -> Iterable[tarfile.TarInfo]:
    shard = files.place(number)
    try:
        with files.stream(number) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            yield from (member for member in archive if member.isfile())
    except (OSError, tarfile.TarError) as error:
        raise SourceError(
            f"cannot read the shard {shard} ({error}): it is damaged, or compressed, which cannot "
            "be read at random; restore or unpack it."
        ) from error


def _text(files: SourceFiles, number: int, member: tarfile.TarInfo) -> str:
    try:
        data = files.read(number, member.offset_data, member.size)
    except OSError as error:
        raise SourceError(
            f"cannot read the shard {files.place(number)} ({error}): restore it."
        ) from error
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{member.name} in {files.place(number)} is not text, expected a class: mend it."
        ) from error


def _classes(
    keys: Sequence[str], given: Sequence[str | None]
) -> tuple[tuple[str, ...] | None, bool, npt.NDArray[np.int64] | None, list[str] | None]:
    """Distinct class names, whether only some images have one, class ids, each image's name."""
    if all(text is not None for text in given):
        names = [str(text) for text in given]
        numbers = None
        if all(name.isdecimal() for name in names):
            numbers = np.array([int(name) for name in names], dtype=np.int64)
        return tuple(sorted(set(names))), False, numbers, names
    nested = sum("/" in key for key in keys)
    partly = any(text is not None for text in given) or 0 < nested < len(keys)
    if partly or not nested:
        return None, partly, None, None
    names = [key.partition("/")[0] for key in keys]
    return tuple(sorted(set(names))), False, None, names


def _columns(
    files: SourceFiles, number: int
) -> tuple[tuple[list[Any], list[Any]], list[str] | None]:
    """Paths and labels of a file's rows, and the labels' names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = files.place(number)
    try:
        opened = pq.ParquetFile(files.open(number), memory_map=True)
        schema = opened.schema_arrow
        if "image" not in schema.names:
            raise SourceError(
                f"{file} has no column image (its columns are {', '.join(schema.names)}), expected "
                "encoded images as Hugging Face's datasets writes them: rename the column."
            )
        kind = schema.field("image").type
        rows = opened.metadata.num_rows
        paths: list[Any] = [None] * rows
        if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
            column = opened.read(columns=["image.path"]).column("image").combine_chunks()
            paths = column.field("path").to_pylist() if rows else []
        labels: list[Any] = [None] * rows
        if "label" in schema.names and pa.types.is_integer(schema.field("label").type):
            labels = opened.read(columns=["label"]).column("label").to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"cannot read {file} ({error}): restore it.") from error
    return (paths, labels), _label_names(schema.metadata or {})


def _label_names(metadata: dict[bytes, bytes]) -> list[str] | None:
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _bytes_of(column: Any) -> Any:
    """The encoded images of a row group, from structs or from bytes."""
    import pyarrow as pa

    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return column.field("bytes") if pa.types.is_struct(column.type) else column
