"""Two stores of the same images beside each other: where their labels agree, and how far apart.

One pass over both, some images and views at a time, so that stores of any size are compared in
little memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.labels.distance import Divergences, between, between_dense
from labelstore.labels.distribution import mean_distribution
from labelstore.labels.ferkd import FerKD
from labelstore.operations.inspection.comparison.comparable import comparable
from labelstore.operations.inspection.comparison.paired_labels import (
    LARGEST,
    Pair,
    largest_stored,
    parts_of,
    recovered,
)
from labelstore.statistics.comparison import Agreement, Comparison, DecisionCounts
from labelstore.statistics.extremes import Extremes
from labelstore.store.ensembles import opened_reader
from labelstore.store.lineage import teacher_names
from labelstore.teachers.class_names import human_names
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.operations.inspection.comparison.paired_labels import PairPart
    from labelstore.store.label_reader import LabelReader

__all__ = ["compare"]

DECISIONS = ("discarded_low", "calibrated", "kept", "discarded_high")


def compare(
    a: LabelReader | str | os.PathLike[str],
    b: LabelReader | str | os.PathLike[str],
    *,
    ferkd: FerKD | None = None,
    extremes: int = 10,
    sample: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """How the labels of two stores of the same images differ (``labelstore compare``).

    Images are matched by key. Where both stores hold the same views, the two labels of every view
    are compared; where they do not, or do not say, the mean label of each image over its views is,
    and ``by`` says so. Labels are compared as each store recovers them: with its tail, its label
    type, and of an ensemble the mean over its members. Incomplete stores are compared as far as
    both are committed.

    Args:
        a, b: stores or ensembles, open, or paths or URLs of stores.
        ferkd: the rule whose decisions are compared; the paper's when None. Of an ensemble it looks
            at the mean label.
        extremes: how many views and images that differ most are named, at least 0.
        sample: how many views of each image are looked at, rounded up to whole groups; all when
            None.
        tell: called with the images and views that were compared since it was called last.

    Returns:
        a dict for JSON, described by ``schemas/compare.schema.json``. Distances are in nats (KL)
        and 0..1 (total variation); an ``error`` is half the width of the 95 % interval of an
        estimate from a sample, 0 where all was looked at, None where it is not known.

    Raises:
        UsageError: numbers out of range. MismatchError: the stores have other classes or share no
        labelled image. LabelError: the rule looks at the ground truth and some is unknown.
        CorruptError: what is on disk is not what was committed.
    """
    if extremes < 0:
        raise UsageError(
            f"extremes is {extremes}, expected 0 or more: correct it.", arguments=("extremes",)
        )
    if sample is not None and sample < 1:
        raise UsageError(
            f"sample is {sample}, expected at least 1 view of each image, or none for all: correct "
            "it.",
            arguments=("sample",),
        )
    stores = opened_reader(a), opened_reader(b)
    matched = comparable(*stores)
    rule = FerKD() if ferkd is None else ferkd
    pair = Pair(*stores, matched, sample)
    sums = _Sums(pair, rule, extremes)
    for part in parts_of(pair):
        sums.add(part)
        if tell is not None:
            tell(part.new_images, part.labels)
    return {
        "report_version": 1,
        "by": matched.by,
        "reason": matched.reason,
        **{name: _describe(store) for name, store in zip("ab", stores, strict=True)},
        "images": matched.images,
        "views": pair.views_told(),
        "law": _law(stores[0]) if matched.by == "views" else None,
        "crops": sums.comparison.crops,
        "alerts": [*matched.alerts, *pair.alerts()],
        "class_names": _class_names(*stores),
        **sums.report(),
    }


class _Sums:
    """Everything that is added up over the parts."""

    def __init__(self, pair: Pair, rule: FerKD, extremes: int) -> None:
        self.comparison = Comparison(pair.a.num_classes, pair.n)
        self._pair = pair
        self._rule = rule
        self._decisions = DecisionCounts(DECISIONS)
        self._views = Extremes(extremes, largest=True)
        self._images = Extremes(extremes, largest=True)
        self._open: slice | None = None
        self._of_images = np.zeros(0)

    def add(self, part: PairPart) -> None:
        """One more part; all parts of some images come one after another."""
        self.comparison.add(part.crops, count_images=part.new_images > 0)
        places = np.arange(part.places.start, part.places.stop)
        if part.decisions is not None:
            self._views.add(part.crops.divergences.total_variation, places, part.columns)
            self._decide(part)
        if part.places != self._open:
            self._close()
            self._open = part.places
            self._of_images = np.zeros(len(places))
        self._of_images += part.crops.divergences.total_variation.sum(axis=1)

    def _close(self) -> None:
        """The images of the last parts are done."""
        if self._open is None:
            return
        count = len(self._pair.common) if self._pair.matched.by == "views" else 1
        places = np.arange(self._open.start, self._open.stop)
        self._images.add(self._of_images[:, None] / count, places)

    def _decide(self, part: PairPart) -> None:
        truths = part.crops.targets[:, None]
        confidences = (part.crops.confidence_a, part.crops.confidence_b)
        if self._rule.confidence == "target" and part.decisions is not None:
            a, b = (self._rule.confidence_of(None, topk, truths) for topk in part.decisions)
            confidences = a, b
        self._decisions.add(*(_decisions(self._rule, values, truths) for values in confidences))

    def report(self) -> dict[str, Any]:
        """What was added up, by name."""
        self._close()
        self._open = None
        pair = self._pair
        by_views = pair.matched.by == "views"
        view_counts = pair.views_told()
        whole = self.comparison.crops
        if by_views:
            of_each, views = view_counts["looked_at_a"], view_counts["compared"]
            numbers = self.comparison.report(of_each, views)
            whole = whole // of_each * views
        else:
            sampled = (
                view_counts["looked_at_a"] < view_counts["a"]
                or view_counts["looked_at_b"] < view_counts["b"]
            )
            numbers = self.comparison.report(1, 1, known=not sampled)
        return {
            **numbers,
            "ferkd": self._ferkd(whole) if by_views else None,
            "largest_views": [
                _entry(pair, place, view) for place, view, _ in self._views.entries()
            ],
            "largest_images": [_entry(pair, place, None) for place, _, _ in self._images.entries()],
        }

    def _ferkd(self, whole: int) -> dict[str, Any]:
        rule = self._rule
        return {
            "low": rule.low,
            "middle": rule.middle,
            "top": rule.top,
            "confidence": rule.confidence,
            "by_class": None if rule.by_class is None else rule.by_class.to_json(),
            "decisions": self._decisions.rows(whole),
        }


def _decisions(
    rule: FerKD, confidences: npt.NDArray[np.float32], truths: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """The number of each view's decision in ``DECISIONS``."""
    parts = rule.parts(confidences, truths)
    return np.select([parts.low, parts.calibrated, parts.high], [0, 1, 3], default=2)


