"""Who is mixed with whom, with what weight and where: MixUp, CutMix and SelfMix. NumPy only.

A rule's ``plans`` says for every view of a batch which other view it is mixed with, by what share
and in which box; nothing here looks at pixels but ``mixed_images``. Plans are pure functions of
(rule, seed, step, the batch's image numbers where the rule looks at them), so a step that is
repeated mixes the same. Ranks of a distributed training mix otherwise by ``rank_seed``, which
``labelstore.torch`` takes by itself.

SelfMix (Shen, "FerKD", ICCV 2023, section 3.4, figure 8) mixes only views of the same image that
stand in one batch. The paper does not state its weights: they are drawn as MixUp's and CutMix's.

The draws are those of ``labelstore.training.mixing_draws``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import xxhash

from labelstore.errors import UsageError, require_choice
from labelstore.labels.soft_labels import mix
from labelstore.training.mixing_draws import beta, boxes, cyclic_partners, halves
from labelstore.views.philox import mixed_seed, philox4x32, uniform

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.soft_labels import SoftLabels

    BoolArray = npt.NDArray[np.bool_]
    Int64Array = npt.NDArray[np.int64]
    Float64Array = npt.NDArray[np.float64]

__all__ = [
    "CutMix",
    "InTurn",
    "MixPlan",
    "MixUp",
    "Mixing",
    "OneOf",
    "SelfMix",
    "mixed_images",
    "mixed_labels",
    "rank_seed",
]

Mode = Literal["mixup", "cutmix"]
"""Pixels and labels averaged (Zhang, ICLR 2018), or a box pasted (Yun, ICCV 2019)."""


@dataclass(frozen=True)
class MixPlan:
    """What each of B views is made of: its own pixels, blended with or covered by a partner's.

    ``blend * own + (1 - blend) * partner``, and inside ``box`` the partner alone.
    """

    partner: Int64Array
    """(B,) the row of the batch that each view is mixed with; its own where it stays as it is."""
    blend: Float64Array
    """(B,) share of the view's own pixels outside the box, 0..1."""
    box: Int64Array
    """(B, 4) top, left, height, width in pixels of what the partner covers; 0 high for nothing."""
    weight: Float64Array
    """(B,) share of the view's own label, 0..1: ``blend`` times the share of pixels outside the
    box. The partner's label has the rest."""
    alone: BoolArray
    """(B,) True where a view stays as it is because the batch has no view to mix it with."""

    def shares(self, loss_weight: npt.ArrayLike | None = None) -> tuple[Any, Any]:
        """Shares of both labels, and the weight of the mixed view's loss.

        Cross-entropy is linear in the label: where views have loss weights u (0 for a view that
        FerKD masks), ``w u CE(own) + (1 - w) u' CE(partner)`` is the cross-entropy with shares
        ``w u / W`` and ``(1 - w) u' / W``, times ``W = w u + (1 - w) u'``.

        Args:
            loss_weight: (B,) non-negative, or None for 1 everywhere.

        Returns:
            (B,) float64 share of the view's own label, and W, (B,) float64, or None when
            ``loss_weight`` is None. Where W is 0 the share is ``weight``.
        """
        if loss_weight is None:
            return self.weight, None
        weights = np.asarray(loss_weight, dtype=np.float64)
        own, other = self.weight * weights, (1.0 - self.weight) * weights[self.partner]
        total = own + other
        return np.where(total > 0, own / np.where(total > 0, total, 1.0), self.weight), total


def mixed_labels(plan: MixPlan, labels: SoftLabels) -> SoftLabels:
    """Labels (B,) mixed as the plan says, by concatenation: K doubles, nothing is made dense."""
    return mix([labels, labels[plan.partner]], [plan.weight, 1.0 - plan.weight])


