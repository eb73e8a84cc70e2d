"""A data set of Parquet files, a row a view, that the Hugging Face hub's viewer shows and
``datasets.load_dataset`` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from labelstore.errors import require_packages
from labelstore.storage.whole_outputs import PieceFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from labelstore.peers.exports.part import ExportPart, LabelRun, Tell
    from labelstore.store.store import Store

__all__ = ["DATA_FILES", "HuggingFace", "label_table"]

DATA_FILES = "data/train-*.parquet"
"""The files, as a card names them: all labels are one split."""

SHARD_BYTES = 256 * 10**6
"""Bytes of a file, about: one ends with the row group that reaches it."""


def label_table(
    store: Store, run: LabelRun, names: Sequence[str] | None, classes: int | None = None
) -> pa.Table:
    """Labels as a table, a row a view, the views of an image beside each other.

    Args:
        store: they are of. run: which. names: of the classes, None where they are unknown.
        classes: how many of each label, at most; all when None.

    Returns:
        a table with the columns ``key`` (string), ``view`` (int32), ``target`` and ``target_name``
        (int32 and string, null where unknown), ``classes`` (list of int32, likeliest first),
        ``names`` (list of string, null where classes have no names), ``probabilities`` (list of
        float32, as they are stored), ``box`` (list of int32: top, left, height and width in
        pixels of the upright photo, null where unknown) and ``flip`` (bool, null where unknown).
    """
    import pyarrow as pa

    count, width = run.views.shape
    indices = run.labels.indices[..., :classes].reshape(count * width, -1)
    probs = run.labels.probs[..., :classes].reshape(count * width, -1)
    present = probs > 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(present.sum(axis=1))]), pa.int32())
    flat = pa.array(indices[present], pa.int32())
    called = None if names is None else pa.array(names, pa.string())
    owners = np.repeat(np.arange(count), width)
    targets = store.targets[run.images][owners]
    targets = pa.array(targets, pa.int32(), mask=targets < 0)
    if run.crops is None:
        box = pa.nulls(len(owners), pa.list_(pa.int32()))
        flip = pa.nulls(len(owners), pa.bool_())
    else:
        edges = pa.array(np.arange(len(owners) + 1) * 4, pa.int32())
        box = pa.ListArray.from_arrays(edges, pa.array(run.crops.box.reshape(-1), pa.int32()))
        flip = pa.array(run.crops.flip.reshape(-1))
    keys = pa.array([store.keys[row] for row in run.images.tolist()], pa.string())
    return pa.table(
        {
            "key": keys.take(pa.array(owners)),
            "view": pa.array(run.views.reshape(-1).astype(np.int32)),
            "target": targets,
            "target_name": (
                pa.nulls(len(owners), pa.string()) if called is None else called.take(targets)
            ),
            "classes": pa.ListArray.from_arrays(offsets, flat),
            "names": (
                pa.nulls(len(owners), pa.list_(pa.string()))
                if called is None
                else pa.ListArray.from_arrays(offsets, called.take(flat))
            ),
            "probabilities": pa.ListArray.from_arrays(offsets, pa.array(probs[present])),
            "box": box,
            "flip": flip,
        }
    )


@dataclass(frozen=True)
class HuggingFace:
    """Files ``data/train-00000.parquet`` and so on, of ``label_table``; a card belongs beside."""

    names: Sequence[str] | None = None
    """Of the classes, for people."""
    shard_bytes: int = SHARD_BYTES

    name: ClassVar[str] = "hf"
    suffix: ClassVar[str] = ""

    def check(self, part: ExportPart) -> None:
        """MissingPackageError without pyarrow."""
        require_packages("writing Parquet files", "pyarrow")

    def write(
        self, part: ExportPart, folder: Path, about: Mapping[str, Any], tell: Tell | None
    ) -> Mapping[str, int]:
        """As ``ExportFormat`` says."""
        files = _Files(folder, self.shard_bytes)
        try:
            for run in part.runs(tell):
                files.add(label_table(part.store, run, self.names))
        finally:
            files.end()
        return {}


class _Files:
    """Parquet files of a folder, one after the other."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder, self._bytes, self._count = folder, shard_bytes, 0
        self._file: PieceFile | None = None
        self._writer: Any = None

    def add(self, table: pa.Table) -> None:
        """Add a row group."""
        import pyarrow.parquet as pq

        if self._file is None:
            self._file = PieceFile(self._folder / "data" / f"train-{self._count:05}.parquet")
            self._writer = pq.ParquetWriter(
                self._file, table.schema, compression="zstd", write_page_checksum=True
            )
            self._count += 1
        self._writer.write_table(table, row_group_size=table.num_rows)
        if self._file.tell() >= self._bytes:
            self.end()

    def end(self) -> None:
        """Finish the file that is written."""
        if self._file is not None:
            self._writer.close()
            self._file.close()
        self._file = self._writer = None
