"""What interrupted runs left behind, found and removed; what is committed is never touched."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from labelstore.errors import BusyError, FormatError, NotFoundError
from labelstore.format.manifest import Manifest
from labelstore.storage import local_files, locks, swaps, whole_outputs, workspaces
from labelstore.storage.location import place_of
from labelstore.store.backends.registry import backend_of
from labelstore.store.slabs import shared_file
from labelstore.store.writer import holds_nothing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from labelstore.store.backends.protocol import Backend, RemoteBackend

__all__ = ["GcReport", "Kind", "Leftover", "gc"]

Kind = Literal["partial", "lock", "claim", "block", "sibling", "output", "lease", "slab", "work"]
"""A file that was being written; a lock or a claim of a writer that is gone; an object of a block
that was never committed; a store that was to come, or has gone, in another's place; a folder that
an export or a materialized copy was being made in; a dead writer's lease; labels in shared memory
that no process uses; folders of temporary files of processes that are gone."""

_WRITTEN_WITHIN = 3600.0
"""Seconds in which a single file is written for certain: one that is older was left."""

_LARGEST = 2**62
"""Bytes of slabs that no memory holds: what goes to the folder of temporary files."""


@dataclass(frozen=True)
class Leftover:
    """Files of one kind that one store, or the machine, need not keep."""

    kind: Kind
    path: str
    """The store, the folder of slabs, or the folder that a file or an output was being made in."""
    files: int
    bytes: int


@dataclass(frozen=True)
class GcReport:
    """What a run of ``gc`` has removed, or would."""

    leftovers: tuple[Leftover, ...]
    stores: int
    """That were looked at."""
    busy: tuple[str, ...]
    """Stores below a folder that were left alone, since somebody writes them."""
    dry_run: bool

    @property
    def files(self) -> int:
        """How many in all."""
        return sum(leftover.files for leftover in self.leftovers)

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(leftover.bytes for leftover in self.leftovers)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "leftovers": [asdict(leftover) for leftover in self.leftovers],
            "stores": self.stores,
            "busy": list(self.busy),
            "dry_run": self.dry_run,
            "files": self.files,
            "bytes": self.bytes,
        }


def gc(paths: Iterable[str | os.PathLike[str]], *, dry_run: bool = False) -> GcReport:
    """Remove what interrupted runs left: in stores and beside them, in shared memory, and in the
    folder of temporary files.

    Each store's writer's lock, or lease, is held meanwhile. Blocks that are committed are not
    touched, nor files that no writer of labelstore makes. In stores, and in the folders that they
    lie in, folders ``*.partial`` are known that ``export`` and ``materialize`` leave, by the lock
    that those hold, and files that were being written more than an hour ago.

    Args:
        paths: stores, in folders or behind URLs, and folders that hold stores or such outputs (one
            level below).
        dry_run: remove nothing.

    Raises:
        BusyError: a store that was named is being written; of those below a folder the others are
            looked at. NotFoundError: there is no store. CorruptError: a store whose manifest or
            commits cannot be read: nothing of it is touched. UsageError: a URL that can only be
            read.
    """
    leftovers: list[Leftover] = []
    busy: list[str] = []
    count = 0
    around: dict[Path, None] = {}
    for path in paths:
        place = place_of(path)
        stores: list[Path] | list[str]
        if isinstance(place, str):
            stores = [place]
        elif _is_store(place):
            stores = [place]
            around |= dict.fromkeys([place.resolve().parent, place.resolve()])
        else:
            stores = _stores_below(place)
            around |= dict.fromkeys([place.resolve(), *(store.resolve() for store in stores)])
        for store in stores:
            try:
                leftovers += (
                    _of_bucket(store, dry_run)
                    if isinstance(store, str)
                    else _of_folder(store.resolve(), dry_run)
                )
                count += 1
            except BusyError:
                if store == place:
                    raise
                busy.append(str(store))
    for folder in around:
        leftovers += _outputs(folder, dry_run)
    leftovers += _slabs(dry_run)
    leftovers += _workspaces(dry_run)
    return GcReport(tuple(leftovers), count, tuple(busy), dry_run)


def _is_store(place: Path) -> bool:
    """Whether a store is in a place, or the beginning of one, or is on its way there."""
    if not place.exists():
        if swaps.left_beside(place):
            return True
        raise NotFoundError(f"there is nothing at {place}: check the path.")
    if place.is_dir() and holds_nothing(place):
        return any(place.iterdir())
    try:
        backend_of(place).read_manifest()
    except (FormatError, NotFoundError):
        return False
    return True


def _stores_below(folder: Path) -> list[Path]:
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    if folder.is_dir() and not entries:
        # A writer that died right after it had made the folder left just that.
        return []
    visible = [
        entry
        for entry in entries
        if entry.is_dir()
        and not entry.name.startswith(".")
        and not entry.name.endswith(local_files.PARTIAL)
    ]
    stores = [entry for entry in visible if _is_store(entry)]
    if folder.is_dir():
        stores += swaps.places_without(folder)
    if not stores and not (folder.is_dir() and whole_outputs.left_in(folder)):
        raise NotFoundError(
            f"{folder} is no store and holds none: name a store, or a folder with stores in it."
        )
    return stores


def _of_folder(place: Path, dry_run: bool) -> list[Leftover]:
    if not place.exists():
        if dry_run:
            raise NotFoundError(
                f"{place} was to be replaced when a run was interrupted, and what is to be there "
                "lies beside it: run the same command without the dry run to put it in its place."
            )
        for purpose in swaps.PURPOSES:
            swaps.finish(place, purpose)
    locked = (place / locks.LOCK_NAME).exists()
    with contextlib.ExitStack() as stack:
        stack.enter_context(locks.exclusive_lock(place))
        files = _inside(place)
        if not locked:
            files["lock"].remove(place / locks.LOCK_NAME)
        beside = swaps.left_beside(place)
        for folder in beside:
            stack.enter_context(locks.exclusive_lock(folder))
        kinds: dict[Kind, Sequence[Path]] = {**files}
        kinds["sibling"] = [file for folder in beside for file in folder.rglob("*")]
        leftovers = [_leftover(kind, place, paths) for kind, paths in kinds.items()]
        if not dry_run:
            for purpose in swaps.PURPOSES:
                swaps.give_up(place, purpose)
            for paths in files.values():
                for file in paths:
                    local_files.delete_file(file)
                    local_files.delete_empty(file.parent, place)
        if not dry_run or not locked:
            # Whoever waits for it looks whether it still is the one of this name.
            local_files.delete_file(place / locks.LOCK_NAME)
    return [leftover for leftover in leftovers if leftover.files]


def _inside(place: Path) -> dict[Kind, list[Path]]:
    """What a store's folder holds that is no part of the store."""
    backend = backend_of(place)
    own = [place / locks.LOCK_NAME, place / locks.CREATION_NAME]
    claims = place / locks.CLAIMS_NAME
    partial = set(place.rglob(f"*{local_files.PARTIAL}"))
    orphans = [] if holds_nothing(place) else [place / name for name in _orphans(backend)]
    return {
        "partial": sorted(path for path in partial if path.is_file()),
        "block": [path for path in orphans if path.is_file()],
        "claim": sorted(claims.iterdir()) if claims.is_dir() else [],
        "lock": [path for path in own if path.is_file()],
    }


