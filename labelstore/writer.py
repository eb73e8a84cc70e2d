"""The writer: blocks are committed or absent, and nothing committed is ever written again."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from labelstore import codecs, files
from labelstore.backends.base import array_digest, images_digest, prior_arrays, view_arrays
from labelstore.encoding import encode_labels
from labelstore.errors import FormatError, LabelError, MismatchError, StoreError, UsageError
from labelstore.manifest import EXPLICIT, Manifest, differences, fingerprint
from labelstore.philox import hash_keys
from labelstore.store import LABELLED, UNREADABLE, Store, backend_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    import numpy.typing as npt

    from labelstore.labels import LabelType
    from labelstore.views import ViewLaw

    _Codes = dict[str, npt.NDArray[Any]]

__all__ = ["BlockData", "StoreWriter", "default_block_images", "write"]

# Sums of half-precision top-k probabilities exceed 1 by rounding, about 2**-10 at the worst.
_SUM_TOLERANCE = 2e-3


def default_block_images(num_images: int) -> int:
    """Images of a block: about a 64th of the data set, a power of two from 16 to 1,024."""
    return min(1024, max(16, 1 << max(0, (num_images // 64).bit_length())), num_images)


@dataclasses.dataclass(frozen=True)
class BlockData:
    """What a producer hands over for one block of n images with V views."""

    indices: npt.NDArray[Any]
    """(n, V, k) class ids, different within a row."""
    probs: npt.NDArray[Any]
    """(n, V, k) probabilities, falling along a row, sum at most 1 to within rounding."""
    widths: npt.NDArray[Any] | None = None
    """(n,) pixels of the decoded upright images; None or -1 where unknown."""
    heights: npt.NDArray[Any] | None = None
    """(n,) as widths."""
    digests: npt.NDArray[Any] | None = None
    """(n,) uint64 digests of the encoded images; None or 0 where unknown."""
    readable: npt.NDArray[np.bool_] | None = None
    """(n,) bool: False for an image that could not be decoded; its labels are ignored."""
    prior_classes: npt.NDArray[Any] | None = None
    """(n, m) class ids of the images' prior lists, -1 for an empty place; where the store has a
    prior."""
    prior_probs: npt.NDArray[np.uint8] | None = None
    """(n, m) codes of ``labelstore.prior``."""
    prior_power: npt.NDArray[np.uint8] | None = None
    """(n,) hundredths."""
    boxes: npt.NDArray[Any] | None = None
    """(n, V, 4) top, left, height, width in pixels, for a store with explicit views."""
    flips: npt.NDArray[Any] | None = None
    """(n, V) bool, for a store with explicit views."""


class StoreWriter:
    """The one writer of a store; a context manager that holds the store's lock.

    Raises, on entering:
        MismatchError: the store at the path was made with other settings, or is finished and was
            asked for again with other settings. BusyError: another process writes it.
        FormatError: something else is at the path.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        manifest: Manifest,
        keys: Sequence[str],
        targets: npt.NDArray[np.int32],
        *,
        overwrite: bool = False,
        allow_version_drift: bool = False,
    ) -> None:
        self.path = Path(path)
        self.manifest = manifest
        self._keys = keys
        self._targets = targets
        self._overwrite = overwrite
        self._allow_version_drift = allow_version_drift
        self._backend = backend_of(self.path)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> StoreWriter:
        self.manifest.to_json()  # before anything is written
        self.resumed = self._check_path()
        with contextlib.ExitStack() as stack:
            stack.enter_context(files.exclusive_lock(self.path))
            # Another writer may have finished between the look and the lock.
            self.resumed = self._check_path()
            if not self.resumed:
                for entry in self.path.iterdir():
                    if entry.name != files.LOCK_NAME:
                        (files.delete_tree if entry.is_dir() else files.delete_file)(entry)
                self._backend.create(self.manifest, self._keys, self._targets)
            else:
                files.remove_partials(self.path)
            self._backend.open_for_writing(self.manifest)
            self._committed = self._backend.read_commits()[:, 0] != 0
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _check_path(self) -> bool:
        """Whether a store of these very settings is there to go on with."""
        if not self.path.exists() or _holds_nothing(self.path):
            return False
        if not self.path.is_dir():
            raise FormatError(f"{self.path} is a file: choose another name for the store.")
        try:
            document = self._backend.read_manifest()
        except FormatError:
            raise FormatError(
                f"{self.path} exists and is not a labelstore store: choose another name, nothing "
                "in it was touched."
            ) from None
        if isinstance(document, dict) and document.get("state") == "creating":
            return False
        if not isinstance(document, dict) or document.get("format") != "labelstore":
            raise FormatError(
                f"{self.path} exists and is not a labelstore store: choose another name, nothing "
                "in it was touched."
            )
        if self._overwrite:
            return False
        stored = Manifest.from_json(document, str(self.path))
        asked = self.manifest
        if self._allow_version_drift:
            asked = dataclasses.replace(asked, producer=stored.producer)
        lines = differences(stored, asked)
        if lines:
            more = f" and {len(lines) - 6} more" if len(lines) > 6 else ""
            only_versions = all(line.startswith("producer.") for line in lines)
            mend = (
                "install those versions, or give --allow-version-drift"
                if only_versions
                else "give the settings it was made with, another name, or --overwrite"
            )
            raise MismatchError(
                f"{self.path} was made with other settings ({'; '.join(lines[:6])}{more}): {mend}."
            )
        self.manifest = stored
        return True

    def pending_blocks(self) -> list[int]:
        """Blocks that have to be made, in order: known before any image is decoded."""
        return [int(block) for block in np.flatnonzero(~self._committed)]

    def write_block(self, block: int, data: BlockData) -> None:
        """Encode, write and commit a block.

        Raises:
            LabelError: the arrays are no labels of this block.
            StoreError: the block is committed already, or the disk refuses.
        """
        if self._committed[block]:
            raise StoreError(f"{self.path}: block {block} is committed and is never written again.")
        images, priors, views = self._codes(block, data)
        self._backend.write_block(block, {**images, **priors, **views})
        self._backend.write_commit(block, self._commit_row(block, images, priors, views))
        self._committed[block] = True

    def check_block(self, block: int, data: BlockData) -> None:
        """Check that a committed block holds these very labels; MismatchError otherwise."""
        row = self._commit_row(block, *self._codes(block, data))
        if not np.array_equal(row, self._backend.read_commits()[block]):
            raise MismatchError(
                f"{self.path} exists and block {block} in it holds other labels than those given: "
                "choose another name, or overwrite it."
            )

    def _codes(self, block: int, data: BlockData) -> tuple[_Codes, _Codes, _Codes]:
        return (
            _image_codes(data, self.manifest, block),
            _prior_codes(data, self.manifest, block),
            _view_codes(data, self.manifest, block),
        )

    def _commit_row(
        self, block: int, images: _Codes, priors: _Codes, views: _Codes
    ) -> npt.NDArray[np.uint64]:
        manifest, store_id = self.manifest, self.manifest.id
        row = [images_digest(store_id, block, images)]
        for spec in view_arrays(manifest):
            codes = views[spec.name]
            row += [
                array_digest(
                    store_id, spec.name, block, group, codes[:, manifest.group_slice(group)]
                )
                for group in range(manifest.num_groups)
            ]
        if priors:
            row.append(images_digest(store_id, block, priors, "prior"))
        return np.array(row, dtype="<u8")


