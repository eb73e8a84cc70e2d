"""Sums over the blocks of a store, and what they tell."""

from __future__ import annotations

import itertools
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.labels.actions import Action, ActionCounts
from labelstore.operations.inspection.description import describe
from labelstore.operations.inspection.label_facts import (
    AGREEMENT_CLASSES,
    LabelFacts,
    facts_of_labels,
)
from labelstore.statistics.by_class import ClassSums
from labelstore.statistics.confidence import ConfidenceCounts, share_of
from labelstore.statistics.distributions import Spread
from labelstore.statistics.extremes import Extremes
from labelstore.statistics.image_labels import ImageLabels, joined
from labelstore.statistics.mistakes import confused_pairs, suspicions
from labelstore.statistics.reliability import Reliability
from labelstore.statistics.sampling import error_of_share, groups_of_views
from labelstore.teachers.class_names import human_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt

    from labelstore.labels.ferkd import FerKD
    from labelstore.labels.fitting import DistinctValues
    from labelstore.store.store import Store

    Int64Array = npt.NDArray[np.int64]

__all__ = ["Tally"]

REPORT_VERSION = 2

LABEL_CROPS = 2**22
"""Whole labels are looked at of so many crops, unless a sample is asked for: some ten seconds."""

CONFUSED_PAIRS = 100
SUSPICIONS = 50

_PAIRS = 2**18
"""Classes with their probabilities, those of lists included, that are looked at at a time: arrays
of so many numbers stay in a processor's cache."""


@dataclass(frozen=True)
class _Block:
    """What is summed up of a block."""

    images: Int64Array
    """(n,) positions of those with labels, rising."""
    plane: npt.NDArray[np.float32] | None
    """(n, V) the largest probabilities of all their views, unless a sample is looked at."""
    facts: list[LabelFacts]


