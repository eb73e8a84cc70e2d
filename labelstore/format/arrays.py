"""The arrays that a store consists of, and the digests by which they are committed (SPEC.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xxhash

from labelstore.format import codecs
from labelstore.format.manifest import EXPLICIT
from labelstore.format.units.unit_digests import group_digests as digests_of_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest

    Codes = Mapping[str, npt.NDArray[Any]]

__all__ = [
    "IMAGES_COLUMN",
    "LABELLED",
    "NO_LIST",
    "PRIOR_COLUMN",
    "UNITS",
    "UNREADABLE",
    "ArraySpec",
    "array_digest",
    "chunk_digests",
    "commit_columns",
    "digest_place",
    "group_digests",
    "image_arrays",
    "images_digest",
    "in_words",
    "prior_arrays",
    "side_by_side",
    "unit_columns",
    "view_arrays",
    "view_columns",
]

Axis = Literal["image", "view", "rank", "side", "edge"]


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store."""

    name: str
    """Path inside the store."""
    dtype: np.dtype[Any]
    """Little-endian type of a code."""
    shape: tuple[int, ...]
    """Of the whole store; the first axis is images, the second, for labels, views."""
    axes: tuple[Axis, ...]
    """Names of the axes."""
    fill: float
    """The code of an entry that was never written; no written entry of a label has it."""


def view_arrays(manifest: Manifest) -> tuple[ArraySpec, ...]:
    """The arrays with one entry a view, in the order of their commit digests."""
    images, views, k = manifest.num_images, manifest.num_views, manifest.k
    top, rest = codecs.get(manifest.quantizer).top, codecs.get(manifest.quantizer).rest
    class_code = codecs.class_id_dtype(manifest.num_classes + manifest.prior_size)
    if manifest.encoding == "plain":
        top = rest = codecs.get("fp32").top
        class_code = codecs.class_id_dtype(manifest.num_classes)
    ranked: tuple[Axis, ...] = ("image", "view", "rank")
    arrays = [
        ArraySpec("labels/top_prob", top.dtype, (images, views), ("image", "view"), top.fill),
        ArraySpec(
            "labels/classes",
            class_code,
            (images, views, k),
            ranked,
            float(np.iinfo(class_code).max),
        ),
    ]
    if k > 1:
        arrays.append(
            ArraySpec("labels/rest_probs", rest.dtype, (images, views, k - 1), ranked, rest.fill)
        )
    if manifest.law == EXPLICIT:
        arrays += [
            ArraySpec(
                "views/box", np.dtype("<i4"), (images, views, 4), ("image", "view", "edge"), -1
            ),
            ArraySpec("views/flip", np.dtype("|u1"), (images, views), ("image", "view"), 255),
        ]
    return tuple(arrays)


def prior_arrays(manifest: Manifest) -> tuple[ArraySpec, ...]:
    """The arrays of the images' prior lists, in the order of hashing; none without a prior."""
    images, size = manifest.num_images, manifest.prior_size
    if not size:
        return ()
    class_id = codecs.class_id_dtype(manifest.num_classes)
    empty = float(np.iinfo(class_id).max)
    probs = np.dtype("<f4" if manifest.encoding == "plain" else "|u1")
    return (
        ArraySpec("images/prior_classes", class_id, (images, size), ("image", "rank"), empty),
        ArraySpec("images/prior_power", np.dtype("|u1"), (images,), ("image",), 0),
        ArraySpec("images/prior_probs", probs, (images, size), ("image", "rank"), 0),
    )


def image_arrays(manifest: Manifest) -> tuple[ArraySpec, ...]:
    """The arrays with one entry an image that a block's writer fills, in the order of hashing."""
    images = manifest.num_images
    return (
        ArraySpec("images/size", np.dtype("<i4"), (images, 2), ("image", "side"), 0),
        ArraySpec("images/digest", np.dtype("<u8"), (images,), ("image",), 0),
        ArraySpec("images/status", np.dtype("|u1"), (images,), ("image",), 0),
    )


def digest_place(store_id: str, name: str, block: int, group: int | None) -> bytes:
    """What ``array_digest`` takes before an array's codes."""
    return f"{store_id}/{name}/{block}/{'-' if group is None else group}\0".encode()


