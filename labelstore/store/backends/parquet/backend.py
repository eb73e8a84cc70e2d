"""The Parquet backend: one row a view, plain class ids and probabilities, for SQL and data frames.

A folder of Parquet files. A block's labels are one file whose row groups are groups of views; page
checksums are written, and verified when read. Lists leave out places that hold no class, and an
image that could not be read has rows of nulls.
"""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from labelstore.errors import CorruptError
from labelstore.format.arrays import commit_columns
from labelstore.storage import local_files
from labelstore.storage.parquet.footer import OpenFile, footer_of
from labelstore.storage.parquet.pages import check_pages
from labelstore.storage.untrusted import (
    json_document,
    parsed,
    read_file,
    read_manifest,
    require_file,
)
from labelstore.store.backends.parquet.checks import (
    check_footer,
    check_numbers,
    commit_row,
    label_schema,
    measured_schema,
    stray_files,
    table_schema,
)
from labelstore.store.backends.parquet.columns import ArrayColumns, bytes_by_array
from labelstore.store.backends.parquet.tables import file_of, label_table, measured_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from labelstore.format.blocks import StoredArray, StoredObject
    from labelstore.format.manifest import Manifest
    from labelstore.format.settings import Encoding

__all__ = [
    "COMMITS",
    "FOLDERS",
    "LABELS",
    "MANIFEST",
    "MEASURED",
    "TABLE",
    "ParquetBackend",
    "block_file",
]

MANIFEST, TABLE = "manifest.json", "images.parquet"
LABELS, MEASURED, COMMITS = "labels", "measured", "commits"
FOLDERS = (LABELS, MEASURED, COMMITS)

UNPROVED_BYTES = 2**20
"""Bytes of commit rows that are looked for before the images are known to be there."""

_MEND = "make this part of the store again or restore it from a copy"

_OPEN_FILES = 16

_READING: dict[str, Any] = {
    "page_checksum_verification": True,
    "memory_map": False,
    "pre_buffer": False,
}
_PART_OF_FOLDER = {
    COMMITS: "commits",
    MEASURED: "images",
    TABLE: "images",
    LABELS: "labels/footers",
}


