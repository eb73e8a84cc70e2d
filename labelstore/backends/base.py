"""What a store is made of below its manifest: named arrays, blocks in, blocks out, commit rows.

A backend moves arrays of codes and knows nothing of what they mean; ``labelstore.store`` is where
manifest and backend meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import xxhash

from labelstore import codecs
from labelstore.manifest import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.manifest import Encoding, Manifest
    from labelstore.storage.leases import Lease

__all__ = [
    "ArraySpec",
    "Backend",
    "RemoteBackend",
    "array_digest",
    "commit_columns",
    "image_arrays",
    "images_digest",
    "prior_arrays",
    "view_arrays",
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


def commit_columns(manifest: Manifest) -> int:
    """Digests in a commit row: the images, each view array's groups, and the prior if any."""
    groups = len(view_arrays(manifest)) * manifest.num_groups
    return 1 + groups + (1 if manifest.prior_size else 0)


def image_arrays(manifest: Manifest) -> tuple[ArraySpec, ...]:
    """The arrays with one entry an image that a block's writer fills, in the order of hashing."""
    images = manifest.num_images
    return (
        ArraySpec("images/size", np.dtype("<i4"), (images, 2), ("image", "side"), 0),
        ArraySpec("images/digest", np.dtype("<u8"), (images,), ("image",), 0),
        ArraySpec("images/status", np.dtype("|u1"), (images,), ("image",), 0),
    )


def array_digest(
    store_id: str, name: str, block: int, group: int | None, codes: npt.NDArray[Any]
) -> int:
    """The commit digest of one array's codes: xxh3_64, never 0.

    Over the ASCII text ``{store_id}/{name}/{block}/{group}`` (group ``-`` for arrays without
    views), a NUL byte, and the codes, little-endian in C order. The text makes a valid block in
    the wrong place, or from another store, as wrong as a flipped bit.
    """
    place = f"{store_id}/{name}/{block}/{'-' if group is None else group}\0"
    digest = xxhash.xxh3_64(place.encode())
    digest.update(np.ascontiguousarray(codes).data.cast("B") if codes.size else b"")
    return digest.intdigest() or 1


def images_digest(
    store_id: str, block: int, arrays: Mapping[str, npt.NDArray[Any]], name: str = "images"
) -> int:
    """The commit digest of several arrays of a block without a view axis.

    ``array_digest`` named ``images``, or ``prior``, over the arrays' own digests, as uint64, sorted
    by array name.
    """
    digests = [array_digest(store_id, part, block, None, arrays[part]) for part in sorted(arrays)]
    return array_digest(store_id, name, block, None, np.array(digests, dtype="<u8"))


class Backend(Protocol):
    """Reads and writes one store. Errors are those of ``labelstore.errors``."""

    encoding: Encoding
    """What its arrays hold."""
    group_views: int
    """Views of a group unless a user says otherwise: what one read costs beside its bytes."""

    @property
    def path(self) -> Path | str:
        """A local path, or a URL."""

    def read_manifest(self) -> Any:
        """The manifest's JSON document, unchecked."""

    def open_arrays(self, manifest: Manifest) -> None:
        """Check that the arrays are those that the manifest implies; CorruptError otherwise."""

    def read_keys(self) -> tuple[str, ...]:
        """All images' keys."""

    def read_targets(self) -> npt.NDArray[np.int32]:
        """All images' ground truth, (num_images,) int32, -1 unknown."""

    def read_commits(self) -> npt.NDArray[np.uint64]:
        """(num_blocks, columns) commit rows; a row of zeros is a block that is not committed."""

    def read_commit(self, block: int) -> npt.NDArray[np.uint64]:
        """(columns,) commit row of one block, as it is now."""

    def read(self, name: str, images: slice, views: slice | None) -> npt.NDArray[Any]:
        """Codes of an array for a run of images and, for labels, a run of views."""

    def read_many(
        self, runs: Iterable[tuple[str, slice, slice | None]]
    ) -> Iterator[npt.NDArray[Any]]:
        """What ``read`` gives for many runs, in order; of a remote store several at once."""

    def fetch_block(self, block: int) -> None:
        """Say that all of a block is read next: a remote store gets it in a few requests."""

    def create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        """Make an empty store; the manifest becomes readable last."""

    def open_for_writing(self, manifest: Manifest) -> None:
        """As ``open_arrays``, for a writer."""

    def committed(self, blocks: Sequence[int]) -> list[int]:
        """Those of some blocks that are committed now; of the others little is asked for."""

    def write_block(
        self,
        block: int,
        arrays: Mapping[str, npt.NDArray[Any]],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Write all arrays of an uncommitted block, replacing what a killed writer left.

        ``ready`` is called when everything is encoded, and in a folder is on the disk under other
        names, before the first object of the store is touched (where objects are sent one by one,
        before each): what it raises leaves the store as it is.
        """

    def write_commit(self, block: int, row: npt.NDArray[np.uint64]) -> bool:
        """Commit a block whose arrays are on the disk; False where it is committed already."""

    def withdraw_commit(self, block: int) -> None:
        """Make a committed block uncommitted, for good before this returns."""

    def bytes_by_part(self) -> dict[str, int]:
        """Bytes on disk of each array, with ``manifest`` for what is left."""


class RemoteBackend(Backend, Protocol):
    """What a writer needs besides where it has no folder to look into."""

    def check_writable(self) -> None:
        """UsageError for a URL that can only be read."""

    def is_empty(self) -> bool:
        """Whether nothing is there."""

    def clear(self) -> None:
        """Delete all that is there."""

    def lease(self, rank: int, world: int) -> Lease:
        """The right to write here, for one of several processes; not taken yet."""
