"""Write a finished store anew: another backend, quantizer, k, prior list or layout."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.format.blocks import BlockData
from labelstore.format.encoding import cut_at_mass
from labelstore.format.manifest import EXPLICIT
from labelstore.labels import prior
from labelstore.labels.distance import Distances, distances
from labelstore.labels.distribution import mean_distribution
from labelstore.storage.location import same_place
from labelstore.store.backends.registry import backend_of
from labelstore.store.store import Store, opened
from labelstore.store.writer import StoreWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from labelstore.format.manifest import Manifest
    from labelstore.labels.top_k import TopK

__all__ = ["RecodeReport", "recode"]

_RUN = 64
"""Images that are read at a time: a prior list is read once for each of their views."""

_SAMPLE = 64
"""Images whose labels are compared at the end."""


@dataclass(frozen=True)
class RecodeReport:
    """What a run of ``recode`` did."""

    path: str
    num_images: int
    num_views: int
    changed: tuple[str, ...]
    """What differs from the source in what a label says: ``name: before -> after``; empty when
    every label is the same."""
    bytes_before: int
    bytes_after: int
    distances: Distances | None
    """Of the new labels from the source's, over a sample; None when every label is the same."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        found = None if self.distances is None else self.distances.to_json()
        return {**asdict(self), "changed": list(self.changed), "distances": found}


def recode(
    store: Store | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    k: int | None = None,
    quantizer: str | None = None,
    prior_size: int | None = None,
    top_p: float | None = None,
    block_images: int | None = None,
    group_views: int | None = None,
    overwrite: bool = False,
    tell: Callable[[int, int], None] | None = None,
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
        k: at most the store's. quantizer, prior_size, top_p, block_images, group_views: as in
            ``labelstore.format.manifest.Manifest``.
        overwrite: replace a store that is at ``path``.
        tell: called with the images and views done since it was called last.

    Raises:
        IncompleteError: the source is not finished. UsageError: settings that make no store, or
        that ask for more than is there. MismatchError: another store is at ``path``.
    """
    store = opened(store)
    store.require_complete()
    if same_place(path, store.path):
        raise UsageError(f"{path} is the store that is read: choose another name for the new one.")
    old = store.manifest
    if k is not None and k > old.k:
        raise UsageError(
            f"k is {k}, expected at most {old.k}, what {store.path} holds.", arguments=("k",)
        )
    given: dict[str, Any] = {
        "k": k,
        "quantizer": quantizer,
        "prior_size": prior_size,
        "top_p": top_p,
        "block_images": block_images,
        "group_views": _group_views(store, path, group_views),
    }
    new = dataclasses.replace(
        old, **{name: value for name, value in given.items() if value is not None}
    )
    changed = tuple(
        f"{name}: {getattr(old, name)} -> {getattr(new, name)}"
        for name in ("k", "quantizer", "prior_size", "top_p")
        if getattr(old, name) != getattr(new, name)
    )
    if changed:
        settings = {"changed": list(changed)}
        origin = {"operation": "recode", "stores": [old.id], "settings": settings}
        new = dataclasses.replace(new, origin=origin)
    with StoreWriter(path, new, store.keys, store.targets, overwrite=overwrite) as writer:
        pending = set(writer.pending_blocks())
        for block in range(new.num_blocks):
            rows = new.block_slice(block)
            if block in pending:
                writer.write_block(block, _block(store, new, rows))
            if tell is not None:
                tell(rows.stop - rows.start, (rows.stop - rows.start) * new.num_views)
    made = Store(path)
    return RecodeReport(
        path=str(path),
        num_images=new.num_images,
        num_views=new.num_views,
        changed=changed,
        bytes_before=sum(store.bytes_by_part().values()),
        bytes_after=sum(made.bytes_by_part().values()),
        distances=_compare(store, made) if changed else None,
    )


def _group_views(store: Store, path: str | os.PathLike[str], asked: int | None) -> int:
    """As asked for; else as stored, or for another backend as it is best read there."""
    backend = backend_of(path)
    if asked is None and backend.encoding == store.manifest.encoding:
        return store.manifest.group_views
    return min(asked or backend.group_views, store.num_views)


def _block(store: Store, new: Manifest, rows: slice) -> BlockData:
    """The data of a run of images, in the new store's k and prior size."""
    count, views = rows.stop - rows.start, np.arange(new.num_views)
    images = np.arange(rows.start, rows.stop)
    readable = store.labelled()[rows]
    indices = np.zeros((count, new.num_views, new.k), dtype=np.int32)
    probs = np.zeros(indices.shape, dtype=np.float32)
    lists = np.full((count, new.prior_size), -1, dtype=np.int32)
    list_probs = np.zeros(lists.shape, dtype=np.uint8)
    powers = np.zeros(count, dtype=np.uint8)
    places = np.flatnonzero(readable)
    for start in range(0, len(places), _RUN):
        run = places[start : start + _RUN]
        topk = store.read(images[run][:, None], views)
        indices[run], probs[run] = topk.indices[..., : new.k], topk.probs[..., : new.k]
        if new.prior_size:
            lists[run], list_probs[run], powers[run] = _priors(topk, store.manifest, new)
    widths, heights = store.sizes(images)
    explicit = {}
    if new.law == EXPLICIT:
        boxes = np.full((count, new.num_views, 4), -1, dtype=np.int32)
        flips = np.zeros((count, new.num_views), dtype=bool)
        found = store.views(images[readable][:, None], views)
        boxes[readable], flips[readable] = found.box, found.flip
        explicit = {"boxes": boxes, "flips": flips}
    return BlockData(
        indices=indices,
        probs=probs,
        widths=widths,
        heights=heights,
        digests=store.image_digests(images),
        readable=readable,
        prior_classes=lists if new.prior_size else None,
        prior_probs=list_probs if new.prior_size else None,
        prior_power=powers if new.prior_size else None,
        # Quantized probabilities may reach the mass a class earlier than the exact ones did.
        cut=new.top_p == store.manifest.top_p,
        **explicit,
    )


def _priors(topk: TopK, old: Manifest, new: Manifest) -> tuple[Any, Any, Any]:
    """Prior lists of images (n) from their labels (n, V, k): class ids, codes, powers."""
    if topk.prior is not None and (old.k, old.prior_size) == (new.k, new.prior_size):
        power = np.rint(topk.prior.power[:, 0] * 100).astype(np.uint8)
        return topk.prior.classes[:, 0], prior.encode_probs(topk.prior.probs[:, 0]), power
    fitted = []
    for image in range(len(topk)):
        one = topk[image]
        ids, probs = one.indices[:, : new.k], one.probs[:, : new.k]
        if new.top_p != old.top_p:
            probs = cut_at_mass(probs, new.top_p)
        fitted.append(prior.fit(mean_distribution(one.recover()), ids, probs, new.prior_size))
    classes, codes, powers = zip(*fitted, strict=True)
    return np.stack(classes), np.stack(codes), np.array(powers, dtype=np.uint8)


def _compare(before: Store, after: Store) -> Distances | None:
    """Distances of the new labels from the old ones, over images all through the stores."""
    labelled = np.flatnonzero(before.labelled())
    if not len(labelled):
        return None
    chosen = labelled[:: max(1, len(labelled) // _SAMPLE)][:_SAMPLE]
    views = np.arange(min(before.num_views, 64))
    return distances(
        (before.read(image, views).recover().dense(), after.read(image, views).recover())
        for image in chosen
    )
