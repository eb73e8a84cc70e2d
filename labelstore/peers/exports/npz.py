"""One ``.npz`` file of NumPy arrays, which ``numpy.load`` opens without pickle.

| array | shape and type | |
|---|---|---|
| `keys` | (N,) text | the images' names |
| `targets` | (N,) int32 | ground truth, -1 unknown |
| `widths`, `heights` | (N,) int32 | of the upright photos in pixels, -1 unknown |
| `views` | (N, V) uint16 | view numbers |
| `indices` | (N, V, k) int32 | class ids, likeliest first |
| `probs` | (N, V, k) float32 | their probabilities; 0: no class in this place |
| `residual` | (N, V) float32 | probability of all other classes together |
| `boxes` | (N, V, 4) int32 | top, left, height, width in pixels; absent where unknown |
| `flips` | (N, V) bool | whether the crop is mirrored; absent where unknown |
| `manifest` | () text | JSON: what the labels are |
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from labelstore.storage import local_files
from labelstore.storage.local_files import explained
from labelstore.store.backends.npy import new_array, require_short_keys

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from labelstore.labels.top_k import TopK
    from labelstore.peers.exports.part import ExportPart, Tell

__all__ = ["Npz", "residual_of"]

_COPY_BYTES = 2**20


def residual_of(labels: TopK) -> Any:
    """(...) float32: the probability that is outside the stored classes, at least 0."""
    total = labels.probs.sum(axis=-1, dtype=np.float64)
    return np.maximum(1.0 - total, 0.0).astype(np.float32)


@dataclass(frozen=True)
class Npz:
    """All labels in one file; the disk has to hold it twice while it is made."""

    name: ClassVar[str] = "npz"
    suffix: ClassVar[str] = ".npz"

    def check(self, part: ExportPart) -> None:
        """StoreError where one long key would make the array of keys huge."""
        require_short_keys(part.store.path, part.keys)

    def write(
        self, part: ExportPart, folder: Path, about: Mapping[str, Any], tell: Tell | None
    ) -> Mapping[str, int]:
        """As ``ExportFormat`` says. Arrays grow in files, then these go into one."""
        store, images = part.store, part.images
        shape = len(images), part.num_views
        kinds: dict[str, tuple[tuple[int, ...], Any]] = {
            "views": (shape, np.uint16),
            "indices": ((*shape, store.k), np.int32),
            "probs": ((*shape, store.k), np.float32),
            "residual": (shape, np.float32),
        }
        if store.law is not None:
            kinds |= {"boxes": ((*shape, 4), np.int32), "flips": (shape, np.bool_)}
        arrays = {
            name: new_array(folder, name, np.dtype(kind), size)
            for name, (size, kind) in kinds.items()
        }
        start = 0
        for run in part.runs(tell):
            rows = slice(start, start + len(run.images))
            arrays["views"][rows] = run.views
            arrays["indices"][rows] = run.labels.indices
            arrays["probs"][rows] = run.labels.probs
            arrays["residual"][rows] = residual_of(run.labels)
            if run.crops is not None:
                arrays["boxes"][rows], arrays["flips"][rows] = run.crops.box, run.crops.flip
            start = rows.stop
        arrays.clear()
        widths, heights = store.sizes(images)
        small = {
            "keys": np.array(part.keys),
            "targets": store.targets[images],
            "widths": widths,
            "heights": heights,
            "manifest": np.array(json.dumps(about, ensure_ascii=False)),
        }
        for name, array in small.items():
            with explained(folder):
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
        self._join(folder, [*small, *kinds])
        return {}

    def _join(self, folder: Path, names: list[str]) -> None:
        """Put the arrays into one file, each deleted when it is there."""
        path = folder / f"{self.name}{self.suffix}"
        with explained(path), zipfile.ZipFile(path, "w") as whole:
            for name in names:
                array = folder / f"{name}.npy"
                # A fixed time: the same labels make the same file.
                entry = zipfile.ZipInfo(array.name)
                with array.open("rb") as file, whole.open(entry, "w", force_zip64=True) as place:
                    while data := file.read(_COPY_BYTES):
                        place.write(data)
                local_files.delete_file(array)
