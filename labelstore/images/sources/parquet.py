"""The images of Parquet files, as Hugging Face's data sets have them."""

from __future__ import annotations

import contextlib
import copy
import itertools
import threading
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from labelstore.errors import DecodeError, SourceError
from labelstore.images.sources.classes import check_key, classes_of_keys, classes_of_labels
from labelstore.images.sources.listing import files_at
from labelstore.images.sources.parquet_columns import (
    Footer,
    check_claims,
    checked_column,
    checked_rows,
    column_batches,
    hold_of,
    names_of_labels,
    parsed_photos,
    read_labels,
    rows_at_once,
    source_of,
)
from labelstore.images.sources.passed_over import PassedOver
from labelstore.storage.location import place_of
from labelstore.storage.parquet.footer import footer_of, row_groups

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from labelstore.images.sources.source_files import SourceFiles

__all__ = ["ParquetSource"]

_GROUPS, _MOST_GROUPS, _SMALL_BYTES = 2, 64, 2**26
"""Row groups that are kept, as far as they fit in `_KEPT_BYTES`: two, since threads read the next
one while others still read the last; of small ones more, as the threads may be at many of them."""

_KEPT_BYTES = 2**29
"""Encoded images that are kept; a row group of more is read on from batch to batch."""

_BATCH_BYTES = 2**24
"""Of a batch of rows: far below the 2 GiB that an Arrow array of bytes may have."""

_BATCHES = 4
"""Batches of a large row group that are kept: as threads read ahead, rows come not quite in order.
"""


class _Rows(NamedTuple):
    """What is read of a file beforehand."""

    paths: list[str | None]
    labels: list[str | None] | None
    label_names: list[str] | None
    unlabelled: str
    """Why there are no labels, for errors."""


