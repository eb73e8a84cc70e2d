"""FerKD's surgical label calibration (Shen, ICCV 2023, section 3.2, equation 4; section 4.2).

The confidence of a view decides what becomes of its label: at most ``low`` or above ``top``, the
view is discarded (uninformative, or too easy); in (low, middle], its label becomes the ground truth
smoothed by ``smoothing``, or a label that it leads (LoCa); otherwise its soft label stays as it is.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

import numpy as np

from labelstore.errors import FallbackWarning, PartialDataWarning, UsageError, require_choice
from labelstore.labels.actions import (
    Action,
    ActionCounts,
    Calibrated,
    Combine,
    Discard,
)
from labelstore.labels.calibration.by_class import FEWEST_VIEWS, fit_members_by_class
from labelstore.labels.calibration.thresholds import ClassThresholds, Edges, require_ordered
from labelstore.labels.calibration.truth import known_truth, with_leading_truth, with_smoothed_truth
from labelstore.labels.confidence import largest_of_mean, largest_probability, weighted_mean
from labelstore.labels.ensemble import combined, loss_weights
from labelstore.labels.fitting import CALIBRATED, EASIEST, HARDEST, Shares, fit_members

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.calibration.thresholds import Parts
    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.fitting import MemberConfidences
    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.labels.top_k import Tail, TopK

__all__ = ["EnsembleFerKD", "FerKD"]

Confidence = Literal["max", "target"]
Calibrate = Literal["smooth", "loca"]
FitBy = Literal["store", "class"]


class RuleOptions(TypedDict, total=False):
    """What a rule has besides thresholds, as ``FerKD`` describes it."""

    smoothing: float
    calibrate: Calibrate
    alpha: float
    discard: Discard
    ensemble: Combine


@dataclass(frozen=True)
class FerKD:
    """The rule and its parameters; the defaults are the paper's.

    Raises:
        UsageError: thresholds out of order, or another value out of range.
    """

    low: float = 0.15
    """Confidence at or below this: discarded."""
    middle: float = 0.30
    """Confidence in (low, middle]: calibrated."""
    top: float = 0.95
    """Confidence above this: discarded."""
    smoothing: float = 0.1
    """Epsilon of equation 4, spread over the other C - 1 classes; 0..1."""
    confidence: Confidence = "max"
    """The teacher's largest probability, or that of the ground-truth class: as stored, whatever
    tail labels are recovered with. Of a ground truth that is not among the stored classes it is
    ``TopK.probability``'s estimate, which the image's list spreads where there is one, else the
    uniform tail."""
    discard: Discard = "replace"
    """What a schedule does about a discarded view: show another that passes, show it with loss
    weight 0, or show it as it is."""
    ensemble: Combine = "all"
    """A view of an ensemble is discarded when ``all`` or ``any`` of the teachers discard it, the
    label being the mean over those that keep it; or the rule is applied to the ``mean`` label."""
    by_class: ClassThresholds | None = None
    """Thresholds of ground-truth classes that have their own (``FerKD.fit(store, by="class")``), in
    place of low, middle and top. Views of other classes, and of an unknown ground truth (-1), have
    those. None: all have."""

    calibrate: Calibrate = "smooth"
    """What becomes of an uncertain label: ``"smooth"``: the ground truth smoothed, the paper's;
    ``"loca"``: the label itself, where the ground truth does not lead it with the other classes
    scaled down until it does (LoCa, arXiv 2409.04778), which keeps what the teacher says of
    them."""
    alpha: float = 0.9
    """LoCa's: how far the others are scaled down, as a share of where the largest of them would
    have as much as the ground truth; above 0, below 1. (What the paper took is not known here.)"""

    def __post_init__(self) -> None:
        require_ordered(self.low, self.middle, self.top)
        if not 0 <= self.smoothing <= 1:
            raise UsageError(f"smoothing is {self.smoothing}, expected 0 to 1.")
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha is {self.alpha}, expected above 0 and below 1.")
        choices = {"confidence": Confidence, "discard": Discard, "calibrate": Calibrate}
        for name, words in (choices | {"ensemble": Combine}).items():
            require_choice(name, getattr(self, name), get_args(words))

    @classmethod
    def fit(
        cls,
        store: MemberConfidences,
        hardest: float = HARDEST,
        calibrated: float = CALIBRATED,
        easiest: float = EASIEST,
        *,
        by: FitBy = "store",
        **options: Unpack[RuleOptions],
    ) -> FerKD | EnsembleFerKD:
        """The rule whose thresholds take shares of this store's views, whatever its teacher's.

        The defaults are what 0.15, 0.30 and 0.95 take of the paper's crops, 0.875 %, 1.735 % and
        0.33 % by linear interpolation of its Table 1, rounded. Thresholds are confidences (the
        largest probabilities) that are stored, at which each share is the nearest that is not above
        the one asked for: views of one confidence are treated alike
        (``labelstore.labels.fitting.fit_thresholds``). The same store gives the same rule.

        Args:
            store: a store or an ensemble that is open. Of an incomplete one, what is committed,
                with a warning (PartialDataWarning).
            hardest: share of the views to be discarded as too hard, 0..1.
            calibrated: share to be calibrated. easiest: share to be discarded as too easy.
            by: ``"store"``: one set of thresholds; ``"class"``: also one for each ground-truth
                class (``by_class``), which takes the shares of the views of that class. A class of
                fewer than 1,000 labelled views has none of its own: its views, like those of
                unknown ground truth, have the store's thresholds.
            options: the rule's other parameters: ``smoothing``, ``calibrate``, ``alpha``,
                ``discard`` and ``ensemble``.

        Returns:
            a FerKD; of an ensemble an EnsembleFerKD with a rule for each teacher, fitted to its own
            confidences of the images and views that are read.

        Raises:
            UsageError: shares out of range; a store that is not open; the ``"mean"`` of an
            ensemble, whose confidences are not stored. NotFoundError: nothing is labelled.
            StoreError: a label cannot be read. TypeError: an option that is none. Warns
            (FallbackWarning) when no class has views enough.
        """
        require_choice("by", by, get_args(FitBy))
        rule = cls(**options)
        shares = Shares(hardest, calibrated, easiest)
        fits = fit_members(store, shares)
        if len(fits) > 1 and rule.ensemble == "mean":
            raise UsageError(
                'ensemble is "mean", expected "all" or "any": thresholds are fitted to stored '
                "confidences, and those of the mean label are not stored."
            )
        if not store.complete:
            warnings.warn(
                f"{store.members[0].path} is not complete: the thresholds fit what is committed, "
                "and may be others when the rest is there.",
                PartialDataWarning,
                stacklevel=2,
            )
        classes: list[ClassThresholds] | list[None] = [None] * len(fits)
        if by == "class":
            classes = fit_members_by_class(store, shares, store.num_classes)
            if not any(own.classes for own in classes):
                warnings.warn(
                    f"no class of {store.members[0].path} has {FEWEST_VIEWS:,} labelled views of "
                    "known ground truth: the store's thresholds are those of all.",
                    FallbackWarning,
                    stacklevel=2,
                )
        rules = tuple(
            replace(rule, low=part.low, middle=part.middle, top=part.top, by_class=own)
            for part, own in zip(fits, classes, strict=True)
        )
        return rules[0] if len(rules) == 1 else EnsembleFerKD(rules)

    def decide(
        self, confidence: npt.ArrayLike, targets: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.uint8]:
        """The action for each confidence (...) in [0, 1], as uint8 values of ``Action``.

        Confidences and thresholds are compared as float32, as probabilities are stored: a stored
        0.15 is at ``low=0.15``. ``targets`` as for ``edges``.
        """
        values = np.asarray(confidence, dtype=np.float32)
        parts = self.parts(values, targets)
        action = np.full(values.shape, Action.KEPT, dtype=np.uint8)
        action[parts.calibrated] = Action.CALIBRATED
        action[parts.low | parts.high] = Action.DISCARDED
        return action

    def edges(self, targets: npt.ArrayLike | None = None) -> Edges:
        """The thresholds of views.

        Args:
            targets: ground-truth class ids, -1 where unknown, that broadcast with the confidences;
                not looked at without ``by_class``.

        Raises:
            LabelError: thresholds by class, and no targets, or such as they know nothing of.
        """
        if self.by_class is None:
            return Edges(*(float(np.float32(edge)) for edge in (self.low, self.middle, self.top)))
        return Edges(*self.table[:, self.by_class.require_known(targets)])

    @cached_property
    def table(self) -> npt.NDArray[np.float32]:
        """(3, num_classes + 1) float32: ``ClassThresholds.table`` of a rule ``by_class``;
        (3, 1), the same for all, of another."""
        own = self.by_class or ClassThresholds(0, (), (), (), ())
        return own.table((self.low, self.middle, self.top))

    def of_class(self, target: int) -> FerKD:
        """The rule of the views of a ground-truth class (-1: unknown): without ``by_class``."""
        if self.by_class is None:
            return self
        known = self.by_class.of_class(int(self.by_class.require_known(target)))
        low, middle, top = known or (self.low, self.middle, self.top)
        return replace(self, low=low, middle=middle, top=top, by_class=None)

    def require_classes(self, num_classes: int) -> None:
        """UsageError where thresholds by class are of another number of classes."""
        if self.by_class is not None and self.by_class.num_classes != num_classes:
            raise UsageError(
                f"the rule has thresholds for {self.by_class.num_classes} classes and the labels "
                f"are of {num_classes}: fit it to labels of these classes."
            )

    def parts(self, confidence: Any, targets: npt.ArrayLike | None = None) -> Parts:
        """The rule itself, as ``Edges.parts``: which confidences (...), a NumPy array or a torch
        tensor, are too low, uncertain or too high. ``targets`` as for ``edges``."""
        return self.edges(targets).parts(confidence)

    def count(
        self, confidence: npt.ArrayLike, targets: npt.ArrayLike | None = None
    ) -> ActionCounts:
        """How many of the views (...) fall under which part; a NaN is no view. ``targets`` as for
        ``edges``."""
        values = np.asarray(confidence, dtype=np.float32)
        low, calibrated, high = (
            int(np.count_nonzero(part)) for part in self.parts(values, targets)
        )
        views = int(np.count_nonzero(~np.isnan(values)))
        return ActionCounts(low, calibrated, views - low - calibrated - high, high)

    def apply(
        self,
        topk: TopK | EnsembleTopK,
        targets: npt.ArrayLike | None = None,
        tail: Tail | None = None,
    ) -> Calibrated:
        """Recover and calibrate stored labels.

        Args:
            topk: stored labels (...) of a teacher, or of an ensemble read together.
            targets: (...) ground-truth class ids, -1 where unknown. Needed where a label is to be
                calibrated, and everywhere for ``confidence="target"``; with thresholds by class
                they are to be given, be they unknown.
            tail: how the residual mass is spread.

        Raises:
            LabelError: the ground truth is needed and unknown. UsageError: thresholds by class of
            another number of classes.
        """
        self.require_classes(topk.num_classes)
        if len(topk.members) == 1 or self.ensemble == "mean":
            return self._calibrate(topk.recover(tail), topk, targets)
        of_each = [self.apply(member, targets, tail) for member in topk.members]
        return combined(of_each, topk.weights, self.ensemble, self.discard)

    def rules_for(self, count: int) -> tuple[FerKD, ...]:
        """The rule of each of ``count`` teachers: this one."""
        return (self,) * count

    def confidence_of(
        self,
        labels: SoftLabels | None,
        topk: TopK | EnsembleTopK | None,
        targets: npt.ArrayLike | None,
    ) -> npt.NDArray[np.float32]:
        """(...) float32: the probability that the rule looks at.

        Of an ensemble the mean over its teachers, by their weights, as ``ensemble="mean"`` asks
        for: of the ground truth, or of whichever class has most.

        Args:
            labels: labels (...) of which nothing is stored; not looked at beside ``topk``.
            topk: stored labels (...) of a teacher, or of an ensemble read together.
            targets: (...) ground-truth class ids; ``confidence="target"`` needs them all.

        Raises:
            LabelError: the ground truth is needed and unknown. UsageError: neither labels nor topk.
        """
        if topk is None and labels is None:
            raise UsageError(
                "a confidence was asked for and neither labels nor topk were given: give one."
            )
        source: Any = labels if topk is None else topk
        members: tuple[Any, ...] = (labels,) if topk is None else topk.members
        if self.confidence == "target":
            shape = members[0].indices.shape[:-1]
            known = known_truth(targets, shape, 'FerKD\'s confidence="target"')
            parts = [member.probability(known).astype(np.float32) for member in members]
            return parts[0] if len(parts) == 1 else weighted_mean(parts, source.weights)
        if topk is None:
            return largest_probability(source)
        return np.asarray(members[0].confidence) if len(members) == 1 else largest_of_mean(source)

    def _calibrate(
        self,
        labels: SoftLabels,
        topk: TopK | EnsembleTopK,
        targets: npt.ArrayLike | None,
    ) -> Calibrated:
        action = self.decide(self.confidence_of(None, topk, targets), targets)
        uncertain = action == Action.CALIBRATED
        shape = labels.base.shape
        truths = np.full(shape, -1) if targets is None else np.broadcast_to(targets, shape)
        chosen = known_truth(truths[uncertain], (int(uncertain.sum()),), "FerKD's calibration")
        # LoCa's labels have a slot more, be they changed or not: those of any batches join.
        if self.calibrate == "loca":
            labels = with_leading_truth(labels, uncertain, chosen, self.alpha)
        elif len(chosen):
            labels = with_smoothed_truth(labels, uncertain, chosen, self.smoothing)
        return Calibrated(labels=labels, action=action, weight=loss_weights(action, self.discard))


@dataclass(frozen=True)
class EnsembleFerKD:
    """A rule for each teacher of an ensemble: one teacher's 0.9 may be another's 0.6.

    Raises:
        UsageError: no rules, or rules that differ in more than thresholds and calibration.
    """

    rules: tuple[FerKD, ...]
    """One for each member, in the members' order, thresholds by class included. Their
    ``confidence``, ``discard`` and ``ensemble`` are the ensemble's and so the same in all;
    ``ensemble`` is ``"all"`` or ``"any"``, since the mean label has no teacher."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if not self.rules:
            raise UsageError("rules are empty, expected one FerKD for each teacher: give them.")
        for name in ("confidence", "discard", "ensemble"):
            values = [getattr(rule, name) for rule in self.rules]
            if len(set(values)) > 1:
                raise UsageError(
                    f"the rules' {name} are {', '.join(values)}, expected one for all teachers: "
                    "let them differ in thresholds and calibration alone."
                )
        if self.ensemble == "mean":
            raise UsageError(
                'ensemble is "mean" and several rules were given, expected "all" or "any": for the '
                "mean label give a single FerKD."
            )

    @property
    def confidence(self) -> Confidence:
        """What all rules look at."""
        return self.rules[0].confidence

    @property
    def discard(self) -> Discard:
        """What is done about a discarded view."""
        return self.rules[0].discard

    @property
    def ensemble(self) -> Combine:
        """How the teachers' decisions combine."""
        return self.rules[0].ensemble

    def require_classes(self, num_classes: int) -> None:
        """UsageError where thresholds by class are of another number of classes."""
        for rule in self.rules:
            rule.require_classes(num_classes)

    def rules_for(self, count: int) -> tuple[FerKD, ...]:
        """The rule of each of ``count`` teachers; UsageError when there are not as many."""
        if len(self.rules) != count:
            raise UsageError(
                f"{len(self.rules)} rules were given for {count} teachers, expected one for each "
                "member of the ensemble: give as many."
            )
        return self.rules

    def apply(
        self,
        topk: TopK | EnsembleTopK,
        targets: npt.ArrayLike | None = None,
        tail: Tail | None = None,
    ) -> Calibrated:
        """Recover and calibrate each teacher's labels by its own rule, then combine them.

        The arguments and errors are ``FerKD.apply``'s; also UsageError for labels of another
        number of teachers.
        """
        rules = self.rules_for(len(topk.members))
        if len(rules) == 1:
            return rules[0].apply(topk, targets, tail)
        of_each = [
            rule.apply(member, targets, tail)
            for rule, member in zip(rules, topk.members, strict=True)
        ]
        return combined(of_each, topk.weights, self.ensemble, self.discard)

    def confidence_of(
        self,
        labels: SoftLabels | None,
        topk: TopK | EnsembleTopK | None,
        targets: npt.ArrayLike | None,
    ) -> npt.NDArray[np.float32]:
        """(...) the probability that the rules look at; as ``FerKD.confidence_of``."""
        return self.rules[0].confidence_of(labels, topk, targets)
