"""A part of a store as a store of its own: some of its images, and some views of each."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from labelstore.errors import UsageError
from labelstore.labels.ferkd import FerKD
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
from labelstore.training.decisions import view_mask
from labelstore.views.philox import mixed_seed, philox4x32

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest

    Int64Array = npt.NDArray[np.int64]

__all__ = [
    "Choice",
    "Part",
    "SubsetReport",
    "ViewChoice",
    "choose_views",
    "rows_of",
    "subset",
    "told_views",
]

Choice = Literal["random", "surgical"]
"""Which of an image's views are taken: any, or those first that FerKD does not discard."""

_RUN = 4096
"""Images whose views are drawn at a time."""


@dataclass(frozen=True)
class ViewChoice:
    """So many views of each image, of each image its own.

    Raises:
        UsageError: a count below 1, an unknown choice, or a seed that is no 64-bit number.
    """

    count: int
    by: Choice = "random"
    seed: int = 0
    ferkd: FerKD = field(default_factory=FerKD)
    """The rule of ``"surgical"``."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"{self.count} views an image were asked for, expected at least 1.")
        if self.by not in get_args(Choice):
            raise UsageError(
                f"views are to be chosen by {self.by!r}, expected one of "
                f"{', '.join(get_args(Choice))}."
            )
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"seed is {self.seed}, expected 0 to 2**64 - 1.", arguments=("seed",))


@dataclass(frozen=True)
class SubsetReport(RewriteReport):
    """What a run of ``subset`` did."""

    source: str
    path: str
    num_images: int
    num_views: int
    """Of the new store."""
    explicit: bool
    """Whether the crops are stored, since a view's number does not tell them any more."""
    bytes: int
    """Of the new store, on disk."""
    seconds: float


