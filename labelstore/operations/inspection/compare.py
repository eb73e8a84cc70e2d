"""Two stores of the same images beside each other: where their labels agree, and how far apart.

One pass over both, some images and views at a time, so that stores of any size are compared in
little memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.errors import UsageError
from labelstore.labels.distance import Divergences, between, between_dense
from labelstore.labels.distribution import largest, mean_distribution
from labelstore.labels.ferkd import FerKD
from labelstore.labels.top_k import TopK
from labelstore.operations.inspection.comparable import comparable
from labelstore.statistics.comparison import Agreement, Comparison, Crops, DecisionCounts
from labelstore.statistics.extremes import Extremes
from labelstore.statistics.sampling import groups_of_views
from labelstore.store.ensembles import opened_reader
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.operations.inspection.comparable import Comparable
    from labelstore.store.label_reader import LabelReader

    Float64Array = npt.NDArray[np.float64]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["compare"]

LARGEST = 5
"""Largest classes that are compared and told of a label, at most."""

DECISIONS = ("discarded_low", "calibrated", "kept", "discarded_high")

_ENTRIES = 2**20
"""Classes with their probabilities that are compared at a time: about 100 MB."""


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
    pair = _Pair(*stores, matched, sample)
    walk = _by_views if matched.by == "views" else _by_images
    sums = _Sums(pair, rule, extremes)
    for part in walk(pair):
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


class _Pair:
    """Two stores, and what of them is read."""

    def __init__(
        self, a: LabelReader, b: LabelReader, matched: Comparable, sample: int | None
    ) -> None:
        self.a, self.b = a, b
        self.matched = matched
        types = {member.manifest.label_type for store in (a, b) for member in store.members}
        least = min(member.manifest.k for store in (a, b) for member in store.members)
        # A hard or smoothed label names its largest class alone.
        self.n = min(LARGEST, least) if types == {"top-k"} else 1
        if matched.by == "images":
            self.n = min(LARGEST, a.num_classes)
        both = min(a.num_views, b.num_views)
        wide = max((a, b), key=lambda store: store.manifest.group_views)
        self.common = _views(wide, both, sample)
        """Views that are compared one by one."""
        self.views_a, self.views_b = (_views(store, store.num_views, sample) for store in (a, b))
        """Views of each that a mean is made of."""

    def views_told(self) -> dict[str, Any]:
        """``a``, ``b``: views of each image; ``compared``: those that both have; what was read."""
        by_views = self.matched.by == "views"
        return {
            "a": self.a.num_views,
            "b": self.b.num_views,
            "compared": min(self.a.num_views, self.b.num_views) if by_views else None,
            "looked_at_a": len(self.common if by_views else self.views_a),
            "looked_at_b": len(self.common if by_views else self.views_b),
        }

    def alerts(self) -> list[dict[str, str]]:
        """What the numbers of views mean for what is told."""
        a, b = self.a.num_views, self.b.num_views
        if self.matched.by == "views" and a != b:
            text = (
                f"A has {a:,} views of each image and B {b:,}: the first {min(a, b):,} are "
                "compared."
            )
            return [{"kind": "views", "text": text}]
        whole = len(self.views_a) == a and len(self.views_b) == b
        if self.matched.by == "images" and not whole:
            text = (
                "The means are over a sample of each image's views. Means over few views are "
                "farther apart than those over all, by how much is not known: for exact numbers "
                "compare all views."
            )
            return [{"kind": "sampled_means", "text": text}]
        return []

    def runs(self, columns: int) -> Iterator[slice]:
        """Runs of the compared images, each of one block of a, of so many views at most."""
        rows, size = self.matched.rows_a, self.a.manifest.block_images
        ends = np.append(np.flatnonzero(np.diff(rows // size)) + 1, len(rows))
        start = 0
        for end in ends.tolist():
            step = max(_ENTRIES // (columns * self.width), 1)
            for low in range(start, end, step):
                yield slice(low, min(low + step, end))
            start = end

    @property
    def width(self) -> int:
        """Classes of two recovered labels."""
        manifests = [member.manifest for store in (self.a, self.b) for member in store.members]
        return sum(manifest.k + manifest.prior_size for manifest in manifests)


def _views(store: LabelReader, num_views: int, sample: int | None) -> Int64Array:
    """The numbers of the views that are read, of the first ``num_views``."""
    size = store.manifest.group_views
    groups = -(-num_views // size)
    if sample is None or sample >= num_views:
        return np.arange(num_views)
    chosen = groups_of_views(sample, size, groups)
    views = (chosen[:, None] * size + np.arange(size)).reshape(-1)
    return views[views < num_views]


class _Part(NamedTuple):
    """Labels that are compared: m of each of n images."""

    places: slice
    """Which of the compared images."""
    columns: Int64Array
    """(m,) numbers of the views; of means (1,)."""
    crops: Crops
    decisions: tuple[TopK | EnsembleTopK, TopK | EnsembleTopK] | None
    new_images: int
    """Images of which no part came before."""
    labels: int
    """Views that were read."""


def _by_views(pair: _Pair) -> Iterator[_Part]:
    """The two labels of every view."""
    group = max(store.manifest.group_views for store in (pair.a, pair.b))
    # As many groups as fit, of one image at the least.
    columns = max(_ENTRIES // (pair.width * group), 1) * group
    columns = min(columns, len(pair.common))
    for places in pair.runs(columns):
        rows_a, rows_b = pair.matched.rows_a[places], pair.matched.rows_b[places]
        for start in range(0, len(pair.common), columns):
            views = pair.common[start : start + columns]
            stored = pair.a.read(rows_a[:, None], views[None]), pair.b.read(rows_b[:, None], views)
            labels = [
                _recovered(store, topk)
                for store, topk in zip((pair.a, pair.b), stored, strict=True)
            ]
            tops = [
                _largest(topk, label, pair.n) for topk, label in zip(stored, labels, strict=True)
            ]
            crops = _crops(tops, between(*labels), pair.matched.targets[places])
            fresh = 0 if start else len(rows_a)
            yield _Part(places, views, crops, stored, fresh, len(rows_a) * len(views))


def _by_images(pair: _Pair) -> Iterator[_Part]:
    """The two mean labels of every image."""
    views = max(len(pair.views_a), len(pair.views_b))
    # Means are as wide as there are classes.
    for places in pair.runs(max(views, -(-2 * pair.a.num_classes // pair.width))):
        sides = zip(
            (pair.a, pair.b),
            (pair.matched.rows_a[places], pair.matched.rows_b[places]),
            (pair.views_a, pair.views_b),
            strict=True,
        )
        means = [_means(store, rows, views) for store, rows, views in sides]
        tops = [_largest_of_means(mean, pair.n) for mean in means]
        targets = pair.matched.targets[places]
        apart = Divergences(*(part[:, None] for part in between_dense(*means)))
        crops = _crops(tops, apart, targets)
        count = len(means[0])
        yield _Part(places, np.zeros(1, dtype=np.int64), crops, None, count, count * views)


def _recovered(store: LabelReader, topk: TopK | EnsembleTopK) -> SoftLabels:
    """Labels as training has them when nothing else is said."""
    return topk.as_type(store.members[0].manifest.label_type)


def _largest(topk: TopK | EnsembleTopK, labels: SoftLabels, n: int) -> TopK:
    """The n largest classes: as they are stored, so of equals the first stored is the largest."""
    if isinstance(topk, TopK):
        return TopK(topk.indices[..., :n], topk.probs[..., :n], topk.num_classes)
    return largest(labels, n)


def _means(store: LabelReader, rows: Int64Array, views: Int64Array) -> Float64Array:
    """(n, C) the mean of each image's labels, summing to 1."""
    means = np.stack(
        [mean_distribution(_recovered(store, store.read(row, views))) for row in rows.tolist()]
    )
    return np.asarray(means / means.sum(axis=-1, keepdims=True))