def mixed_images(plan: MixPlan, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pixels (B, C, H, W), floating point, mixed as the plan says; the reference of torch's."""
    partner = images[plan.partner]
    blend = plan.blend.astype(images.dtype)[:, None, None, None]
    mixed = blend * images + (1 - blend) * partner
    for row, (top, left, height, width) in enumerate(plan.box.tolist()):
        part = (row, slice(None), slice(top, top + height), slice(left, left + width))
        mixed[part] = partner[part]
    return np.asarray(mixed)


class _Rule:
    """What MixUp, CutMix and SelfMix do; each says what it mixes, and among whom."""

    within_image: ClassVar[bool] = False
    """Whether the rule needs to know each view's image."""

    alpha: float
    seed: int
    per_view: bool

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise UsageError(
                f"alpha is {self.alpha}, expected a positive number: leave the rule out to mix "
                "nothing."
            )

    def _mode(self) -> Mode:
        raise NotImplementedError

    def plans(
        self, groups: npt.ArrayLike, size: tuple[int, int], step: int, seed: int | None = None
    ) -> list[MixPlan]:
        """The plans to carry out one after the other: a list of one.

        Args:
            groups: (B,) the image's number of each view.
            size: height and width of the views, pixels.
            step: 0..2**64-1; another one draws anew.
            seed: instead of the rule's own.

        Raises:
            UsageError: arguments out of range.
        """
        ids = np.asarray(groups, dtype=np.int64)
        _check_batch(ids, size, step)
        name = f"{'selfmix ' if self.within_image else ''}{self._mode()}"
        own_seed = _batch_seed(self, ids, seed)  # type: ignore[arg-type]
        partner_key, weight_key, centre_key = (
            mixed_seed(f"mix {name} {what}", own_seed) for what in ("partner", "weight", "centre")
        )
        members = ids if self.within_image else np.zeros_like(ids)
        partner = cyclic_partners(members, partner_key, step)
        alone = partner == np.arange(len(ids))
        draws = len(ids) if self.per_view else min(1, len(ids))
        weight = beta(self.alpha, draws, weight_key, step)
        box = np.zeros((len(ids), 4), dtype=np.int64)
        if self._mode() == "mixup":
            blend = np.where(alone, 1.0, weight)
            return [MixPlan(partner, blend, box, blend, alone)]
        box[~alone] = np.broadcast_to(boxes(weight, size, centre_key, step), box.shape)[~alone]
        left = 1.0 - box[:, 2] * box[:, 3] / (size[0] * size[1])
        return [MixPlan(partner, np.ones(len(ids)), box, left, alone)]


@dataclass(frozen=True)
class MixUp(_Rule):
    """Every view averaged with another of the batch.

    Raises:
        UsageError: an alpha that is not positive.
    """

    alpha: float = 0.8
    """Weights are drawn from Beta(alpha, alpha); 1 is even. The default is that of FKD's code."""
    seed: int = 0
    """Of partners and weights; another one draws anew."""
    per_view: bool = False
    """Whether each view has a weight of its own; one for the whole batch otherwise, as in FKD's
    code."""

    def _mode(self) -> Mode:
        return "mixup"


@dataclass(frozen=True)
class CutMix(_Rule):
    """A box of every view covered by the same place of another of the batch.

    The box has ``sqrt(1 - weight)`` of the view's height and width around an even draw of a pixel,
    clipped to the view; the label's weight is the share of pixels that are left.

    Raises:
        UsageError: an alpha that is not positive.
    """

    alpha: float = 1.0
    """As of MixUp; the default is that of FKD's code."""
    seed: int = 0
    """Of partners, weights and boxes."""
    per_view: bool = False
    """Whether each view has a box of its own; one for the whole batch otherwise."""

    def _mode(self) -> Mode:
        return "cutmix"


@dataclass(frozen=True)
class SelfMix(_Rule):
    """FerKD's mild mixing: MixUp or CutMix among the views of one image in the batch only.

    Views that are their image's only one in the batch stay as they are and are counted. Which of
    the two the paper used, and with what alpha, is not stated.

    Raises:
        UsageError: another mode, or an alpha that is not positive.
    """

    mode: Mode = "mixup"
    """How two views are mixed."""
    alpha: float = 1.0
    """As of MixUp."""
    seed: int = 0
    """Of partners, weights and boxes."""
    per_view: bool = False
    """Whether each view has a weight (and box) of its own; one for the whole batch otherwise."""

    within_image: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("mode", self.mode, get_args(Mode))

    def _mode(self) -> Mode:
        return self.mode


@dataclass(frozen=True)
class OneOf:
    """One of several rules at each step, or for each view; None among them mixes nothing.

    Raises:
        UsageError: no rules, other rules, or probabilities that do not fit them or do not sum 1.
    """

    rules: tuple[MixUp | CutMix | SelfMix | None, ...]
    """Their own seeds are not looked at."""
    probabilities: tuple[float, ...] | None = None
    """One for each rule, sum 1; even when None."""
    seed: int = 0
    """Of the choice and of all rules' draws."""
    per_view: bool = False
    """Whether each view has a choice of its own; one for the whole batch otherwise."""

    def __post_init__(self) -> None:
        if not self.rules or not all(
            rule is None or isinstance(rule, _Rule) for rule in self.rules
        ):
            raise UsageError(
                f"rules are {self.rules!r}, expected at least one, each a MixUp, CutMix, SelfMix "
                "or None."
            )
        odds = self._odds()
        if (
            len(odds) != len(self.rules)
            or any(not p >= 0 for p in odds)
            or abs(sum(odds) - 1) > 1e-9
        ):
            raise UsageError(
                f"probabilities are {self.probabilities}, expected {len(self.rules)} that are not "
                "negative and sum to 1: give one for each rule."
            )

    @property
    def within_image(self) -> bool:
        """Whether any rule needs to know each view's image."""
        return any(rule is not None and rule.within_image for rule in self.rules)

    def plans(
        self, groups: npt.ArrayLike, size: tuple[int, int], step: int, seed: int | None = None
    ) -> list[MixPlan]:
        """One plan, as ``MixUp.plans``: each view's row is that of the rule chosen for it.

        A partner is drawn from the whole batch, whatever rule its own row takes.
        """
        ids = np.asarray(groups, dtype=np.int64)
        _check_batch(ids, size, step)
        key = _batch_seed(self, ids, seed)
        rows = np.arange(len(ids)) if self.per_view else np.zeros(len(ids), dtype=np.int64)
        words = philox4x32((rows, 0, *halves(step)), mixed_seed("mix choice", key))
        edges = np.cumsum(self._odds())[:-1]
        chosen = np.searchsorted(edges, uniform(words[0]), side="right")
        plan = _identity(len(ids))
        for number, rule in enumerate(self.rules):
            if rule is not None and (chosen == number).any():
                own = rule.plans(ids, size, step, _part_seed(number, key))[0]
                plan = _where(chosen == number, own, plan)
        return [plan]

    def _odds(self) -> tuple[float, ...]:
        return self.probabilities or (1.0 / len(self.rules),) * len(self.rules)


@dataclass(frozen=True)
class InTurn:
    """Several rules one after the other; put SelfMix first, before views hold other images' pixels.

    Labels have exactly the shares that pixels have where one rule at most cuts boxes. A second one
    counts its box by its area, whatever the first put into it: close, not exact.

    Raises:
        UsageError: no rules, or other rules.
    """

    rules: tuple[MixUp | CutMix | SelfMix | OneOf, ...]
    """Their own seeds are not looked at."""
    seed: int = 0
    """Of all rules' draws."""

    def __post_init__(self) -> None:
        if not self.rules or not all(isinstance(rule, (_Rule, OneOf)) for rule in self.rules):
            raise UsageError(
                f"rules are {self.rules!r}, expected at least one, each a MixUp, CutMix, SelfMix "
                "or OneOf."
            )

    @property
    def within_image(self) -> bool:
        """Whether any rule needs to know each view's image."""
        return any(rule.within_image for rule in self.rules)

    def plans(
        self, groups: npt.ArrayLike, size: tuple[int, int], step: int, seed: int | None = None
    ) -> list[MixPlan]:
        """A plan for each rule, in order; the arguments are those of ``MixUp.plans``."""
        ids = np.asarray(groups, dtype=np.int64)
        _check_batch(ids, size, step)
        key = _batch_seed(self, ids, seed)
        return [
            plan
            for number, rule in enumerate(self.rules)
            for plan in rule.plans(ids, size, step, _part_seed(number, key))
        ]


Mixing = MixUp | CutMix | SelfMix | OneOf | InTurn
"""Any rule."""


def _identity(count: int) -> MixPlan:
    return MixPlan(
        partner=np.arange(count),
        blend=np.ones(count),
        box=np.zeros((count, 4), dtype=np.int64),
        weight=np.ones(count),
        alone=np.zeros(count, dtype=bool),
    )


def _where(rows: BoolArray, first: MixPlan, second: MixPlan) -> MixPlan:
    return MixPlan(
        partner=np.where(rows, first.partner, second.partner),
        blend=np.where(rows, first.blend, second.blend),
        box=np.where(rows[:, None], first.box, second.box),
        weight=np.where(rows, first.weight, second.weight),
        alone=np.where(rows, first.alone, second.alone),
    )


def rank_seed(seed: int, rank: int) -> int:
    """The seed of one of several processes, for ``plans``: each mixes otherwise, the first as one
    process alone does."""
    return mixed_seed(f"mix rank {rank}", seed) if rank else seed


def _batch_seed(rule: Mixing, images: Int64Array, seed: int | None) -> int:
    """The key of a batch's draws: of another batch, another one, where a rule looks at images."""
    seed = rule.seed if seed is None else seed
    if not rule.within_image:
        return seed
    digest = xxhash.xxh3_64_intdigest(images.astype("<i8").tobytes())
    return mixed_seed(f"mix batch {digest}", seed)


def _part_seed(number: int, seed: int) -> int:
    return mixed_seed(f"mix part {number}", seed)


def _check_batch(groups: Int64Array, size: tuple[int, int], step: int) -> None:
    if groups.ndim != 1 or min(size) < 1:
        raise UsageError(
            f"image numbers have shape {groups.shape} and views a size of {tuple(size)}, expected "
            "(B,) and at least 1 pixel a side."
        )
    if not 0 <= step < 2**64:
        raise UsageError(f"step is {step}, expected 0 to 2**64-1: count the batches from 0.")
