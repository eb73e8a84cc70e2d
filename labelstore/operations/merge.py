"""Write the mean of several teachers' stores to a store of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.errors import MismatchError, UsageError
from labelstore.format.blocks import BlockData
from labelstore.format.encoding import cut_at_mass
from labelstore.format.manifest import EXPLICIT, Manifest
from labelstore.labels import prior
from labelstore.labels.distance import Distances, distances
from labelstore.labels.distribution import largest, mean_distribution
from labelstore.labels.ferkd import Action, FerKD
from labelstore.storage.location import same_place
from labelstore.store.backends.registry import backend_of
from labelstore.store.ensembles import Ensemble, ensemble, opened_all
from labelstore.store.store import Store
from labelstore.store.writer import StoreWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from labelstore.labels.ferkd import EnsembleFerKD
    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.labels.top_k import Tail
    from labelstore.store.ensembles import Images

__all__ = ["MergeReport", "merge"]

_SAMPLE = 64
"""Images whose labels are compared at the end, and at most as many views of each."""


@dataclass(frozen=True)
class MergeReport:
    """What a run of ``merge`` did."""

    path: str
    stores: tuple[str, ...]
    weights: tuple[float, ...]
    num_images: int
    num_views: int
    k: int
    quantizer: str
    prior_size: int
    bytes: int
    """Of the new store's files."""
    distances: Distances | None
    """Of the stored labels from the unquantized means, over a sample; None without a labelled
    image."""
    actions: dict[str, float] | None
    """Share of the sample's views that were ``kept``, ``calibrated`` and ``discarded``; None where
    nothing was calibrated."""
    same_decision: float | None
    """Share of the sample's views that the rule, applied to the new store, discards exactly if it
    discarded them here; None where nothing was calibrated, or by a rule for each teacher."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        found = None if self.distances is None else self.distances.to_json()
        return {
            **asdict(self),
            "stores": list(self.stores),
            "weights": list(self.weights),
            "distances": found,
        }


def merge(
    stores: Sequence[Store | str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    ferkd: FerKD | EnsembleFerKD | None = None,
    tail: Tail | None = None,
    images: Images = "strict",
    k: int | None = None,
    quantizer: str | None = None,
    prior_size: int | None = None,
    top_p: float | None = None,
    block_images: int | None = None,
    group_views: int | None = None,
    overwrite: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Write the (weighted) mean of stores over the same views of the same images.

    The labels are those that ``labelstore.ensemble`` gives, cut to the k largest classes and
    quantized; each image's prior list is made from the whole means.

    Args:
        stores: two or more finished stores, open or as paths or URLs; input sizes, k and
            quantizers may differ.
        path: the new store; its name decides the backend (``*.parquet`` or Zarr). One that the same
            call was interrupted in is gone on with.
        weights, images: as for ``labelstore.ensemble``.
        ferkd: calibrates the labels before (or, with ``ensemble="mean"``, after) they are averaged.
            A discarded view keeps the plain mean, so a reader may discard it again; ``discard`` is
            not looked at. With a prior list the 0.1 that a calibrated label leaves its ground
            truth's rivals is spread like the list; with ``prior_size=0`` evenly, as in equation 4.
        tail: how residual masses are spread before they are averaged.
        k: classes of each label; the largest k of the stores when None.
        quantizer: the first store's when None. prior_size: the largest of the stores' when None.
        top_p, block_images, group_views: as in ``labelstore.format.manifest.Manifest``; for a None
            the last two are the first store's.
        overwrite: replace a store that is at ``path``.
        tell: called with the images and views done since it was called last.

    Raises:
        IncompleteError: a store is not finished. MismatchError: the stores do not fit each other,
        or another store is at ``path``. LabelError: calibration needs a ground truth that is
        unknown. UsageError: settings that make no store.
    """
    members = opened_all(stores)
    if len(members) == 1:
        raise UsageError(
            f"{members[0].path} alone was given, and a merge is of two or more stores: name "
            "another one, or write this one anew with labelstore recode."
        )
    for store in members:
        store.require_complete()
        if same_place(path, store.path):
            raise UsageError(f"{path} is a store that is read: choose another name.")
    both = ensemble(members, weights, images=images)
    given: dict[str, Any] = {
        "quantizer": quantizer,
        "block_images": block_images,
        "group_views": group_views,
        "k": k,
        "prior_size": prior_size,
        "top_p": top_p,
    }
    new = _manifest(both, path, given, ferkd is not None)
    settings: dict[str, Any] = {
        "weights": [float(weight) for weight in both.weights],
        "ferkd": None if ferkd is None else asdict(ferkd),
        "tail": tail,
        "teachers": [dict(t) for store in members for t in store.manifest.teachers],
    }
    origin = {
        "operation": "merge",
        "stores": [store.manifest.id for store in members],
        "settings": settings,
    }
    new = dataclasses.replace(new, origin=origin)
    means = _Means(both, ferkd, tail, new.num_views)
    with StoreWriter(path, new, both.keys, both.targets, overwrite=overwrite) as writer:
        pending = set(writer.pending_blocks())
        for block in range(new.num_blocks):
            rows = new.block_slice(block)
            if block in pending:
                writer.write_block(block, _block(means, new, rows))
            if tell is not None:
                tell(rows.stop - rows.start, (rows.stop - rows.start) * new.num_views)
    made = Store(path)
    found = _compare(means, made)
    return MergeReport(
        path=str(path),
        stores=tuple(str(store.path) for store in members),
        weights=tuple(settings["weights"]),
        num_images=new.num_images,
        num_views=new.num_views,
        k=new.k,
        quantizer=new.quantizer,
        prior_size=new.prior_size,
        bytes=sum(made.bytes_by_part().values()),
        distances=found.distances,
        actions=found.actions,
        same_decision=found.same_decision,
    )


