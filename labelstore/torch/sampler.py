"""Which image comes when, with which views: one order for any number of ranks.

The order is ``labelstore.training.epochs.EpochOrder``'s; what is torch's here is the sampler around
it, with its ranks and its state.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from labelstore.errors import MismatchError, NotFoundError, UsageError
from labelstore.store.ensembles import opened_reader
from labelstore.store.slabs.slab_cache import SLAB_BYTES
from labelstore.torch.dataset import Show, SoftLabelDataset
from labelstore.torch.ranks import check_undivided, ranks
from labelstore.training.epochs import EpochOptions, EpochOrder
from labelstore.training.options import require_known
from labelstore.training.read_ahead import EpochReadAhead

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from labelstore.store.label_reader import LabelReader

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
        source: LabelReader | SoftLabelDataset | str | os.PathLike[str],
        views_per_image: int = 1,
        *,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
        slab_bytes: int = SLAB_BYTES,
        **options: Unpack[EpochOptions],
    ) -> None:
        """Plan epochs over the labelled images of a store.

        Args:
            source: a store, its path or URL, an ensemble, or a data set (its store and ``ferkd``).
            views_per_image: how many views of an image stand side by side, 1..num_views.
            num_replicas, rank: how many processes share an epoch, and which this is; as
                torch.distributed says when the sampler is used, when None. Give 1 and 0 where
                something else divides the batches among processes (``accelerate.prepare``, Hugging
                Face's Trainer); ``seen`` then counts the images of all ranks.
            drop_last: leave out the end of the order that does not fill all ranks; otherwise its
                beginning is shown again to fill them.
            slab_bytes: how much memory the labels of this and the next epoch may take, of all
                processes of the machine together; 0 for none. They are read ahead
                (``labelstore.store.slabs.slab_cache``), for orders of at least an eighth of the
                store's images: all groups of views that these epochs need where there is room, else
                the most wanted.
            options: ``shuffle``, ``seed``, ``ferkd``, ``schedule``, ``epochs``, ``budget`` and
                ``images``, see ``labelstore.training.epochs.EpochOptions``. The data set's ferkd
                when None; images that a data set has no photo of are left out.

        Raises:
            IncompleteError: labels are missing. NotFoundError: no such image, or none labelled.
            UsageError: numbers out of range. TypeError: an option that is none.
        """
        require_known("ViewSampler", options, EpochOptions)
        data = source if isinstance(source, SoftLabelDataset) else None
        self.store: LabelReader
        if isinstance(source, SoftLabelDataset):
            self.store = source.store
        else:
            self.store = opened_reader(source)
        if data is not None:
            options["images"] = _with_photos(data, options.get("images"))
            if options.get("ferkd") is None:
                options["ferkd"] = data.ferkd
        self.order = EpochOrder(self.store, views_per_image, **options)
        self.ferkd, self.schedule, self.epochs = (
            self.order.ferkd,
            self.order.schedule,
            self.order.epochs,
        )
        self.views_per_image, self.seed = self.order.views_per_image, self.order.seed
        self.drop_last = drop_last
        self._ranks = num_replicas, rank
        if num_replicas is not None or rank is not None:
            ranks(num_replicas, rank)
        self._phases = None if data is None else data.recovery.phases
        self.epoch = 0
        self._asked = False
        self._present = self.order.present(0)
        self._read_ahead = EpochReadAhead(self.order, slab_bytes)
        self._position = 0
        self._yielded = 0
        self._over = False

    @property
    def num_replicas(self) -> int:
        """How many processes share an epoch; UsageError as ``__iter__``."""
        return ranks(*self._ranks)[0]

    @property
    def rank(self) -> int:
        """Which of them this is, 0..num_replicas-1; UsageError as ``__iter__``."""
        return ranks(*self._ranks)[1]

    def __len__(self) -> int:
        """How many images this rank has in this epoch; after ``load_state_dict`` how many are left,
        until the next iteration begins."""
        return self._own(self._position)

    def _own(self, position: int) -> int:
        """How many images of the present epoch from a position on are this rank's."""
        left = max(len(self._present) - position, 0)
        return left // self.num_replicas if self.drop_last else -(-left // self.num_replicas)

    def __iter__(self) -> Iterator[Show]:
        """Images of this rank in order. Without another epoch set, the same ones again; after the
        rest of a resumed epoch was shown, the whole of it.

        Raises:
            UsageError: torchrun's variables say that there are several processes and
                torch.distributed has no group yet; or what iterates over this rank's part divides
                it once more.
        """
        if self._over:
            self._position, self._over = 0, False
        replicas = self.num_replicas
        check_undivided(self, replicas)
        self._read_ahead.start(self.epoch)
        self._read_ahead.wait(self.epoch)
        epoch, first, count = self.epoch, self._position + self.rank, len(self)
        shown = None if self._phases is None else epoch, self.order.replaces
        order = self.order.order(epoch)
        self._yielded = 0
        for start in range(0, count, _CHUNK):
            turns = np.arange(start, min(start + _CHUNK, count))
            # Places past the end are padding: the order's beginning again.
            chunk = order[(first + turns * replicas) % len(order)]
            views = self.order.views(chunk, epoch)
            for image, row in zip(chunk.tolist(), views.tolist(), strict=True):
                self._yielded += 1
                self._asked = False
                # Before the last one is given: who counts the batches never asks for more.
                self._over = self._yielded == count
                yield Show(image, tuple(row), *shown)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0..2**32-1; the position in the present one is kept if it is that.

        Raises:
            UsageError: out of range; a curriculum has no epoch after its last.
        """
        epoch = self.order.check(epoch)
        if self._phases is not None:
            self._phases.check(epoch)
        self._asked = True
        if epoch != self.epoch:
            self.epoch, self._position, self._yielded, self._over = epoch, 0, 0, False
            self._present = self.order.present(epoch)
        self._read_ahead.start(epoch)

    def _settings(self) -> dict[str, Any]:
        """What decides the views and labels of an epoch besides its number; JSON-ready."""
        phases = {} if self._phases is None else {"phases": dataclasses.asdict(self._phases)}
        return self.order.settings() | phases

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
        most = self._own(self._position)
        if not 0 <= count <= most:
            raise UsageError(
                f"seen is {count}, expected 0 to {most}, this rank's images of the epoch: "
                "count images, not views."
            )
        position = min(self._position + count * self.num_replicas, len(self._present))
        return {"epoch": self.epoch, "position": position, "settings": self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, in the middle of its epoch.

        A state of a whole epoch, or of the epoch before, leaves an epoch that was set since the
        last iteration as it is: loaders that load a state when they are next iterated come after
        ``set_epoch``, and where they drop the last batch an epoch ends before its last image.

        Raises:
            MismatchError: the state is of other settings; the number of ranks may differ.
            UsageError: it is no state of a sampler.
        """
        epoch, position, theirs = (state.get(name) for name in ("epoch", "position", "settings"))
        if not (isinstance(theirs, dict) and isinstance(epoch, int) and isinstance(position, int)):
            raise UsageError(
                f"the state {dict(state)} is none of a sampler, which has an epoch, a position and "
                "settings: pass what state_dict() gave."
            )
        ours = self._settings()
        # Some settings are told only where they are used.
        names = dict.fromkeys([*ours, *theirs])
        differing = [name for name in names if ours.get(name) != theirs.get(name)]
        if differing:
            lines = "; ".join(
                f"{name}: {theirs.get(name)} there, {ours.get(name)} here" for name in differing
            )
            raise MismatchError(
                f"the sampler's state is of other settings ({lines}): make the sampler with the "
                "settings of the run that is to go on."
            )
        self.order.check(epoch)
        present = self.order.present(epoch)
        if not 0 <= position <= len(present):
            raise UsageError(
                f"the state's position is {position}, expected 0 to {len(present)}, the images of "
                f"epoch {epoch}: it was changed since state_dict() gave it."
            )
        over = position == len(present) or self.epoch == epoch + 1
        if self._asked and self.epoch != epoch and over:
            return
        self.epoch, self._position, self._yielded, self._present = epoch, position, 0, present
        self._over = False


def _with_photos(data: SoftLabelDataset, images: Any) -> Any:
    """The asked-for images that a data set has photos of."""
    has_photo = data.has_photo
    if has_photo is None or has_photo.all():
        return images
    if images is None:
        return np.flatnonzero(has_photo)
    numbers = np.asarray(data.store.positions(images)).reshape(-1)
    shown = numbers[has_photo[numbers]]
    if not shown.size:
        raise NotFoundError(
            f"the data set has no photo of any of the {len(numbers)} images that were asked for: "
            "choose others, or give the folder that the store was made from."
        )
    return shown
