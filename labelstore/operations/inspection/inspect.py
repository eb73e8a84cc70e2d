"""What is in a store: Figure 2 and Table 1 of the FerKD paper, classes, mistakes, extremes, bytes.

The store is gone through block by block, so that one of any size is inspected in little memory:
first the one array of largest probabilities, then whole labels, of which a large store has too many
and some groups of views are enough.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.labels.ferkd import Action, ActionCounts, FerKD
from labelstore.operations.inspection.description import bytes_on_disk, describe
from labelstore.statistics import image_labels
from labelstore.statistics.alerts import alerts
from labelstore.statistics.by_class import ClassSums
from labelstore.statistics.confidence import ConfidenceCounts, share_of
from labelstore.statistics.distributions import Spread, drift_of, entropy_of, mean_labels
from labelstore.statistics.extremes import Extremes
from labelstore.statistics.mistakes import confused_pairs, suspicions
from labelstore.statistics.reliability import Reliability
from labelstore.statistics.sampling import error_of_share, groups_of_views
from labelstore.store.store import opened
from labelstore.teachers.class_names import human_names

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.labels.top_k import TopK
    from labelstore.store.store import Store

    Int64Array = npt.NDArray[np.int64]

__all__ = ["report"]

REPORT_VERSION = 2

LABEL_CROPS = 2**22
"""Whole labels are looked at of so many crops, unless a sample is asked for: some ten seconds."""

AGREEMENT_CLASSES = 5
CONFUSED_PAIRS = 100
SUSPICIONS = 50

_PAIRS = 2**20
"""Classes with their probabilities, those of lists included, that are looked at at a time."""


def report(
    store: Store | str | os.PathLike[str],
    ferkd: FerKD | None = None,
    extremes: int = 5,
    tell: Callable[[int, int], None] | None = None,
    sample: int | None = None,
) -> dict[str, Any]:
    """Everything ``labelstore inspect`` tells, ready for JSON (``schemas/inspect.schema.json``).

    A crop is one view of one image. All shares are 0..1, over the labelled crops unless said
    otherwise, and None where there is nothing to divide by. ``error`` is half the width of the 95 %
    interval of an estimate, 0 where all crops were looked at. An incomplete store is inspected as
    far as it is committed.

    Args:
        store: a store, open or as a path or URL.
        ferkd: the rule whose decisions are counted; the paper's when None.
        extremes: how many of the hardest and easiest crops and images are named, at least 0.
        tell: called after each block with how many images, and how many views, it had.
        sample: how many views of each image are looked at, at least 1: whole groups of views,
            evenly spread, so it may be some more. When None, the confidences of all views, and the
            whole labels of as many as make about four million crops.

    Returns:
        a dict of

        - ``report_version``: 2;
        - ``store``: ``path``, ``id``, ``complete``, ``images``, ``views`` (of each image),
          ``crops`` (images x views), ``labelled_images``, ``labelled_crops``,
          ``unreadable_images``, ``blocks``, ``missing_blocks``, ``missing_images`` (of those
          blocks), ``k``, ``classes``, ``label_type``, ``temperature``, ``quantizer``, ``law`` (its
          description, "explicit", or None), ``teachers`` (a list: ``spec``, ``checkpoint``,
          ``input_size`` [height, width] and ``untrained`` of each) and ``operation`` (None, or
          "merge" or "recode", by which the labels came from those of other stores);
        - ``class_names``: the names of all classes for a person, or None where unknown;
        - ``sample``: of how many ``views`` of each image the confidence, and of how many
          ``label_views`` the whole label was looked at, ``of`` how many;
        - ``histogram``: Figure 2; a list of 20 dicts ``low``, ``high``, ``count``, ``ratio``,
          ``error`` of the crops whose largest probability is in [low, high), the last closed above;
        - ``table``: Table 1; a list of 12 such dicts with ``aggregated_ratio`` as well: the share
          of the crops in [0, high);
        - ``thresholds``: ``confidence``: 0, 0.005, ... 1; ``at_most``: how many crops have at most
          that, of what the rule looks at;
        - ``ferkd``: ``low``, ``middle``, ``top``, ``confidence`` of the rule; ``discarded_low``,
          ``discarded_high``, ``calibrated``, ``kept``: each a dict of ``count``, ``share`` and
          ``error``; ``images_without_views``: images all of whose views are discarded;
        - ``epochs``: for 1 and for 4 ``views_per_image`` a list of how many ``epochs`` there are
          without a repeated view;
        - ``agreement``: None without ground truth, or ``images`` and ``crops`` whose ground truth
          is known, ``top1``: the share of these crops whose largest class it is, ``n``: 5, or k
          where fewer are stored, ``top_n``: the share whose n largest classes have it, and
          ``top1_error``, ``top_n_error``;
        - ``reliability``: None without ground truth, or ``bins`` (those of the histogram, with
          ``count``, mean ``confidence`` and ``accuracy``) and ``expected_calibration_error``;
        - ``entropy``: of recovered labels, in nats: ``mean``, ``error``, ``histogram``;
        - ``residual``: for each ``rank`` 1..k the ``mean`` of the mass outside so many largest
          classes;
        - ``classes``: of each class with images, or that is the largest of any crop: ``class``,
          ``images``, ``crops``, mean ``confidence``, ``agreement`` and ``agreement_error``,
          ``drift``, ``entropy``, shares ``discarded``, ``calibrated``, ``kept``,
          ``images_without_views`` and ``predicted``: crops whose largest class it is;
        - ``confusion``: at most 100 of ``target``, ``predicted``, ``share`` (of the mass of the
          target's labels), ``images`` (``image``, ``key``, ``share`` of at most 3);
        - ``wrong_targets``: None without ground truth, or ``images`` judged, ``candidates`` and at
          most 50 ``entries`` (``image``, ``key``, ``target``, ``suggested``,
          ``target_probability``, ``suggested_probability``, ``views``, ``margin``), worst first
          (``statistics.mistakes.suspicions``);
        - ``drift``: trace of the covariance of an image's labels over its views: ``mean``,
          ``histogram``, and the images with the ``largest`` and ``smallest``;
        - ``extremes``: ``hardest_views``, ``easiest_views``: lists of ``image`` (its position),
          ``key``, ``view``, ``confidence`` (the largest probability), hardest or easiest first;
          ``hardest_images``, ``easiest_images``: lists of ``image``, ``key``,
          ``mean_confidence`` over its views; ties go to the first;
        - ``alerts``: what should be looked at, in words: ``kind`` and ``text`` of each;
        - ``bytes``: ``parts``: bytes on disk of each array, with ``manifest`` for what is left,
          ``total``, ``per_crop`` (parts by labelled crop), ``total_per_crop``.

    Raises:
        UsageError: ``extremes`` is negative, or ``sample`` less than 1. CorruptError: what is on
        disk is not what was committed. LabelError: the rule looks at the ground truth and some is
        unknown.
    """
    if extremes < 0:
        raise UsageError(f"extremes is {extremes}, expected 0 or more: correct it.")
    if sample is not None and sample < 1:
        raise UsageError(f"sample is {sample}, expected 1 view of each image or more: correct it.")
    store = opened(store)
    tally = _Tally(store, ferkd or FerKD(), extremes, sample)
    for block in store.reader.committed_blocks():
        tally.add(block)
        if tell is not None:
            run = store.manifest.block_slice(block)
            tell(run.stop - run.start, (run.stop - run.start) * store.num_views)
    whole = tally.result()
    return whole | {"alerts": alerts(whole), "bytes": bytes_on_disk(store)}


class _Tally:
    """Sums over blocks."""

    def __init__(self, store: Store, rule: FerKD, extremes: int, sample: int | None) -> None:
        manifest = store.manifest
        self._store = store
        self._rule = rule
        self._whole_plane = sample is None
        images = max(manifest.num_images, 1)
        wanted = min(store.num_views, sample or max(LABEL_CROPS // images, 1))
        self._groups = groups_of_views(wanted, manifest.group_views, manifest.num_groups)
        slices = [manifest.group_slice(int(group)) for group in self._groups]
        self._label_views = np.concatenate([np.arange(s.start, s.stop) for s in slices])
        self._views = np.arange(store.num_views) if self._whole_plane else self._label_views
        self._counts = ConfidenceCounts()
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
        self._n = min(AGREEMENT_CLASSES, store.k)
        self._known_images = 0
        self._hits = np.zeros(2, dtype=np.int64)
        self._image_labels: list[image_labels.ImageLabels] = []
        self._crops = [Extremes(extremes, largest) for largest in (False, True)]
        self._images = [Extremes(extremes, largest) for largest in (False, True)]
        self._drifts = [Extremes(extremes, largest) for largest in (False, True)]

    def add(self, block: int) -> None:
        """A committed block."""
        run = self._store.manifest.block_slice(block)
        rows = run.start + np.flatnonzero(self._store.labelled()[run])
        if not len(rows):
            return
        if self._whole_plane:
            self._add_plane(rows, self._store.confidence(run)[rows - run.start])
        groups = self._groups.tolist()
        for positions, topk in self._store.iter_labels(block, groups, self._images_at_a_time()):
            if not self._whole_plane:
                self._add_plane(positions, np.ascontiguousarray(topk.confidence))
            self._add_labels(positions, topk)

    def _images_at_a_time(self) -> int:
        """So few that neither their labels nor their dense means take much memory."""
        pairs = len(self._label_views) * (self._store.k + self._store.manifest.prior_size)
        return max(_PAIRS // max(pairs, self._store.num_classes // 4, 1), 1)

    def _add_plane(self, images: Int64Array, plane: npt.NDArray[np.float32]) -> None:
        """Images (n,) and the largest probabilities (n, V) of their views."""
        targets = self._store.targets[images]
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
        action = self._rule.decide(values)
        self._actions += self._rule.count(values)
        self._decided += values.size
        self._without_views += int((action == Action.DISCARDED).all(axis=1).sum())
        self._classes.add_actions(targets, action)

    def _add_labels(self, images: Int64Array, topk: TopK) -> None:
        """Images (n,) and the labels (n, V) of some of their views."""
        targets = self._store.targets[images]
        labels = topk.as_type(self._store.manifest.label_type)
        means = mean_labels(labels)
        entropy, drift = entropy_of(labels), drift_of(labels, means)
        # A label without any stored mass names no class.
        top_classes = np.where(topk.confidence > 0, topk.indices[..., 0], -1)
        self._labels += topk.confidence.size
        mass = np.cumsum(topk.probs, axis=-1, dtype=np.float64)
        self._residual += np.maximum(1.0 - mass, 0.0).sum(axis=(0, 1))
        self._entropy.add(entropy)
        self._drift.add(drift)
        self._classes.add_labels(targets, top_classes, entropy, drift)
        self._image_labels.append(image_labels.of_images(images, targets, means, top_classes))
        for drifts in self._drifts:
            drifts.add(drift[:, None], images)
        self._add_agreement(targets, topk)
        if self._rule.confidence == "target":
            values = self._rule.confidence_of(None, topk, targets[:, None])
            self._ferkd_counts.add(values)
            self._decide(targets, values)

    def _add_agreement(self, targets: npt.NDArray[np.int32], topk: TopK) -> None:
        known = targets >= 0
        if not known.any():
            return
        part = topk[known]
        # An empty place holds class 0 without probability, which it does not name.
        same = (part.indices == targets[known, None, None]) & (part.probs > 0)
        self._known_images += int(known.sum())
        self._hits += [same[..., 0].sum(), same[..., : self._n].any(axis=-1).sum()]
        self._reliability.add(part.confidence, same[..., 0])

    def result(self) -> dict[str, Any]:
        """All but alerts and bytes."""
        store = self._store
        crops = int(store.labelled().sum()) * store.num_views
        joined = image_labels.joined(self._image_labels, store.num_classes)
        return {
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
            "confusion": self._confusion(joined),
            "wrong_targets": self._wrong_targets(joined),
            "drift": self._drift_told(),
            "extremes": self._extremes(),
        }

    def _ferkd(self, crops: int) -> dict[str, Any]:
        rule = self._rule
        told: dict[str, Any] = {
            "low": rule.low,
            "middle": rule.middle,
            "top": rule.top,
            "confidence": rule.confidence,
        }
        for name in ("discarded_low", "discarded_high", "calibrated", "kept"):
            count = getattr(self._actions, name)
            told[name] = {
                "count": count,
                "share": share_of(count, self._decided),
                "error": error_of_share(count, self._decided, crops),
            }
        return told | {"images_without_views": self._without_views}

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
            "n": self._n,
            "top_n": top_n / crops,
            "top_n_error": error_of_share(top_n, crops, whole),
        }

    def _confusion(self, labels: image_labels.ImageLabels) -> list[dict[str, Any]]:
        return [
            {
                "target": pair.target,
                "predicted": pair.predicted,
                "share": pair.share,
                "images": [self._named(image, share=share) for image, share in pair.images],
            }
            for pair in confused_pairs(labels, self._store.num_classes, CONFUSED_PAIRS)
        ]

    def _wrong_targets(self, labels: image_labels.ImageLabels) -> dict[str, Any] | None:
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
        told: dict[str, Any] = {}
        for name, crops, whole in zip(
            ("hardest", "easiest"), self._crops, self._images, strict=True
        ):
            told[f"{name}_views"] = [
                self._named(image, view=view, confidence=value)
                for image, view, value in crops.entries()
            ]
            told[f"{name}_images"] = [
                self._named(image, mean_confidence=value) for image, _, value in whole.entries()
            ]
        return told

    def _named(self, image: int, **more: Any) -> dict[str, Any]:
        return {"image": image, "key": self._store.keys[image], **more}


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)
