"""Which images an epoch shows, in which order and with which views. NumPy only.

What a torch sampler and a plain NumPy loop have in common: with the same arguments both show the
same views of the same images in the same order.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, get_args

import numpy as np
import xxhash

from labelstore.errors import IncompleteError, NotFoundError, UsageError, require_choice
from labelstore.labels.ferkd import EnsembleFerKD
from labelstore.training.budget import budget_images, budget_share, budget_showings
from labelstore.training.curriculum import (
    MOST_EPOCHS,
    Direction,
    confidence_order,
    curriculum_views,
)
from labelstore.training.cycle import Schedule, random_views, surgical_views
from labelstore.training.decisions import view_mask
from labelstore.training.options import require_known
from labelstore.training.walk import Walk
from labelstore.views.philox import mixed_seed, permutation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.labels.ferkd import FerKD
    from labelstore.store.label_reader import LabelReader

__all__ = ["EpochOptions", "EpochOrder", "ScheduleOptions"]

_SAMPLE_IMAGES = 16_384
"""Images that are looked at to see where the views of an epoch lie."""

_RUN = 2048
"""Images whose views are looked at together."""


class ScheduleOptions(TypedDict, total=False):
    """Which images and which of their views an epoch shows."""

    seed: int
    """Of the order of the images and of their views; 0."""
    ferkd: FerKD | EnsembleFerKD | None
    """With ``discard="replace"``, views that its rule discards are not shown while an image has
    others. For an ensemble also a rule for each teacher (``EnsembleFerKD``). None."""
    schedule: Schedule | None
    """Which views an image shows: ``"random"``: drawn, each once before any comes again;
    ``"surgical"``: likewise, of the views that are not discarded, and of images that have none the
    most confident ones (``labelstore.training.walk``); ``"easy-to-hard"`` or ``"hard-to-easy"``: by
    falling or rising confidence over all ``epochs`` (``labelstore.training.curriculum``), without
    those that are discarded. When None: surgical where a ferkd replaces views, else random."""
    epochs: int | None
    """How many epochs the whole training has; the two curricula need it. None."""
    budget: float
    """Share of the images that an epoch shows, 0.01 to 1, to the nearest fraction p / q with a
    denominator of at most 100; 1. Every image is shown in p of q epochs, other images together in
    every q epochs. Its views follow from how often it was shown, not from the epoch's number: with
    a budget, too, none comes again before all were; a curriculum's places follow the epoch. The
    FerKD paper reduces its budget (figure 6) by training for fewer epochs; this keeps their number
    and makes them shorter."""


class EpochOptions(ScheduleOptions, total=False):
    """Which images an epoch shows, in which order and with which views."""

    shuffle: bool
    """Whether images come in a random order, which is so when it is not given; by number
    otherwise."""
    images: Sequence[int] | Sequence[str] | npt.NDArray[np.int64] | None
    """The images to use, by number or by key; all when None. Images without labels (unreadable
    ones) are left out."""


class EpochOrder:
    """The epochs of a training, as pure functions of their number."""

    def __init__(
        self, store: LabelReader, views_per_image: int = 1, **options: Unpack[EpochOptions]
    ) -> None:
        """Plan epochs over the labelled images of a store.

        Args:
            store: a store or an ensemble, complete.
            views_per_image: how many views of an image stand side by side, 1..num_views.
            options: see ``EpochOptions``.

        Raises:
            IncompleteError: labels are missing. NotFoundError: no such image, or none labelled.
            UsageError: numbers out of range. TypeError: an option that is none.
        """
        require_known("EpochOrder", options, EpochOptions)
        ferkd, schedule = options.get("ferkd"), options.get("schedule")
        epochs = options.get("epochs")
        self.store = store
        self.ferkd = ferkd
        self.views_per_image = views_per_image = _whole(views_per_image, "views per image")
        self.shuffle = options.get("shuffle", True)
        self.seed = _whole(options.get("seed", 0), "seed")
        missing = store.missing_blocks()
        if missing:
            raise IncompleteError(
                f"{store.path} lacks {len(missing)} of {store.manifest.num_blocks} "
                "blocks: run the command that makes it again, it goes on where it stopped."
            )
        if not 1 <= views_per_image <= store.num_views:
            raise UsageError(
                f"views per image is {views_per_image}, expected 1 to {store.num_views}, the "
                "views that are stored of each image: choose a number in that range."
            )
        self.images = _chosen(store, options.get("images"))
        self._hashes = store.key_hashes
        replaces = self.replaces
        self.schedule: Schedule = schedule or ("surgical" if replaces else "random")
        _check_schedule(self.schedule, epochs, replaces)
        self.epochs = epochs if self.schedule in get_args(Direction) else None
        self.budget = budget_share(options.get("budget", 1.0), len(self.images))
        self._mask = self._order = None
        self._before: tuple[int, npt.NDArray[np.int64]] = (-1, np.zeros(0, dtype=np.int64))
        if replaces and self.schedule != "random":
            self._mask = view_mask(store, ferkd, views_per_image)  # type: ignore[arg-type]
        if self.epochs is not None:
            self._order = confidence_order(store, ferkd, mask=self._mask, least=views_per_image)

    @property
    def replaces(self) -> bool:
        """Whether there is a rule which has other views shown in place of those that it discards;
        only the schedule ``"random"`` shows these all the same."""
        return self.ferkd is not None and self.ferkd.discard == "replace"

    def check(self, epoch: int) -> int:
        """It; UsageError unless it is 0..2**32-1 and, of a curriculum, one of its epochs."""
        epoch = _whole(epoch, "epoch")
        if not 0 <= epoch < 2**32:
            raise UsageError(f"epoch is {epoch}, expected 0 to 2**32-1.")
        if self.epochs is not None and epoch >= self.epochs:
            raise UsageError(
                f"epoch is {epoch}, expected 0 to {self.epochs - 1}: this {self.schedule} schedule "
                f"is planned for {self.epochs} epochs; make it with more."
            )
        return epoch

    def present(self, epoch: int) -> npt.NDArray[np.int64]:
        """(n,) int64: the images that an epoch shows, by number, rising."""
        if self.budget == 1:
            return self.images
        share = self.budget.numerator, self.budget.denominator
        return self.images[budget_images(len(self.images), epoch, share, self.seed)]

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """(n,) int64: the images that an epoch shows, in its order."""
        images = self.present(epoch)
        if not self.shuffle:
            return images
        return images[permutation(len(images), mixed_seed("images", self.seed), (epoch, 0))]

    def views(self, images: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.int64]:
        """(n, views_per_image) int64: the views that images (n,) by number show in an epoch."""
        if self._order is not None:
            return curriculum_views(
                self._order.views[images],
                epoch,
                self.epochs,  # type: ignore[arg-type]
                self.views_per_image,
                self.schedule,  # type: ignore[arg-type]
                self._order.counts[images],
            )
        hashes, showings = self._hashes[images], self.showings(images, epoch)
        sizes = {
            "group_views": self.store.manifest.group_views,
            "views_per_image": self.views_per_image,
        }
        if self._mask is None:
            return random_views(
                hashes, showings, num_views=self.store.num_views, seed=self.seed, **sizes
            )
        passes, fallback = self._mask.passes(images), self._mask.fallback(images)
        pace = self._mask.pace
        return surgical_views(
            hashes, showings, passes, fallback, seed=self.seed, pace=pace, **sizes
        )

    def showings(self, images: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.int64]:
        """(n,) int64: how often images (n,) by number were shown before an epoch; the number of the
        epoch unless a budget leaves images out."""
        if self.budget == 1:
            return np.full(len(images), epoch, dtype=np.int64)
        number, before = self._before
        if number != epoch:
            share = self.budget.numerator, self.budget.denominator
            # Others than the order's are never shown: any number does.
            before = np.zeros(self.store.num_images, dtype=np.int64)
            before[self.images] = budget_showings(len(self.images), epoch, share, self.seed)
            # In one step, since several threads may be here.
            self._before = epoch, before
        return before[images]

    def groups(self, epoch: int) -> npt.NDArray[np.float64]:
        """(num_groups,) float64: how many of an epoch's views lie in each group of the store.

        Of more than 16,384 images it is estimated from so many, the same ones in every process.
        """
        manifest = self.store.manifest
        present = self.present(epoch)
        sample = present[:: -(-len(present) // _SAMPLE_IMAGES)]
        out = np.zeros(manifest.num_groups)
        if self._mask is None and self._order is None:
            walk = Walk(self.store.num_views, manifest.group_views, self.views_per_image, self.seed)
            numbers, times = np.unique(self.showings(sample, epoch), return_counts=True)
            for number, count in zip(numbers, times, strict=True):
                out += count * walk.groups(number, None, 1)
        else:
            for start in range(0, len(sample), _RUN):
                views = self.views(sample[start : start + _RUN], epoch)
                groups = views.reshape(-1) // manifest.group_views
                out += np.bincount(groups, minlength=manifest.num_groups)
        return out * (len(present) / max(len(sample), 1))

    def settings(self) -> dict[str, Any]:
        """What decides an epoch's content besides its number; JSON-ready."""
        store = self.store
        return {
            "store": store.id,
            "labels": [member.reader.commits_digest() for member in store.members],
            "images": str(xxhash.xxh3_64_hexdigest(self.images.tobytes())),
            "views_per_image": self.views_per_image,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "schedule": self.schedule,
            "epochs": self.epochs,
            "budget": str(self.budget),
            "ferkd": self._rule(),
        }

    def _rule(self) -> dict[str, Any] | None:
        """The rule's parameters where it has a say in the views."""
        if self.ferkd is None or (self._mask is None and self._order is None):
            return None
        if isinstance(self.ferkd, EnsembleFerKD):
            return {"rules": [_rule_settings(rule) for rule in self.ferkd.rules]}
        return _rule_settings(self.ferkd)