def _entry(pair: Pair, place: int, view: int | None) -> dict[str, Any]:
    """What both say of a view, or on average of an image's views, and how far that is apart."""
    row_a, row_b = int(pair.matched.rows_a[place]), int(pair.matched.rows_b[place])
    target = int(pair.matched.targets[place])
    by_views = pair.matched.by == "views"
    views_a = pair.common if by_views else pair.views_a
    views_b = pair.common if by_views else pair.views_b
    if view is not None:
        views_a = views_b = np.array([view])
    sides = ((pair.a, row_a, views_a), (pair.b, row_b, views_b))
    stored = [store.read(row, views) for store, row, views in sides]
    labels = [recovered(side[0], topk) for side, topk in zip(sides, stored, strict=True)]
    means = [mean_distribution(label) for label in labels]
    if by_views:
        apart = between(*labels)
        tops = [largest_stored(topk, label, 1) for topk, label in zip(stored, labels, strict=True)]
        agreement: float | None = float(Agreement.of(*tops).top1.mean())
    else:
        means = [mean / mean.sum() for mean in means]
        apart, agreement = between_dense(*means), None
    entry: dict[str, Any] = {
        "image_a": row_a,
        "image_b": row_b,
        "key": pair.a.keys[row_a],
        "target": None if target < 0 else target,
    }
    entry |= {"agreement": agreement} if view is None else {"view": view}
    for name, values in zip(Divergences._fields, apart, strict=True):
        entry[name] = float(values.mean())
    for name, mean in zip("ab", means, strict=True):
        order = np.argsort(-mean, kind="stable")[:LARGEST]
        entry[name] = [{"class": int(c), "probability": min(float(mean[c]), 1.0)} for c in order]
    return entry


def _class_names(a: LabelReader, b: LabelReader) -> list[str] | None:
    names = human_names(a.manifest) or human_names(b.manifest)
    return None if names is None else list(names)


def _law(store: LabelReader) -> dict[str, Any] | str | None:
    return store.law.to_json() if isinstance(store.law, ViewLaw) else store.law


def _describe(store: LabelReader) -> dict[str, Any]:
    labelled = int(store.labelled().sum())
    total = sum(sum(member.bytes_by_part().values()) for member in store.members)
    crops = labelled * store.num_views
    return {
        "path": " + ".join(str(member.path) for member in store.members),
        "id": store.id,
        "complete": store.complete,
        "images": store.num_images,
        "views": store.num_views,
        "labelled_images": labelled,
        "classes": store.num_classes,
        "members": [
            {
                "path": str(member.path),
                "weight": float(weight),
                "k": member.manifest.k,
                "label_type": member.manifest.label_type,
                "temperature": member.manifest.temperature,
                "quantizer": member.manifest.quantizer,
                "prior_size": member.manifest.prior_size,
                "teachers": list(teacher_names(member.manifest)),
                "operation": member.manifest.origin and member.manifest.origin["operation"],
            }
            for member, weight in zip(store.members, store.weights.tolist(), strict=True)
        ],
        "bytes": {"total": total, "per_crop": total / crops if crops else None},
    }
