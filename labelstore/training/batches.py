"""Batches of labels without torch: for loops in NumPy, JAX or any other library.

    batches = labelstore.Batches(store, batch_size=64, views_per_image=4, seed=0)
    for epoch in range(300):
        for batch in batches.epoch(epoch):
            batch.images, batch.views, batch.box, batch.flip   # what to show
            batch.labels                                       # SoftLabels of these views

The order is that of ``labelstore.torch.ViewSampler`` with the same arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import numpy as np

from labelstore.errors import UsageError
from labelstore.launch import torchrun_ranks
from labelstore.store.ensembles import opened_reader
from labelstore.store.mixed_views import view_truth
from labelstore.store.slabs.slab_cache import SLAB_BYTES
from labelstore.training.epochs import EpochOptions, EpochOrder
from labelstore.training.options import part_of, require_known
from labelstore.training.read_ahead import EpochReadAhead
from labelstore.training.recovery import Recovery, RecoveryOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import numpy.typing as npt

    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.store.label_reader import LabelReader
    from labelstore.views.stages.parameters import StageParameters
    from labelstore.views.stages.partners import Partners

__all__ = ["Batch", "Batches"]

_CHUNK = 1024
"""Images whose views are drawn at a time."""


@dataclass(frozen=True)
class Batch:
    """B views and their labels; the views of an image stand side by side."""

    images: npt.NDArray[np.int64]
    """(B,): each view's image, its number in the store (``store.keys`` has its key)."""
    views: npt.NDArray[np.int64]
    """(B,): view numbers."""
    box: npt.NDArray[np.int32] | None
    """(B, 4): top, left, height, width of each crop in pixels of the upright photo; None where the
    store does not say which crops its labels belong to."""
    flip: npt.NDArray[np.bool_] | None
    """(B,): whether the crop is mirrored left to right, after it was resized."""
    labels: SoftLabels
    """B labels as ``base + sparse``: ``base``, ``indices``, ``weights``."""
    targets: npt.NDArray[np.int32]
    """(B,): ground-truth class ids, -1 where unknown, and of views that are mixed with those of
    other images: they have two."""
    weight: npt.NDArray[np.float32] | None = None
    """(B,): what each label's loss is multiplied by (0 for views that FerKD masks), or None."""
    action: npt.NDArray[np.uint8] | None = None
    """(B,): what FerKD's rule does with each view, values of ``labelstore.Action``, or None."""
    stages: tuple[StageParameters, ...] = ()
    """What is done to the B crops once they are resized and mirrored, as ``Views.stages`` has it:
    ``labelstore.images.render(photo, store.views(image, views), ...)`` makes these pixels."""
    partners: Partners | None = None
    """What the B crops are mixed with, as ``Views.partners`` has it: ``render`` takes what cuts
    partners' views as ``partners=labelstore.images.PartnerPhotos(...)``."""

    def __len__(self) -> int:
        return len(self.images)


class BatchOptions(EpochOptions, RecoveryOptions, total=False):
    """What the batches of a training show, and how their labels are recovered."""


