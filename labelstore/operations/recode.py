"""Write a finished store anew: another backend, quantizer, k, prior list or layout."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.format.blocks import BlockPriors, check_table
from labelstore.format.manifest import fingerprint
from labelstore.format.settings import StoreSettings
from labelstore.labels import prior
from labelstore.labels.distance import Distances, distances
from labelstore.labels.distribution import mean_distribution
from labelstore.store.backends.registry import backend_of, unit_images_of
from labelstore.store.lineage import lineage, origin
from labelstore.store.rewrite import (
    RewriteReport,
    bytes_of,
    require_source,
    sample,
    unlabelled_block,
    write_blocks,
    write_selection,
)
from labelstore.store.selection import Selection
from labelstore.store.store import Store, opened
from labelstore.store.writer import StoreWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Unpack

    import numpy.typing as npt

    from labelstore.format.blocks import BlockData
    from labelstore.format.manifest import Manifest
    from labelstore.format.settings import LabelLayout, StoreOptions

__all__ = ["RecodeReport", "recode"]

_RUN = 64
"""Images that are read at a time: a prior list is read once for each of their views."""


@dataclass(frozen=True)
class RecodeReport(RewriteReport):
    """What a run of ``recode`` did."""

    path: str
    num_images: int
    num_views: int
    changed: tuple[str, ...]
    """What differs from the source in what a label says: ``name: before -> after``; empty when
    every label is the same."""
    targets_changed: int
    """Images whose ground truth is another than the source's."""
    bytes_before: int
    bytes_after: int
    distances: Distances | None
    """Of the new labels from the source's, over a sample; None when every label is the same."""


def recode(
    store: Store | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    targets: npt.ArrayLike | None = None,
    layout: LabelLayout | None = None,
    overwrite: bool = False,
    tell: Callable[[int, int], None] | None = None,
    **settings: Unpack[StoreOptions],
) -> RecodeReport:
    """Write a store's labels to another store; what is None stays as it is.

    With neither k, quantizer, prior_size nor top_p, every label stays the same to the last bit,
    also from Zarr to Parquet and back. With another k or prior size, each image's prior list is
    made anew from its views' recovered labels: what a smaller k drops goes into it. A list that is
    made so from a store without one knows the stored classes alone, not the teacher's full
    distributions.

    Args:
        store: a finished store, open or as a path or URL.
        path: the new store; its name decides the backend (``*.parquet`` or Zarr). One that the same
            call was interrupted in is gone on with.
        targets: (images,) ground truth to stand in place of the store's, -1 unknown: a teacher's
            labels depend on none of it.
        layout: how labels lie in a Zarr store: ``"chunks"``, or ``"units"``, which are read alone
            at random (version 2 of the format; no other Zarr library reads them).
        overwrite: replace a store that is at ``path``.
        tell: called with the images and views done since it was called last.
        settings: keywords ``k`` (at most the store's), ``quantizer``, ``prior_size``, ``top_p``,
            ``block_images`` and ``group_views``, as in ``labelstore.format.Manifest``.

    Raises:
        IncompleteError: the source is not finished. UsageError: settings that make no store, or
        that ask for more than is there; other ground truth for labels that were calibrated with
        what is there. MismatchError: another store is at ``path``.
    """
    store = opened(store)
    require_source(store, path, "the store that is read: choose another name for the new one")
    old, changes = store.manifest, StoreSettings(**settings)
    if changes.k is not None and changes.k > old.k:
        raise UsageError(
            f"k is {changes.k}, expected at most {old.k}, what {store.path} holds.",
            arguments=("k",),
        )
    group_views = _group_views(store, path, changes.group_views)
    own: dict[str, Any] = {"group_views": group_views}
    own["unit_images"] = unit_images_of(path, layout, group_views, old)
    if own["unit_images"] is not None:
        # Also of a store that has other arrays, as in Parquet.
        own["encoding"] = "codes"
    new = dataclasses.replace(old, **{**changes.chosen(), **own})
    changed = tuple(
        f"{name}: {getattr(old, name)} -> {getattr(new, name)}"
        for name in ("k", "quantizer", "prior_size", "top_p")
        if getattr(old, name) != getattr(new, name)
    )
    amended = _targets(store, targets)
    if changed or amended is not store.targets:
        done: dict[str, Any] = {"changed": list(changed)}
        if amended is not store.targets:
            done["targets"] = int((amended != store.targets).sum())
        new = dataclasses.replace(
            new,
            fingerprint=fingerprint(store.keys, amended),
            origin=origin("recode", [store], done),
        )
    with StoreWriter(path, new, store.keys, amended, overwrite=overwrite) as writer:
        if changed or writer.manifest.encoding != old.encoding:
            write_blocks(writer, lambda rows: _block(store, new, rows), tell)
        else:
            # Codes that mean the same stay as they are.
            write_selection(writer, Selection.of_store(store), tell)
    written = Store(path)
    return RecodeReport(
        path=str(path),
        num_images=new.num_images,
        num_views=new.num_views,
        changed=changed,
        targets_changed=int((amended != store.targets).sum()),
        bytes_before=bytes_of(store),
        bytes_after=bytes_of(written),
        distances=_compare(store, written) if changed else None,
    )


