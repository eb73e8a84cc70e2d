"""The writer: blocks are committed or absent, and nothing committed is ever written again."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from labelstore.errors import (
    FormatError,
    MismatchError,
    NotFoundError,
    StoreError,
    UsageError,
)
from labelstore.format.blocks import BlockData, block_codes
from labelstore.format.manifest import Manifest, differences
from labelstore.storage import local_files, locks
from labelstore.storage.location import place_of
from labelstore.store.backends.npy import MappedBackend
from labelstore.store.backends.registry import backend_of
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    import numpy.typing as npt

    from labelstore.format.blocks import BlockCodes
    from labelstore.storage.remote.leases import Lease
    from labelstore.store.backends.protocol import Backend, RemoteBackend

__all__ = ["EncodedBlock", "Remake", "Share", "StoreWriter", "encoded_block", "holds_nothing"]

CREATION_SECONDS, LOOK_SECONDS = 600.0, 1.0
"""How long a process waits for another one to make an empty store, and how often it looks."""

LABELS = "labels"
"""What the digest of given labels is called among the producer's properties."""

_FIRST_OBJECTS = ("zarr.json.", "manifest.json.")
"""What a backend's first object is called while it is written."""


@dataclasses.dataclass(frozen=True)
class Share:
    """One of several processes that write a store together."""

    rank: int
    """0..world-1."""
    world: int
    """How many there are."""


@dataclasses.dataclass(frozen=True)
class Remake:
    """Committed blocks that are to be made anew, each when what replaces it is there."""

    blocks: frozenset[int]
    adopt: Callable[[int, BlockCodes], BlockCodes] = lambda _block, codes: codes
    """What is written of a block that was made anew; it raises where that must not be."""


@dataclasses.dataclass(frozen=True)
class EncodedBlock:
    """A block as the objects that are to hold it."""

    objects: Mapping[str, bytes | None]
    """By name; None for one that is not to be there."""
    commit: npt.NDArray[np.uint64]
    """Its commit row."""


def encoded_block(
    backend: Backend, manifest: Manifest, block: int, codes: BlockCodes
) -> EncodedBlock:
    """A block's codes as objects; nothing is written. ``backend`` is open for writing."""
    objects, unit_digests = backend.encode_block(block, codes.arrays, codes.stored)
    return EncodedBlock(objects, codes.commit_row(manifest, block, unit_digests))


