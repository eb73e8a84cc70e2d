"""DistillKit's Parquet files: packed log-probabilities of the k likeliest classes.

``data_N.parquet`` has a row a sequence, with lists of lists of uint8, an inner list a token;
``compression_config.yaml`` says how labels are packed. A row becomes an image, a token's label a
view.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import FormatError, LabelError, UsageError, require_packages
from labelstore.peers.distillkit.compression import Compression
from labelstore.peers.label_files import numbered_entries, require_all, require_folder
from labelstore.peers.peer_labels import PeerLabels, files_digest
from labelstore.peers.pickles.safe_pickle import MEND, read_bytes
from labelstore.storage.parquet.footer import footer_of, row_groups
from labelstore.storage.parquet.pages import check_pages
from labelstore.storage.untrusted import check_expansion, open_descriptor, parsed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.labels.top_k import LabelType
    from labelstore.peers.peer_labels import PeerOptions, Values

    Bytes = npt.NDArray[np.uint8]
    Float64Array = npt.NDArray[np.float64]

__all__ = ["DistillKitReader"]

CONFIG = "compression_config.yaml"

LOGPROBS, INDICES = "compressed_logprobs", "bytepacked_indices"

_MOST_CONFIG_BYTES = 1 << 16

_EXCESS = 1.25
"""What probabilities may sum to, since a polynomial is near them alone; more is no label."""


class DistillKitReader:
    """Reads a folder of DistillKit's captured labels; see ``PeerReader``.

    Rows were written in the order in which threads finished them, and name no image.
    """

    values: Values = "top-k"
    law = None
    class_names = None
    label_type: LabelType = "top-k"
    temperature = 1.0
    """The capturing script's."""
    targets = None
    explicit = False

    def __init__(self, path: Path, options: PeerOptions) -> None:
        require_packages("reading DistillKit's files", "pyarrow", "yaml")
        if options.photos is not None:
            raise UsageError(
                f"photos were given, and the rows in {path} name no image and are in no order of "
                "images: leave the photos out.",
                arguments=("photos",),
            )
        self._files = _data_files(path)
        self._compression = _read_config(path / CONFIG)
        if options.num_classes not in (None, self._compression.d):
            raise UsageError(
                f"{path / CONFIG} says {self._compression.d} classes, and {options.num_classes} "
                "were asked for: leave the number out, the files say it.",
                arguments=("num_classes",),
            )
        self.num_classes: int | None = self._compression.d
        self.k: int | None = self._compression.k
        self._groups: list[tuple[Path, int, int]] = []
        """Of each row group its file, its number there, and how many rows it has."""
        for file in self._files:
            self._groups += [(file, group, rows) for group, rows in enumerate(_rows_of(file))]
        self._starts = np.cumsum([0, *(rows for _, _, rows in self._groups)])
        if not self._starts[-1]:
            raise FormatError(f"{path} has no rows: get it anew, or give another folder.")
        self._held: tuple[int, npt.NDArray[Any], npt.NDArray[Any]] | None = None
        self.num_views = 0
        self.num_views = self._group(int(np.searchsorted(self._starts, 0, "right")) - 1)[0].shape[1]
        self.keys = [str(number) for number in range(int(self._starts[-1]))]
        with parsed(path, MEND):
            self.digest = files_digest(path, [*self._files, path / CONFIG])
        self.notes = (
            "A row is an image and a token a view: keys are the numbers of the rows, which name no "
            "photo, and views are unknown.",
        )
        self.extra = {"views": "tokens"}

    def images(self, numbers: Sequence[int]) -> PeerLabels:
        """As ``PeerReader.images``."""
        groups = np.searchsorted(self._starts, np.asarray(numbers), "right") - 1
        indices = np.zeros((len(numbers), self.num_views, self._compression.k), np.int32)
        probs = np.zeros(indices.shape, np.float64)
        for group in np.unique(groups):
            logprobs, ids = self._group(int(group))
            at = np.flatnonzero(groups == group)
            rows = np.asarray(numbers)[at] - self._starts[group]
            shape = (len(at) * self.num_views, -1)
            labels = self._labels(
                self._groups[group][0], logprobs[rows].reshape(shape), ids[rows].reshape(shape)
            )
            indices[at], probs[at] = (values.reshape(indices[at].shape) for values in labels)
        return PeerLabels(indices, probs)

    def _labels(
        self, file: Path, logprobs: Bytes, packed: Bytes
    ) -> tuple[npt.NDArray[np.int64], Float64Array]:
        """(n, k) class ids and falling probabilities."""
        logs, ids = self._compression.logprobs(logprobs), self._compression.indices(packed)
        with np.errstate(over="ignore"):
            probs = np.exp(logs)
        total = probs.sum(axis=1)
        # NaN fails the comparison, too.
        if not (total <= _EXCESS).all() or not (total > 0).all():
            row = int(np.argmin((total <= _EXCESS) & (total > 0)))
            raise LabelError(
                f"{file} has a label whose probabilities sum to {total[row]:g}, expected at most 1:"
                f" it is damaged, or packed otherwise than {CONFIG} says; {MEND}."
            )
        # Places without a class have probability 0.
        ids = np.where(probs > 0, ids, 0)
        order = np.argsort(-probs, axis=1, kind="stable")
        ids, probs = np.take_along_axis(ids, order, 1), np.take_along_axis(probs, order, 1)
        distinct = np.where(probs > 0, ids, -1 - np.arange(ids.shape[1]))
        ordered = np.sort(distinct, axis=1)
        if ids.max() >= self._compression.d or (ordered[:, 1:] == ordered[:, :-1]).any():
            raise LabelError(
                f"{file} has a class twice in a label, or one that is not below "
                f"{self._compression.d}: it is damaged, or packed otherwise than {CONFIG} says; "
                f"{MEND}."
            )
        return ids, probs / np.maximum(probs.sum(axis=1, keepdims=True), 1)

    def _group(self, group: int) -> tuple[Bytes, Bytes]:
        """(rows, views, bytes) of both columns of a row group; the latest one is kept."""
        if self._held is None or self._held[0] != group:
            file, number, rows = self._groups[group]
            with parsed(file, MEND):
                columns = _read_group(file, number, (LOGPROBS, INDICES))
                arrays = []
                for column, size in zip(columns, self._compression.sizes, strict=True):
                    arrays.append(self._bytes(column, rows, size))
            self._held = (group, arrays[0], arrays[1])
        return self._held[1], self._held[2]

    def _bytes(self, column: Any, rows: int, size: int) -> Bytes:
        """(rows, views, size) of a list of lists of bytes; ValueError where they differ."""
        column = column.combine_chunks()
        inner = column.flatten()
        values = inner.flatten()
        if column.null_count or inner.null_count or values.null_count or len(column) != rows:
            raise ValueError("it has rows without labels")
        lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
        views = self.num_views or int(lengths[0])
        if lengths.tolist() != [views] or not views:
            raise ValueError(
                f"it has rows of {lengths[0]} to {lengths[-1]} tokens, expected {views}: all "
                "images of a store have the same number of views"
            )
        sizes = np.unique(inner.value_lengths().to_numpy(zero_copy_only=False))
        if sizes.tolist() != [size]:
            raise ValueError(f"labels have {sizes[-1]} bytes, expected {size} as {CONFIG} says")
        flat: Bytes = values.to_numpy(zero_copy_only=False).astype(np.uint8, casting="safe")
        return flat.reshape(rows, views, size)