def _holds_nothing(path: Path) -> bool:
    """Whether a folder is empty but for what a writer leaves that died before its first object."""
    return path.is_dir() and all(
        entry.name == files.LOCK_NAME
        or (entry.name.startswith("zarr.json.") and entry.suffix == files.PARTIAL)
        for entry in path.iterdir()
    )


def _image_codes(data: BlockData, manifest: Manifest, block: int) -> _Codes:
    rows = manifest.block_slice(block)
    count = rows.stop - rows.start
    unknown = np.full(count, -1)
    size = np.stack(
        [unknown if side is None else np.asarray(side) for side in (data.widths, data.heights)],
        axis=-1,
    )
    digests = np.zeros(count) if data.digests is None else data.digests
    status = np.full(count, LABELLED)
    if data.readable is not None:
        status[~data.readable] = UNREADABLE
    return {
        "images/size": size.astype("<i4"),
        "images/digest": np.asarray(digests).astype("<u8"),
        "images/status": status.astype("|u1"),
    }


def _view_codes(data: BlockData, manifest: Manifest, block: int) -> _Codes:
    rows = manifest.block_slice(block)
    shape = (rows.stop - rows.start, manifest.num_views, manifest.k)
    readable = np.ones(shape[0], dtype=bool) if data.readable is None else data.readable
    _check_labels(data, shape, readable, manifest.num_classes, block)
    lists = np.empty((shape[0], 0), dtype=np.int32)
    if manifest.prior_size and data.prior_classes is not None:
        lists = np.where(readable[:, None], data.prior_classes, -1).astype(np.int32)
    codes: dict[str, Any] = dict(
        encode_labels(
            np.where(readable[:, None, None], data.indices, 0),
            np.where(readable[:, None, None], data.probs, 0.0),
            lists,
            manifest,
        )
    )
    codes["views/box"] = None if data.boxes is None else np.asarray(data.boxes)
    codes["views/flip"] = None if data.flips is None else np.asarray(data.flips)
    chosen: dict[str, npt.NDArray[Any]] = {}
    for spec in view_arrays(manifest):
        array = codes[spec.name]
        if array is None or array.shape != (shape[0], *spec.shape[1:]):
            raise LabelError(
                f"block {block} has {spec.name} of shape {None if array is None else array.shape}, "
                f"expected {(shape[0], *spec.shape[1:])}: a store of explicit views needs boxes "
                "and flips of every view."
            )
        array = array.astype(spec.dtype)
        array[~readable] = spec.fill
        chosen[spec.name] = array
    return chosen


