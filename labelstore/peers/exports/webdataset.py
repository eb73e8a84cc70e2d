"""WebDataset: tar shards of samples, an image each, with its labels as members beside one another.

A sample's key is the one that WebDataset gives the photo: its name up to the first dot of its last
part. Fields: ``indices.npy``, ``probs.npy``, ``residual.npy``, ``views.npy``, ``boxes.npy`` and
``flips.npy`` (a row a view, as ``labelstore.peers.exports.npz`` lists them), and ``json`` with the
image's full key, ground truth and size. With photos the encoded photo is a field, too.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from labelstore.errors import UsageError
from labelstore.images.photo_file import format_suffix
from labelstore.peers.exports.npz import residual_of
from labelstore.peers.exports.part import require_unique, safe_key
from labelstore.peers.exports.photos import PhotosOf
from labelstore.storage.whole_outputs import PieceFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from labelstore.images.sources.choose import ImageSource
    from labelstore.peers.exports.part import ExportPart, LabelRun, Tell

__all__ = ["SHARD_BYTES", "WebDataset", "sample_key"]

SHARD_BYTES = 256 * 10**6
"""Bytes of a shard, about: a shard ends with the sample that reaches it."""


def sample_key(key: str) -> str:
    """WebDataset's key of the sample that a file is in; UsageError for a name that has none."""
    folder, slash, name = safe_key(key, "its sample").rpartition("/")
    stem = name.partition(".")[0]
    if not stem:
        raise UsageError(
            f"the name of {key!r} begins with a dot, and WebDataset passes over such files: leave "
            "that image out."
        )
    return f"{folder}{slash}{stem}"


@dataclass(frozen=True)
class WebDataset:
    """Shards ``labels-000000.tar`` and so on; the images are in the store's order."""

    photos: ImageSource | None = None
    """Photos that go into the samples; labels alone when None."""
    shard_bytes: int = SHARD_BYTES

    name: ClassVar[str] = "webdataset"
    suffix: ClassVar[str] = ""

    def check(self, part: ExportPart) -> None:
        """UsageError for keys that WebDataset would not tell apart; MismatchError for other
        photos."""
        keys = part.keys
        require_unique(((key, sample_key(key)) for key in keys), "the samples")
        if self.photos is not None:
            PhotosOf(part.store, self.photos).require(part.images)

    def write(
        self, part: ExportPart, folder: Path, about: Mapping[str, Any], tell: Tell | None
    ) -> Mapping[str, int]:
        """As ``ExportFormat`` says."""
        photos = None if self.photos is None else PhotosOf(part.store, self.photos)
        with _Shards(folder, self.shard_bytes) as shards:
            for run in part.runs(tell):
                for place in range(len(run.images)):
                    shards.add(self._members(part, run, place, photos))
        return {}

    def _members(
        self, part: ExportPart, run: LabelRun, place: int, photos: PhotosOf | None
    ) -> Iterator[tuple[str, bytes]]:
        """Names and contents of a sample's members."""
        store, image = part.store, int(run.images[place])
        key = store.keys[image]
        sample = sample_key(key)
        if photos is not None:
            data = photos.read(image)
            # A key of a store that was made from tar shards has no suffix.
            ending = key[len(sample) + 1 :] or format_suffix(data, key)
            yield f"{sample}.{ending}", data
        width, height = (int(side) for side in store.sizes(image))
        about = {"key": key, "target": int(store.targets[image]), "width": width, "height": height}
        yield f"{sample}.json", json.dumps(about, ensure_ascii=False).encode()
        labels = run.labels[place]
        yield f"{sample}.views.npy", _npy(run.views[place].astype(np.int32))
        yield f"{sample}.indices.npy", _npy(labels.indices)
        yield f"{sample}.probs.npy", _npy(labels.probs)
        yield f"{sample}.residual.npy", _npy(residual_of(labels))
        if run.crops is not None:
            yield f"{sample}.boxes.npy", _npy(run.crops.box[place])
            yield f"{sample}.flips.npy", _npy(run.crops.flip[place])


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


class _Shards:
    """Tar files of a folder, one after the other."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder, self._bytes, self._count = folder, shard_bytes, 0
        self._file: PieceFile | None = None
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def add(self, members: Iterator[tuple[str, bytes]]) -> None:
        """Add a sample."""
        if self._tar is None or self._file is None:
            self._file = PieceFile(self._folder / f"labels-{self._count:06}.tar")
            stream: Any = self._file
            # GNU's headers are what WebDataset's own writer makes; times and owners are zero.
            self._tar = tarfile.TarFile(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT)
            self._count += 1
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o444
            self._tar.addfile(member, io.BytesIO(data))
        if self._file.tell() >= self._bytes:
            self._end()

    def _end(self) -> None:
        if self._tar is not None and self._file is not None:
            self._tar.close()
            self._file.close()
        self._tar = self._file = None