class ParquetSource:
    """The images of Parquet files in Hugging Face's layout, in the order of their rows.

    A column of structs ``{bytes, path}``, or of bytes; by choice a column of labels: class ids (-1
    and null are unknown), whose names are taken from the files' ``huggingface`` metadata where they
    are there (one that several labels have is none: they are called by their numbers), or names. An
    image's key is its ``path`` where all have one and no two the same, else its file's name and its
    row.

    Images are read fast in the order of rows, each row group once; at random, each costs the
    reading of a row group, so write groups of about 100 rows.

    Args:
        path: a file, a folder of files, or a glob or brace list of them.
        image_column: the column of images, ``"image"`` when None.
        label_column: the column of labels; ``"label"``, if there is one, when None.

    Attributes: those of ``FolderSource``, and ``numbers``: (N,) int64 labels, -1 unknown, or None;
        ``label_names``: the names of labels 0, 1, ... or None; ``unlabelled``: why no column tells
        classes, "" where one does.

    Raises:
        SourceError: a file cannot be read, or has no such column of such a type.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        self.path = place_of(path)
        self._files = files_at(path, ".parquet")
        self._image_column = image_column or "image"
        self.passed_over = PassedOver()
        for name in self._files.others:
            self.passed_over.add(name)
        self._footers: dict[int, Footer] = {}
        self._forget()
        files = [self._rows(number, label_column) for number in range(len(self._files))]
        paths = [path for rows in files for path in rows.paths]
        if not paths:
            raise SourceError(f"{self.path} holds no rows: give files with images.")
        known = all(paths) and len(set(paths)) == len(paths)
        fallback = (
            f"{self._files.name(number)}:{row}"
            for number, rows in enumerate(files)
            for row in range(len(rows.paths))
        )
        self.keys = tuple(
            check_key(str(key), str(self.path)) for key in (paths if known else fallback)
        )
        if len(set(self.keys)) != len(self.keys):
            raise SourceError(
                f"{self.path} has several files of one name, and the images of those have no "
                "paths that could be their keys: rename the files, or give one folder."
            )
        counts = [len(rows.paths) for rows in files]
        self._file_of = np.repeat(np.arange(len(files)), counts)
        self._row_of = np.concatenate([np.arange(count) for count in counts])
        self._take_labels(files)

    def _take_labels(self, files: list[_Rows]) -> None:
        lacking = [rows.unlabelled for rows in files if rows.labels is None and rows.paths]
        self.unlabelled = lacking[0] if lacking else ""
        self.label_names: tuple[str, ...] | None = None
        if lacking:
            folder_classes = classes_of_keys(self.keys)
            self.classes, self.mixed, self.numbers, self._names = folder_classes
            return
        names = {tuple(rows.label_names or ()) for rows in files if rows.paths}
        if len(names) > 1:
            raise SourceError(
                f"the files of {self.path} differ in the names of their labels: give files of one "
                "data set."
            )
        labels = [label for rows in files for label in rows.labels or ()]
        self.classes, self.mixed, self.numbers, self._names = classes_of_labels(labels)
        texts = names.pop()
        if texts and self.numbers is not None:
            largest = int(self.numbers.max())
            if largest >= len(texts):
                row = int(np.argmax(self.numbers))
                raise SourceError(
                    f"{self.path_of(row)} has the label {largest} and the file's metadata name "
                    f"{len(texts)} labels, expected 0 to {len(texts) - 1} or -1: mend the column "
                    "or the names."
                )
            self.label_names = texts
            # A name that several labels have tells none of them.
            counts = Counter(texts)
            called = [t if counts[t] == 1 else str(n) for n, t in enumerate(texts)]
            self._names = [None if n < 0 else called[n] for n in self.numbers.tolist()]
            self.classes = tuple(sorted({name for name in self._names if name is not None}))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"ParquetSource({str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read, for another process."""
        state = dict(self.__dict__)
        del state["_lock"], state["_groups"]
        return state | {"_footers": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._groups: OrderedDict[tuple[int, int], _Group] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def ignored(self) -> int:
        """How many files were passed over."""
        return self.passed_over.count

    def in_order(self, keys: Sequence[str]) -> Self:
        """The same images in another order.

        Args:
            keys: all the source's keys.
        """
        places = {key: place for place, key in enumerate(self.keys)}
        order = np.array([places[key] for key in keys], dtype=np.int64)
        other = copy.copy(self)
        other.keys = tuple(keys)
        other._file_of, other._row_of = self._file_of[order], self._row_of[order]
        other.numbers = None if self.numbers is None else self.numbers[order]
        if self._names is not None:
            other._names = [self._names[place] for place in order.tolist()]
        return other

    def path_of(self, index: int) -> str:
        """A name of image number ``index`` for messages: its file and its row."""
        return f"{self._files.place(int(self._file_of[index]))}/{self._row_of[index]}"

    def class_name(self, index: int) -> str | None:
        """What the class of image number ``index`` is called; None where that is unknown."""
        return None if self._names is None else self._names[index]

    def read(self, index: int) -> bytes:
        """The encoded file of image number ``index``.

        Raises:
            SourceError: it cannot be read. DecodeError: the row has none.
        """
        number, row = int(self._file_of[index]), int(self._row_of[index])
        with parsed_photos(f"row {row} of {self._files.place(number)}"):
            group, start = self._group_of(number, row)
            data = group.read(row - start)
        if not data:
            raise DecodeError(f"{self.path_of(index)} has no image bytes: restore the row.")
        return data

    def _group_of(self, number: int, row: int) -> tuple[_Group, int]:
        """The row group that holds a row, and its first row."""
        footer = self._footer_of(number)
        place, start = 0, 0
        while row >= start + footer.groups[place].rows:
            start += footer.groups[place].rows
            place += 1
        with self._lock:
            group = self._groups.get((number, place))
            if group is None:
                group = _Group(self._files, number, footer, place, self._image_column)
                self._groups[number, place] = group
            self._groups.move_to_end((number, place))
            nbytes = sum(group.bytes for group in self._groups.values())
            while len(self._groups) > 1 and (
                nbytes > (_SMALL_BYTES if len(self._groups) > _GROUPS else _KEPT_BYTES)
                or len(self._groups) > _MOST_GROUPS
            ):
                nbytes -= self._groups.popitem(last=False)[1].bytes
        return group, start

    def _footer_of(self, number: int) -> Footer:
        if number not in self._footers:
            with _opened(self._files, number) as (_, _, footer):
                self._footers[number] = footer
        return self._footers[number]

    def _rows(self, number: int, label_column: str | None) -> _Rows:
        """Paths and labels of a file's rows; its columns are checked."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = self._files.place(number)
        with parsed_photos(name), _opened(self._files, number) as (source, hold, footer):
            self._footers[number] = footer
            file = pq.ParquetFile(source)
            kind = checked_column(file, footer, name, self._image_column)
            rows = checked_rows(footer, name, self._image_column)
            paths: list[Any] = [None] * rows
            path = f"{self._image_column}.path"
            columns = {path, label_column or "label"}
            at_once = rows_at_once(check_claims(source, footer.groups, columns, hold))

            def batches(column: str, inner: str) -> Iterator[Any]:
                groups = range(len(footer.groups))
                return column_batches(file, groups, (column, inner), at_once, footer.size)

            if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
                arrays = batches(self._image_column, "path")
                paths = [path for array in arrays for path in array.to_pylist()]
            labels, unlabelled = read_labels(file, name, label_column, batches)
            if len(paths) != rows or (labels is not None and len(labels) != rows):
                raise SourceError(
                    f"the columns of {name} differ in length ({rows} rows, {len(paths)} paths, "
                    f"{len(labels or ())} labels): the file is damaged; restore it."
                )
            metadata = file.schema_arrow.metadata or {}
            return _Rows(
                paths, labels, names_of_labels(metadata, label_column or "label"), unlabelled
            )


@contextlib.contextmanager
def _opened(files: SourceFiles, number: int) -> Iterator[tuple[Any, Any, Footer]]:
    """A file of a source as pyarrow reads it, what asks for parts of it, and its footer."""
    import pyarrow.parquet as pq

    opened = files.open(number)
    with source_of(opened) as source:
        groups = row_groups(footer_of(source))
        yield (
            source,
            hold_of(opened),
            Footer(pq.ParquetFile(source).metadata, groups, source.size()),
        )


class _Group:
    """The encoded images of a row group: kept whole, or if they are large the latest batches."""

    def __init__(
        self, files: SourceFiles, number: int, footer: Footer, place: int, column: str
    ) -> None:
        self._files = files
        self._number = number
        self._metadata = footer.metadata
        self._place = place
        self._column = column
        group = footer.groups[place]
        size = sum(leaf.uncompressed for leaf in group.columns if leaf.name == column)
        self._group = group
        self._rows = group.rows
        self._batch_rows = max(1, _BATCH_BYTES * group.rows // max(size, 1))
        is_large = size > _KEPT_BYTES
        self.bytes = _BATCHES * _BATCH_BYTES if is_large else size
        self._most_kept = _BATCHES if is_large else self._rows
        self._kept: deque[tuple[int, Any]] = deque()
        self._held = 0
        self._coming: Iterator[tuple[int, Any]] = iter(())
        self._lock = threading.Lock()

    def read(self, row: int) -> bytes:
        """The image of a row of the group, empty where it is null."""
        with self._lock:
            if not self._kept or row < self._kept[0][0]:
                # From the beginning: a group can be read in one direction alone.
                self._kept.clear()
                self._held = 0
                self._coming = self._batches()
            for start, images in itertools.chain(list(self._kept), self._taken()):
                if row < start + len(images):
                    data = images[row - start].as_py()
                    return b"" if data is None else bytes(data)
        raise OSError(f"a row group of {self._rows} rows ends before row {row}")

    def _taken(self) -> Iterator[tuple[int, Any]]:
        """The batches to come, which are kept."""
        for start, images in self._coming:
            self._kept.append((start, images))
            # Rows that name one image are more, all together, than their group says.
            self._held += images.nbytes
            while len(self._kept) > self._most_kept or (
                self._held > _KEPT_BYTES and len(self._kept) > 1
            ):
                self._held -= self._kept.popleft()[1].nbytes
            yield start, images

    def _batches(self) -> Iterator[tuple[int, Any]]:
        """First row and images of each batch of the group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        start = 0
        opened = self._files.open(self._number)
        with source_of(opened) as source:
            file = pq.ParquetFile(source, metadata=self._metadata)
            is_struct = pa.types.is_struct(file.schema_arrow.field(self._column).type)
            leaf = self._column, "bytes" if is_struct else ""
            paths = {".".join(filter(None, leaf))}
            dictionary = check_claims(source, [self._group], paths, hold_of(opened))
            rows = min(self._batch_rows, rows_at_once(dictionary))
            size = source.size()
            for images in column_batches(file, [self._place], leaf, rows, size):
                yield start, images
                start += len(images)