def _orphans(backend: Backend) -> list[str]:
    """Names that objects of blocks have which are not committed; there may be none."""
    document = backend.read_manifest()
    if isinstance(document, dict) and document.get("state") == "creating":
        # Its arrays are not known to be made; its next writer begins anew.
        return []
    manifest = Manifest.from_json(document, str(backend.path))
    backend.open_arrays(manifest)
    uncommitted = np.flatnonzero(backend.read_commits()[:, 0] == 0)
    return [name for block in uncommitted.tolist() for name in backend.block_objects(block)]


def _leftover(kind: Kind, place: Path, paths: Iterable[Path]) -> Leftover:
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    return Leftover(kind, str(place), len(sizes), sum(sizes))


def _of_bucket(url: str, dry_run: bool) -> list[Leftover]:
    backend = cast("RemoteBackend", backend_of(url))
    backend.check_writable()
    backend.read_manifest()
    leases = backend.dead_writers()
    with contextlib.ExitStack() as stack:
        if not dry_run:
            # They were seen to be dead, and would be watched for another minute.
            backend.delete_objects(leases)
            stack.enter_context(backend.lease(0, 1))
        sizes = backend.object_sizes()
        orphans = [name for name in _orphans(backend) if name in sizes]
        if not dry_run:
            backend.delete_objects(orphans)
    sizes_by_kind: dict[Kind, list[int]] = {
        "lease": list(leases.values()),
        "block": [sizes[name] for name in orphans],
    }
    return [
        Leftover(kind, url, len(each), sum(each)) for kind, each in sizes_by_kind.items() if each
    ]


def _outputs(folder: Path, dry_run: bool) -> list[Leftover]:
    """What exports and copies that were interrupted left in a folder, and files beside a store."""
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK) or not folder.is_dir():
        return []
    from labelstore.operations.lifecycle.export import DESCRIPTION

    leftovers = []
    for output in whole_outputs.left_in(folder):
        if not os.access(output / locks.LOCK_NAME, os.W_OK):  # another user's
            continue
        # Who makes it holds its lock.
        with contextlib.suppress(BusyError), locks.exclusive_lock(output):
            leftovers.append(_leftover("output", output, output.rglob("*")))
            if not dry_run:
                local_files.delete_tree(output)
    for output in whole_outputs.replaced_in(folder, DESCRIPTION):
        leftovers.append(_leftover("output", output, output.rglob("*")))
        if not dry_run:
            local_files.delete_tree(output)
    now = time.time()
    files = [
        file
        for file in sorted(folder.iterdir())
        if local_files.is_partial_file(file)
        and file.is_file()
        and not file.is_symlink()
        and now - file.stat().st_mtime > _WRITTEN_WITHIN
    ]
    if files:
        leftovers.append(_leftover("partial", folder, files))
        for file in () if dry_run else files:
            local_files.delete_file(file)
    return leftovers


def _workspaces(dry_run: bool) -> list[Leftover]:
    """What killed processes left in the folder of temporary files."""
    folders = workspaces.abandoned()
    leftovers = [_leftover("work", folder, folder.rglob("*")) for folder in folders]
    if not dry_run:
        workspaces.sweep()
    return [leftover for leftover in leftovers if leftover.files]


def _slabs(dry_run: bool) -> list[Leftover]:
    """What dead processes left in memory, and where slabs lie that do not fit there."""
    leftovers = []
    for folder in {shared_file.default_folder(0), shared_file.default_folder(_LARGEST)}:
        sizes = shared_file.unused(folder)
        if sizes:
            leftovers.append(Leftover("slab", str(folder), len(sizes), sum(sizes.values())))
            if not dry_run:
                shared_file.sweep(folder)
    return leftovers
