"""What is in a store: Figure 2 and Table 1 of the FerKD paper, agreement, extremes, bytes.

One pass over the confidence plane, block by block, so that a store of any size is inspected in
little memory; a second array, the stored classes, is read only where ground truth is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.labels.ferkd import Action, ActionCounts, FerKD
from labelstore.store.store import opened
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.labels.top_k import TopK
    from labelstore.store.store import Store

    Int64Array = npt.NDArray[np.int64]

__all__ = ["HISTOGRAM_EDGES", "TABLE_EDGES", "report"]

HISTOGRAM_EDGES = tuple(edge / 20 for edge in range(21))
"""Bounds of Figure 2's bins: lower inclusive, upper exclusive, the last bin closed above."""

TABLE_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Bounds of Table 1's twelve ranges, closed as the histogram's; each is one of its edges."""

AGREEMENT_CLASSES = 5

_PAIRS = 2**21
"""Classes with their probabilities, those of lists included, that are read at a time: whole groups
of views, at least one."""


def report(
    store: Store | str | os.PathLike[str],
    ferkd: FerKD | None = None,
    extremes: int = 5,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Everything ``labelstore inspect`` tells, ready for JSON (``schemas/inspect.schema.json``).

    A crop is one view of one image. All shares are 0..1, over the labelled crops unless said
    otherwise, and None where there is nothing to divide by. An incomplete store is inspected as
    far as it is committed.

    Args:
        store: a store, open or as a path or URL.
        ferkd: the rule whose decisions are counted; the paper's when None.
        extremes: how many of the hardest and easiest crops and images are named, at least 0.
        tell: called after each block with how many images, and how many views, it had.

    Returns:
        a dict of

        - ``report_version``: 1;
        - ``store``: ``path``, ``id``, ``complete``, ``images``, ``views`` (of each image),
          ``crops`` (images x views), ``labelled_images``, ``labelled_crops``,
          ``unreadable_images``, ``blocks``, ``missing_blocks``, ``missing_images`` (of those
          blocks), ``k``, ``classes``, ``label_type``, ``temperature``, ``quantizer``, ``law`` (its
          description, "explicit", or None), ``teachers`` (a list: ``spec``, ``checkpoint``,
          ``input_size`` [height, width] and ``untrained`` of each) and ``operation`` (None, or
          "merge" or "recode", by which the labels came from those of other stores);
        - ``histogram``: Figure 2; a list of 20 dicts ``low``, ``high``, ``count``, ``ratio`` of the
          crops whose largest probability is in [low, high), the last closed above;
        - ``table``: Table 1; a list of 12 such dicts with ``aggregated_ratio`` as well: the share
          of the crops in [0, high);
        - ``agreement``: None without ground truth, or ``images`` and ``crops`` whose ground truth
          is known, ``top1``: the share of these crops whose largest class it is, ``n``: 5, or k
          where fewer are stored, and ``top_n``: the share whose n largest classes have it;
        - ``ferkd``: ``low``, ``middle``, ``top``, ``confidence`` as given; ``discarded_low``,
          ``discarded_high``, ``calibrated``, ``kept``: each a dict of ``count`` and ``share``;
          ``images_without_views``: images all of whose views are discarded;
        - ``extremes``: ``hardest_views``, ``easiest_views``: lists of ``image`` (its position),
          ``key``, ``view``, ``confidence`` (the largest probability), hardest or easiest first;
          ``hardest_images``, ``easiest_images``: lists of ``image``, ``key``,
          ``mean_confidence`` over its views; ties go to the first;
        - ``bytes``: ``parts``: bytes on disk of each array, with ``manifest`` for what is left,
          ``total``, ``per_crop`` (parts by labelled crop), ``total_per_crop``.

    Raises:
        UsageError: ``extremes`` is negative. CorruptError: what is on disk is not what was
            committed. LabelError: the rule looks at the ground truth and some is unknown.
    """
    if extremes < 0:
        raise UsageError(f"extremes is {extremes}, expected 0 or more: correct it.")
    store = opened(store)
    tally = _Tally(store, ferkd or FerKD(), extremes)
    labelled = store.labelled()
    for rows, plane in store.iter_confidence():
        inside = labelled[rows]
        if inside.any():
            tally.add(rows.start + np.flatnonzero(inside), plane[inside])
        if tell is not None:
            tell(len(plane), plane.size)
    return {
        "report_version": 1,
        "store": _describe(store),
        **_distribution(tally.counts),
        "agreement": tally.agreement(),
        "ferkd": tally.ferkd(),
        "extremes": tally.extremes(),
        "bytes": _bytes(store, tally.crops),
    }


