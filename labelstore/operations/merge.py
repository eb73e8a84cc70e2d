"""Write the mean of several teachers' stores to a store of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.errors import MismatchError, UsageError
from labelstore.format.blocks import BlockPriors
from labelstore.format.settings import StoreOptions, StoreSettings
from labelstore.labels.actions import Action, action_shares
from labelstore.labels.distance import Distances, distances
from labelstore.labels.distribution import largest, mean_distribution
from labelstore.labels.ferkd import FerKD
from labelstore.labels.lists.fit import TOGETHER
from labelstore.store.backends.registry import backend_of, unit_images_of
from labelstore.store.ensembles import Ensemble, ensemble, opened_all
from labelstore.store.lineage import (
    CONVERTED_FROM,
    TEACHER,
    TEACHER_NAMES,
    TEACHERS,
    origin,
    teacher_names,
)
from labelstore.store.mixed_views import require_unmixed
from labelstore.store.rewrite import (
    BlockMaker,
    RewriteReport,
    bytes_of,
    require_source,
    sample,
    unlabelled_block,
)
from labelstore.store.store import Store
from labelstore.store.writer import StoreWriter
from labelstore.training.options import part_of, require_known

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from typing import Unpack

    import numpy.typing as npt

    from labelstore.format.blocks import BlockData
    from labelstore.format.manifest import Manifest
    from labelstore.format.settings import LabelLayout
    from labelstore.labels.ferkd import EnsembleFerKD
    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.labels.top_k import Tail
    from labelstore.store.ensembles import Images

__all__ = ["MeanOptions", "MergeReport", "merge"]


class MeanOptions(StoreOptions, total=False):
    """How labels are averaged, and how the means are stored."""

    weights: Sequence[float] | None
    """Of the stores, as for ``labelstore.ensemble``."""
    images: Images
    """Which images, as for ``labelstore.ensemble``: ``"strict"`` when it is not given."""
    ferkd: FerKD | EnsembleFerKD | None
    """Calibrates the labels before (or, with ``ensemble="mean"``, after) they are averaged. A
    discarded view keeps the plain mean, so a reader may discard it again; ``discard`` is not looked
    at. With a prior list the 0.1 that a calibrated label leaves its ground truth's rivals is spread
    like the list; with ``prior_size=0`` evenly, as in equation 4."""
    tail: Tail | None
    """How residual masses are spread before they are averaged."""


@dataclass(frozen=True)
class MergeReport(RewriteReport):
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


def merge(
    stores: Sequence[Store | str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    layout: LabelLayout | None = None,
    overwrite: bool = False,
    workers: int | None = 1,
    tell: Callable[[int, int], None] | None = None,
    **options: Unpack[MeanOptions],
) -> MergeReport:
    """Write the (weighted) mean of stores over the same views of the same images.

    The labels are those that ``labelstore.ensemble`` gives, cut to the k largest classes and
    quantized; each image's prior list is made from the whole means.

    Args:
        stores: two or more finished stores, open or as paths or URLs; input sizes, k and
            quantizers may differ.
        path: the new store; its name decides the backend (``*.parquet`` or Zarr). One that the same
            call was interrupted in is gone on with.
        layout: how labels lie in a Zarr store, as for ``recode``; when None as in the first store.
        overwrite: replace a store that is at ``path``.
        workers: processes that read, average and encode: see ``BlockMaker``.
        tell: called with the images and views done since it was called last.
        options: keywords ``weights``, ``images``, ``ferkd`` and ``tail``, see
            ``labelstore.operations.merge.MeanOptions``; ``k`` (the largest of the stores' when
            None), ``quantizer`` (the first store's), ``prior_size`` (the largest; 0 of hard and
            smoothed labels of which a class a store is kept: what these leave is even), ``top_p``,
            ``block_images`` and ``group_views`` (the first store's), as in
            ``labelstore.format.Manifest``.

    Raises:
        IncompleteError: a store is not finished. MismatchError: the stores do not fit each other,
        or another store is at ``path``. LabelError: calibration needs a ground truth that is
        unknown. UsageError: settings that make no store, or FerKD of mixed views. TypeError: an
        option that is none.
    """
    require_known("merge", options, MeanOptions)
    ferkd, tail, weights = options.get("ferkd"), options.get("tail"), options.get("weights")
    settings = StoreSettings(**part_of(StoreOptions, options))
    members = opened_all(stores)
    if len(members) == 1:
        raise UsageError(
            f"{members[0].path} alone was given, and a merge is of two or more stores: name "
            "another one, or write this one anew with labelstore recode."
        )
    for store in members:
        require_source(store, path, "a store that is read: choose another name")
    both = ensemble(members, weights, images=options.get("images", "strict"))
    if ferkd is not None:
        require_unmixed(both, "FerKD")
    manifest = _manifest(both, path, settings, layout, ferkd is not None)
    how: dict[str, Any] = {
        "weights": [float(weight) for weight in both.weights],
        "ferkd": None if ferkd is None else asdict(ferkd),
        "tail": tail,
        TEACHERS: [dict(t) for store in members for t in store.manifest.teachers],
    }
    names = [name for store in members for name in teacher_names(store.manifest) or ("unknown",)]
    if set(names) - {str(teacher["spec"]) for teacher in how[TEACHERS]} - {"unknown"}:
        how[TEACHER_NAMES] = names
    new = dataclasses.replace(manifest, origin=origin("merge", members, how))
    means = _Means(both, ferkd, tail, new.num_views)
    make = functools.partial(_block, means, new)
    with (
        contextlib.closing(BlockMaker(make, path, new.num_blocks, workers)) as maker,
        StoreWriter(path, new, both.keys, both.targets, overwrite=overwrite) as writer,
    ):
        maker.write(writer, tell)
    merged = Store(path)
    comparison = _compare(means, merged)
    return MergeReport(
        path=str(path),
        stores=tuple(str(store.path) for store in members),
        weights=tuple(how["weights"]),
        num_images=new.num_images,
        num_views=new.num_views,
        k=new.k,
        quantizer=new.quantizer,
        prior_size=new.prior_size,
        bytes=bytes_of(merged),
        distances=comparison.distances,
        actions=comparison.actions,
        same_decision=comparison.same_decision,
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
        targets = np.full(len(chosen), self.both.targets[image])
        calibrated = self.ferkd.apply(topk, targets, self.tail)
        return calibrated.labels, calibrated.action


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else str(value)


def _manifest(
    both: Ensemble,
    path: str | os.PathLike[str],
    settings: StoreSettings,
    layout: LabelLayout | None,
    calibrated: bool,
) -> Manifest:
    first = both.manifest
    manifests = [member.manifest for member in both.members]
    for name in ("temperature", "label_type"):
        values = [getattr(manifest, name) for manifest in manifests]
        if len(set(values) - {None}) > 1:
            raise MismatchError(
                f"the stores' {name.replace('_', ' ')}s are {', '.join(map(_or_unknown, values))}, "
                "expected one: average them at read time (labelstore.ensemble), or make them anew "
                "alike."
            )
    alike = all(manifest.temperature == first.temperature for manifest in manifests)
    if first.label_type != "top-k" and calibrated:
        raise UsageError(
            f"FerKD calibrates recovered top-k labels and these are of type {first.label_type}: "
            "leave the calibration out."
        )
    if first.label_type != "top-k" and settings.k is None:
        raise UsageError(
            f"labels of type {first.label_type} are averaged: say how many classes to keep, k.",
            arguments=("k",),
        )
    # All that stands out from an even rest is kept: a list would spread it otherwise.
    even = (
        first.label_type != "top-k" and (settings.k or 0) >= len(manifests) and not settings.top_p
    )
    if even and settings.prior_size:
        raise UsageError(
            f"prior_size is {settings.prior_size}, expected 0: {settings.k} classes hold all that "
            f"the mean of {len(manifests)} stores of type {first.label_type} says, and what they "
            "leave is spread evenly; leave the list out.",
            arguments=("prior_size",),
        )
    backend = backend_of(path)
    group_views = first.group_views
    if backend.encoding != first.encoding:
        group_views = backend.group_views
    group_views = settings.group_views or min(group_views, both.num_views)
    defaults = {
        "k": max(manifest.k for manifest in manifests),
        "prior_size": 0 if even else max(manifest.prior_size for manifest in manifests),
        "block_images": min(first.block_images, both.num_images),
        "group_views": group_views,
        "encoding": backend.encoding,
        "unit_images": unit_images_of(path, layout, group_views, first),
    }
    return dataclasses.replace(
        first,
        label_type="top-k",
        temperature=first.temperature if alike else None,
        top_p=None,
        teacher=None,
        # The first store's name alone would be wrong of the mean.
        producer={
            name: value
            for name, value in first.producer.items()
            if name not in (TEACHER, CONVERTED_FROM)
        },
        **{**defaults, **settings.chosen()},
    )


def _block(means: _Means, new: Manifest, rows: slice) -> BlockData:
    """The data of a run of images."""
    data, labelled = unlabelled_block(means.both, new, rows)
    lists = BlockPriors(new, rows.stop - rows.start)
    for start in range(0, len(labelled), TOGETHER):
        # Lists of some images are fitted at once, which takes a fraction of one after another.
        part, of_images = labelled[start : start + TOGETHER], []
        for row in part.tolist():
            labels, _ = means(rows.start + row)
            top = largest(labels, new.k)
            data.indices[row], data.probs[row] = top.indices, top.probs
            if new.prior_size:
                of_images.append((mean_distribution(labels), top.indices, top.probs))
        if of_images:
            lists.fit(part, *(np.stack(arrays) for arrays in zip(*of_images, strict=True)))
    return dataclasses.replace(data, **lists.arrays())


class _Comparison(NamedTuple):
    distances: Distances | None
    actions: dict[str, float] | None
    same_decision: float | None


def _compare(means: _Means, merged: Store) -> _Comparison:
    """The stored labels against the unquantized means, over images all through the store."""
    images, views = sample(merged)
    if not len(images):
        return _Comparison(None, None, None)
    rule, pairs, actions, agreeing = means.ferkd, [], [], []
    for image in images.tolist():
        labels, action = means(image, views)
        topk = merged.read(image, views)
        pairs.append((labels, topk.recover()))
        if action is not None:
            actions.append(action)
        if action is not None and isinstance(rule, FerKD):
            target = np.full(len(views), merged.targets[image])
            again = rule.decide(rule.confidence_of(None, topk, target), target)
            agreeing.append((again == Action.DISCARDED) == (action == Action.DISCARDED))
    between = distances((labels.dense(), stored) for labels, stored in pairs)
    if not actions:
        return _Comparison(between, None, None)
    shares = action_shares(np.concatenate(actions))
    same = float(np.concatenate(agreeing).mean()) if agreeing else None
    return _Comparison(between, shares, same)