def _targets(store: Store, targets: npt.ArrayLike | None) -> npt.NDArray[np.int32]:
    """The new store's ground truth, the source's own array where it is the same."""
    if targets is None:
        return store.targets
    amended = np.asarray(targets)
    check_table(store.keys, amended, store.num_images, store.num_classes)
    if (amended == store.targets).all():
        return store.targets
    if any(step["settings"].get("ferkd") for step in lineage(store.manifest)):
        raise UsageError(
            f"labels of {store.path} were calibrated with the ground truth it has: amend the "
            "stores that it was made of, then merge them again.",
            arguments=("targets", "class_map"),
        )
    return amended.astype(np.int32)


def _group_views(store: Store, path: str | os.PathLike[str], asked: int | None) -> int:
    """As asked for; else as stored, or for another backend as it is best read there."""
    backend = backend_of(path)
    if asked is None and backend.encoding == store.manifest.encoding:
        return store.manifest.group_views
    return min(asked or backend.group_views, store.num_views)


def _block(store: Store, new: Manifest, rows: slice) -> BlockData:
    """The data of a run of images, in the new store's k and prior size."""
    data, labelled = unlabelled_block(store, new, rows)
    lists = BlockPriors(new, rows.stop - rows.start)
    # Quantized probabilities may reach the mass a class earlier than the exact ones did.
    cut = new.top_p == store.manifest.top_p
    views = np.arange(new.num_views)
    for start in range(0, len(labelled), _RUN):
        run = labelled[start : start + _RUN]
        topk = store.read((rows.start + run)[:, None], views)
        data.indices[run], data.probs[run] = topk.indices[..., : new.k], topk.probs[..., : new.k]
        if topk.prior is not None and _same_lists(store.manifest, new):
            lists.classes[run] = topk.prior.classes[:, 0]
            lists.codes[run] = prior.encode_probs(topk.prior.probs[:, 0])
            lists.powers[run] = np.rint(topk.prior.power[:, 0] * 100)
        elif new.prior_size:
            means = [mean_distribution(topk[row].recover()) for row in range(len(run))]
            lists.fit(run, means, data.indices[run], data.probs[run], cut=cut)
    return dataclasses.replace(data, cut=cut, **lists.arrays())


def _same_lists(old: Manifest, new: Manifest) -> bool:
    return (old.k, old.prior_size) == (new.k, new.prior_size)


def _compare(before: Store, after: Store) -> Distances | None:
    """Distances of the new labels from the old ones, over images all through the stores."""
    images, views = sample(before)
    if not len(images):
        return None
    return distances(
        (before.read(image, views).recover().dense(), after.read(image, views).recover())
        for image in images
    )
