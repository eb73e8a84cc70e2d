"""Which image comes when, with which views: one order for any number of ranks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
import xxhash

from labelstore.curriculum import MOST_EPOCHS, Direction, confidence_order, curriculum_views
from labelstore.ensembles import Ensemble
from labelstore.errors import IncompleteError, MismatchError, NotFoundError, UsageError
from labelstore.passing import passing
from labelstore.philox import permutation
from labelstore.schedule import (
    Schedule,
    budget_images,
    budget_share,
    mixed_seed,
    random_views,
    surgical_views,
)
from labelstore.torch.dataset import Show, SoftLabelDataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from labelstore.calibrate import EnsembleFerKD, FerKD
    from labelstore.labels import Tail
    from labelstore.store import Store

__all__ = ["ViewSampler"]

_CHUNK = 1024
"""Images whose views are drawn at a time."""


class ViewSampler(torch.utils.data.Sampler[Show]):
    """Yields a ``Show`` for each image of an epoch: the image and the views to show.

    Call ``set_epoch`` before each epoch: images come in another order and show other views. The
    order of an epoch depends on the seed alone; rank r of R takes places r, r + R, ... of it.
    """

    def __init__(
        self,
        source: Store | Ensemble | SoftLabelDataset,
        views_per_image: int = 1,
        *,
        shuffle: bool = True,
        seed: int = 0,
        ferkd: FerKD | EnsembleFerKD | None = None,
        schedule: Schedule | None = None,
        epochs: int | None = None,
        budget: float = 1.0,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
        images: Sequence[int] | Sequence[str] | npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Plan epochs over the labelled images of a store.

        Args:
            source: a store, an ensemble, or a data set (its store, tail and ``ferkd``).
            views_per_image: how many views of an image stand side by side, 1..num_views.
            shuffle: whether images come in a random order; by number otherwise.
            seed: of the order of the images and of their views.
            ferkd: with ``discard="replace"``, views that its rule discards are not shown while an
                image has others; the data set's when None. For an ensemble also a rule for each
                teacher (``EnsembleFerKD``).
            schedule: which views an image shows: ``"random"``: drawn, each once before any comes
                again; ``"surgical"``: likewise, views that are discarded being replaced by others
                that pass; ``"easy-to-hard"`` or ``"hard-to-easy"``: by falling or rising confidence
                over all ``epochs`` (``labelstore.curriculum``), without those that are discarded.
                When None: surgical where a ferkd replaces views, else random.
            epochs: how many epochs the whole training has; the two curricula need it.
            budget: share of the images that an epoch shows, 0.01 to 1, to the nearest fraction with
                a denominator of at most 100: p / q. Every image is shown in p of q epochs, other
                images together in every q epochs. The paper reduces its budget (figure 6) by
                training for fewer epochs; this keeps their number and makes them shorter.
            num_replicas, rank: how many processes share an epoch, and which this is; as
                torch.distributed says when None.
            drop_last: leave out the end of the order that does not fill all ranks; otherwise its
                beginning is shown again to fill them.
            images: the images to use, by number or by key; all when None. Images without labels
                (unreadable ones) are left out.

        Raises:
            IncompleteError: labels are missing. NotFoundError: no such image, or none labelled.
            UsageError: numbers out of range.
        """
        data = source if isinstance(source, SoftLabelDataset) else None
        self.store: Store | Ensemble = source if data is None else data.store  # type: ignore[assignment]
        self.ferkd = data.ferkd if ferkd is None and data is not None else ferkd
        self.views_per_image = views_per_image
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.num_replicas, self.rank = _replicas(num_replicas, rank)
        missing = self.store.missing_blocks()
        if missing:
            raise IncompleteError(
                f"{self.store.path} lacks {len(missing)} of {self.store.manifest.num_blocks} "
                "blocks: run the command that makes it again, it goes on where it stopped."
            )
        if not 1 <= views_per_image <= self.store.num_views:
            raise UsageError(
                f"views per image is {views_per_image}, expected 1 to {self.store.num_views}, the "
                "views that are stored of each image: choose a number in that range."
            )
        self._images = _chosen(self.store, images)
        self._hashes = self.store.key_hashes
        replaces = self.ferkd is not None and self.ferkd.discard == "replace"
        self.schedule: Schedule = schedule or ("surgical" if replaces else "random")
        _check_schedule(self.schedule, epochs, replaces)
        self.epochs = epochs if self.schedule in get_args(Direction) else None
        self.budget = budget_share(budget, len(self._images))
        tail: Tail | None = None if data is None else data.tail
        self._passing = self._order = None
        if replaces and self.schedule != "random":
            self._passing = passing(self.store, self.ferkd, views_per_image, tail)  # type: ignore[arg-type]
        if self.epochs is not None:
            self._order = confidence_order(
                self.store, self.ferkd, tail=tail, passing=self._passing, least=views_per_image
            )
        self.epoch = 0
        self._present = self._images_of(0)
        self._position = 0
        self._yielded = 0

    def __len__(self) -> int:
        """How many images this rank has (left, after ``load_state_dict``) in this epoch."""
        left = max(len(self._present) - self._position, 0)
        return left // self.num_replicas if self.drop_last else -(-left // self.num_replicas)

    def __iter__(self) -> Iterator[Show]:
        """Images of this rank in order. Without another epoch set, the same ones again."""
        epoch, first, count = self.epoch, self._position + self.rank, len(self)
        order = self._present
        if self.shuffle:
            stream = (epoch, 0)
            order = order[permutation(len(order), mixed_seed("images", self.seed), stream)]
        self._yielded = 0
        for start in range(0, count, _CHUNK):
            turns = np.arange(start, min(start + _CHUNK, count))
            # Places past the end are padding: the order's beginning again.
            chunk = order[(first + turns * self.num_replicas) % len(order)]
            views = self._views(chunk, epoch)
            for image, row in zip(chunk.tolist(), views.tolist(), strict=True):
                self._yielded += 1
                yield Show(image, tuple(row))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0..2**32-1; the position in the present one is kept if it is that.

        Raises:
            UsageError: out of range; a curriculum has no epoch after its last.
        """
        if not 0 <= epoch < 2**32:
            raise UsageError(f"epoch is {epoch}, expected 0 to 2**32-1.")
        if self.epochs is not None and epoch >= self.epochs:
            raise UsageError(
                f"epoch is {epoch}, expected 0 to {self.epochs - 1}: this {self.schedule} schedule "
                f"is planned for {self.epochs} epochs; make the sampler with more."
            )
        if epoch != self.epoch:
            self.epoch, self._position, self._yielded = epoch, 0, 0
            self._present = self._images_of(epoch)

    def state_dict(self, seen: int | None = None) -> dict[str, Any]:
        """Where training stands, to go on from with any number of ranks. JSON-ready.

        Args:
            seen: how many images this rank has trained on since the epoch began, or since its
                state was loaded; all ranks alike. Count them in the training loop when DataLoader
                has workers, which fetch ahead. When None: as many as were yielded.

        Raises:
            UsageError: more than this rank has in the epoch.
        """
        count = self._yielded if seen is None else seen
        if not 0 <= count <= len(self):
            raise UsageError(
                f"seen is {count}, expected 0 to {len(self)}, this rank's images of the epoch: "
                "count images, not views."
            )
        position = min(self._position + count * self.num_replicas, len(self._present))
        return {"epoch": self.epoch, "position": position, "settings": self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, in the middle of its epoch.

        Raises:
            MismatchError: the state is of other settings; the number of ranks may differ.
        """
        ours, theirs = self._settings(), state["settings"]
        differing = [name for name in ours if ours[name] != theirs.get(name)]
        if differing:
            lines = "; ".join(
                f"{name}: {theirs.get(name)} there, {ours[name]} here" for name in differing
            )
            raise MismatchError(
                f"the sampler's state is of other settings ({lines}): make the sampler with the "
                "settings of the run that is to go on."
            )
        self.epoch, self._position = int(state["epoch"]), int(state["position"])
        self._yielded = 0
        self._present = self._images_of(self.epoch)

    def _settings(self) -> dict[str, Any]:
        """What decides an epoch's content besides its number."""
        return {
            "store": self.store.id if isinstance(self.store, Ensemble) else self.store.manifest.id,
            "images": str(xxhash.xxh3_64_hexdigest(self._images.tobytes())),
            "views_per_image": self.views_per_image,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "schedule": self.schedule,
            "epochs": self.epochs,
            "budget": str(self.budget),
            "ferkd": self._rule(),
        }

    def _rule(self) -> dict[str, Any] | None:
        """The rule's parameters where it has a say in the views, JSON-ready."""
        if self.ferkd is None or (self._passing is None and self._order is None):
            return None
        fields = dataclasses.asdict(self.ferkd)
        # A tuple would come back from JSON as a list, and differ.
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
        }

    def _images_of(self, epoch: int) -> npt.NDArray[np.int64]:
        """The images that an epoch shows, by number, rising."""
        if self.budget == 1:
            return self._images
        share = self.budget.numerator, self.budget.denominator
        return self._images[budget_images(len(self._images), epoch, share, self.seed)]

    def _views(self, images: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.int64]:
        if self._order is not None:
            return curriculum_views(
                self._order.views[images],
                epoch,
                self.epochs,  # type: ignore[arg-type]
                self.views_per_image,
                self.schedule,  # type: ignore[arg-type]
                self._order.counts[images],
            )
        hashes = self._hashes[images]
        sizes = {
            "group_views": self.store.manifest.group_views,
            "views_per_image": self.views_per_image,
        }
        if self._passing is None:
            return random_views(
                hashes, epoch, num_views=self.store.num_views, seed=self.seed, **sizes
            )
        passes, fallback = self._passing.passes(images), self._passing.fallback(images)
        return surgical_views(hashes, epoch, passes, fallback, seed=self.seed, **sizes)