def _prior_codes(data: BlockData, manifest: Manifest, block: int) -> _Codes:
    rows = manifest.block_slice(block)
    given = {
        "images/prior_classes": data.prior_classes,
        "images/prior_power": data.prior_power,
        "images/prior_probs": data.prior_probs,
    }
    codes: _Codes = {}
    for spec in prior_arrays(manifest):
        array, shape = given[spec.name], (rows.stop - rows.start, *spec.shape[1:])
        if array is None or array.shape != shape:
            raise LabelError(
                f"block {block} has {spec.name} of shape {None if array is None else array.shape}, "
                f"expected {shape}: a store with a prior needs each image's."
            )
        # -1, an empty place, becomes the fill.
        values = np.where(array < 0, spec.fill, array)
        if data.readable is not None:
            values[~data.readable] = spec.fill
        codes[spec.name] = values.astype(spec.dtype)
    return codes


def _check_labels(
    data: BlockData,
    shape: tuple[int, ...],
    readable: npt.NDArray[np.bool_],
    num_classes: int,
    block: int,
) -> None:
    indices, probs = np.asarray(data.indices), np.asarray(data.probs)
    if indices.shape != shape or probs.shape != shape:
        raise LabelError(
            f"block {block} has indices {indices.shape} and probs {probs.shape}, expected "
            f"{shape}: (images, views, k)."
        )
    indices, probs = indices[readable], probs[readable].astype(np.float64)
    if not indices.size:
        return
    if indices.dtype.kind not in "iu":
        raise LabelError(f"class ids have type {indices.dtype}, expected integers.")
    if int(indices.min()) < 0 or int(indices.max()) >= num_classes:
        raise LabelError(
            f"class ids run from {indices.min()} to {indices.max()} in block {block}, expected 0 "
            f"to {num_classes - 1}: give num_classes of the teacher that made them."
        )
    if not np.isfinite(probs).all() or probs.min() < 0 or probs.max() > 1 + _SUM_TOLERANCE:
        raise LabelError(
            f"probabilities run from {probs.min()} to {probs.max()} in block {block}, expected 0 "
            "to 1: give softmax outputs, not logits."
        )
    if (np.diff(probs, axis=-1) > 0).any():
        raise LabelError(
            f"probabilities rise along a row in block {block}: sort each label's classes, largest "
            "probability first."
        )
    if probs.sum(axis=-1).max() > 1 + _SUM_TOLERANCE:
        raise LabelError(
            f"a label of block {block} sums to {probs.sum(axis=-1).max():.4f}, expected at most "
            "1: give probabilities of one softmax over all classes."
        )
    ordered = np.sort(indices, axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise LabelError(f"a label of block {block} names a class twice: class ids must differ.")


def write(
    path: str | os.PathLike[str],
    indices: npt.ArrayLike,
    probs: npt.ArrayLike,
    num_classes: int,
    keys: Sequence[str] | None = None,
    targets: npt.ArrayLike | None = None,
    *,
    widths: npt.ArrayLike | None = None,
    heights: npt.ArrayLike | None = None,
    law: ViewLaw | None = None,
    boxes: npt.ArrayLike | None = None,
    flips: npt.ArrayLike | None = None,
    quantizer: str = codecs.DEFAULT,
    label_type: LabelType = "top-k",
    temperature: float | None = None,
    class_names: Sequence[str] | None = None,
    teacher: Mapping[str, Any] | None = None,
    block_images: int | None = None,
    group_views: int = 4,
    overwrite: bool = False,
) -> Store:
    """Make a store of labels from any producer.

    Args:
        path: the new store's folder, by habit named ``*.zarr``.
        indices: (images, views, k) class ids, 0..num_classes-1, different within a row.
        probs: (images, views, k) probabilities, largest first, sum at most 1. Arrays are read
            block by block, so memory maps of any size will do.
        num_classes: of the teacher.
        keys: one unique string an image, as a rule its path in the data set; ``"0"``, ``"1"``...
            when None.
        targets: (images,) ground-truth class ids, -1 unknown; all unknown when None.
        widths, heights: (images,) pixels of the upright images, needed with ``law``.
        law: the view law that the labelled crops follow, or
        boxes, flips: (images, views, 4) and (images, views), explicit crops. With neither, labels
            can be read but a data set cannot replay their views.
        quantizer: a name from ``labelstore.codecs``.
        label_type, temperature, class_names, teacher: for the manifest.
        block_images, group_views: layout; the defaults suit.
        overwrite: replace a store that is there.

    Returns:
        the finished store, open. A call that was interrupted goes on where it stopped when it is
        repeated.

    Raises:
        LabelError, UsageError: arrays that do not fit. MismatchError: another store is there.
    """
    ids, values = _array_like(indices), _array_like(probs)
    if ids.ndim != 3 or ids.shape != values.shape or not ids.size:
        raise LabelError(
            f"indices have shape {ids.shape} and probs {values.shape}, expected two equal shapes "
            "(images, views, k)."
        )
    num_images, num_views, k = ids.shape
    names = [str(index) for index in range(num_images)] if keys is None else list(keys)
    truth = np.full(num_images, -1) if targets is None else np.asarray(targets)
    check_table(names, truth, num_images, num_classes)
    kind: Literal["explicit"] | ViewLaw | None = law
    if boxes is not None or flips is not None:
        if law is not None:
            raise UsageError("both a law and boxes were given: a view has one or the other.")
        kind = EXPLICIT  # type: ignore[assignment]
    if law is not None and (widths is None or heights is None):
        raise UsageError("a law was given without widths and heights: boxes depend on both.")
    manifest = Manifest(
        num_images=num_images,
        num_views=num_views,
        num_classes=num_classes,
        k=k,
        fingerprint=fingerprint(names, truth.astype(np.int32)),
        law=kind,
        block_images=block_images or default_block_images(num_images),
        group_views=min(group_views, num_views),
        quantizer=quantizer,
        label_type=label_type,
        temperature=temperature,
        class_names=None if class_names is None else tuple(class_names),
        teacher=teacher,
    )
    optional = {"widths": widths, "heights": heights, "boxes": boxes, "flips": flips}
    given = {name: _array_like(value) for name, value in optional.items() if value is not None}
    with StoreWriter(path, manifest, names, truth.astype(np.int32), overwrite=overwrite) as writer:
        pending = set(writer.pending_blocks())
        for block in range(manifest.num_blocks):
            rows = manifest.block_slice(block)
            extra = {name: np.asarray(value[rows]) for name, value in given.items()}
            data = BlockData(ids[rows], values[rows], **extra)
            (writer.write_block if block in pending else writer.check_block)(block, data)
    return Store(path)


def check_table(
    keys: Sequence[str], targets: npt.NDArray[Any], num_images: int, num_classes: int
) -> None:
    """Check an image table: as many unique keys and targets as images; UsageError otherwise."""
    if len(keys) != num_images or targets.shape != (num_images,):
        raise UsageError(
            f"{len(keys)} keys and {targets.shape} targets were given for {num_images} images: "
            "give one each."
        )
    if len(set(keys)) != len(keys) or any("\0" in key for key in keys):
        raise UsageError("two images have the same key, or a key has a NUL: keys must be unique.")
    if np.unique(hash_keys(keys)).size != len(keys):
        raise UsageError(
            "two different keys have the same 64-bit hash: rename one of these images."
        )
    if targets.dtype.kind not in "iu" or targets.min() < -1 or targets.max() >= num_classes:
        raise UsageError(
            f"targets run from {targets.min()} to {targets.max()} as {targets.dtype}, expected "
            f"integers from -1 (unknown) to {num_classes - 1}."
        )


def _array_like(value: npt.ArrayLike) -> npt.NDArray[Any]:
    """Arrays and memory maps as they are, anything else as an array."""
    return value if isinstance(value, np.ndarray) else np.asarray(value)
