"""What a producer hands over for a block, checked, and the codes that a store keeps of it."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import LabelError, UsageError
from labelstore.format import codecs
from labelstore.format.arrays import (
    LABELLED,
    UNREADABLE,
    prior_arrays,
    view_arrays,
)
from labelstore.format.codecs.base import FloatGrid
from labelstore.format.commits import commit_row
from labelstore.format.encoding import cut_at_mass, encode_labels, encode_prior_probs
from labelstore.format.label_checks import are_labels, require_ids, require_labels
from labelstore.format.manifest import EXPLICIT
from labelstore.format.validity import is_utf8
from labelstore.labels.lists.fit import TOGETHER, fit
from labelstore.storage.parallel.threads import on_all_cores
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.format.codecs import Quantizer
    from labelstore.format.manifest import Manifest

    Codes = dict[str, npt.NDArray[Any]]

__all__ = [
    "BlockCodes",
    "BlockData",
    "BlockPriors",
    "StoredArray",
    "StoredObject",
    "block_codes",
    "check_table",
    "empty_block",
]

_RUN_ENTRIES, _LONG_RUN_ENTRIES, _RUN_LABELS = 1 << 16, 1 << 19, 1 << 10
"""Classes of labels that are encoded at a time, about; more where that were fewer than so many
labels, since a run takes some calls of NumPy for each of a label's places."""


@dataclasses.dataclass(frozen=True)
class BlockData:
    """What a producer hands over for one block of n images with V views."""

    indices: npt.NDArray[Any]
    """(n, V, k) class ids, different within a row but for those of probability 0."""
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
    """(n, m) codes of ``labelstore.labels.prior``."""
    prior_power: npt.NDArray[np.uint8] | None = None
    """(n,) hundredths."""
    kept: npt.NDArray[np.int32] | None = None
    """(n,) how many classes of each of an image's labels are stored, at most; None for all."""
    boxes: npt.NDArray[Any] | None = None
    """(n, V, 4) top, left, height, width in pixels, for a store with explicit views."""
    flips: npt.NDArray[Any] | None = None
    """(n, V) bool, for a store with explicit views."""
    cut: bool = False
    """Whether the labels end already where the store's ``top_p`` says, with 0 after that."""


def empty_block(manifest: Manifest, count: int) -> BlockData:
    """The arrays of ``count`` images' views, to be filled in place; without prior lists.

    Boxes and flips are there where the manifest's law is explicit, -1 and False at first. The
    classes of a label, and the edges of a box, do not lie beside each other in memory, but those of
    all labels do: what is done place by place then takes a fraction.
    """
    shape = (count, manifest.num_views)
    explicit = manifest.law == EXPLICIT
    return BlockData(
        indices=np.moveaxis(np.zeros((manifest.k, *shape), dtype=np.int32), 0, -1),
        probs=np.moveaxis(np.zeros((manifest.k, *shape), dtype=np.float32), 0, -1),
        boxes=np.moveaxis(np.full((4, *shape), -1, dtype=np.int32), 0, -1) if explicit else None,
        flips=np.zeros(shape, dtype=bool) if explicit else None,
    )


class BlockPriors:
    """The prior lists of a block's images, empty until they are fitted, image after image."""

    def __init__(self, manifest: Manifest, count: int) -> None:
        """Of ``count`` images, in the manifest's size: of none where that is 0."""
        self._size, self._top_p = manifest.prior_size, manifest.top_p
        self._num_classes = manifest.num_classes
        self.classes = np.full((count, self._size), -1, dtype=np.int32)
        """(n, m) int32 class ids, -1 for an empty place."""
        self.codes = np.zeros((count, self._size), dtype=np.uint8)
        """(n, m) uint8, as ``labelstore.labels.prior`` codes probabilities."""
        self.powers = np.zeros(count, dtype=np.uint8)
        """(n,) uint8, in hundredths."""
        self.kept = np.full(count, manifest.k, dtype=np.int32)
        """(n,) int32, how many classes of each label are stored, at most."""
        quantizer = codecs.get(manifest.quantizer)
        self._rounded = functools.partial(_rounded, quantizer=quantizer)
        # Floats are for who wants the teacher's own numbers: all that were asked for.
        self._fewest = manifest.k if isinstance(quantizer.rest, FloatGrid) else 1

    def fit(
        self,
        rows: npt.ArrayLike,
        means: npt.ArrayLike,
        indices: npt.NDArray[Any],
        probs: npt.NDArray[Any],
        *,
        cut: bool = False,
    ) -> None:
        """Fit images' lists to what is stored of their views; see ``labelstore.labels.lists.fit``.

        That may say that fewer classes are to be stored, but for quantizers of floats.

        Args:
            rows: (n,) the images' places in the block.
            means: (n, C) the means of each image's V views' distributions.
            indices: (n, V, k) the stored class ids; probs: (n, V, k) their exact probabilities.
            cut: whether ``probs`` end already where the store's ``top_p`` says.

        Raises:
            LabelError: class ids are none of the manifest's classes.
        """
        if not self._size or not indices.size:
            return
        require_ids(indices, self._num_classes)
        exact, of_block = np.asarray(means, dtype=np.float64), np.asarray(rows)

        def fit_some(part: slice) -> None:
            stored_probs = probs[part] if cut else cut_at_mass(probs[part], self._top_p)
            at = of_block[part]
            self.classes[at], self.codes[at], self.powers[at], self.kept[at] = fit(
                exact[part], indices[part], stored_probs, self._size, self._rounded, self._fewest
            )

        starts = range(0, len(of_block), TOGETHER)
        on_all_cores(fit_some, [slice(start, start + TOGETHER) for start in starts])

    def arrays(self) -> dict[str, Any]:
        """What ``BlockData`` calls them; nothing for a store without."""
        if not self._size:
            return {}
        return {
            "prior_classes": self.classes,
            "prior_probs": self.codes,
            "prior_power": self.powers,
            "kept": self.kept,
        }


