"""A store made smaller where it lies: a part is written beside it and put in its place, whole."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labelstore.errors import CorruptError, FormatError, MismatchError, NotFoundError, UsageError
from labelstore.operations.lifecycle.subset import Part, rows_of, told_views
from labelstore.operations.verify import verify
from labelstore.storage import swaps
from labelstore.storage.location import place_of
from labelstore.storage.locks import exclusive_lock
from labelstore.store.backends.npy import MappedBackend
from labelstore.store.backends.registry import backend_of
from labelstore.store.rewrite import RewriteReport, bytes_of
from labelstore.store.store import Store

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.operations.lifecycle.subset import ViewChoice

__all__ = ["PruneLoss", "PruneReport", "finish", "prune"]

PURPOSE = "prune"

CROP_BYTES = 17
"""Of a view's stored box and flip, before compression."""


@dataclass(frozen=True)
class PruneLoss:
    """What a prune takes away for good."""

    path: str
    images: int
    """That go, with all their labels."""
    images_kept: int
    views: int
    """Labelled views that go, of all images together."""
    views_kept: int
    bytes: int
    """That are freed, as an estimate: the share of the views in the store's size, less the crops
    that have to be stored."""


@dataclass(frozen=True)
class PruneReport(RewriteReport):
    """What a run of ``prune`` did."""

    path: str
    id: str
    """Of the store that is there now."""
    num_images: int
    num_views: int
    explicit: bool
    """Whether the crops are stored, since a view's number does not tell them any more."""
    changed: bool
    """Whether anything was taken away; not where the store was this part already."""
    bytes_before: int
    bytes: int
    """Of the store that is there now, on disk."""
    seconds: float


def prune(
    path: str | os.PathLike[str],
    *,
    images: npt.ArrayLike | Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    views: range | ViewChoice | None = None,
    agree: Callable[[PruneLoss], None] = lambda _loss: None,
    tell: Callable[[int, int], None] | None = None,
) -> PruneReport:
    """Leave of a store in a folder a part, and take all else away for good.

    The part is written beside the store, under a hidden name, read and verified, and put in the
    store's place in one step where the system can (``labelstore.storage.swaps``). Until then the
    store is as it was. A call that was interrupted goes on where it stopped when it is repeated.
    Whoever has the old store open gets an error that says that it was replaced or changed.

    Args:
        path: a finished store in a folder.
        images, classes, views: what is kept, as ``subset`` has them.
        agree: told of what goes, before anything is done; what it raises leaves all as it is.
        tell: called with the images and views done since it was called last, first while they are
            written and then while they are verified.

    Raises:
        Those of ``subset``. UsageError: a store behind a URL, or a materialized copy. BusyError:
        another process writes the store. CorruptError: also where the part is not what was written.
    """
    place = finish(path)
    with exclusive_lock(place):
        store, started = Store(place), time.monotonic()
        before = bytes_of(store)
        store.require_complete()
        kept = rows_of(store, images, classes)
        part = None
        if not _is_part(store, len(kept), told_views(store, views)):
            part = Part.of(store, kept, views)
        if part is not None and part.selection.size < store.num_images * store.num_views:
            manifest = part.manifest(PURPOSE)
            agree(_loss(part, manifest, str(path), before))
            _replace(place, part, manifest, tell)
        else:
            # Who died right after the exchange has left the old store here.
            swaps.give_up(place, PURPOSE)
        now = Store(place)
    return PruneReport(
        path=str(path),
        id=now.id,
        num_images=now.num_images,
        num_views=now.num_views,
        explicit=now.law != store.law,
        changed=now.id != store.id,
        bytes_before=before,
        bytes=bytes_of(now),
        seconds=time.monotonic() - started,
    )


def finish(path: str | os.PathLike[str]) -> Path:
    """Finish a prune that was interrupted while stores were exchanged.

    Returns:
        the folder in which the store lies, links followed.

    Raises:
        UsageError: a store that cannot be pruned in its place. NotFoundError: nothing is there.
    """
    place = place_of(path)
    if isinstance(place, str):
        raise UsageError(
            f"{place} lies behind a URL, where no store is exchanged for another in one step: "
            "write the part to a new URL with labelstore subset, then delete this one."
        )
    place = place.resolve()
    swaps.finish(place, PURPOSE)
    backend = backend_of(place)
    if isinstance(backend, MappedBackend):
        backend.refuse()
    if not place.is_dir():
        raise NotFoundError(f"there is no store at {path}: check the path.")
    # Before a lock is left in a folder that is none of ours.
    backend.read_manifest()
    return place


def _is_part(store: Store, images: int, views: object) -> bool:
    """Whether a store is what a prune to so many of its images, and to these views, has left."""
    source = store.manifest.origin
    return (
        source is not None
        and source["operation"] == PURPOSE
        and images == store.num_images
        and source["settings"].get("views") == json.loads(json.dumps(views))
    )


def _loss(part: Part, manifest: Manifest, path: str, size: int) -> PruneLoss:
    store = part.store
    total = store.num_images * store.num_views
    kept = part.selection.size
    crops = kept * CROP_BYTES if manifest.law != store.law else 0
    return PruneLoss(
        path=path,
        images=store.num_images - len(part.rows),
        images_kept=len(part.rows),
        views=total - kept,
        views_kept=kept,
        bytes=max(round(size * (total - kept) / total) - crops, 0),
    )


def _replace(
    place: Path, part: Part, manifest: Manifest, tell: Callable[[int, int], None] | None
) -> None:
    """Write the part beside the store, look at all of it, and exchange the two."""
    new = swaps.beside(place, PURPOSE)
    _take_up(place, part, manifest)
    part.write(new, manifest, tell=tell)
    problems = verify(new, tell).problems
    if problems:
        swaps.give_up(place, PURPOSE)
        raise CorruptError(
            f"{place} is as it was: the part that was written beside it is damaged "
            f"({problems[0].message}): look at the disk, then run the same command again.",
            block=problems[0].block,
        )
    swaps.swap_in(place, PURPOSE)


def _take_up(place: Path, part: Part, manifest: Manifest) -> None:
    """Give up what is there under the hidden name, unless it is this part."""
    try:
        part.writer(swaps.beside(place, PURPOSE), manifest).check()
    except (FormatError, MismatchError):
        swaps.give_up(place, PURPOSE)