class StoreWriter:
    """A writer of a store; a context manager that holds the store's lock.

    Alone, unless a ``share`` is given: then processes that share nothing but the store make its
    blocks together. Each claims a block before it makes it, and a dead one's claims lapse, so that
    the number of processes may be any and may change.

    Raises:
        MismatchError: views are mixed with those of other images than the first of these.

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
        share: Share | None = None,
        remake: Remake | None = None,
    ) -> None:
        self.path = place_of(path)
        self._backend = backend_of(self.path)
        if isinstance(self._backend, MappedBackend):
            self._backend.refuse()
        encoding = self._backend.encoding
        # An exact copy's manifest stays what it is, a draft's too.
        if manifest.encoding != encoding:
            # There are no units in Parquet.
            unit_images = manifest.unit_images if encoding == "codes" else None
            manifest = dataclasses.replace(manifest, encoding=encoding, unit_images=unit_images)
        self.manifest = manifest
        if isinstance(manifest.law, ViewLaw) and manifest.law.mixing is not None:
            manifest.law.among(hash_keys(keys))
        self._keys = keys
        self._targets = targets
        self._overwrite = overwrite
        self._allow_version_drift = allow_version_drift
        self._share = share
        self._adopt = None if remake is None else remake.adopt
        self._remaking = set() if remake is None else set(remake.blocks)
        self._claims: dict[int, locks.Claim] = {}
        self._lock: locks.Claim | None = None
        self._lease: Lease | None = None
        self._stack = contextlib.ExitStack()

    def check(self) -> None:
        """Refuse, as entering does, numbers out of range and what is at the path; nothing is
        written."""
        self.manifest.to_json()
        self._check_path()

    def __enter__(self) -> StoreWriter:
        self.manifest.to_json()  # before anything is written
        self.resumed = self._check_path()
        with contextlib.ExitStack() as stack:
            if isinstance(self.path, str):
                # No object store has locks.
                share = self._share or Share(0, 1)
                self._lease = stack.enter_context(self._remote.lease(share.rank, share.world))
                self._wait_for_first()
                self._begin()
            elif self._share is None:
                self._lock = stack.enter_context(locks.exclusive_lock(self.path))
                self._begin()
            else:
                stack.enter_context(locks.shared_lock(self.path))
                with locks.creation_lock(self.path):
                    self._begin()
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
        for claim in self._claims.values():
            claim.release(finished=False)
        self._claims.clear()
        self._stack.close()

    def _begin(self) -> None:
        """Make the empty store, or take up what another writer has left."""
        # Another writer may have finished, or begun, between the look and the lock.
        self.resumed = self._check_path()
        if not self.resumed:
            if isinstance(self.path, str):
                self._remote.clear()
            else:
                for entry in self.path.iterdir():
                    if entry.name not in locks.LOCK_NAMES:
                        (local_files.delete_tree if entry.is_dir() else local_files.delete_file)(
                            entry
                        )
            self._backend.create(self.manifest, self._keys, self._targets)
        elif self._share is None and isinstance(self.path, Path):
            local_files.remove_partials(self.path)
            locks.remove_claims(self.path)

    def _wait_for_first(self) -> None:
        """On an object store the first process makes the empty store; the others wait for it."""
        if self._share is None or self._share.rank == 0:
            return
        for _ in range(int(CREATION_SECONDS / LOOK_SECONDS)):
            if self._check_path():
                return
            time.sleep(LOOK_SECONDS)
        raise StoreError(
            f"{self.path} was not begun by process 0 within {CREATION_SECONDS:.0f} s: look at what "
            "became of it, then run all of them again."
        )

    @property
    def takes_over(self) -> bool:
        """Whether blocks of processes that die are made by the others: not where there are no
        locks, as on object stores; there each process has its own blocks, by their number."""
        return self._share is not None and not isinstance(self.path, str)

    @property
    def _remote(self) -> RemoteBackend:
        return cast("RemoteBackend", self._backend)

    def _check_path(self) -> bool:
        """Whether a store of these very settings is there to go on with."""
        if isinstance(self.path, str):
            self._remote.check_writable()
            if self._remote.is_empty():
                return False
        elif not self.path.exists() or holds_nothing(self.path):
            return False
        elif not self.path.is_dir():
            raise FormatError(f"{self.path} is a file: choose another name for the store.")
        try:
            document = self._backend.read_manifest()
        except (FormatError, NotFoundError):
            document = None
        if isinstance(document, dict) and document.get("state") == "creating":
            return False
        if not isinstance(document, dict) or document.get("format") != "labelstore":
            raise FormatError(
                f"{self.path} exists and is not a labelstore store: choose another name, nothing "
                "in it was touched."
            )
        if self._overwrite:
            if self._share is not None:
                raise UsageError(
                    f"{self.path} is there, and one of several processes cannot overwrite it under "
                    "the others: delete it first, then leave overwrite out.",
                    arguments=("overwrite",),
                )
            return False
        stored = Manifest.from_json(document, str(self.path))
        asked = self.manifest
        if self._allow_version_drift:
            asked = dataclasses.replace(asked, producer=stored.producer)
        lines = differences(stored, asked)
        if lines:
            raise _made_otherwise(self.path, lines)
        self.manifest = stored
        return True

    def pending_blocks(self) -> list[int]:
        """Blocks that have to be made, in order: known before any image is decoded."""
        uncommitted = np.flatnonzero(~self._committed).tolist()
        return sorted({*uncommitted, *self._remaking})

    def claim(self, block: int) -> bool:
        """Take a block on; False where it is committed or another process is at it."""
        if self._committed[block] and block not in self._remaking:
            return False
        if self._share is None:
            return True
        if isinstance(self.path, str):
            return block % self._share.world == self._share.rank
        claim = locks.claim(self.path, block)
        if claim is None:
            return False
        # Another process may have committed it since the last look.
        self._committed[block] = self._backend.read_commit(block)[0] != 0
        if self._committed[block]:
            claim.release(finished=True)
            return False
        self._claims[block] = claim
        return True

    def refresh(self) -> None:
        """Look again at what others have committed; of what is known nothing is read."""
        self._committed[self._backend.committed(np.flatnonzero(~self._committed).tolist())] = True

    def awaited(self) -> tuple[set[int], set[int]]:
        """The processes, by number, whose blocks are missing where each has its own blocks: those
        that are there, and those that are not (dead, or not begun)."""
        share = self._share or Share(0, 1)
        lacking = {block % share.world for block in self.pending_blocks()}
        alive = set() if self._lease is None else lacking & self._lease.processes()
        return alive, lacking - alive

    def write_block(self, block: int, data: BlockData) -> None:
        """Encode, write and commit a block.

        Raises:
            LabelError: the arrays are no labels of this block.
            StoreError: the block is committed already, or the disk refuses.
        """
        self.write_codes(block, block_codes(data, self.manifest, block))

    def write_codes(self, block: int, codes: BlockCodes) -> None:
        """Write and commit a block whose codes are those of the manifest's encoding.

        Raises:
            StoreError: the block is committed already, by this writer or by another one meanwhile;
                or the disk refuses.
        """
        if block in self._remaking and self._adopt is not None:
            codes = self._adopt(block, codes)
        self.write_encoded(block, encoded_block(self._backend, self.manifest, block, codes))

    def write_encoded(self, block: int, encoded: EncodedBlock) -> None:
        """Write and commit a block that was encoded elsewhere.

        Raises:
            StoreError: as ``write_codes``.
        """
        if self._committed[block] and block not in self._remaking:
            raise self._never_again(block)
        self._backend.write_objects(encoded.objects, lambda: self._ready(block))
        if not self._backend.write_commit(block, encoded.commit):
            raise self._never_again(block)
        self._committed[block] = True
        if block in self._claims:
            self._claims.pop(block).release(finished=True)

    def _ready(self, block: int) -> None:
        """What is asked right before a block's objects are touched, when all else is done.

        Locks lapse (on file servers, and leases) while a writer is stopped or cut off; then another
        one may have made the block.
        """
        lock = self._claims.get(block, self._lock)
        if lock is not None and not lock.holds():
            raise StoreError(
                f"{self.path}: the lock of block {block} was lost while it was made, and another "
                "process may have it: run the same command again; what was committed is kept."
            )
        if self._lease is not None:
            self._lease.check()
        if block in self._remaking:
            self._backend.withdraw_commit(block)
            self._remaking.discard(block)
        elif self._backend.read_commit(block)[0]:
            raise self._never_again(block)

    def _never_again(self, block: int) -> StoreError:
        return StoreError(f"{self.path}: block {block} is committed and is never written again.")

    def check_commits(self, commits: npt.NDArray[np.uint64]) -> None:
        """Check that the committed blocks are those of a store with these commit rows.

        Raises:
            MismatchError: they hold other labels.
        """
        differing = (self._backend.read_commits() != commits).any(axis=1) & self._committed
        if differing.any():
            raise MismatchError(
                f"{self.path} exists and block {int(np.argmax(differing))} in it holds other "
                "labels than the store that is copied, though both were made with the same "
                "settings: choose another name, or overwrite it."
            )


def _made_otherwise(path: Path | str, lines: Sequence[str]) -> MismatchError:
    """The error of a store that is there and differs, as ``differences`` says, and its mend."""
    more = f" and {len(lines) - 6} more" if len(lines) > 6 else ""
    if any(line.startswith(f"producer.{LABELS}:") for line in lines):
        return MismatchError(
            f"{path} exists and holds other labels than those given "
            f"({'; '.join(lines[:6])}{more}): choose another name, or overwrite it."
        )
    if all(line.startswith(("views.count:", "images.")) for line in lines):
        mend, argument = (
            "give the settings it was made with, or, where it is to have more images or views, let "
            "it grow into a new store of another name, which takes its labels over",
            "grow",
        )
    elif all(line.startswith("producer.") for line in lines):
        mend, argument = "install those versions, or allow the drift", "allow_version_drift"
    else:
        mend, argument = (
            "give the settings it was made with, another name, or overwrite it",
            "overwrite",
        )
    return MismatchError(
        f"{path} was made with other settings ({'; '.join(lines[:6])}{more}): {mend}.",
        arguments=(argument,),
    )


def holds_nothing(path: Path) -> bool:
    """Whether a folder is empty but for what a writer leaves that died before its first object."""
    return path.is_dir() and all(
        entry.name in locks.LOCK_NAMES
        or (entry.name.startswith(_FIRST_OBJECTS) and entry.suffix == local_files.PARTIAL)
        for entry in path.iterdir()
    )