def _rounded(probs: npt.NDArray[Any], quantizer: Quantizer) -> npt.NDArray[np.float32]:
    """(n, k) probabilities as they will be read."""
    top, rest = quantizer.encode(probs)
    return quantizer.decode(top, rest if probs.shape[-1] > 1 else None)


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """An object that holds an array of a block, as it lies in a store."""

    data: bytes
    chunk: tuple[int, ...]
    """Shape of the pieces of the array that are compressed apart."""
    count: int
    """How many there are."""
    fill: float
    """What those hold that were left out."""


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array of a block as it lies in a store: what is the same in another store's need not be
    compressed again."""

    object: StoredObject
    codes: npt.NDArray[Any]
    """(n, ...) what was decoded from it: whole groups of views, all of them or the first."""


@dataclasses.dataclass(frozen=True)
class BlockCodes:
    """The codes of a block, by array name."""

    images: Codes
    priors: Codes
    """Empty for a store without."""
    views: Codes
    stored: Mapping[str, StoredArray] = dataclasses.field(default_factory=dict)
    """A block that has some of these codes, or all, as it lies in another store, by array name;
    empty where nothing is known of one."""

    @property
    def arrays(self) -> Codes:
        """All of them."""
        return {**self.images, **self.priors, **self.views}

    def commit_row(
        self,
        manifest: Manifest,
        block: int,
        unit_digests: npt.NDArray[np.uint64] | None = None,
    ) -> npt.NDArray[np.uint64]:
        """(columns,) uint64: the digests by which readers know that this is what was committed;
        ``unit_digests`` are those of its units, where they are at hand."""
        return commit_row(manifest, block, self.arrays, unit_digests)


def block_codes(data: BlockData, manifest: Manifest, block: int) -> BlockCodes:
    """Check a block's data and encode it; LabelError says what is no label of this block."""
    return BlockCodes(
        _image_codes(data, manifest, block),
        _prior_codes(data, manifest, block),
        _view_codes(data, manifest, block),
    )


def _image_codes(data: BlockData, manifest: Manifest, block: int) -> Codes:
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