def _data_files(path: Path) -> list[Path]:
    """``data_0.parquet``, ``data_1.parquet``, ...

    Raises:
        NotFoundError, FormatError: there are none. CorruptError: one is missing.
    """
    require_folder(path, "of DistillKit's captured labels")
    files = numbered_entries(path, "data_{}.parquet")
    if not files:
        raise FormatError(
            f"{path} has no data_0.parquet, expected DistillKit's folder of captured labels: give "
            "that one, whole."
        )
    require_all(path, "data_{}.parquet", files)
    return list(files.values())


def _read_config(file: Path) -> Compression:
    if not file.exists():
        raise FormatError(
            f"{file} is missing, and it alone says how labels are packed: get it from where the "
            "Parquet files came from."
        )
    import yaml

    with parsed(file, MEND):
        data = read_bytes(file)
        if len(data) > _MOST_CONFIG_BYTES:
            raise ValueError(f"it has {len(data):,} bytes")
        return Compression.from_document(yaml.safe_load(data))


def _rows_of(file: Path) -> list[int]:
    """Rows of each row group, by the footer; the columns are there.

    Raises:
        FormatError: they are not. CorruptError: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with parsed(file, MEND), _opened(file) as source:
        groups = [group.rows for group in row_groups(footer_of(source))]
        if any(not 0 <= rows < 1 << 31 for rows in groups):
            raise ValueError("it has a row group of so many rows as cannot be")
        schema = pq.ParquetFile(source).schema_arrow
        kinds = {field.name: field.type for field in schema}
        if not {LOGPROBS, INDICES} <= kinds.keys():
            raise FormatError(
                f"{file} has the columns {', '.join(kinds)[:200]}, expected {LOGPROBS} and "
                f"{INDICES}: DistillKit's older formats are not read; capture the labels again."
            )
        for name in (LOGPROBS, INDICES):
            kind = kinds[name]
            nested = pa.types.is_list(kind) and pa.types.is_list(kind.value_type)
            if not nested or kind.value_type.value_type != pa.uint8():
                raise ValueError(f"its column {name} is {kind}, expected lists of lists of uint8")
        return groups


def _read_group(file: Path, group: int, names: Sequence[str]) -> list[Any]:
    """Columns of a row group, once it is known that they do not claim more than they have."""
    import pyarrow.parquet as pq

    with _opened(file) as source:
        columns = [
            column
            for column in row_groups(footer_of(source))[group].columns
            if column.name.partition(".")[0] in names
        ]
        check_pages(source, columns)
        # A dictionary and runs of the same value make many values of a few bytes.
        claimed = sum(max(column.uncompressed, column.values) for column in columns)
        check_expansion(claimed, source.size())
        table = pq.ParquetFile(source).read_row_group(group, columns=list(names))
        return [table.column(name) for name in names]


def _opened(file: Path) -> Any:
    """A regular file, for pyarrow."""
    import pyarrow as pa

    os.close(open_descriptor(file))
    return pa.OSFile(str(file))