class Tally:
    """Sums over the blocks of a store; to be closed, since threads work for it."""

    def __init__(
        self,
        store: Store,
        rule: FerKD,
        extremes: int,
        sample: int | None,
        *,
        details: bool = True,
    ) -> None:
        """Nothing is added yet.

        Args:
            store: whose blocks. rule: whose decisions are counted.
            extremes: how many of the hardest and easiest are named.
            sample: how many views of each image are looked at; see ``inspect.report``.
            details: keep what confused classes, doubtful ground truth and fitted thresholds are
                told from: about 100 bytes an image, and each value of the largest probability.
                Without them ``result`` has neither ``confusion`` nor ``wrong_targets``.
        """
        manifest = store.manifest
        self._store = store
        self._rule = rule
        self._whole_plane = sample is None
        images = max(manifest.num_images, 1)
        sampled_views = min(store.num_views, sample or max(LABEL_CROPS // images, 1))
        self._groups = groups_of_views(sampled_views, manifest.group_views, manifest.num_groups)
        slices = [manifest.group_slice(int(group)) for group in self._groups]
        self._label_views = np.concatenate([np.arange(s.start, s.stop) for s in slices])
        self._views = np.arange(store.num_views) if self._whole_plane else self._label_views
        self._counts = ConfidenceCounts(single_values=details)
        # What the rule looks at, which its thresholds are compared with.
        by_target = self._rule.confidence == "target"
        self._ferkd_counts = ConfidenceCounts() if by_target else self._counts
        self._classes = ClassSums(store.num_classes)
        self._actions = ActionCounts()
        self._decided = 0
        self._without_views = 0
        self._reliability = Reliability()
        self._entropy = Spread(math.log(store.num_classes))
        self._drift = Spread(1.0)
        self._residual = np.zeros(store.k)
        self._labels = 0
        self._known_images = 0
        self._hits = np.zeros(2, dtype=np.int64)
        self._image_labels: list[ImageLabels] | None = [] if details else None
        self._crops = [Extremes(extremes, largest) for largest in (False, True)]
        self._images = [Extremes(extremes, largest) for largest in (False, True)]
        self._drifts = [Extremes(extremes, largest) for largest in (False, True)]
        # What all threads use, looked up before there are any.
        self._labelled, self._targets = store.labelled(), store.targets
        self._threads = store.reader.threads
        self._pool = ThreadPoolExecutor(self._threads)

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, blocks: Sequence[int]) -> Iterator[int]:
        """Committed blocks; yields each when it has been added."""
        # Threads read and look at the next few, and what they find is summed up in order.
        ahead: deque[tuple[int, Future[_Block]]] = deque()
        left = iter(blocks)
        while True:
            for block in itertools.islice(left, self._threads + 1 - len(ahead)):
                ahead.append((block, self._pool.submit(self._look_at, block)))
            if not ahead:
                return
            block, future = ahead.popleft()
            self._add(future.result())
            yield block

    def _add(self, block: _Block) -> None:
        if block.plane is not None:
            self._add_plane(block.images, block.plane)
        for facts in block.facts:
            if block.plane is None:
                self._add_plane(facts.labels.images, facts.confidence)
            self._add_labels(facts)

    def _look_at(self, block: int) -> _Block:
        run = self._store.manifest.block_slice(block)
        rows = run.start + np.flatnonzero(self._labelled[run])
        if not len(rows):
            return _Block(rows, None, [])
        groups = self._groups.tolist()
        labels = self._store.iter_labels(block, groups, self._images_at_a_time())
        label_type = self._store.manifest.label_type
        facts = [
            facts_of_labels(positions, topk, self._targets[positions], self._rule, label_type)
            for positions, topk in labels
        ]
        plane = self._store.confidence(run)[rows - run.start] if self._whole_plane else None
        return _Block(rows, plane, facts)

    def _images_at_a_time(self) -> int:
        """So few that neither their labels nor their dense means take much memory."""
        pairs = len(self._label_views) * (self._store.k + self._store.manifest.prior_size)
        return max(_PAIRS // max(pairs, self._store.num_classes // 4, 1), 1)

    def _add_plane(self, images: Int64Array, plane: npt.NDArray[np.float32]) -> None:
        """Images (n,) and the largest probabilities (n, V) of their views."""
        targets = self._targets[images]
        self._counts.add(plane)
        self._classes.add_confidence(targets, plane)
        means = plane.mean(axis=1, dtype=np.float64)[:, None]
        for crops, whole in zip(self._crops, self._images, strict=True):
            crops.add(plane, images, self._views)
            whole.add(means, images)
        if self._rule.confidence == "max":
            self._decide(targets, plane)

    def _decide(self, targets: npt.NDArray[np.int32], values: npt.NDArray[np.float32]) -> None:
        """What the rule does with views (n, V) of images with ground truth (n,)."""
        truths = targets[:, None]
        action = self._rule.decide(values, truths)
        self._actions += self._rule.count(values, truths)
        self._decided += values.size
        self._without_views += int((action == Action.DISCARDED).all(axis=1).sum())
        self._classes.add_actions(targets, action)

    def _add_labels(self, facts: LabelFacts) -> None:
        targets = facts.labels.targets
        self._labels += facts.confidence.size
        self._residual += facts.residual
        self._entropy.add(facts.entropy)
        self._drift.add(facts.drift)
        self._classes.add_labels(targets, facts.top_classes, facts.entropy, facts.drift)
        if self._image_labels is not None:
            self._image_labels.append(facts.labels)
        for drifts in self._drifts:
            drifts.add(facts.drift[:, None], facts.labels.images)
        known = targets >= 0
        if known.any():
            self._known_images += int(known.sum())
            self._hits += [facts.right.sum(), facts.hits]
            self._reliability.add(facts.confidence[known], facts.right)
        if facts.rule_looks_at is not None:
            self._ferkd_counts.add(facts.rule_looks_at)
            self._decide(targets, facts.rule_looks_at)

    @property
    def values(self) -> DistinctValues:
        """The largest probabilities that were added, counted one by one; empty without details."""
        return self._counts.values

    def result(self) -> dict[str, Any]:
        """All but alerts and bytes."""
        store = self._store
        crops = int(store.labelled().sum()) * store.num_views
        report = {
            "report_version": REPORT_VERSION,
            "store": describe(store),
            "class_names": _listed(human_names(store.manifest)),
            "sample": {
                "views": len(self._views),
                "label_views": len(self._label_views),
                "of": store.num_views,
            },
            "histogram": self._counts.histogram(crops),
            "table": self._counts.table(crops),
            "thresholds": self._ferkd_counts.thresholds(),
            "ferkd": self._ferkd(crops),
            "epochs": [
                {"views_per_image": each, "epochs": store.num_views // each} for each in (1, 4)
            ],
            "agreement": self._agreement(),
            "reliability": self._reliability.result(),
            "entropy": {
                "mean": self._entropy.mean,
                "error": self._entropy.error(crops),
                "histogram": self._entropy.histogram(),
            },
            "residual": [
                {"rank": rank + 1, "mean": share_of(mass, self._labels)}
                for rank, mass in enumerate(self._residual)
            ],
            "classes": self._classes.rows(store.num_views),
            "drift": self._drift_told(),
            "extremes": self._extremes(),
        }
        if self._image_labels is not None:
            labels = joined(self._image_labels, store.num_classes)
            report["confusion"] = self._confusion(labels)
            report["wrong_targets"] = self._wrong_targets(labels)
        return report

    def _ferkd(self, crops: int) -> dict[str, Any]:
        rule = self._rule
        report: dict[str, Any] = {
            "low": rule.low,
            "middle": rule.middle,
            "top": rule.top,
            "confidence": rule.confidence,
            "by_class": None if rule.by_class is None else rule.by_class.to_json(),
        }
        for name in ("discarded_low", "discarded_high", "calibrated", "kept"):
            count = getattr(self._actions, name)
            report[name] = {
                "count": count,
                "share": share_of(count, self._decided),
                "error": error_of_share(count, self._decided, crops),
            }
        return report | {"images_without_views": self._without_views}

    def _agreement(self) -> dict[str, Any] | None:
        if not self._known_images:
            return None
        crops = self._known_images * len(self._label_views)
        whole = self._known_images * self._store.num_views
        top1, top_n = (int(hits) for hits in self._hits)
        return {
            "images": self._known_images,
            "crops": crops,
            "top1": top1 / crops,
            "top1_error": error_of_share(top1, crops, whole),
            "n": min(AGREEMENT_CLASSES, self._store.k),
            "top_n": top_n / crops,
            "top_n_error": error_of_share(top_n, crops, whole),
        }

    def _confusion(self, labels: ImageLabels) -> list[dict[str, Any]]:
        return [
            {
                "target": pair.target,
                "predicted": pair.predicted,
                "share": pair.share,
                "images": [self._named(image, share=share) for image, share in pair.images],
            }
            for pair in confused_pairs(labels, self._store.num_classes, CONFUSED_PAIRS)
        ]

    def _wrong_targets(self, labels: ImageLabels) -> dict[str, Any] | None:
        judged = suspicions(labels, self._store.num_classes, SUSPICIONS)
        if not judged.judged:
            return None
        entries = [
            self._named(
                entry.image,
                target=entry.target,
                suggested=entry.suggested,
                target_probability=entry.target_probability,
                suggested_probability=entry.suggested_probability,
                views=entry.views,
                margin=entry.margin,
                candidate=entry.candidate,
            )
            for entry in judged.entries
        ]
        return {"images": judged.judged, "candidates": judged.candidates, "entries": entries}

    def _drift_told(self) -> dict[str, Any]:
        smallest, largest = (
            [self._named(image, drift=value) for image, _, value in drifts.entries()]
            for drifts in self._drifts
        )
        return {
            "mean": self._drift.mean,
            "histogram": self._drift.histogram(),
            "largest": largest,
            "smallest": smallest,
        }

    def _extremes(self) -> dict[str, Any]:
        extremes: dict[str, Any] = {}
        for name, crops, whole in zip(
            ("hardest", "easiest"), self._crops, self._images, strict=True
        ):
            extremes[f"{name}_views"] = [
                self._named(image, view=view, confidence=value)
                for image, view, value in crops.entries()
            ]
            extremes[f"{name}_images"] = [
                self._named(image, mean_confidence=value) for image, _, value in whole.entries()
            ]
        return extremes

    def _named(self, image: int, **more: Any) -> dict[str, Any]:
        return {"image": image, "key": self._store.keys[image], **more}


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)