def _view_codes(data: BlockData, manifest: Manifest, block: int) -> Codes:
    rows = manifest.block_slice(block)
    count = rows.stop - rows.start
    shape = (count, manifest.num_views, manifest.k)
    indices, probs = np.asarray(data.indices), np.asarray(data.probs)
    if indices.shape != shape or probs.shape != shape:
        raise LabelError(
            f"block {block} has indices {indices.shape} and probs {probs.shape}, expected "
            f"{shape}: (images, views, k)."
        )
    readable = np.ones(count, dtype=bool) if data.readable is None else data.readable
    chosen: dict[str, npt.NDArray[Any]] = {}
    explicit = {"views/box": data.boxes, "views/flip": data.flips}
    for spec in view_arrays(manifest):
        if spec.name not in explicit:
            chosen[spec.name] = np.empty((count, *spec.shape[1:]), dtype=spec.dtype)
            continue
        values = explicit[spec.name]
        array = None if values is None else np.asarray(values)
        if array is None or array.shape != (count, *spec.shape[1:]):
            raise LabelError(
                f"block {block} has {spec.name} of shape {None if array is None else array.shape}, "
                f"expected {(count, *spec.shape[1:])}: a store of explicit views needs boxes "
                "and flips of every view."
            )
        chosen[spec.name] = np.empty(array.shape, dtype=spec.dtype)
        _take_over(chosen[spec.name], array)

    def encode(part: slice) -> None:
        codes = _label_codes(data, readable, manifest, part)
        if codes is None:
            require_labels(indices[readable], probs[readable], manifest.num_classes, block)
            raise LabelError(f"block {block} has labels that are none: look at its producer.")
        for name, array in codes.items():
            if name in chosen:
                _take_over(chosen[name][part], array)

    # In runs that stay in the processor's cache.
    most = max(_RUN_ENTRIES // manifest.k, min(_LONG_RUN_ENTRIES // manifest.k, _RUN_LABELS))
    step = max(1, most // manifest.num_views)
    on_all_cores(encode, [slice(start, start + step) for start in range(0, count, step)])
    if not readable.all():
        for spec in view_arrays(manifest):
            chosen[spec.name][~readable] = spec.fill
    return chosen


def _take_over(out: npt.NDArray[Any], array: npt.NDArray[Any]) -> None:
    """Fill ``out`` with an array of another order in memory: a few places a label are slow to go
    along, all labels of a place are not."""
    if array.ndim < 3 or array.flags.c_contiguous:
        out[...] = array
        return
    for place in range(array.shape[-1]):
        out[..., place] = array[..., place]


def _label_codes(
    data: BlockData, readable: npt.NDArray[np.bool_], manifest: Manifest, part: slice
) -> Codes | None:
    """The codes of the labels of some of a block's images; None where these are no labels."""
    indices, probs = np.asarray(data.indices[part]), np.asarray(data.probs[part])
    has_labels = readable[part]
    if not has_labels.all():
        indices = np.where(has_labels[:, None, None], indices, 0)
        probs = np.where(has_labels[:, None, None], probs, 0.0)
    if not are_labels(indices, probs, manifest.num_classes):
        return None
    lists = np.empty((len(has_labels), 0), dtype=np.int32)
    if manifest.prior_size and data.prior_classes is not None:
        listed = data.prior_classes[part]
        lists = np.where(has_labels[:, None], listed, -1).astype(np.int32)
    if not data.cut:
        probs = cut_at_mass(probs, manifest.top_p)
    if data.kept is not None:
        kept = data.kept[part][:, None, None]
        probs = np.where(np.arange(manifest.k) < kept, probs, 0.0)
    return encode_labels(indices, probs, lists, manifest)


def _prior_codes(data: BlockData, manifest: Manifest, block: int) -> Codes:
    rows = manifest.block_slice(block)
    by_name = {
        "images/prior_classes": data.prior_classes,
        "images/prior_power": data.prior_power,
        "images/prior_probs": (
            None
            if data.prior_probs is None
            else encode_prior_probs(np.asarray(data.prior_probs), manifest)
        ),
    }
    codes: Codes = {}
    for spec in prior_arrays(manifest):
        array, shape = by_name[spec.name], (rows.stop - rows.start, *spec.shape[1:])
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


def check_table(
    keys: Sequence[str], targets: npt.NDArray[Any], num_images: int, num_classes: int
) -> None:
    """Check an image table: as many unique keys and targets as images.

    Args:
        keys, targets: (num_images,) each; targets are class ids, -1 unknown.

    Raises:
        UsageError: they are not, or a target is no class.
    """
    if len(keys) != num_images or targets.shape != (num_images,):
        raise UsageError(
            f"{len(keys)} keys and {targets.shape} targets were given for {num_images} images: "
            "give one each."
        )
    if len(set(keys)) != len(keys) or "\0" in "".join(keys):
        raise UsageError("two images have the same key, or a key has a NUL: keys must be unique.")
    if not is_utf8(keys):
        raise UsageError(
            "a key has half a character (a lone surrogate, as in a file name that is not UTF-8), "
            "which no store can hold: name the image otherwise."
        )
    if np.unique(hash_keys(keys)).size != len(keys):
        raise UsageError(
            "two different keys have the same 64-bit hash: rename one of these images."
        )
    if targets.dtype.kind not in "iu" or targets.min() < -1 or targets.max() >= num_classes:
        raise UsageError(
            f"targets run from {targets.min()} to {targets.max()} as {targets.dtype}, expected "
            f"integers from -1 (unknown) to {num_classes - 1}."
        )
