"""SRe2L's and LPLD's labels of distilled images: a file a mini-batch, with all classes' logits.

An epoch, ``epoch_E/batch_0.tar``, ``batch_1.tar``, ..., is a view.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import (
    FormatError,
    MismatchError,
    UsageError,
)
from labelstore.peers import image_folder
from labelstore.peers.label_files import numbered_entries, require_all, require_folder
from labelstore.peers.peer_labels import PeerLabels, files_digest
from labelstore.peers.pickles.safe_pickle import MEND
from labelstore.peers.sre2l.batches import read_batch, rows_of
from labelstore.peers.sre2l.orders import ORDERS, SEED, sampled_orders, stored_orders
from labelstore.storage.untrusted import parsed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.labels.top_k import LabelType
    from labelstore.peers.peer_labels import PeerOptions, Values
    from labelstore.peers.sre2l.batches import Batch, Rows

__all__ = ["Sre2lReader"]

_COMPARED = 1024
"""Labels of an epoch whose likeliest class is compared with the photo's own, at least, where there
are so many."""


class Sre2lReader:
    """Reads the folder that ``--fkd-path`` named; see ``PeerReader``.

    Labels of mixed or cut-out pixels have no boxes: a crop alone is not what the teacher saw.
    """

    values: Values = "logits"
    law = None
    class_names = None
    k = None
    label_type: LabelType = "top-k"
    temperature = None
    targets = None

    def __init__(self, path: Path, options: PeerOptions) -> None:
        self._path, self._photos = path, options.photos
        self._files = _batch_files(path)
        first = read_batch(self._files[0][0])
        self._rows, self._kind = len(first.logits), first.kind
        self._dtype = first.logits.dtype
        self._known: dict[tuple[int, int], Rows] = {}
        self.num_classes: int | None = first.logits.shape[1]
        if options.num_classes not in (None, self.num_classes):
            raise MismatchError(
                f"{self._files[0][0]} has logits of {self.num_classes} classes, and "
                f"{options.num_classes} were asked for: leave the number out, the files say it.",
                arguments=("num_classes",),
            )
        order = None if self._photos is None else image_folder.in_folder_order(self._photos)
        places, how = self._places(None if order is None else len(order))
        counts = (places >= 0).sum(axis=0)
        self._numbers = np.flatnonzero(counts)
        """Place in ImageFolder of each image that has a label."""
        self._order = None if order is None else [order[number] for number in self._numbers]
        self.keys = [str(number) for number in self._numbers]
        if self._order is not None and self._photos is not None:
            self.keys = [self._photos.keys[index] for index in self._order]
        self.num_views = int(counts.max())
        # The epochs that have a label of the image first, in their order.
        self._epochs = np.argsort(places < 0, axis=0, kind="stable").astype(np.int32)
        self._places_of, self._counts = places, counts
        self.explicit = self._kind == "plain" and options.boxes
        if self.explicit and self._photos is None:
            raise UsageError(
                f"the crops in {path} are shares of each photo's sides, which the files do not "
                "tell: give the photos, or say that views are not to be replayed.",
                arguments=("photos", "boxes"),
            )
        files = [file for epoch in self._files for file in epoch]
        with parsed(path, MEND):
            self.digest = files_digest(path, files)
        self.notes = tuple(self._notes(how, counts))
        self.extra = {"views": self._kind, "order": how}

    def images(self, numbers: Sequence[int]) -> PeerLabels:
        """As ``PeerReader.images``.

        A file is read whole and checked when it is first needed; of the ten thousands of files that
        hold the labels of a few photos, rows alone are read from then on.
        """
        rows = self._numbers[np.asarray(numbers, dtype=np.int64)]
        turns = np.arange(self.num_views)[None, :] % self._counts[rows][:, None]
        epochs = self._epochs[turns, rows[:, None]]
        places = self._places_of[epochs, rows[:, None]]
        shape = (len(rows), self.num_views)
        dense = np.zeros((*shape, self.num_classes or 1), self._dtype)
        coords, flips = np.zeros((*shape, 4)), np.zeros(shape, bool)
        batches = (epochs.astype(np.int64) << 32 | places // self._rows).reshape(-1)
        by_batch = np.argsort(batches, kind="stable")
        firsts = np.flatnonzero(np.diff(batches[by_batch], prepend=-1))
        for labels in np.split(by_batch, firsts[1:]):
            epoch, number = divmod(int(batches[labels[0]]), 1 << 32)
            at, row = np.unravel_index(labels, shape), places.reshape(-1)[labels] % self._rows
            dense[at], coords[at], flips[at] = self._labels(epoch, number, row)
        if self._photos is None or self._order is None:
            return PeerLabels(dense=dense)
        order = [self._order[number] for number in numbers]
        facts = image_folder.photo_table(self._photos, order, cropped=self.explicit)
        if not self.explicit:
            return PeerLabels(dense=dense, **facts._asdict())
        boxes = image_folder.boxes_of_shares(coords, facts.widths, facts.heights)
        names = [self.keys[number] for number in numbers]
        image_folder.check_inside(boxes, facts, names, self._path)
        return PeerLabels(dense=dense, boxes=boxes, flips=flips, **facts._asdict())

    def _labels(
        self, epoch: int, number: int, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
        """(n, C) logits, (n, 4) crops and (n,) flips of some rows of a batch."""
        known = self._known.get((epoch, number))
        if known is None:
            batch = self._batch(epoch, number)
            table = rows_of(self._files[epoch][number], batch)
            if table is not None:
                self._known[epoch, number] = table
            flips = batch.flips
            coords, logits = batch.coords[rows], batch.logits[rows]
        else:
            flips = known.flips
            logits, coords = known.read(self._files[epoch][number], rows)
        return logits, coords, np.zeros(len(rows), bool) if flips is None else flips[rows]

    def _batch(self, epoch: int, number: int) -> Batch:
        """A batch that is like the first one."""
        file = self._files[epoch][number]
        batch = read_batch(file)
        rows, classes = batch.logits.shape
        last = number == len(self._files[epoch]) - 1
        kinds = (batch.kind, classes, batch.logits.dtype)
        if kinds != (self._kind, self.num_classes, self._dtype):
            raise MismatchError(
                f"{file} has {batch.kind} labels of {classes} classes ({batch.logits.dtype}), and "
                f"{self._files[0][0]} {self._kind} ones of {self.num_classes} ({self._dtype}): "
                "files of two runs lie in one folder; move one of them away."
            )
        expected = self._sizes[epoch] if last else self._rows
        if rows != expected:
            raise MismatchError(
                f"{file} has {rows} labels, expected {expected}, as its epoch's order of the "
                "photos says: it is of another run, or the photos are others; get it anew."
            )
        return batch

    def _places(self, num_photos: int | None) -> tuple[npt.NDArray[np.int32], str]:
        """(epochs, photos) int32: a photo's place in an epoch, -1 where the epoch left it out; and
        where the order was taken from.

        Of a photo that has two places in an epoch the later one counts.
        """
        lasts = [len(read_batch(files[-1]).logits) for files in self._files]
        self._sizes = lasts
        labels = [
            self._rows * (len(files) - 1) + last
            for files, last in zip(self._files, lasts, strict=True)
        ]
        file = self._path / ORDERS
        if file.exists():
            orders, how = stored_orders(file, len(labels)), ORDERS
            largest = max(int(order.max()) for order in orders) + 1
            count = largest if num_photos is None else num_photos
            # Epochs of just the first photos had no others: drawn from more, some would have them.
            # The last one may have been stopped.
            whole = all(order.max() == len(order) - 1 for order in orders[:-1] or orders)
            if largest > count or (whole and largest < count):
                raise MismatchError(
                    f"{file} is of {largest} photos, and there are {count}: a label's place "
                    "counts, so that one more or less moves them all; give the folder that the "
                    "labels were made from.",
                    arguments=("photos",),
                )
        elif num_photos is None:
            raise UsageError(
                f"{self._path} has no {ORDERS}, so that no file says which photo a label is of, "
                "and their order follows from how many there are: give the photos.",
                arguments=("photos",),
            )
        else:
            count = num_photos
            orders, how = sampled_orders(count, len(labels)), f"RandomSampler, seed {SEED}"
        places = np.full((len(labels), count), -1, np.int32)
        for epoch, (order, size) in enumerate(zip(orders, labels, strict=True)):
            self._check_size(epoch, size, len(order), stored=file.exists())
            places[epoch, order[:size]] = np.arange(size, dtype=np.int32)
        return places, how

    def _check_size(self, epoch: int, size: int, count: int, *, stored: bool) -> None:
        """Raise MismatchError where an epoch cannot be of so many photos."""
        # LPLD drops the last batch of an epoch where it is not full, and stops in the last one; it
        # writes the order down. Drawn from other numbers of photos orders would be others.
        whole = size == count or (stored and size == count - count % self._rows)
        last = epoch == len(self._files) - 1
        stopped = stored and last and size < count and size % self._rows == 0
        if not (whole or stopped):
            where = f"{ORDERS} has" if stored else "there are"
            raise MismatchError(
                f"{self._path}/epoch_{epoch} has {size} labels in batches of {self._rows}, and "
                f"{where} {count} photos: a batch is missing, or these are not the photos that "
                "were labelled; give the folder that the labels were made from.",
                arguments=("photos",),
            )

    def _notes(self, how: str, counts: npt.NDArray[np.int64]) -> list[str]:
        notes = []
        if how != ORDERS:
            notes.append(
                f"No file says which photo a label is of: the order is that of {how}, as both "
                "projects' scripts have it, over the photos in the order of their folders."
            )
        agreement = self._agreement()
        if agreement:
            notes.append(agreement)
        if self._kind != "plain":
            notes.append(
                f"The labelled pixels were {self._kind}, which this version of the format cannot "
                "describe: views are unknown, so the labels can be read, and no data set shows "
                "their pixels."
            )
        missing = int((counts == 0).sum())
        if missing:
            notes.append(f"{missing} photos have no label in any epoch and are left out.")
        fewer = int(((counts > 0) & (counts < counts.max())).sum())
        if fewer:
            notes.append(
                f"{fewer} photos have fewer labels than the {counts.max()} of others, since epochs "
                "were cut short: their first ones stand again as the last views."
            )
        return notes

    def _agreement(self) -> str | None:
        """How often the likeliest class is the photo's folder, where the folders can be those
        classes: an order that is not the labels' own shows here.
        """
        photos, order = self._photos, self._order
        if photos is None or order is None or photos.classes is None:
            return None
        if len(photos.classes) != self.num_classes:
            return None
        number_of = {name: number for number, name in enumerate(sorted(photos.classes))}
        truth = np.full(self._places_of.shape[1], -1)
        truth[self._numbers] = [number_of[str(photos.class_name(index))] for index in order]
        # Of the last epoch, too: an order that is right at first may drift away.
        epochs = dict.fromkeys((0, len(self._files) - 1))
        shares = {epoch: self._agreement_in(epoch, truth) for epoch in epochs}
        of_photos = " and ".join(
            f"{same:.1%} of the labels looked at in epoch {epoch} (in a wrong order about "
            f"{chance:.1%})"
            for epoch, (same, chance, _) in shares.items()
        )
        text = f"The likeliest class is the photo's own folder for {of_photos}."
        doubtful = any(
            (same - chance) * count <= 4 * np.sqrt(max(chance * count, 1))
            for same, chance, count in shares.values()
        )
        if doubtful:
            text += " These are hardly apart: check that these are the photos, in this order."
        return text

    def _agreement_in(self, epoch: int, truth: npt.NDArray[np.int64]) -> tuple[float, float, int]:
        """The share of labels whose likeliest class is the photo's, that in a wrong order, and how
        many labels these are of."""
        numbers = np.full(self._places_of.shape[1], -1)
        placed = np.flatnonzero(self._places_of[epoch] >= 0)
        numbers[self._places_of[epoch, placed]] = placed
        same, count, chance = 0, 0, 0.0
        for batch in range(min(len(self._files[epoch]), -(-_COMPARED // self._rows))):
            likeliest = self._batch(epoch, batch).logits.argmax(axis=1)
            start = batch * self._rows
            own = truth[numbers[start : start + len(likeliest)]]
            same += int((own == likeliest).sum())
            count += len(own)
            shares = np.bincount(own, minlength=self.num_classes or 1) / len(own)
            chance += float(shares[likeliest].sum())
        return same / count, chance / count, count


def _batch_files(path: Path) -> list[list[Path]]:
    """The files of each epoch, by number.

    Raises:
        NotFoundError: there is no such folder. FormatError: it has no epochs. CorruptError: one
            of them, or a batch, is missing.
    """
    require_folder(path, "with epoch_0, epoch_1, ... in it")
    epochs = numbered_entries(path, "epoch_{}")
    files = [numbered_entries(folder, "batch_{}.tar") for folder in epochs.values()]
    if not epochs or not files[0]:
        raise FormatError(
            f"{path} has no epoch_0/batch_0.tar, expected the folder that SRe2L's or LPLD's "
            "relabelling was given as its FKD path: give that one."
        )
    require_all(path, "epoch_{}", epochs)
    for folder, batches in zip(epochs.values(), files, strict=True):
        require_all(folder, "batch_{}.tar", batches)
    return [list(batches.values()) for batches in files]
