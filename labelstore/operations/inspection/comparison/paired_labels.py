"""The labels of two stores side by side, some images and views at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.labels.distance import Divergences, between, between_dense
from labelstore.labels.distribution import largest, mean_distribution
from labelstore.labels.top_k import TopK
from labelstore.statistics.comparison import Agreement, CropPairs
from labelstore.statistics.sampling import groups_of_views
from labelstore.store.ensembles import label_type_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.operations.inspection.comparison.comparable import Comparable
    from labelstore.store.label_reader import LabelReader

    Float64Array = npt.NDArray[np.float64]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["LARGEST", "Pair", "PairPart", "largest_stored", "parts_of", "recovered"]

LARGEST = 5
"""Largest classes that are compared and told of a label, at most."""

_ENTRIES = 2**17
"""Classes with their probabilities that are compared at a time: what they take lies in a
processor's cache, more or less (twice as fast as 2**20, and three times as fast as 2**14)."""


class Pair:
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


class PairPart(NamedTuple):
    """Labels that are compared: m of each of n images."""

    places: slice
    """Which of the compared images."""
    columns: Int64Array
    """(m,) numbers of the views; of means (1,)."""
    crops: CropPairs
    decisions: tuple[TopK | EnsembleTopK, TopK | EnsembleTopK] | None
    new_images: int
    """Images of which no part came before."""
    labels: int
    """Views that were read of each store, of the one with fewer."""


def parts_of(pair: Pair) -> Iterator[PairPart]:
    """All that is compared; the parts of some images come one after another."""
    return _by_views(pair) if pair.matched.by == "views" else _by_images(pair)


def _by_views(pair: Pair) -> Iterator[PairPart]:
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
                recovered(store, topk) for store, topk in zip((pair.a, pair.b), stored, strict=True)
            ]
            tops = [
                largest_stored(topk, label, pair.n)
                for topk, label in zip(stored, labels, strict=True)
            ]
            crops = _crops(tops, between(*labels), pair.matched.targets[places])
            fresh = 0 if start else len(rows_a)
            yield PairPart(places, views, crops, stored, fresh, len(rows_a) * len(views))


def _by_images(pair: Pair) -> Iterator[PairPart]:
    """The two mean labels of every image."""
    most, least = (end(len(pair.views_a), len(pair.views_b)) for end in (max, min))
    # Means are as wide as there are classes.
    for places in pair.runs(max(most, -(-2 * pair.a.num_classes // pair.width))):
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
        yield PairPart(places, np.zeros(1, dtype=np.int64), crops, None, count, count * least)


def recovered(store: LabelReader, topk: TopK | EnsembleTopK) -> SoftLabels:
    """Labels as training has them when nothing else is said; UsageError as ``label_type_of``."""
    return topk.as_type(label_type_of(store))


def largest_stored(topk: TopK | EnsembleTopK, labels: SoftLabels, n: int) -> TopK:
    """The n largest classes: as they are stored, so of equals the first stored is the largest."""
    if isinstance(topk, TopK):
        return TopK(topk.indices[..., :n], topk.probs[..., :n], topk.num_classes)
    return largest(labels, n)


def _means(store: LabelReader, rows: Int64Array, views: Int64Array) -> Float64Array:
    """(n, C) the mean of each image's labels, summing to 1."""
    means = np.stack(
        [mean_distribution(recovered(store, store.read(row, views))) for row in rows.tolist()]
    )
    return np.asarray(means / means.sum(axis=-1, keepdims=True))


def _largest_of_means(means: Float64Array, n: int) -> TopK:
    """(images, 1) the n largest classes of means (images, C); of equals the smaller first."""
    order = np.argsort(-means, axis=-1, kind="stable")[:, None, :n]
    probs = np.take_along_axis(means[:, None], order, axis=-1)
    return TopK(order.astype(np.int32), probs.astype(np.float32), means.shape[-1])


def _crops(tops: list[TopK], apart: Divergences, targets: npt.NDArray[np.int32]) -> CropPairs:
    holds = [
        ((top.indices == targets[:, None, None]) & (top.probs > 0)).any(axis=-1) for top in tops
    ]
    return CropPairs(
        agreement=Agreement.of(*tops),
        divergences=apart,
        confidence_a=tops[0].confidence,
        confidence_b=tops[1].confidence,
        targets=targets,
        holds_a=holds[0],
        holds_b=holds[1],
    )
