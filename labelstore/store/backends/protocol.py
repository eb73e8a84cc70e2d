"""What a store is made of below its manifest: named arrays, blocks in, blocks out, commit rows.

A backend moves arrays of codes and knows nothing of what they mean; ``labelstore.store.store`` is
where manifest and backend meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from labelstore.format.blocks import StoredArray, StoredObject
    from labelstore.format.manifest import Manifest
    from labelstore.format.settings import Encoding
    from labelstore.storage.remote.leases import Lease
    from labelstore.store.backends.zarr.units import UnitReads

__all__ = ["Backend", "RemoteBackend"]


class Backend(Protocol):
    """Reads and writes one store. Errors are those of ``labelstore.errors``."""

    encoding: Encoding
    """What its arrays hold."""
    group_views: int
    """Views of a group unless a user says otherwise: what one read costs beside its bytes."""

    @property
    def path(self) -> Path | str:
        """A local path, or a URL."""

    @property
    def units(self) -> UnitReads | None:
        """Reads single units, where labels lie in units; else None."""

    def read_manifest(self) -> Any:
        """The manifest's JSON document, unchecked."""

    def open_arrays(self, manifest: Manifest) -> None:
        """Check that the arrays are those that the manifest implies; CorruptError otherwise."""

    def read_keys(self) -> tuple[str, ...]:
        """All images' keys."""

    def read_targets(self) -> npt.NDArray[np.int32]:
        """All images' ground truth, (num_images,) int32, -1 unknown."""

    def read_commits(self, blocks: Sequence[int] | None = None) -> npt.NDArray[np.uint64]:
        """(n, columns) commit rows of some blocks, of all when None; a row of zeros is a block that
        is not committed."""

    def read_commit(self, block: int) -> npt.NDArray[np.uint64]:
        """(columns,) commit row of one block, as it is now."""

    def read(self, name: str, images: slice, views: slice | None) -> npt.NDArray[Any]:
        """Codes of an array for a run of images, (images, ...), or of labels with a run of views,
        (images, views, ...).

        Raises:
            CorruptError: they are damaged.
        """

    def read_many(
        self, runs: Iterable[tuple[str, slice, slice | None]]
    ) -> Iterator[npt.NDArray[Any]]:
        """What ``read`` gives for many runs, in order; of a remote store several at once."""

    def fetch_block(self, block: int) -> None:
        """Say that all of a block is read next: a remote store gets it in a few requests, and keeps
        it until ``release_block``."""

    def hold_block(self, block: int, groups: int | None = None) -> Mapping[str, StoredObject]:
        """As ``fetch_block``: the objects of a block as they are on disk, by array name, of which
        it is read next. None that cannot be read, and none of a format whose objects say where in
        a store they belong.

        ``groups``: only the first so many groups of views are read, and a remote store gets no
        others: its objects have these alone then. All when None.
        """

    def release_block(self, block: int) -> None:
        """Say that a block that was fetched, or held, has been read."""

    def create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        """Make an empty store; the manifest becomes readable last."""

    def open_for_writing(self, manifest: Manifest) -> None:
        """As ``open_arrays``, for a writer."""

    def committed(self, blocks: Sequence[int]) -> list[int]:
        """Those of some blocks that are committed now; of the others little is asked for."""

    def encode_block(
        self,
        block: int,
        arrays: Mapping[str, npt.NDArray[Any]],
        stored: Mapping[str, StoredArray] | None = None,
    ) -> tuple[dict[str, bytes | None], npt.NDArray[np.uint64] | None]:
        """All arrays of a block as the objects that are to hold them; nothing is written.

        What ``stored`` has, bit for bit and cut into the same pieces, is not encoded again.

        Returns:
            by name the bytes of each object, None for one that is not to be there; and (groups,
            units) the digests of its units, where labels lie in units: its commit row is made of
            them. Else None.
        """

    def write_objects(
        self, objects: Mapping[str, bytes | None], ready: Callable[[], None] = lambda: None
    ) -> None:
        """Write the objects of an uncommitted block, replacing what a killed writer left.

        ``ready`` is called when everything is in a folder on the disk under other names, before
        the first object of the store is touched (where objects are sent one by one, before each):
        what it raises leaves the store as it is.
        """

    def write_commit(self, block: int, row: npt.NDArray[np.uint64]) -> bool:
        """Commit a block whose arrays are on the disk by its row (columns,); False where it is
        committed already."""

    def withdraw_commit(self, block: int) -> None:
        """Make a committed block uncommitted, for good before this returns."""

    def block_objects(self, block: int) -> list[str]:
        """Names of the objects that hold a block's arrays; its commit row is in none of them."""

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

    def dead_writers(self) -> dict[str, int]:
        """Names and bytes of the leases that dead writers have left; takes up to a minute, and is
        a BusyError where one is alive."""

    def object_sizes(self) -> dict[str, int]:
        """Bytes of each object that is there, leases apart."""

    def delete_objects(self, names: Iterable[str]) -> None:
        """Delete objects, several at once."""

    def lease(self, rank: int, world: int) -> Lease:
        """The right to write here, for one of several processes; not taken yet."""