class ParquetBackend:
    """One store in a local folder; see ``Backend`` for the methods' contracts."""

    encoding: Encoding = "plain"
    # A row group is described in about 1,500 bytes.
    group_views = 16
    units = None

    def __init__(self, path: Path | str) -> None:
        self.path: Path | str = path
        self._manifest: Manifest
        self._columns: ArrayColumns
        self._files: OrderedDict[int, OpenFile] = OrderedDict()
        self._looked_at: dict[int, int] = {}
        self._numbered: set[tuple[int, int]] = set()
        """(block, group) whose rows are known to be of the images and views that they say."""
        self._paged: dict[int, set[tuple[int, str]]] = {}
        """By block, (group, array) whose page headers claim no more than is there."""

    def read_manifest(self) -> Any:
        with local_files.readable(Path(self.path, MANIFEST)):
            return json_document(read_manifest(Path(self.path), MANIFEST), self._where(MANIFEST))

    def open_arrays(self, manifest: Manifest) -> None:
        if manifest.encoding != self.encoding:
            raise CorruptError(
                f"{self.path}: the manifest says encoding {manifest.encoding!r}, expected "
                f"{self.encoding!r} in Parquet: {MANIFEST} was exchanged; restore it from a copy."
            )
        self._manifest = manifest
        self._columns = ArrayColumns(manifest)
        self._measured, self._labelled = measured_schema(manifest), label_schema(manifest)

    def open_for_writing(self, manifest: Manifest) -> None:
        """As ``open_arrays``, for a writer."""
        self.open_arrays(manifest)

    def read_keys(self) -> tuple[str, ...]:
        with parsed(self._where(TABLE), _MEND):
            keys: list[str] = []
            # Each key once: a table that names a long one a thousand times is not spread out.
            for chunk in self._table("key").chunks:
                places = chunk.indices.to_numpy(zero_copy_only=False)
                if len(np.unique(places)) < len(places):
                    raise ValueError("two images have the same key")
                values = chunk.dictionary.to_pylist()
                keys += [values[place] for place in places.tolist()]
            return tuple(keys)

    def read_targets(self) -> npt.NDArray[np.int32]:
        with parsed(self._where(TABLE), _MEND):
            column = self._table("target").to_numpy(zero_copy_only=False)
            return np.asarray(column, dtype=np.int32)

    def _table(self, column: str) -> pa.ChunkedArray:
        """A column of the image table; keys as a dictionary of them."""
        count = self._manifest.num_images
        opened = self._open(TABLE, ["key"])
        schema = table_schema()
        schema = schema.set(1, pa.field("key", pa.dictionary(pa.int32(), pa.string())))
        rows = check_footer(opened, schema)
        if sum(rows) != count:
            raise ValueError(f"{sum(rows)} rows, expected {count}")
        self._check_pages(opened, range(len(rows)), ["image", column])
        table = opened.file.read(["image", column], use_threads=False)
        check_numbers(table, np.arange(count))
        if table[column].null_count:
            raise ValueError(f"{table[column].null_count} nulls in {column}")
        return table[column]

    def read_commits(self, blocks: Sequence[int] | None = None) -> npt.NDArray[np.uint64]:
        manifest = self._manifest
        if manifest.num_blocks * commit_columns(manifest) * 8 > UNPROVED_BYTES:
            # So many images must be there before so many blocks are looked for.
            self.read_targets()
        self._refuse_strays()
        every = range(manifest.num_blocks) if blocks is None else blocks
        return np.stack([self.read_commit(block) for block in every])

    def _refuse_strays(self) -> None:
        """CorruptError where there are files that others would read as labels of this store."""
        manifest = self._manifest
        blocks = range(manifest.num_blocks)
        known = {block_file(folder, block) for folder in FOLDERS for block in blocks}
        with local_files.readable(Path(self.path)):
            names = [
                f"{folder}/{name}"
                for folder in FOLDERS
                if Path(self.path, folder).is_dir()
                for name in os.listdir(Path(self.path, folder))
            ]
        strays = stray_files(names, known)
        if strays:
            raise CorruptError(
                f"{self.path} has {len(strays)} files that are none of its {len(blocks)} blocks' "
                f"({strays[0]!r}), and SQL would read them as its labels: remove them."
            )

    def read_commit(self, block: int) -> npt.NDArray[np.uint64]:
        columns = commit_columns(self._manifest)
        name = block_file(COMMITS, block)
        data = self._bytes(name, 8 * columns + 2048)
        if data is None:
            return np.zeros(columns, dtype=np.uint64)
        with parsed(self._where(name), _MEND):
            return commit_row(data, columns)

    def read(self, name: str, images: slice, views: slice | None) -> npt.NDArray[Any]:
        manifest = self._manifest
        block = images.start // manifest.block_images
        if views is None:
            part = block_file(MEASURED, block)
            rows = np.arange(images.start, images.stop)
            with parsed(self._where(part), _MEND):
                opened = self._open(part)
                check_footer(opened, self._measured, [len(rows)])
                columns = ["image", *self._columns.of(name)]
                self._check_pages(opened, [0], columns)
                table = opened.file.read(columns, use_threads=False)
                check_numbers(table, rows)
                return self._columns.codes(name, table, (len(rows),), opened.size)
        groups = range(views.start // manifest.group_views, -(-views.stop // manifest.group_views))
        return np.concatenate([self._group(name, block, group) for group in groups], axis=1)

    def read_many(
        self, runs: Iterable[tuple[str, slice, slice | None]]
    ) -> Iterator[npt.NDArray[Any]]:
        return (self.read(*run) for run in runs)

    def fetch_block(self, block: int) -> None:
        """Nothing to do: the block is here."""

    def hold_block(self, block: int, groups: int | None = None) -> dict[str, StoredObject]:
        """Nothing: a file of labels has its images' numbers."""
        if groups is None:
            self.fetch_block(block)
        return {}

    def release_block(self, block: int) -> None:
        """Nothing to do."""

    def create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        opening = {"format": "labelstore", "state": "creating"}
        self._write(MANIFEST, json.dumps(opening).encode())
        table = pa.table(
            {
                "image": pa.array(np.arange(manifest.num_images, dtype=np.int32)),
                "key": pa.array(list(keys), type=pa.string()),
                "target": pa.array(np.asarray(targets, dtype=np.int32)),
            }
        )
        self._write(TABLE, file_of([table]))
        text = json.dumps(manifest.to_json(), indent=2, ensure_ascii=False)
        self._write(MANIFEST, text.encode())

    def committed(self, blocks: Sequence[int]) -> list[int]:
        folder = Path(self.path, COMMITS)
        with local_files.readable(folder):
            names = set(os.listdir(folder)) if folder.is_dir() else set()
        return [
            block
            for block in blocks
            if Path(block_file(COMMITS, block)).name in names and self.read_commit(block)[0]
        ]

    def encode_block(
        self,
        block: int,
        arrays: Mapping[str, npt.NDArray[Any]],
        stored: Mapping[str, StoredArray] | None = None,
    ) -> tuple[dict[str, bytes | None], None]:
        manifest = self._manifest
        rows = manifest.block_slice(block)
        groups = [
            label_table(arrays, rows, manifest.group_slice(group))
            for group in range(manifest.num_groups)
        ]
        objects: dict[str, bytes | None] = {
            block_file(MEASURED, block): file_of([measured_table(arrays, rows)]),
            block_file(LABELS, block): file_of(groups),
        }
        return objects, None

    def write_commit(self, block: int, row: npt.NDArray[np.uint64]) -> bool:
        buffer = io.BytesIO()
        np.save(buffer, row.astype("<u8"), allow_pickle=False)
        while not self._write_new(block_file(COMMITS, block), buffer.getvalue()):
            if self.read_commit(block)[0]:
                return False
            # A row of zeros: its commit was withdrawn.
            self.withdraw_commit(block)
        return True

    def withdraw_commit(self, block: int) -> None:
        local_files.delete_durably(Path(self.path, block_file(COMMITS, block)))

    def block_objects(self, block: int) -> list[str]:
        return [block_file(folder, block) for folder in (MEASURED, LABELS)]

    def bytes_by_part(self) -> dict[str, int]:
        parts: dict[str, int] = defaultdict(int)
        for name, size in self._sizes().items():
            folder = name.split("/")[0]
            if folder == LABELS:
                for part, count in self._bytes_by_array(name).items():
                    parts[part] += count
                    size -= count
            parts[_PART_OF_FOLDER.get(folder, "manifest")] += size
        return dict(parts)

    # What depends on where the store lies

    def _where(self, name: str) -> str:
        """A file's name in messages."""
        return f"{self.path}/{name}"

    def _bytes(self, name: str, limit: int) -> bytes | None:
        """The bytes of a file of at most ``limit``; None when it is not there."""
        file = Path(self.path, name)
        with local_files.readable(file):
            try:
                return read_file(file, self.path, limit)
            except FileNotFoundError:
                return None

    def _open(self, name: str, dictionaries: Sequence[str] = ()) -> OpenFile:
        """A file; columns ``dictionaries`` are read as such."""
        file = Path(self.path, name)
        require_file(file, self.path)
        source = pa.OSFile(str(file))
        footer = footer_of(source)
        opened = pq.ParquetFile(source, read_dictionary=list(dictionaries), **_READING)
        return OpenFile(opened, source.size(), footer, source)

    def _labels(self, block: int) -> OpenFile:
        """The open file of a block's labels; the last few are kept."""
        opened = self._files.pop(block, None)
        if opened is None:
            opened = self._open(block_file(LABELS, block))
            # Looking at a footer takes longer than reading a group, and each epoch opens it again.
            digest = xxhash.xxh3_64_intdigest(opened.footer)
            if self._looked_at.get(block) != digest:
                self._check_labels(block, opened)
                self._paged[block] = set()
                self._looked_at[block] = digest
        self._files[block] = opened
        while len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].file.close(force=True)
        return opened

    def _check_labels(self, block: int, opened: OpenFile) -> None:
        """Raise where the file of a block's labels is made up otherwise."""
        manifest = self._manifest
        rows = manifest.block_slice(block)
        widths = [manifest.group_slice(group) for group in range(manifest.num_groups)]
        counts = [(rows.stop - rows.start) * (part.stop - part.start) for part in widths]
        check_footer(opened, self._labelled, counts)

    def _write(self, name: str, data: bytes | memoryview) -> None:
        local_files.write_durably(Path(self.path, name), data)

    def write_objects(
        self, objects: Mapping[str, bytes | None], ready: Callable[[], None] = lambda: None
    ) -> None:
        local_files.write_together(
            {Path(self.path, name): data for name, data in objects.items()}, ready
        )

    def _write_new(self, name: str, data: bytes) -> bool:
        """Write a file that is not there; False where it is."""
        return local_files.write_new(Path(self.path, name), data)

    def _sizes(self) -> dict[str, int]:
        """Bytes of each of the store's files."""
        return local_files.file_sizes(Path(self.path))

    def _bytes_by_array(self, name: str) -> dict[str, int]:
        with parsed(self._where(name), _MEND):
            return bytes_by_array(self._open(name))

    def _group(self, name: str, block: int, group: int) -> npt.NDArray[Any]:
        """The codes of an array of a block in one group of views: one row group."""
        rows, views = self._manifest.block_slice(block), self._manifest.group_slice(group)
        shape = rows.stop - rows.start, views.stop - views.start
        # Digests say nothing of the rows' own numbers; they are looked at once, with the classes.
        seen = name != "labels/classes" or (block, group) in self._numbered
        numbers = [] if seen else ["image", "view"]
        with parsed(self._where(block_file(LABELS, block)), _MEND):
            opened = self._labels(block)
            columns = [*numbers, *self._columns.of(name)]
            # Where the footer is the same, finding its pages again takes as long as reading them.
            paged = self._paged.get(block, set())
            if numbers or (group, name) not in paged:
                self._check_pages(opened, [group], columns)
                paged.add((group, name))
            table = opened.file.read_row_group(group, columns, use_threads=False)
            codes = self._columns.codes(name, table, shape, opened.size)
            if numbers:
                images = np.repeat(np.arange(rows.start, rows.stop), shape[1])
                check_numbers(table, images, np.tile(np.arange(views.start, views.stop), shape[0]))
                self._numbered.add((block, group))
        return codes

    def _check_pages(self, opened: OpenFile, groups: Iterable[int], names: Sequence[str]) -> None:
        """ValueError where page headers of columns that are to be read claim what cannot be."""
        check_pages(opened.source, opened.columns(groups, names))


def block_file(folder: str, block: int) -> str:
    """The name of one of a block's files."""
    return f"{folder}/{block:06d}.{'npy' if folder == COMMITS else 'parquet'}"