@dataclass(frozen=True)
class Part:
    """Some of a store's images, and some views of each."""

    store: Store
    rows: Int64Array
    """Positions of the images, in the part's order."""
    views: npt.NDArray[np.integer[Any]] | range
    """As ``Selection`` has them."""
    told: Any
    """How a manifest tells of them."""

    @classmethod
    def of(
        cls,
        store: Store,
        rows: Int64Array,
        views: range | ViewChoice | None,
    ) -> Part:
        """The part of images by position (``rows_of``), with views as ``subset`` takes them and its
        errors."""
        return cls(store, rows, *_views(store, rows, views))

    def whole_blocks_first(self) -> Part:
        """The same, images of whole blocks before all others: such blocks are not encoded anew."""
        block_images = min(self.store.manifest.block_images, len(self.rows))
        ordered = self.selection.whole_blocks_first(block_images)
        return Part(self.store, ordered.rows, ordered.views, self.told)

    @functools.cached_property
    def selection(self) -> Selection:
        """The codes of it."""
        return Selection.of_store(self.store, self.rows, self.views)

    def manifest(self, operation: str) -> Manifest:
        """That of the part as a store of its own, which an operation has made."""
        settings = {
            "images": len(self.rows),
            "views": self.told,
            "labels": self.store.reader.commits_digest(),
        }
        return self.selection.manifest(operation, settings)

    def writer(
        self, path: str | os.PathLike[str], manifest: Manifest, *, overwrite: bool = False
    ) -> StoreWriter:
        """A writer of it."""
        keys, targets = self.selection.keys, self.selection.targets
        return StoreWriter(path, manifest, keys, targets, overwrite=overwrite)

    def write(
        self,
        path: str | os.PathLike[str],
        manifest: Manifest,
        *,
        overwrite: bool = False,
        tell: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write it, or what an interrupted call has left to be written."""
        with self.writer(path, manifest, overwrite=overwrite) as writer:
            write_selection(writer, self.selection, tell)


def subset(
    store: Store | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    images: npt.ArrayLike | Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    views: range | ViewChoice | None = None,
    any_order: bool = False,
    overwrite: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> SubsetReport:
    """Write images of a store, and views of each, to a store of their own.

    Labels and lists of likely classes are the source's to the last bit. A view's number names its
    crop, so where other views than the first so many are taken the new store's crops are stored
    with it (17 bytes a view before compression).

    Args:
        store: a finished store, open or as a path or URL.
        path: the new store, in the source's format (``*.parquet`` for Parquet). One that the same
            call was interrupted in is gone on with.
        images: by position or by key; all when None. They keep the order of the source, unless
            ``any_order`` is asked for.
        classes: only images of these ground-truth classes, by number.
        views: the same views of each image, without a step, or a rule; all when None. With a rule
            an image's views stand in the order of their numbers.
        any_order: put images of whole blocks before all others. Those blocks are laid down as they
            are then, with all views or the first so many; in the source's order images behind one
            that is left out are compressed anew, and that takes 30 times as long.
        overwrite: replace a store that is at ``path``.
        tell: called with the images and views done since it was called last.

    Raises:
        NotFoundError: no such image. IncompleteError: the source is not finished. UsageError:
            nothing is left, views that are not there, or a path of another format. CorruptError:
            the source is damaged. MismatchError: another store is at ``path``.
    """
    store = opened(store)
    require_source(store, path, "the store that is read: choose another name for the part")
    require_same_format(store, path, "a part")
    part = Part.of(store, rows_of(store, images, classes), views)
    part = part.whole_blocks_first() if any_order else part
    started = time.monotonic()
    manifest = part.manifest("subset")
    part.write(path, manifest, overwrite=overwrite, tell=tell)
    return SubsetReport(
        source=str(store.path),
        path=str(path),
        num_images=manifest.num_images,
        num_views=manifest.num_views,
        explicit=manifest.law != store.law,
        bytes=bytes_of(Store(path)),
        seconds=time.monotonic() - started,
    )


def rows_of(
    store: Store, images: npt.ArrayLike | Sequence[str] | None, classes: Sequence[int] | None
) -> Int64Array:
    """(n,) int64 positions of the images that arguments mean, rising; the errors are those of
    ``subset``."""
    rows = np.arange(store.num_images) if images is None else np.unique(store.positions(images))
    if classes is not None:
        unknown = [number for number in classes if not 0 <= number < store.num_classes]
        if unknown:
            raise UsageError(
                f"class {unknown[0]} was asked for, expected 0 to {store.num_classes - 1}: "
                "labelstore classes lists them.",
                arguments=("classes",),
            )
        rows = rows[np.isin(store.targets[rows], list(classes))]
    if not len(rows):
        raise UsageError(
            f"no image of {store.path} is left: a store has at least one; take other classes or "
            "images."
        )
    return rows


def _views(
    store: Store, rows: Int64Array, views: range | ViewChoice | None
) -> tuple[npt.NDArray[Any] | range, Any]:
    """The views of each image, and how a manifest tells of them."""
    rule = told_views(store, views)
    if isinstance(views, ViewChoice):
        if views.count > store.num_views:
            raise UsageError(
                f"{views.count} views an image were asked for, {store.path} has "
                f"{store.num_views}: ask for fewer."
            )
        return choose_views(store, rows, views), rule
    chosen = range(store.num_views) if views is None else views
    if chosen.step != 1 or not 0 <= chosen.start < chosen.stop <= store.num_views:
        raise UsageError(
            f"views {chosen.start}:{chosen.stop} were asked for, {store.path} has 0 to "
            f"{store.num_views - 1}: ask for a range among these.",
            arguments=("views",),
        )
    if chosen.start == 0:
        return chosen, rule
    # One row for all images: no memory is taken for the others.
    row = np.arange(chosen.start, chosen.stop, dtype=np.uint16)
    return np.broadcast_to(row, (len(rows), len(row))), rule


def told_views(store: Store, views: range | ViewChoice | None) -> Any:
    """How a manifest tells of the views of a part, as JSON has it."""
    if isinstance(views, ViewChoice):
        rule: dict[str, Any] = {"count": views.count, "by": views.by, "seed": views.seed}
        if views.by == "surgical":
            rule["ferkd"] = asdict(views.ferkd)
        return rule
    chosen = range(store.num_views) if views is None else views
    return [chosen.start, chosen.stop]


def choose_views(store: Store, rows: Int64Array, choice: ViewChoice) -> npt.NDArray[np.uint16]:
    """Which views a rule takes of images: a pure function of seed, key and (for ``"surgical"``)
    confidences.

    Args:
        store: complete. rows: (n,) positions.

    Returns:
        (n, count) uint16 view numbers, rising.
    """
    seed = mixed_seed("subset", choice.seed)
    numbers = np.arange(store.num_views, dtype=np.uint64)
    mask = view_mask(store, choice.ferkd, 1) if choice.by == "surgical" else None
    out = np.empty((len(rows), choice.count), dtype=np.uint16)
    for start in range(0, len(rows), _RUN):
        run = rows[start : start + _RUN]
        hashes = store.key_hashes[run][:, None]
        low, high = hashes & np.uint64(0xFFFFFFFF), hashes >> np.uint64(32)
        rank, more, _, _ = philox4x32((low, high, numbers, 0), seed)
        order = (rank.astype(np.uint64) << np.uint64(32)) | more
        if mask is not None:
            # Views that pass come before all others; among either it is chance.
            order = (order >> np.uint64(1)) | (
                (~mask.passes(run)).astype(np.uint64) << np.uint64(63)
            )
        first = np.argsort(order, axis=1, kind="stable")[:, : choice.count]
        out[start : start + len(run)] = np.sort(first, axis=1)
    return out