class _Tally:
    """Sums over blocks."""

    def __init__(self, store: Store, rule: FerKD, extremes: int) -> None:
        self.crops = 0
        self.counts = np.zeros(len(HISTOGRAM_EDGES) - 1, dtype=np.int64)
        self._store = store
        self._rule = rule
        self._n = min(AGREEMENT_CLASSES, store.k)
        self._known_images = 0
        self._hits = np.zeros(2, dtype=np.int64)
        self._actions = ActionCounts()
        self._without_views = 0
        self._views = [_Extremes(extremes, largest) for largest in (False, True)]
        self._images = [_Extremes(extremes, largest) for largest in (False, True)]

    def add(self, images: Int64Array, plane: npt.NDArray[np.float32]) -> None:
        """Labelled images (n,) of one block and their largest probabilities (n, V)."""
        self.crops += plane.size
        self.counts += _histogram(plane)
        decided = self._read_labels(images)
        self._decide(plane if decided is None else decided)
        means = plane.mean(axis=1, dtype=np.float64)[:, None]
        for views, whole in zip(self._views, self._images, strict=True):
            views.add(plane, images)
            whole.add(means, images)

    def _read_labels(self, images: Int64Array) -> npt.NDArray[np.float32] | None:
        """Count agreement; the ground truth's probabilities (n, V) when the rule looks at them."""
        by_target = self._rule.confidence == "target"
        known = self._store.targets[images] >= 0
        self._known_images += int(known.sum())
        if not by_target:
            images = images[known]
        if not len(images):
            return None
        targets = self._store.targets[images]
        manifest = self._store.manifest
        # As probabilities are stored, and compared with thresholds.
        shape = (len(images), manifest.num_views)
        plane = np.empty(shape, dtype=np.float32) if by_target else None
        group = len(images) * manifest.group_views * (manifest.k + manifest.prior_size)
        step = max(_PAIRS // group, 1) * manifest.group_views
        for start in range(0, manifest.num_views, step):
            columns = slice(start, min(start + step, manifest.num_views))
            topk = self._store.read(images[:, None], np.arange(columns.start, columns.stop)[None])
            if plane is not None:
                plane[:, columns] = self._rule.confidence_of(None, topk, targets[:, None])
            self._hits += _hits(topk, targets, self._n)
        return plane

    def _decide(self, values: npt.NDArray[Any]) -> None:
        self._actions += self._rule.count(values)
        discarded = self._rule.decide(values) == Action.DISCARDED
        self._without_views += int(discarded.all(axis=1).sum())

    def agreement(self) -> dict[str, Any] | None:
        if not self._known_images:
            return None
        crops = self._known_images * self._store.num_views
        return {
            "images": self._known_images,
            "crops": crops,
            "top1": int(self._hits[0]) / crops,
            "n": self._n,
            "top_n": int(self._hits[1]) / crops,
        }

    def ferkd(self) -> dict[str, Any]:
        names = ("discarded_low", "discarded_high", "calibrated", "kept")
        rule = self._rule
        return {
            "low": rule.low,
            "middle": rule.middle,
            "top": rule.top,
            "confidence": rule.confidence,
            **{name: _part(getattr(self._actions, name), self.crops) for name in names},
            "images_without_views": self._without_views,
        }

    def extremes(self) -> dict[str, Any]:
        keys = self._store.keys
        named: dict[str, Any] = {}
        for name, views, whole in zip(
            ("hardest", "easiest"), self._views, self._images, strict=True
        ):
            named[f"{name}_views"] = [
                {"image": image, "key": keys[image], "view": view, "confidence": value}
                for image, view, value in views.entries()
            ]
            named[f"{name}_images"] = [
                {"image": image, "key": keys[image], "mean_confidence": value}
                for image, _, value in whole.entries()
            ]
        return named


class _Extremes:
    """The few smallest or largest values of planes that come in image order; ties: the first."""

    def __init__(self, count: int, largest: bool) -> None:
        self._count = count
        self._sign = -1.0 if largest else 1.0
        self._values = np.empty(0)
        self._places = np.empty((0, 2), dtype=np.int64)

    def add(self, plane: npt.NDArray[Any], images: Int64Array) -> None:
        """Values (n, m) of images (n,), none of which came before or comes again."""
        values = (plane * self._sign).reshape(-1)
        places_in_plane = np.arange(values.size)
        if self._count and len(self._values) == self._count:
            # Later blocks seldom beat what is there: this leaves almost nothing to be sorted.
            places_in_plane = np.flatnonzero(values < self._values[-1])
        chosen = places_in_plane[self._candidates(values[places_in_plane])]
        rows, columns = np.divmod(chosen, plane.shape[1])
        places = np.stack([images[rows], columns], axis=1)
        merged = np.concatenate([self._values, values[chosen]])
        # Stable, and places rise: of equal values the first stays.
        order = np.argsort(merged, kind="stable")[: self._count]
        self._values = merged[order]
        self._places = np.concatenate([self._places, places])[order]

    def _candidates(self, values: npt.NDArray[Any]) -> Int64Array:
        """Where the smallest are, in order of place: as many as are wanted, at most."""
        if not self._count:
            return np.empty(0, dtype=np.int64)
        if values.size <= self._count:
            return np.arange(values.size)
        bound = np.partition(values, self._count - 1)[self._count - 1]
        below = np.flatnonzero(values < bound)
        ties = np.flatnonzero(values == bound)[: self._count - below.size]
        return np.sort(np.concatenate([below, ties]))

    def entries(self) -> list[tuple[int, int, float]]:
        """Image, column and value, the most extreme first."""
        return [
            (int(image), int(column), float(value * self._sign))
            for (image, column), value in zip(self._places, self._values, strict=True)
        ]


def _histogram(plane: npt.NDArray[np.float32]) -> Int64Array:
    # Edges as float32, like the values and like the thresholds that they are compared with.
    edges = np.array(HISTOGRAM_EDGES[1:-1], dtype=np.float32)
    bins = np.searchsorted(edges, plane.reshape(-1), side="right")
    return np.bincount(bins, minlength=len(HISTOGRAM_EDGES) - 1)


def _hits(topk: TopK, targets: npt.NDArray[np.int32], n: int) -> Int64Array:
    """How many labels (images, views) have the target as the largest, and among the n largest."""
    # An empty place holds class 0 without probability, which it does not name.
    named = topk.probs[..., :n] > 0
    same = (topk.indices[..., :n] == targets[:, None, None]) & named
    return np.array([same[..., 0].sum(), same.any(-1).sum()], dtype=np.int64)


def _distribution(counts: Int64Array) -> dict[str, Any]:
    """``histogram`` and ``table`` of the histogram's counts."""
    crops = int(counts.sum())
    bins = _ranges(HISTOGRAM_EDGES, counts, crops)
    starts = [HISTOGRAM_EDGES.index(edge) for edge in TABLE_EDGES[:-1]]
    rows = _ranges(TABLE_EDGES, np.add.reduceat(counts, starts), crops)
    reached = 0
    for row in rows:
        reached += row["count"]
        row["aggregated_ratio"] = _share(reached, crops)
    return {"histogram": bins, "table": rows}


def _ranges(edges: tuple[float, ...], counts: Int64Array, crops: int) -> list[dict[str, Any]]:
    return [
        {"low": low, "high": high, "count": int(count), "ratio": _share(count, crops)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _part(count: int, whole: int) -> dict[str, Any]:
    return {"count": count, "share": _share(count, whole)}


def _share(count: int | np.integer[Any], whole: int) -> float | None:
    return int(count) / whole if whole else None


def _describe(store: Store) -> dict[str, Any]:
    manifest = store.manifest
    labelled = int(store.labelled().sum())
    missing = store.missing_blocks()
    runs = [manifest.block_slice(block) for block in missing]
    names = ("spec", "checkpoint", "input_size", "untrained")
    return {
        "path": str(store.path),
        "id": manifest.id,
        "complete": not missing,
        "images": manifest.num_images,
        "views": manifest.num_views,
        "crops": manifest.num_images * manifest.num_views,
        "labelled_images": labelled,
        "labelled_crops": labelled * manifest.num_views,
        "unreadable_images": len(store.unreadable()),
        "blocks": manifest.num_blocks,
        "missing_blocks": len(missing),
        "missing_images": sum(run.stop - run.start for run in runs),
        "k": manifest.k,
        "classes": manifest.num_classes,
        "label_type": manifest.label_type,
        "temperature": manifest.temperature,
        "quantizer": manifest.quantizer,
        "law": manifest.law.to_json() if isinstance(manifest.law, ViewLaw) else manifest.law,
        "teachers": [{name: made_by[name] for name in names} for made_by in manifest.teachers],
        "operation": None if manifest.origin is None else manifest.origin["operation"],
    }


def _bytes(store: Store, crops: int) -> dict[str, Any]:
    parts = dict(sorted(store.bytes_by_part().items()))
    total = sum(parts.values())
    return {
        "parts": parts,
        "total": total,
        "per_crop": {part: _share(size, crops) for part, size in parts.items()},
        "total_per_crop": _share(total, crops),
    }