def _largest_of_means(means: Float64Array, n: int) -> TopK:
    """(images, 1) the n largest classes of means (images, C); of equals the smaller first."""
    order = np.argsort(-means, axis=-1, kind="stable")[:, None, :n]
    probs = np.take_along_axis(means[:, None], order, axis=-1)
    return TopK(order.astype(np.int32), probs.astype(np.float32), means.shape[-1])


def _crops(tops: list[TopK], apart: Divergences, targets: npt.NDArray[np.int32]) -> Crops:
    holds = [
        ((top.indices == targets[:, None, None]) & (top.probs > 0)).any(axis=-1) for top in tops
    ]
    return Crops(
        agreement=Agreement.of(*tops),
        divergences=apart,
        confidence_a=tops[0].confidence,
        confidence_b=tops[1].confidence,
        targets=targets,
        holds_a=holds[0],
        holds_b=holds[1],
    )


class _Sums:
    """Everything that is added up over the parts."""

    def __init__(self, pair: _Pair, rule: FerKD, extremes: int) -> None:
        self.comparison = Comparison(pair.a.num_classes, pair.n)
        self._pair = pair
        self._rule = rule
        self._decisions = DecisionCounts(DECISIONS)
        self._views = Extremes(extremes, largest=True)
        self._images = Extremes(extremes, largest=True)
        self._open: slice | None = None
        self._of_images = np.zeros(0)

    def add(self, part: _Part) -> None:
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

    def _decide(self, part: _Part) -> None:
        confidences = (part.crops.confidence_a, part.crops.confidence_b)
        if self._rule.confidence == "target" and part.decisions is not None:
            targets = part.crops.targets[:, None]
            a, b = (self._rule.confidence_of(None, topk, targets) for topk in part.decisions)
            confidences = a, b
        self._decisions.add(*(_decisions(self._rule, values) for values in confidences))

    def report(self) -> dict[str, Any]:
        """What was added up, by name."""
        self._close()
        self._open = None
        pair = self._pair
        by_views = pair.matched.by == "views"
        told = pair.views_told()
        whole = self.comparison.crops
        if by_views:
            of_each, views = told["looked_at_a"], told["compared"]
            numbers = self.comparison.report(of_each, views)
            whole = whole // of_each * views
        else:
            sampled = told["looked_at_a"] < told["a"] or told["looked_at_b"] < told["b"]
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
            "decisions": self._decisions.rows(whole),
        }


def _decisions(rule: FerKD, confidences: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The number of each view's decision in ``DECISIONS``."""
    parts = rule.parts(confidences)
    return np.select([parts.low, parts.calibrated, parts.high], [0, 1, 3], default=2)


def _entry(pair: _Pair, place: int, view: int | None) -> dict[str, Any]:
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
    labels = [_recovered(side[0], topk) for side, topk in zip(sides, stored, strict=True)]
    means = [mean_distribution(label) for label in labels]
    if by_views:
        apart = between(*labels)
        tops = [_largest(topk, label, 1) for topk, label in zip(stored, labels, strict=True)]
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
    names = a.manifest.class_names or b.manifest.class_names
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
                "teachers": [str(made_by["spec"]) for made_by in member.manifest.teachers],
                "operation": member.manifest.origin and member.manifest.origin["operation"],
            }
            for member, weight in zip(store.members, store.weights.tolist(), strict=True)
        ],
        "bytes": {"total": total, "per_crop": total / crops if crops else None},
    }
