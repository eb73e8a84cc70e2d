"""A materialized copy of a store: decoded labels as plain ``.npy`` files, mapped into memory.

A folder of arrays in NumPy's own format, little-endian, which ``numpy.load`` opens as they are:

    materialized.json              the manifest, and which store it is a copy of
    commits.npy                    (blocks, parts) uint64 commit digests, as in any store
    images/key.npy, target.npy     keys as fixed-width text, ground truth
    images/*.npy, labels/*.npy     the arrays of ``labelstore.format.arrays``, encoding ``plain``

It is made whole by ``labelstore.operations.materialize`` and read only.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from labelstore.errors import CorruptError, StoreError, UsageError
from labelstore.format.arrays import commit_columns, image_arrays, prior_arrays, view_arrays
from labelstore.storage import local_files
from labelstore.storage.untrusted import DOCUMENT_BYTES, json_document, open_file, parsed, read_file
from labelstore.store.backends.npy_header import HEADER_BYTES, array_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from labelstore.format.blocks import StoredArray, StoredObject
    from labelstore.format.manifest import Manifest
    from labelstore.format.settings import Encoding

__all__ = [
    "COMMITS",
    "KEYS",
    "MATERIALIZED",
    "TARGETS",
    "MappedBackend",
    "array_file",
    "new_array",
    "require_short_keys",
]

MATERIALIZED = "materialized.json"
"""The file that makes a folder a materialized copy; written last."""

COMMITS, KEYS, TARGETS = "commits", "images/key", "images/target"

_MEND = "materialize the store again"


def array_file(root: Path, name: str) -> Path:
    """Where an array of a copy lies."""
    return root / f"{name}.npy"


def new_array(root: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """A new array file, mapped for writing; StoreError where the disk has no room for it."""
    file = array_file(root, name)
    local_files.make_directory(file.parent)
    with local_files.explained(file):
        array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # A mapping of room that the disk does not have would end the process.
            with file.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, max(file.stat().st_size, 1))
    return array


_KEY_BYTES, _KEY_GROWTH = 2**26, 64
"""Bytes that an array of keys may always take; beyond that, bytes for a character of the keys."""


def require_short_keys(path: Path | str, keys: Sequence[str]) -> None:
    """StoreError where one long key would make an array of keys, all of one width, huge.

    Args:
        path: of the store, for the message. keys: of its images.
    """
    longest = max(map(len, keys), default=0)
    width = 4 * longest * len(keys)
    if width > max(_KEY_BYTES, _KEY_GROWTH * sum(map(len, keys))):
        raise StoreError(
            f"{path} has a key of {longest:,} characters, and in a copy each of its "
            f"{len(keys):,} keys takes as much room, {width:,} bytes: name that image by a "
            "shorter key."
        )


class MappedBackend:
    """One materialized copy; see ``Backend`` for the methods' contracts."""

    encoding: Encoding = "plain"
    group_views = 4
    units = None

    def __init__(self, path: Path | str) -> None:
        self.path: Path | str = path
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self.mapped: dict[str, npt.NDArray[Any]] = {}
        """The arrays with views, whole: unverified bytes of the files."""
        self._states: dict[str, tuple[int, int, int] | None] = {}
        self._touched: dict[str, int] = {}

    def read_manifest(self) -> Any:
        return self.description()["manifest"]

    def description(self) -> dict[str, Any]:
        """What ``materialized.json`` says: ``manifest``, and ``source`` with its path, id and the
        digest of its commits.

        Raises:
            CorruptError: it says nothing that can be read.
        """
        file = Path(self.path, MATERIALIZED)
        with parsed(file, _MEND):
            document = json_document(read_file(file, self.path, DOCUMENT_BYTES), file)
            source = document["source"]
            if not all(isinstance(source[name], str) for name in ("path", "id", "commits")):
                raise ValueError("it does not name the store that it was made of")
            return {"manifest": document["manifest"], "source": source}

    def open_arrays(self, manifest: Manifest) -> None:
        labels = view_arrays(manifest)
        columns = commit_columns(manifest)
        specs = (*labels, *image_arrays(manifest), *prior_arrays(manifest))
        shapes: list[tuple[str, tuple[int, ...], np.dtype[Any] | None]] = [
            (spec.name, spec.shape, spec.dtype) for spec in specs
        ]
        shapes.append((COMMITS, (manifest.num_blocks, columns), np.dtype("<u8")))
        shapes.append((TARGETS, (manifest.num_images,), np.dtype("<i4")))
        shapes.append((KEYS, (manifest.num_images,), None))
        for name, shape, dtype in shapes:
            array = self._open(name)
            kind_fits = array.dtype.kind == "U" if dtype is None else array.dtype == dtype
            if array.shape != shape or not kind_fits or not array.flags.c_contiguous:
                raise CorruptError(
                    f"{array_file(Path(self.path), name)} has shape {array.shape} and type "
                    f"{array.dtype}, the manifest implies {shape} and {dtype or 'text'}: it was "
                    "changed; materialize the store again."
                )
            self._arrays[name] = array
        self.mapped = {spec.name: np.asarray(self._arrays[spec.name]) for spec in labels}
        files_of_labels = [str(array_file(Path(self.path), name)) for name in self.mapped]
        states = {file: _state(file) for file in files_of_labels}
        self._states = {file: state[0] for file, state in states.items()}
        self._touched = {file: state[1] for file, state in states.items()}

    def touched(self) -> bool:
        """Whether what was compared with its digests must be compared again: somebody may have
        written to a file and set its time back, or changed no more than its rights.

        Files are looked at, not their bytes: a change within the same tick of the file system's
        clock (some milliseconds) as the last look is not noticed before the copy is opened anew.

        Raises:
            CorruptError: a file of labels was changed or taken away since the copy was opened.
        """
        again = False
        for file, state in self._states.items():
            current, touched = _state(file)
            if current != state:
                raise CorruptError(
                    f"{file} was changed, or taken away, while it was open: materialize the store "
                    "again, or open the copy anew if that has been done."
                )
            again |= touched != self._touched[file]
            self._touched[file] = touched
        return again

    def _open(self, name: str) -> npt.NDArray[Any]:
        file = array_file(Path(self.path), name)
        with parsed(file, _MEND):
            with open_file(file, self.path) as opened:
                header = array_header(opened.read(HEADER_BYTES) or b"")
                array: npt.NDArray[Any] = np.memmap(
                    opened,
                    dtype=header.dtype,
                    mode="r",
                    offset=header.start,
                    shape=header.shape,
                    order="F" if header.fortran_order else "C",
                )
            # A view as a plain array: indexing a memmap makes memmaps, which is slow.
            return np.asarray(array)

    def read_keys(self) -> tuple[str, ...]:
        with parsed(array_file(Path(self.path), KEYS), _MEND):
            return tuple(self._arrays[KEYS].tolist())

    def read_targets(self) -> npt.NDArray[np.int32]:
        return np.array(self._arrays[TARGETS], dtype=np.int32)

    def read_commits(self, blocks: Sequence[int] | None = None) -> npt.NDArray[np.uint64]:
        rows = self._arrays[COMMITS]
        return np.array(rows if blocks is None else rows[list(blocks)], dtype=np.uint64)

    def read_commit(self, block: int) -> npt.NDArray[np.uint64]:
        return np.array(self._arrays[COMMITS][block], dtype=np.uint64)

    def read(self, name: str, images: slice, views: slice | None) -> npt.NDArray[Any]:
        array = self._arrays[name]
        return array[images] if views is None else array[images, views]

    def read_many(
        self, runs: Iterable[tuple[str, slice, slice | None]]
    ) -> Iterator[npt.NDArray[Any]]:
        return (self.read(*run) for run in runs)

    def fetch_block(self, block: int) -> None:
        """Nothing to do: the block is here."""

    def hold_block(self, block: int, groups: int | None = None) -> dict[str, StoredObject]:
        """Nothing: arrays lie in whole files."""
        return {}

    def release_block(self, block: int) -> None:
        """Nothing to do."""

    def block_objects(self, block: int) -> list[str]:
        return []

    def bytes_by_part(self) -> dict[str, int]:
        parts: dict[str, int] = defaultdict(int)
        root = Path(self.path)
        for file in root.rglob("*"):
            if file.is_file():
                name = file.relative_to(root).with_suffix("").as_posix()
                parts[name if name in self._arrays else "manifest"] += file.stat().st_size
        return dict(parts)

    def create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        self.refuse()

    def open_for_writing(self, manifest: Manifest) -> None:
        """Refused."""
        self.refuse()

    def committed(self, blocks: Sequence[int]) -> list[int]:
        return [block for block in blocks if self.read_commit(block)[0]]

    def encode_block(
        self,
        block: int,
        arrays: Mapping[str, npt.NDArray[Any]],
        stored: Mapping[str, StoredArray] | None = None,
    ) -> tuple[dict[str, bytes | None], None]:
        self.refuse()

    def write_objects(
        self, objects: Mapping[str, bytes | None], ready: Callable[[], None] = lambda: None
    ) -> None:
        self.refuse()

    def write_commit(self, block: int, row: npt.NDArray[np.uint64]) -> bool:
        self.refuse()

    def withdraw_commit(self, block: int) -> None:
        self.refuse()

    def refuse(self) -> NoReturn:
        """Raise the UsageError of every attempt to write."""
        raise UsageError(
            f"{self.path} is a materialized copy, which is read only: write to the store that it "
            "was made from and materialize that again, or choose another name."
        )


def _state(file: str) -> tuple[tuple[int, int, int] | None, int]:
    """What differs when a file is another or another's content (None for one that is not there),
    and what differs when anything was done to it, which nobody can set back."""
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None, 0
    return (status.st_ino, status.st_size, status.st_mtime_ns), status.st_ctime_ns