def array_digest(
    store_id: str, name: str, block: int, group: int | None, codes: npt.NDArray[Any]
) -> int:
    """The commit digest of one array's codes: xxh3_64, never 0.

    Over the ASCII text ``{store_id}/{name}/{block}/{group}`` (group ``-`` for arrays without
    views), a NUL byte, and the codes, little-endian in C order. The text makes a valid block in
    the wrong place, or from another store, as wrong as a flipped bit.
    """
    digest = xxhash.xxh3_64(digest_place(store_id, name, block, group))
    if codes.size:
        digest.update(np.ascontiguousarray(in_words(codes)).data.cast("B"))
    return digest.intdigest() or 1


def chunk_digests(
    store_id: str,
    name: str,
    places: Sequence[tuple[int, int]],
    chunks: Sequence[npt.NDArray[Any]],
) -> npt.NDArray[np.uint64]:
    """(n,) uint64: ``array_digest`` of an array's chunks (images, views, ...), all of one type, by
    (block, group)."""
    heads = [digest_place(store_id, name, *place) for place in places]
    whole = [part if part.flags.c_contiguous else in_words(part) for part in chunks]
    # Wider than any: each is a group.
    width = max((chunk.nbytes for chunk in chunks), default=0) + 1
    return _never_zero(digests_of_groups(heads, whole, width))


def group_digests(
    store_id: str, name: str, block: int, codes: npt.NDArray[Any], group_views: int
) -> npt.NDArray[np.uint64]:
    """(groups,) uint64: ``array_digest`` of codes (n, views, ...) of a block, for each group of so
    many views; the last one may be smaller."""
    groups = range(-(-codes.shape[1] // group_views))
    heads = [digest_place(store_id, name, block, group) for group in groups]
    width = group_views * math.prod(codes.shape[2:]) * codes.itemsize
    return _never_zero(digests_of_groups(heads, [codes], width))


def _never_zero(digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    digests[digests == 0] = 1
    return digests


_WORDS = {2: "<u2", 4: "<u4", 8: "<u8"}
"""Types of so many bytes."""


def in_words(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same memory with each row of an array (n, m) as one number (n, 1), where it has the size
    of one: NumPy copies short rows one by one, and numbers three times as fast."""
    if codes.ndim != 2 or codes.strides[1] != codes.itemsize:
        return codes
    word = _WORDS.get(codes.shape[1] * codes.itemsize)
    return codes if word is None else codes.view(word)


def side_by_side(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Arrays (n, ...) of one type joined along their second axis."""
    if len(parts) == 1:
        return parts[0]
    words = [in_words(part) for part in parts]
    if len({part.dtype for part in words}) > 1:
        words = list(parts)
    return np.concatenate(words, axis=1).view(parts[0].dtype)


def images_digest(
    store_id: str, block: int, arrays: Mapping[str, npt.NDArray[Any]], name: str = "images"
) -> int:
    """The commit digest of several arrays of a block without a view axis.

    ``array_digest`` named ``images``, or ``prior``, over the arrays' own digests, as uint64, sorted
    by array name.
    """
    digests = [array_digest(store_id, part, block, None, arrays[part]) for part in sorted(arrays)]
    return array_digest(store_id, name, block, None, np.array(digests, dtype="<u8"))


IMAGES_COLUMN = 0
"""Of a commit row: the digest of the images' arrays; 0 where the block is not committed."""

PRIOR_COLUMN = -1
"""Of a commit row, where the store has a prior: the digest of the lists' arrays."""


UNITS = "labels/units"
"""Where the labels of a store with units lie, and what the digests of its groups' rows name."""


def commit_columns(manifest: Manifest) -> int:
    """Digests in a commit row: the images, each view array's groups, the groups' units if any, and
    the prior if any."""
    groups = len(view_arrays(manifest)) * manifest.num_groups
    units = len(unit_columns(manifest))
    return 1 + groups + units + (1 if manifest.prior_size else 0)


def unit_columns(manifest: Manifest) -> range:
    """The columns of a commit row that hold the digests of the groups' units; none of chunks."""
    start = 1 + len(view_arrays(manifest)) * manifest.num_groups
    return range(start, start + (0 if manifest.unit_images is None else manifest.num_groups))


def view_columns(manifest: Manifest) -> dict[str, range]:
    """The columns of a commit row that hold the digests of each view array's groups, by name."""
    names = [spec.name for spec in view_arrays(manifest)]
    starts = [1 + place * manifest.num_groups for place in range(len(names))]
    return {
        name: range(start, start + manifest.num_groups)
        for name, start in zip(names, starts, strict=True)
    }


LABELLED, UNREADABLE = 1, 2
"""Values of ``images/status`` in a committed block."""


NO_LIST = np.empty((0, 0), dtype=np.int32)
"""The prior lists of a store without."""