def _rule_settings(rule: FerKD) -> dict[str, Any]:
    """A rule's parameters for JSON; thresholds by class in short. Those that rules have had only
    for a while are left out where they are not used, so that older states are of the same rule."""
    settings = dataclasses.asdict(dataclasses.replace(rule, by_class=None))
    settings = {
        name: value
        for name, value in settings.items()
        if name not in _SINCE or value != _SINCE[name]
    }
    if rule.by_class is not None:
        settings["by_class"] = rule.by_class.digest()
    return settings


_SINCE = {"by_class": None, "calibrate": "smooth", "alpha": 0.9}
"""Parameters that rules of older states have not, and what is like their not being there."""


def _whole(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} is {value!r}, expected a whole number.") from None


def _check_schedule(schedule: str, epochs: int | None, replaces: bool) -> None:
    require_choice("schedule", schedule, get_args(Schedule))
    if schedule == "surgical" and not replaces:
        raise UsageError(
            "a surgical schedule replaces views that a rule discards and no such rule was given: "
            'pass ferkd=FerKD() (its discard being "replace"), or schedule="random".'
        )
    if schedule in get_args(Direction) and (epochs is None or not 1 <= epochs <= MOST_EPOCHS):
        raise UsageError(
            f"epochs is {epochs}, expected 1 to {MOST_EPOCHS} for the schedule {schedule}, which "
            "spreads an image's views over the whole training: pass epochs=, their number."
        )


def _chosen(store: LabelReader, images: Any) -> npt.NDArray[np.int64]:
    """The labelled ones of the asked-for images, by number, rising."""
    labelled = store.labelled()
    if images is not None:
        is_selected = np.zeros(store.num_images, dtype=bool)
        is_selected[store.positions(images)] = True
        labelled = labelled & is_selected
    numbers = np.flatnonzero(labelled)
    if not numbers.size:
        raise NotFoundError(
            f"{store.path} has no labels of any of the images asked for: they could not be decoded "
            "when it was made, or none was named."
        )
    return numbers