class _Means(NamedTuple):
    """The unquantized labels that a merge writes."""

    both: Ensemble
    ferkd: FerKD | EnsembleFerKD | None
    tail: Tail | None
    num_views: int

    def __call__(
        self, image: int, views: npt.NDArray[np.int64] | None = None
    ) -> tuple[SoftLabels, npt.NDArray[np.uint8] | None]:
        """(V) labels of an image, and (V,) actions where they are calibrated."""
        chosen = np.arange(self.num_views) if views is None else views
        topk = self.both.read(image, chosen)
        if self.ferkd is None:
            return topk.as_type(self.both.members[0].manifest.label_type, self.tail), None
        done = self.ferkd.apply(topk, np.full(len(chosen), self.both.targets[image]), self.tail)
        return done.labels, done.action


def _told(value: object) -> str:
    return "unknown" if value is None else str(value)


def _manifest(
    both: Ensemble, path: str | os.PathLike[str], given: dict[str, Any], calibrated: bool
) -> Manifest:
    first = both.manifest
    manifests = [member.manifest for member in both.members]
    for name in ("temperature", "label_type"):
        found = [getattr(manifest, name) for manifest in manifests]
        if len(set(found) - {None}) > 1:
            raise MismatchError(
                f"the stores' {name.replace('_', ' ')}s are {', '.join(_told(v) for v in found)}, "
                "expected one: average them "
                "at read time (labelstore.ensemble), or make them anew alike."
            )
    alike = all(manifest.temperature == first.temperature for manifest in manifests)
    if first.label_type != "top-k" and calibrated:
        raise UsageError(
            f"FerKD calibrates recovered top-k labels and these are of type {first.label_type}: "
            "leave the calibration out."
        )
    if first.label_type != "top-k" and given["k"] is None:
        raise UsageError(
            f"labels of type {first.label_type} are averaged: say how many classes to keep, k.",
            arguments=("k",),
        )
    backend = backend_of(path)
    wished = {name: value for name, value in given.items() if value is not None}
    group_views = first.group_views
    if backend.encoding != first.encoding:
        group_views = backend.group_views
    defaults = {
        "k": max(manifest.k for manifest in manifests),
        "prior_size": max(manifest.prior_size for manifest in manifests),
        "block_images": min(first.block_images, both.num_images),
        "group_views": min(group_views, both.num_views),
    }
    return dataclasses.replace(
        first,
        label_type="top-k",
        temperature=first.temperature if alike else None,
        top_p=None,
        teacher=None,
        **{**defaults, **wished},
    )


