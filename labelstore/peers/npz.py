"""Arrays of one's own in one ``.npz`` file, as ``numpy.savez`` writes it.

| array | shape and type | |
|---|---|---|
| `probs` or `logits` | (N, V, C) or (N, C) floats | full distributions |
| or `indices`, `probs` | (N, V, k) integers and floats | k classes, likeliest first |
| `keys` | (N,) text | may be absent: `"0"`, `"1"`, ... |
| `targets` | (N,) integers | may be absent: ground truth, -1 unknown |
| `boxes`, `flips` | (N, V, 4) integers, (N, V) bool | may be absent: crops in pixels |
| `widths`, `heights` | (N,) integers | may be absent |
| `num_classes`, `temperature` | () number | may be absent |
| `manifest` | () text | of `labelstore export --to npz`: what the labels are |
"""

from __future__ import annotations

import io
import os
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from labelstore.errors import CorruptError, FormatError, LabelError, NotFoundError
from labelstore.peers.peer_labels import PeerLabels
from labelstore.peers.pickles.safe_pickle import MEND
from labelstore.storage.untrusted import (
    check_expansion,
    json_document,
    open_descriptor,
    parsed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.labels.top_k import LabelType
    from labelstore.peers.peer_labels import PeerOptions, Values

__all__ = ["NpzReader"]

_COPY_BYTES = 1 << 20

_LOCAL_HEADER = 30
"""Bytes of a zip's header before a member, but for its name and its extra."""


class NpzReader:
    """Reads one ``.npz`` file; arrays that are not compressed are read where they lie."""

    law = None

    def __init__(self, path: Path, options: PeerOptions) -> None:
        if not path.exists():
            raise NotFoundError(f"there is no file {path}: give an .npz file.")
        self._path = path
        with parsed(path, MEND):
            arrays, self.digest = _opened(path)
        self._indices, self._dense = arrays.get("indices"), arrays.get("logits")
        probs = arrays.get("probs")
        if (self._dense is None) == (probs is None):
            raise FormatError(
                f"{path} holds the arrays {', '.join(sorted(arrays)) or 'none'}, expected probs or "
                "logits of all classes, or indices and probs: call them so."
            )
        self.values: Values = "logits"
        if probs is not None:
            self.values = "probs" if self._indices is None else "top-k"
        self._probs = _labels_of(probs if self._dense is None else self._dense, path)
        num_images, self.num_views, width = self._probs.shape
        if self._indices is not None:
            self._indices = _labels_of(self._indices, path, kinds="iu")
            if self._indices.shape != self._probs.shape:
                raise FormatError(
                    f"{path} has indices {self._indices.shape} and probs {self._probs.shape}, "
                    "expected two equal shapes (images, views, k)."
                )
        self.k: int | None = width if self.values == "top-k" else None
        about = _about(arrays.get("manifest"), path)
        self.label_type: LabelType = about.get("label_type", "top-k")
        self.num_classes = self._classes(arrays, about, options.num_classes, width)
        self.class_names = _class_names(about, self.num_classes, path)
        temperature = _number(arrays.get("temperature"), about.get("temperature"))
        self.temperature = None if self.values == "logits" else temperature
        for name, shape, kinds in (
            ("keys", (num_images,), "U"),
            ("targets", (num_images,), "iu"),
            ("widths", (num_images,), "iu"),
            ("heights", (num_images,), "iu"),
            ("boxes", (num_images, self.num_views, 4), "iu"),
            ("flips", (num_images, self.num_views), "b"),
        ):
            array = arrays.get(name)
            if array is not None and (array.shape != shape or array.dtype.kind not in kinds):
                raise FormatError(
                    f"{path} has {name} of {array.dtype} {array.shape}, expected {shape} of kind "
                    f"{kinds!r}: mend the array, or leave it out."
                )
        keys, targets = arrays.get("keys"), arrays.get("targets")
        self.keys = [str(place) for place in range(num_images)] if keys is None else keys.tolist()
        self.targets = None if targets is None else np.asarray(targets)
        self._facts = {
            name: arrays[name] for name in ("boxes", "flips", "widths", "heights") if name in arrays
        }
        if ("boxes" in arrays) != ("flips" in arrays):
            raise FormatError(f"{path} has boxes or flips alone, expected both, or neither.")
        self.explicit = options.boxes and "boxes" in arrays
        self.notes: tuple[str, ...] = ()
        self.extra: dict[str, str] = {}

    def images(self, numbers: Sequence[int]) -> PeerLabels:
        """As ``PeerReader.images``."""
        rows = slice(numbers[0], numbers[-1] + 1)
        with parsed(self._path, MEND):
            labels = np.array(self._probs[rows])
            facts: dict[str, Any] = {
                name: np.array(array[rows]) for name, array in self._facts.items()
            }
            indices = None if self._indices is None else np.array(self._indices[rows])
        bad = ~np.isfinite(labels).all(axis=(1, 2))
        if self.values == "probs":
            sums = labels.sum(axis=-1, dtype=np.float64)
            bad |= (labels < 0).any(axis=(1, 2)) | (np.abs(sums - 1) > 1e-2).any(axis=1)
        if bad.any():
            what = "are not finite" if self.values == "logits" else "are no probabilities"
            raise LabelError(
                f"{self._path} has for {self.keys[rows.start + int(np.argmax(bad))]!r} labels that "
                f"{what} (of all classes they sum to 1): give softmax outputs as probs, or what "
                "the network put out as logits."
            )
        if indices is not None:
            return PeerLabels(indices, labels, **facts)
        return PeerLabels(dense=labels, **facts)

    def _classes(
        self, arrays: dict[str, Any], about: dict[str, Any], asked: int | None, width: int
    ) -> int | None:
        count = _number(arrays.get("num_classes"), about.get("num_classes"))
        if self.values != "top-k":
            if count not in (None, width):
                raise FormatError(
                    f"{self._path} has labels of {width} classes, and says that they are of "
                    f"{count:g}: mend num_classes, or leave it out."
                )
            count = width
        if count is not None and (count != int(count) or asked not in (None, count)):
            raise LabelError(
                f"{self._path} has labels of {count:g} classes, and {asked} were asked for: leave "
                "the number out, the file says it.",
                arguments=("num_classes",),
            )
        return asked if count is None else int(count)


def _labels_of(array: Any, path: Path, kinds: str = "f") -> npt.NDArray[Any]:
    """(N, V, ...) of labels: one view where there is no axis of them."""
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or not array.size or array.dtype.kind not in kinds:
        raise FormatError(
            f"{path} has labels of {array.dtype} {array.shape}, expected (images, views, classes): "
            "shape them so."
        )
    return np.asanyarray(array)


def _number(array: Any, otherwise: Any) -> float | None:
    if array is None:
        return otherwise if isinstance(otherwise, int | float) else None
    return float(array) if array.size == 1 and array.dtype.kind in "iuf" else None


def _about(array: Any, path: Path) -> dict[str, Any]:
    """What an export says of its labels; {} where nothing does."""
    if array is None:
        return {}
    if array.size != 1 or array.dtype.kind != "U":
        raise FormatError(f"{path} has a manifest that is no text: leave it out.")
    document = json_document(str(array).encode(), path)
    manifest = document.get("manifest") if isinstance(document, dict) else None
    labels = manifest.get("labels") if isinstance(manifest, dict) else None
    return labels if isinstance(labels, dict) else {}


def _class_names(
    about: dict[str, Any], num_classes: int | None, path: Path
) -> tuple[str, ...] | None:
    """What an export calls its classes; None where nothing does."""
    names = about.get("class_names")
    if names is None:
        return None
    is_texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_texts or len(names) != num_classes:
        raise FormatError(
            f"{path} has a manifest whose class_names are not the names of {num_classes} classes: "
            "leave the manifest out, or get the file anew."
        )
    return tuple(names)


def _opened(path: Path) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """The arrays by name, and a digest of them all.

    Every byte is read once here and compared with its checksum, so that what is read later, in
    place, is what was written.
    """
    digest = xxhash.xxh3_128()
    arrays: dict[str, npt.NDArray[Any]] = {}
    with open(open_descriptor(path), "rb") as file, zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                raise FormatError(f"{path} holds {entry.filename!r}, expected .npy arrays alone.")
            name = entry.filename.removesuffix(".npy")
            if name in arrays:
                raise CorruptError(f"{path} holds the array {name!r} twice: get it anew.")
            check_expansion(entry.file_size, entry.compress_size)
            is_plain = entry.compress_type == zipfile.ZIP_STORED
            whole = io.BytesIO()
            digest.update(f"{name}\0{entry.file_size}\n".encode())
            with archive.open(entry) as member:
                while data := member.read(_COPY_BYTES):
                    digest.update(data)
                    if not is_plain or entry.file_size <= _COPY_BYTES:
                        whole.write(data)
            if whole.tell():
                whole.seek(0)
                arrays[name] = np.lib.format.read_array(whole, allow_pickle=False)
            else:
                arrays[name] = _in_place(path, file, entry)
    return arrays, str(digest.hexdigest())


def _in_place(path: Path, file: Any, entry: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """An array that is not compressed, mapped."""
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER)
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = entry.header_offset + _LOCAL_HEADER + names
    file.seek(start)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
    else:
        shape, fortran, kind = np.lib.format.read_array_header_2_0(file)
    if kind.hasobject:
        raise FormatError(f"{path} holds Python objects in {entry.filename!r}: save numbers.")
    place, size = file.tell(), kind.itemsize * int(np.prod(shape, dtype=object))
    if place - start + size != entry.file_size:
        raise ValueError(f"{entry.filename!r} is not as long as it says")
    return np.memmap(os.fspath(path), kind, "r", place, tuple(shape), order="F" if fortran else "C")
