"""Stores of units, as decision 24 has them: one file a block, made of a store and read here.

What surrounds the files (manifest, commits, lists of likely classes) is the store's. Reading is
done as a back end would do it: one ranged read of a group's row of the index and one of each unit,
all compared with digests that a commit holds.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.format.arrays import array_digest, view_arrays
from labelstore.format.units.prefix_codes import pack
from labelstore.format.units.unit_code import UnitCode, Units

if TYPE_CHECKING:
    from pathlib import Path

    from labelstore.format.manifest import Manifest
    from labelstore.store.store import Store

__all__ = ["Layout", "UnitReader", "write_unit_files"]

NAME = "labels/units"
_SIZE = np.uint64(0xFFFF)
"""An entry of the index: the unit's bytes, and above them the higher 48 bits of its digest."""


@dataclass(frozen=True)
class Layout:
    """How a store's labels are cut into units of ``unit_images`` images in a group of views."""

    manifest: Manifest
    unit_images: int

    @functools.cached_property
    def code(self) -> UnitCode:
        specs = view_arrays(self.manifest)
        return UnitCode(specs, bool(self.manifest.prior_size), self.manifest.num_classes)

    @functools.cached_property
    def units(self) -> int:
        """Of a group of a whole block."""
        return -(-self.manifest.block_images // self.unit_images)

    @property
    def row_bytes(self) -> int:
        """Of a group in the index: where its first unit begins, and an entry for each unit."""
        return 8 + 8 * self.units

    def labels(self, block: int, group: int) -> np.ndarray:
        """(units,) int64 how many labels each unit has."""
        rows, columns = self.manifest.block_slice(block), self.manifest.group_slice(group)
        return self._counts(rows.stop - rows.start, columns.stop - columns.start)

    def _counts(self, images: int, views: int) -> np.ndarray:
        held = self._labels.get((images, views))
        if held is None:
            first = np.arange(0, images, self.unit_images)
            held = (np.minimum(first + self.unit_images, images) - first) * views
            self._labels[images, views] = held
        return held

    @functools.cached_property
    def _labels(self) -> dict[tuple[int, int], np.ndarray]:
        """Of groups of some images x views: all but the last of each kind are alike."""
        return {}

    def seed(self, block: int, group: int) -> int:
        """To which a unit's number is added: the seed of its digest."""
        return array_digest(self.manifest.id, NAME, block, group, np.empty(0, np.uint8))

    def digests(self, codes: Any, labels: np.ndarray, seed: int) -> np.ndarray:
        """(units,) uint64 digests of the units of a group, the lowest 16 bits 0."""
        seeds = np.uint64(seed) + np.arange(len(labels), dtype=np.uint64)
        return self.code.unit_digests(codes, labels, seeds) & ~_SIZE


def write_unit_files(folder: Path, store: Store, unit_images: int) -> np.ndarray:
    """The unit files of a store; (blocks, groups) uint64, what commits hold of their indexes."""
    folder.mkdir()
    manifest, layout = store.manifest, Layout(store.manifest, unit_images)
    code = layout.code
    commits = np.zeros((manifest.num_blocks, manifest.num_groups), dtype=np.uint64)
    for block in range(manifest.num_blocks):
        _, _, codes = store._reader.block_codes(block, manifest.num_views)
        lengths = code.fit({name: p.reshape(-1, *p.shape[2:]) for name, p in codes.items()})
        data, index, end = [], b"", 0
        for group in range(manifest.num_groups):
            columns = manifest.group_slice(group)
            parts = {n: p[:, columns].reshape(-1, *p.shape[2:]) for n, p in codes.items()}
            labels = layout.labels(block, group)
            units, sizes = code.encode_arrays(parts, labels, lengths)
            if int(sizes.max()) > int(_SIZE):
                raise SystemExit(
                    f"a unit has {sizes.max()} bytes, at most 65,535: take fewer images"
                )
            digests = layout.digests(parts, labels, layout.seed(block, group))
            commits[block, group] = array_digest(manifest.id, NAME, block, group, digests)
            row = np.array([end, *(digests | sizes.astype(np.uint64)).tolist()], dtype=np.uint64)
            index += row.tobytes().ljust(layout.row_bytes, b"\0")
            data.append(units)
            end += len(units)
        tables = pack(lengths)
        file = (*data, tables, len(tables).to_bytes(4, "little"), index)
        (folder / str(block)).write_bytes(b"".join(file))
    return commits


class UnitReader:
    """Reads unit files; nothing is kept between calls but open files and tables."""

    def __init__(self, folder: Path, manifest: Manifest, unit_images: int, commits: Any) -> None:
        self._folder, self._manifest, self._commits = str(folder), manifest, commits
        self.layout = Layout(manifest, unit_images)
        self.code = self.layout.code
        self._files: dict[int, tuple[int, int, bytes]] = {}

    def close(self) -> None:
        for file, _, _ in self._files.values():
            os.close(file)
        self._files.clear()

    def _file(self, block: int) -> tuple[int, int, bytes]:
        """The open file of a block, where its index begins, and its tables."""
        held = self._files.get(block)
        if held is None:
            file = os.open(f"{self._folder}/{block}", os.O_RDONLY)
            index = os.fstat(file).st_size - self._manifest.num_groups * self.layout.row_bytes
            start = max(index - 4096, 0)
            tail = os.pread(file, index - start, start)
            size = int.from_bytes(tail[-4:], "little")
            if size + 4 > index:
                raise SystemExit(f"the tables of block {block} would begin before its file does")
            if size + 4 > len(tail):
                tail = os.pread(file, size + 4, index - size - 4)
            held = self._files[block] = file, index, tail[-4 - size : -4]
        return held

    def _row(self, block: int, group: int) -> np.ndarray:
        """(1 + units,) uint64, a group's row of the index, as it was committed."""
        file, index, _ = self._file(block)
        size = self.layout.row_bytes
        row = np.frombuffer(os.pread(file, size, index + group * size), np.uint64)
        rows = self._manifest.block_slice(block)
        many = -(-(rows.stop - rows.start) // self.layout.unit_images)
        digest = array_digest(self._manifest.id, NAME, block, group, row[1 : 1 + many] & ~_SIZE)
        if digest != self._commits[block, group]:
            raise SystemExit(f"the index of block {block}, group {group} is not as committed")
        return row

    def gather(self, images: np.ndarray, views: np.ndarray) -> dict[str, Any]:
        """Codes (n, ...) of views (n,) of images (n,), by array name."""
        manifest, unit_images, per_group = (
            self._manifest,
            self.layout.unit_images,
            self.layout.units,
        )
        block, row = np.divmod(images, manifest.block_images)
        group, column = np.divmod(views, manifest.group_views)
        chunk = block * manifest.num_groups + group
        units, place = np.unique(chunk * per_group + row // unit_images, return_inverse=True)
        chunks, number = np.divmod(units, per_group)
        chunks, of = np.unique(chunks, return_inverse=True)
        blocks, groups = np.divmod(chunks, manifest.num_groups)
        where = list(zip(blocks.tolist(), groups.tolist(), strict=True))
        rows = np.stack([self._row(*which) for which in where])
        seeds = np.array([self.layout.seed(*which) for which in where], np.uint64)
        entries = rows[of, 1 + number]
        sizes = (entries & _SIZE).astype(np.int64)
        ends = np.cumsum(rows[:, 1:] & _SIZE, axis=1)[of, number] + rows[of, 0]
        images_there = np.minimum(
            (number + 1) * unit_images,
            np.minimum(
                manifest.block_images, manifest.num_images - blocks[of] * manifest.block_images
            ),
        )
        columns = np.minimum(
            manifest.group_views, manifest.num_views - groups * manifest.group_views
        )
        labels = (images_there - number * unit_images) * columns[of]
        files = [self._file(which)[0] for which in blocks.tolist()]
        begins = (ends.astype(np.int64) - sizes).tolist()
        pieces = [(files[at], begin) for at, begin in zip(of.tolist(), begins, strict=True)]
        data = _read(pieces, sizes)
        shards, shard = np.unique(blocks[of], return_inverse=True)
        tables = [self._file(which)[2] for which in shards.tolist()]
        codes = self.code.decode_arrays(tables, Units(data, sizes, labels, shard))
        digests = self.code.unit_digests(codes, labels, seeds[of] + number.astype(np.uint64))
        if ((digests ^ entries) & ~_SIZE).any():
            raise SystemExit("a unit is not as committed")
        starts = np.cumsum(labels) - labels
        at = starts[place] + row % unit_images * columns[of][place] + column
        return {name: values.take(at, axis=0) for name, values in codes.items()}

    def codes(
        self, places: list[tuple[int, int]], first: str | None = None
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Codes (labels, ...) of some (block, group), by array name, or of one array alone, and
        (places,) where each ends. They are not compared with anything: a commit holds the digests
        of arrays' groups as it does today."""
        pieces, sizes, labels, blocks = [], [], [], []
        for block, group in places:
            file, index, _ = self._file(block)
            many = self.layout.labels(block, group)
            size = self.layout.row_bytes
            row = np.frombuffer(os.pread(file, size, index + group * size), np.uint64)
            size = (row[1 : 1 + len(many)] & _SIZE).astype(np.int64)
            pieces.append((file, int(row[0])))
            sizes.append(size)
            labels.append(many)
            blocks.append(np.full(len(many), block))
        of, shards = np.unique(np.concatenate(blocks), return_inverse=True)
        many = np.concatenate(labels)
        whole = np.array([size.sum() for size in sizes])
        data = _read(pieces, whole)
        units = Units(data, np.concatenate(sizes), many, shards)
        tables = [self._file(block)[2] for block in of.tolist()]
        codes = self.code.decode_arrays(tables, units, None if first is None else [first])
        return codes, np.cumsum([part.sum() for part in labels])

    def check_units(self, places: list[tuple[int, int]], codes: dict[str, Any]) -> None:
        """SystemExit unless the units of some (block, group) are what their index says."""
        labels = [self.layout.labels(*place) for place in places]
        first = np.array([self.layout.seed(*place) for place in places], np.uint64)
        many = [len(part) for part in labels]
        number = np.concatenate([np.arange(count, dtype=np.uint64) for count in many])
        seeds = np.repeat(first, many) + number
        found = self.code.unit_digests(codes, np.concatenate(labels), seeds)
        rows = [self._row(*place)[1 : 1 + count] for place, count in zip(places, many, strict=True)]
        if ((found ^ np.concatenate(rows)) & ~_SIZE).any():
            raise SystemExit("a unit is not as committed")


def _read(pieces: list[tuple[int, int]], sizes: np.ndarray) -> np.ndarray:
    """What lies at places of open files, of some sizes, one after another."""
    ends = np.cumsum(sizes)
    data = np.empty(int(ends[-1]), np.uint8)
    view = memoryview(data)
    for (file, place), start, end in zip(
        pieces, (ends - sizes).tolist(), ends.tolist(), strict=True
    ):
        if os.preadv(file, (view[start:end],), place) < end - start:
            raise SystemExit("a unit file ends too early")
    return data