def _replicas(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """Number of ranks and this rank: as given, else torch.distributed's, else one process."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if num_replicas is None:
        num_replicas = torch.distributed.get_world_size() if distributed else 1
    if rank is None:
        rank = torch.distributed.get_rank() if distributed else 0
    if num_replicas < 1 or not 0 <= rank < num_replicas:
        raise UsageError(
            f"rank is {rank} of {num_replicas}, expected 0 to {num_replicas - 1}: give rank and "
            "num_replicas together, or neither after torch.distributed was initialised."
        )
    return num_replicas, rank


def _check_schedule(schedule: str, epochs: int | None, replaces: bool) -> None:
    if schedule not in get_args(Schedule):
        raise UsageError(
            f"schedule is {schedule!r}, expected one of {', '.join(get_args(Schedule))}: choose "
            "one."
        )
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


def _chosen(store: Store | Ensemble, images: Any) -> npt.NDArray[np.int64]:
    """The labelled ones of the asked-for images, by number, rising."""
    labelled = store.labelled()
    if images is not None:
        wanted = np.zeros(store.num_images, dtype=bool)
        wanted[store.positions(images)] = True
        labelled = labelled & wanted
    found = np.flatnonzero(labelled)
    if not found.size:
        raise NotFoundError(
            f"{store.path} has no labels of any of the images asked for: they could not be decoded "
            "when it was made, or none was named."
        )
    return found
