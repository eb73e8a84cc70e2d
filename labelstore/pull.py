"""Copy a store, remote or local, block by block: all of it, or its first views."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from labelstore.blocks import BlockCodes
from labelstore.errors import IncompleteError, UsageError
from labelstore.objects import same_place
from labelstore.store import Store, backend_of
from labelstore.writer import StoreWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from labelstore.manifest import Manifest

__all__ = ["PullReport", "pull"]


@dataclass(frozen=True)
class PullReport:
    """What a run of ``pull`` did."""

    source: str
    path: str
    num_images: int
    num_views: int
    """Of the copy."""
    blocks_copied: int
    """By this run; the others were there."""
    bytes: int
    """Of the copy, on disk."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def pull(
    store: Store,
    path: str | os.PathLike[str],
    *,
    views: range | None = None,
    overwrite: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> PullReport:
    """Copy a store's codes as they are: every label of the copy is the source's to the last bit.

    A whole copy has the source's manifest and id. One of fewer views is a store of its own, whose
    ``origin`` names the source; of each block only the groups of views that cover them are read.

    Args:
        store: a finished store.
        path: where the copy goes, in the source's format (``*.parquet`` for Parquet). One that the
            same call was interrupted in is gone on with.
        views: the views of the copy, from 0 on; all when None.
        overwrite: replace a store that is at ``path``.
        tell: called with the images and views done since it was called last.

    Raises:
        IncompleteError: the source is not finished. UsageError: views that cannot be copied, or a
            path of another format. CorruptError: the source is damaged; what was copied before
            is kept. MismatchError: another store is at ``path``.
    """
    if not store.complete:
        raise IncompleteError(
            f"{store.path} lacks {len(store.missing_blocks())} of {store.manifest.num_blocks} "
            "blocks: run the command that made it again to finish it first."
        )
    if same_place(path, store.path):
        raise UsageError(f"{path} is the store that is read: choose another name for the copy.")
    if backend_of(path).encoding != store.manifest.encoding:
        raise UsageError(
            f"{path} is of another format than {store.path}, and a copy is of the same: give both "
            "names the same ending, or change the format with labelstore recode."
        )
    manifest = _manifest(store, views)
    started, copied = time.monotonic(), 0
    with StoreWriter(path, manifest, store.keys, store.targets, overwrite=overwrite) as writer:
        pending = set(writer.pending_blocks())
        for block in range(manifest.num_blocks):
            rows = manifest.block_slice(block)
            if block in pending:
                codes = store.block_codes(block, manifest.num_views)
                writer.write_codes(block, BlockCodes(*codes))
                copied += 1
            if tell is not None:
                tell(rows.stop - rows.start, (rows.stop - rows.start) * manifest.num_views)
    return PullReport(
        source=str(store.path),
        path=str(path),
        num_images=manifest.num_images,
        num_views=manifest.num_views,
        blocks_copied=copied,
        bytes=sum(Store(path).bytes_by_part().values()),
        seconds=time.monotonic() - started,
    )


def _manifest(store: Store, views: range | None) -> Manifest:
    """The copy's manifest."""
    manifest = store.manifest
    if views is None or views == range(store.num_views):
        return manifest
    if views.start != 0 or views.step != 1:
        raise UsageError(
            f"views {views.start} to {views.stop - 1} were asked for, and a view's number names "
            f"its crop, so a copy's views begin at 0: ask for 0:{views.stop}."
        )
    if not 1 <= views.stop <= store.num_views:
        raise UsageError(
            f"{views.stop} views were asked for, {store.path} has {store.num_views}: ask for 1 to "
            "that many."
        )
    settings: dict[str, Any] = {"views": views.stop}
    if manifest.teacher is None:
        settings["teachers"] = [dict(teacher) for teacher in manifest.teachers]
    return dataclasses.replace(
        manifest,
        num_views=views.stop,
        group_views=min(manifest.group_views, views.stop),
        probe=tuple(entry for entry in manifest.probe if entry["view"] < views.stop),
        origin={"operation": "pull", "stores": [manifest.id], "settings": settings},
    )
