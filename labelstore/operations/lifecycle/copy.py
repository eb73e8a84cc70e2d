"""Copies of stores between folders and URLs: whole, of the first views, or of some images.

``labelstore.operations.pull`` is the same by its older name.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.storage.remote.requests import pinned
from labelstore.store.rewrite import (
    RewriteReport,
    bytes_of,
    require_same_format,
    require_source,
    write_selection,
)
from labelstore.store.selection import Selection
from labelstore.store.store import Store, opened
from labelstore.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest

__all__ = ["CopyReport", "copy"]


@dataclass(frozen=True)
class CopyReport(RewriteReport):
    """What a run of ``copy`` did."""

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


def copy(
    store: Store | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    views: range | None = None,
    images: npt.ArrayLike | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> CopyReport:
    """Copy a store's codes as they are: every label of the copy is the source's to the last bit.

    A whole copy has the source's manifest and id. One of fewer views or images is a store of its
    own, whose ``origin`` names the source; only the blocks that hold these images are read, and of
    each only the groups of views that cover the views. Each block is verified when it is read. A
    URL on the hub is read at the commit that it has now.

    Args:
        store: a finished store, open or as a path or URL.
        path: where the copy goes, in the source's format (``*.parquet`` for Parquet). One that the
            same call was interrupted in is gone on with.
        views: the views of the copy, from 0 on; all when None.
        images: the images of the copy, by position or by key; all when None. They keep the order
            that they have in the source.
        overwrite: replace a store that is at ``path``.
        workers: blocks that are read, or written, at a time: what hides the time that a server
            takes to answer. When None eight, as many as there are cores between folders, and fewer
            where blocks are so large that they would take more than a gigabyte of memory.
        tell: called with the images and views done since it was called last.

    Raises:
        NotFoundError: no such image. IncompleteError: the source is not finished. UsageError: views
            that cannot be copied, or a path of another format. CorruptError: the source is damaged;
            what was copied is kept. MismatchError: another store is at ``path``, or a copy
            of other labels.
    """
    store = opened(pinned(store) if isinstance(store, (str, os.PathLike)) else store)
    require_source(store, path, "the store that is read: choose another name for the copy")
    require_same_format(store, path, "a copy")
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers were asked for, expected at least 1.")
    selection = Selection.of_store(store, _chosen(store, images), _views(store, views))
    manifest = _manifest(store, selection)
    started = time.monotonic()
    keys, targets = selection.keys, selection.targets
    with StoreWriter(path, manifest, keys, targets, overwrite=overwrite) as writer:
        if manifest is store.manifest:
            writer.check_commits(store.reader.all_commits)
        copied = write_selection(writer, selection, tell, workers)
    return CopyReport(
        source=str(store.path),
        path=str(path),
        num_images=manifest.num_images,
        num_views=manifest.num_views,
        blocks_copied=copied,
        bytes=bytes_of(Store(path)),
        seconds=time.monotonic() - started,
    )


def _chosen(store: Store, images: npt.ArrayLike | None) -> npt.NDArray[np.int64]:
    """Positions of the copy's images, in order."""
    if images is None:
        return np.arange(store.num_images)
    chosen = np.unique(store.positions(images))
    if not len(chosen):
        raise UsageError("no image was asked for: a copy has at least one.")
    return chosen


def _views(store: Store, views: range | None) -> range:
    """The views of the copy."""
    views = range(store.num_views) if views is None else views
    if views.start != 0 or views.step != 1:
        raise UsageError(
            f"views {views.start} to {views.stop - 1} were asked for, and a view's number names "
            f"its crop, so a copy's views begin at 0: ask for 0:{views.stop}, or take any views "
            "with labelstore subset."
        )
    if not 1 <= views.stop <= store.num_views:
        raise UsageError(
            f"{views.stop} views were asked for, {store.path} has {store.num_views}: ask for 1 to "
            "that many."
        )
    return views


def _manifest(store: Store, selection: Selection) -> Manifest:
    """The copy's manifest: the source's where all is copied."""
    manifest, images = store.manifest, len(selection.rows)
    if selection.num_views == store.num_views and images == store.num_images:
        return manifest
    settings: dict[str, Any] = {
        "views": selection.num_views,
        "labels": store.reader.commits_digest(),
    }
    if images < store.num_images:
        settings["images"] = images
    return selection.manifest("pull", settings)