def _block(means: _Means, new: Manifest, rows: slice) -> BlockData:
    """The data of a run of images."""
    both, count = means.both, rows.stop - rows.start
    images = np.arange(rows.start, rows.stop)
    readable = both.labelled()[rows]
    indices = np.zeros((count, new.num_views, new.k), dtype=np.int32)
    probs = np.zeros(indices.shape, dtype=np.float32)
    lists = np.full((count, new.prior_size), -1, dtype=np.int32)
    list_probs = np.zeros(lists.shape, dtype=np.uint8)
    powers = np.zeros(count, dtype=np.uint8)
    boxes = flips = None
    if new.law == EXPLICIT:
        boxes = np.full((count, new.num_views, 4), -1, dtype=np.int32)
        flips = np.zeros((count, new.num_views), dtype=bool)
    for place in np.flatnonzero(readable):
        labels, _ = means(int(images[place]))
        top = largest(labels, new.k)
        indices[place], probs[place] = top.indices, top.probs
        if new.prior_size:
            mean = mean_distribution(labels)
            lists[place], list_probs[place], powers[place] = prior.fit(
                mean, top.indices, cut_at_mass(top.probs, new.top_p), new.prior_size
            )
        if boxes is not None and flips is not None:
            found = both.views(int(images[place]), np.arange(new.num_views))
            boxes[place], flips[place] = found.box, found.flip
    widths, heights = both.sizes(images)
    first = both.members[0]
    return BlockData(
        indices=indices,
        probs=probs,
        widths=widths,
        heights=heights,
        digests=first.image_digests(first.index_of([both.keys[image] for image in images])),
        readable=readable,
        prior_classes=lists if new.prior_size else None,
        prior_probs=list_probs if new.prior_size else None,
        prior_power=powers if new.prior_size else None,
        boxes=boxes,
        flips=flips,
    )


class _Comparison(NamedTuple):
    distances: Distances | None
    actions: dict[str, float] | None
    same_decision: float | None


def _compare(means: _Means, made: Store) -> _Comparison:
    """The stored labels against the unquantized means, over images all through the store."""
    labelled = np.flatnonzero(made.labelled())
    if not len(labelled):
        return _Comparison(None, None, None)
    chosen = labelled[:: max(1, len(labelled) // _SAMPLE)][:_SAMPLE]
    views = np.arange(min(made.num_views, _SAMPLE))
    rule, pairs, actions, agreeing = means.ferkd, [], [], []
    for image in chosen.tolist():
        labels, action = means(image, views)
        topk = made.read(image, views)
        pairs.append((labels, topk.recover()))
        if action is not None:
            actions.append(action)
        if action is not None and isinstance(rule, FerKD):
            target = np.full(len(views), made.targets[image])
            again = rule.decide(rule.confidence_of(None, topk, target))
            agreeing.append((again == Action.DISCARDED) == (action == Action.DISCARDED))
    found = distances((labels.dense(), stored) for labels, stored in pairs)
    if not actions:
        return _Comparison(found, None, None)
    together = np.concatenate(actions)
    shares = {item.name.lower(): float((together == item).mean()) for item in Action}
    same = float(np.concatenate(agreeing).mean()) if agreeing else None
    return _Comparison(found, shares, same)
