"""The files of SRe2L's and LPLD's labels: a mini-batch each.

``torch.save([coords, flips, partners, lam, box, logits])``: of each photo of the batch its crop as
shares of its sides (top, left, height, width), whether it was mirrored, with which photo of the
batch it was mixed (None where nothing was), and its logits.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from labelstore.errors import LabelError
from labelstore.peers.pickles.safe_pickle import MEND, load_torch, read_bytes
from labelstore.storage.untrusted import open_descriptor, parsed

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["Batch", "Rows", "read_batch", "rows_of"]


@dataclass(frozen=True)
class Batch:
    """One file, checked. B photos, C classes."""

    coords: npt.NDArray[np.floating]
    """(B, 4) shares of the photo's sides: top, left, height, width."""
    flips: npt.NDArray[np.bool_] | None
    """(B,); None where LPLD's cutouts stand in their place."""
    mixed: bool
    """Whether the pixels were mixed with those of another photo."""
    logits: npt.NDArray[np.floating]
    """(B, C)."""

    @property
    def kind(self) -> str:
        """What was done to the pixels after the crop."""
        return "mixed" if self.mixed else "cut out" if self.flips is None else "plain"


@dataclass(frozen=True)
class _Table:
    """Where the rows of an array lie in a file."""

    start: int
    """Byte of the first."""
    width: int
    """Values of a row."""
    dtype: np.dtype[Any]

    def read(self, file: BinaryIO, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """(len(rows), width); ValueError where the file ends before."""
        size = self.width * self.dtype.itemsize
        parts = []
        for row in rows.tolist():
            file.seek(self.start + row * size)
            parts.append(file.read(size))
        values = np.frombuffer(b"".join(parts), self.dtype)
        return values.reshape(len(rows), self.width)


@dataclass(frozen=True)
class Rows:
    """A file that was read and checked whole, of which rows are read now."""

    state: tuple[int, int]
    """Size and time of change, by which a file that is written over is noticed."""
    coords: _Table
    logits: _Table
    flips: npt.NDArray[np.bool_] | None

    def read(
        self, file: Path, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """(n, C) logits and (n, 4) crops of some rows.

        Raises:
            CorruptError: the file was written over.
        """
        with parsed(file, MEND), open(open_descriptor(file), "rb", buffering=0) as content:
            if _state_of(content.fileno()) != self.state:
                raise ValueError("it was written over while it was converted")
            return self.logits.read(content, rows), self.coords.read(content, rows)


def read_batch(file: Path) -> Batch:
    """The labels of a file.

    Raises:
        CorruptError: it is damaged, or no such thing. LabelError: logits or crops that cannot be.
    """
    content = load_torch(file)
    with parsed(file, MEND):
        if not isinstance(content, (list, tuple)) or len(content) != 6:
            raise ValueError("it is no list of six: coords, flips, partners, lam, box, logits")
        coords, flips, partners, _, _, logits = content
        logits = _floats(logits, "logits", 2)
        rows = len(logits)
        if not logits.size:
            raise ValueError("it has no logits")
        coords = _floats(coords, "crops", 2, (rows, 4))
        flips = np.asarray(flips)
        if flips.dtype.kind == "f":
            # LPLD's for ImageNet-21K: centre, size and colour of what is cut out.
            _floats(flips, "cutouts", 2, (rows, 7))
        elif flips.dtype != np.bool_ or flips.shape != (rows,):
            raise ValueError(f"it has {flips.shape} {flips.dtype} flips of {rows} labels")
        if partners is not None:
            partners = np.asarray(partners)
            if partners.shape != (rows,) or partners.dtype.kind != "i":
                raise ValueError("its partners are no photos of the batch")
            if partners.min() < 0 or partners.max() >= rows:
                raise ValueError("its partners are no photos of the batch")
    _check_values(file, coords, logits)
    return Batch(coords, flips if flips.dtype == np.bool_ else None, partners is not None, logits)


def _check_values(
    file: Path, coords: npt.NDArray[np.floating], logits: npt.NDArray[np.floating]
) -> None:
    wrong = ~np.isfinite(logits).all(axis=1)
    if wrong.any():
        raise LabelError(
            f"{file} has a logit that is NaN or infinite in row {int(np.argmax(wrong))}, expected "
            f"finite ones: the teacher went wrong there (in half precision, most often); {MEND}."
        )
    # NaN fails the comparison, too.
    inside = (coords >= 0) & (coords <= 1 + 1e-6)
    fits = inside.all(axis=1) & (coords[:, 2:] > 0).all(axis=1)
    if not fits.all():
        row = int(np.argmin(fits))
        raise LabelError(
            f"{file} has the crop {coords[row].tolist()} in row {row}, expected shares of the "
            f"photo's sides (top, left, height, width) from 0 to 1: it is damaged; {MEND}."
        )


def _floats(
    value: Any, name: str, axes: int, shape: tuple[int, ...] | None = None
) -> npt.NDArray[np.floating]:
    """An array of floats; ValueError for anything else."""
    array = np.asarray(value)
    if array.dtype.kind != "f" or array.ndim != axes or shape not in (None, array.shape):
        raise ValueError(f"its {name} are {array.dtype} of shape {array.shape}")
    return array


def rows_of(file: Path, batch: Batch) -> Rows | None:
    """Where the rows of a batch lie in its file, which was read just before.

    None where they are not there as they are: a tensor that was a part of a larger one, or of a
    type that NumPy lacks.
    """
    with parsed(file, MEND):
        data = read_bytes(file)
        with open(open_descriptor(file), "rb", buffering=0) as content:
            state = _state_of(content.fileno())
        starts = [
            data.find(np.ascontiguousarray(values).tobytes())
            for values in (batch.coords, batch.logits)
        ]
        if min(starts) < 0:
            return None
        coords, logits = (
            _Table(start, values.shape[1], values.dtype)
            for start, values in zip(starts, (batch.coords, batch.logits), strict=True)
        )
        return Rows(state, coords, logits, batch.flips)


def _state_of(descriptor: int) -> tuple[int, int]:
    state = os.fstat(descriptor)
    return state.st_size, state.st_mtime_ns
