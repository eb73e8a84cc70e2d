"""Which classes are taken for which, and which images may bear the wrong ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.statistics.image_labels import ImageLabels

    Int64Array = npt.NDArray[np.int64]

__all__ = ["ConfusedPair", "Suspicion", "Suspicions", "confused_pairs", "suspicions"]


@dataclass(frozen=True)
class ConfusedPair:
    """Mass that a class's labels give to another class."""

    target: int
    """The ground truth."""
    predicted: int
    """The other class."""
    share: float
    """Of the mass of the target's labels; 0..1."""
    images: tuple[tuple[int, float], ...]
    """The images of the target that give it most, with the share of each, largest first."""


@dataclass(frozen=True)
class Suspicion:
    """An image, and the class that its ground truth should perhaps be."""

    image: int
    """Its number."""
    target: int
    """Its ground truth."""
    suggested: int
    """The likeliest other class in the mean label of its views."""
    target_probability: float
    """Of the ground truth, in the mean label of its views."""
    suggested_probability: float
    """Of the suggested class."""
    views: float
    """Share of its views whose largest class is the suggested one."""
    margin: float
    """The ground truth's probability less the suggested class's: -1..1."""
    candidate: bool
    """Whether confident learning counts it as another class."""


@dataclass(frozen=True)
class Suspicions:
    """Images by how likely their ground truth is wrong."""

    judged: int
    """Images whose ground truth is known."""
    candidates: int
    """Those that confident learning counts as another class."""
    entries: tuple[Suspicion, ...]
    """The worst first: by margin."""


def confused_pairs(
    labels: ImageLabels, num_classes: int, count: int, images: int = 3
) -> list[ConfusedPair]:
    """The pairs of classes of which one takes most of the other's mass, largest share first.

    Over the likeliest classes of each image's mean label that are kept.

    Args:
        labels: of all images; count: of pairs, at most; images: named for each, at most.
    """
    known = np.flatnonzero(labels.targets >= 0)
    targets = labels.targets[known].astype(np.int64)
    classes, probs = labels.classes[known], labels.probs[known]
    rows, slots = np.nonzero((classes != targets[:, None]) & (probs > 0))
    pairs = targets[rows] * num_classes + classes[rows, slots]
    values = probs[rows, slots].astype(np.float64)
    distinct, place = np.unique(pairs, return_inverse=True)
    mass = np.bincount(place, values, len(distinct))
    members = np.bincount(targets, minlength=num_classes)
    share = mass / np.maximum(members[distinct // num_classes], 1)
    by_pair = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[by_pair], np.arange(len(distinct) + 1))
    pairs_told = []
    for pair in np.argsort(-share, kind="stable")[:count].tolist():
        entries = by_pair[starts[pair] : starts[pair + 1]]
        best = entries[np.argsort(-values[entries], kind="stable")[:images]]
        numbers = labels.images[known[rows[best]]]
        target, predicted = divmod(int(distinct[pair]), num_classes)
        of_images = zip(numbers.tolist(), values[best].tolist(), strict=True)
        pairs_told.append(ConfusedPair(target, predicted, float(share[pair]), tuple(of_images)))
    return pairs_told


def suspicions(labels: ImageLabels, num_classes: int, count: int) -> Suspicions:
    """Rank images by how likely their ground truth is wrong, as confident learning does.

    Northcutt, Jiang and Chuang (JAIR 70, 2021): ranked by the margin between the probability of the
    ground truth and the largest other one (their normalized margin, section 3.2). A candidate is
    counted as another class than its own: of the classes whose probability is at least the mean
    that their own images give them, the likeliest (section 3.1). Candidates alone would leave out
    those of which the teacher is less sure than on average. Probabilities are those of the image's
    mean label.

    Args:
        labels: of all images; count: how many entries are returned, at most.
    """
    known = np.flatnonzero(labels.targets >= 0)
    if not len(known):
        return Suspicions(0, 0, ())
    targets = labels.targets[known]
    own = labels.target_probs[known].astype(np.float64)
    classes, probs = labels.classes[known], labels.probs[known].astype(np.float64)
    rows = np.arange(len(known))
    confident = probs >= _thresholds(targets, own, num_classes)[classes]
    # The likeliest of those: classes stand in this order.
    counted_as = np.where(confident.any(axis=1), classes[rows, confident.argmax(axis=1)], targets)
    others = np.where(classes == targets[:, None], -1.0, probs)
    slot = others.argmax(axis=1)
    margin = own - np.maximum(others[rows, slot], 0.0)
    candidate = counted_as != targets
    entries = tuple(
        Suspicion(
            image=int(labels.images[known[row]]),
            target=int(targets[row]),
            suggested=int(classes[row, slot[row]]),
            target_probability=float(own[row]),
            suggested_probability=float(probs[row, slot[row]]),
            views=float(labels.view_shares[known[row], slot[row]]),
            margin=float(margin[row]),
            candidate=bool(candidate[row]),
        )
        for row in np.argsort(margin, kind="stable")[:count].tolist()
        if num_classes > 1
    )
    return Suspicions(len(known), int(candidate.sum()), entries)


def _thresholds(
    targets: npt.NDArray[np.int32], own: npt.NDArray[np.float64], num_classes: int
) -> npt.NDArray[np.float64]:
    """(C,) the mean probability of each class over its images; over all where it has none."""
    members = np.bincount(targets, minlength=num_classes)
    sums = np.bincount(targets, own, num_classes)
    return np.where(members > 0, sums / np.maximum(members, 1), own.mean())