class Batches:
    """The batches of every epoch of a training."""

    def __init__(
        self,
        store: LabelReader | str | os.PathLike[str],
        batch_size: int,
        views_per_image: int = 1,
        *,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
        slab_bytes: int = SLAB_BYTES,
        **options: Unpack[BatchOptions],
    ) -> None:
        """Plan epochs over the labelled images of a store.

        Args:
            store: a store, as it is or by its path or URL, or an ensemble; complete.
            batch_size: images of a batch, at least 1: it has ``batch_size * views_per_image``
                views.
            views_per_image: how many views of an image stand side by side, 1..num_views.
            num_replicas, rank: how many processes share an epoch, and which this is; one process
                when None, where torchrun's variables do not say otherwise (a UsageError).
            drop_last: leave out what does not fill all ranks and a whole batch, so that all batches
                are of one shape. Otherwise the order's beginning is shown again to fill the ranks,
                and the last batch may be smaller.
            slab_bytes: how much memory the labels of this and the next epoch may take, of all
                processes of the machine together; 0 for none. They are read ahead as for
                ``labelstore.torch.ViewSampler``.
            options: ``shuffle``, ``seed``, ``schedule``, ``epochs``, ``budget`` and ``images``, see
                ``labelstore.training.epochs.EpochOptions``; ``tail``, ``label_type``, ``ferkd``,
                ``phases`` and ``temperature``, see
                ``labelstore.training.recovery.RecoveryOptions``.

        Raises:
            IncompleteError: labels are missing. NotFoundError: no such image, or none labelled.
            UsageError: numbers out of range, or wishes that do not fit the store. TypeError: an
                option that is none.
        """
        require_known("Batches", options, BatchOptions)
        if batch_size < 1:
            raise UsageError(f"the batch size is {batch_size}, expected at least 1 image.")
        launched = torchrun_ranks()
        if launched is not None and num_replicas is None and rank is None:
            raise UsageError(
                f"WORLD_SIZE is {launched[0]} and RANK is {launched[1]} and neither num_replicas "
                "nor rank was given, so that every process would train on the same photos: give "
                "both (1 and 0 where processes train independently)."
            )
        num_replicas = 1 if num_replicas is None else num_replicas
        rank = 0 if rank is None else rank
        if not 0 <= rank < num_replicas:
            raise UsageError(
                f"rank is {rank} of {num_replicas}, expected 0 to {num_replicas - 1}: give both."
            )
        self.store = store = opened_reader(store)
        self.batch_size, self.drop_last = batch_size, drop_last
        self.num_replicas, self.rank = num_replicas, rank
        self.recovery = Recovery.of(store, **part_of(RecoveryOptions, options))
        self.order = EpochOrder(store, views_per_image, **part_of(EpochOptions, options))
        self._read_ahead = EpochReadAhead(self.order, slab_bytes)

    def count(self, epoch: int) -> int:
        """How many batches this rank has in an epoch."""
        own = self._own(len(self.order.present(epoch)))
        return own // self.batch_size if self.drop_last else -(-own // self.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, in order.

        Args:
            epoch: 0..2**32-1; of a curriculum, one of its epochs.
            first: the batch to begin with, to go on in the middle of an epoch.

        Raises:
            UsageError: no such epoch, or fewer batches. StoreError: as ``Store.read``.
        """
        self.order.check(epoch)
        if self.recovery.phases is not None:
            self.recovery.phases.check(epoch)
        count = self.count(epoch)
        if not 0 <= first <= count:
            raise UsageError(
                f"the first batch is {first}, expected 0 to {count}: they count from 0."
            )
        self._read_ahead.start(epoch)
        return self._batches(epoch, first, count)

    def _batches(self, epoch: int, first: int, count: int) -> Iterator[Batch]:
        self._read_ahead.start(epoch)
        self._read_ahead.wait(epoch)
        order = self.order.order(epoch)
        own = self._own(len(order))
        # Views are drawn for several batches at once: a call has its own cost.
        run = max(1, _CHUNK // self.batch_size)
        for number in range(first, count, run):
            start, stop = number * self.batch_size, min(number + run, count) * self.batch_size
            turns = np.arange(start, min(stop, own))
            # Places past the end are padding: the order's beginning again.
            images = order[(self.rank + turns * self.num_replicas) % len(order)]
            views = self.order.views(images, epoch)
            for place in range(0, len(images), self.batch_size):
                batch = slice(place, place + self.batch_size)
                yield self._batch(images[batch], views[batch], epoch)

    def _own(self, count: int) -> int:
        """How many of the epoch's images are this rank's."""
        return count // self.num_replicas if self.drop_last else -(-count // self.num_replicas)

    def _batch(
        self, images: npt.NDArray[np.int64], views: npt.NDArray[np.int64], epoch: int
    ) -> Batch:
        images, views = np.repeat(images, views.shape[1]), views.reshape(-1)
        topk = self.store.read(images, views)
        shown = None if self.store.law is None else self.store.views(images, views)
        targets = view_truth(self.store, images, shown)
        labels, weight, action = self.recovery(topk, targets, epoch)
        if shown is None:
            return Batch(images, views, None, None, labels, targets, weight, action)
        return Batch(
            *(images, views, shown.box, shown.flip, labels, targets, weight, action),
            stages=shown.stages,
            partners=shown.partners,
        )
