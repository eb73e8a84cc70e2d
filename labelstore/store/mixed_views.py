"""Mixed views of a store: among which of its images partners are, and what partners' views are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import CorruptError, MismatchError, UsageError
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import numpy.typing as npt

    from labelstore.storage.partner_records import PartnerRecords
    from labelstore.store.label_reader import LabelReader
    from labelstore.store.store import Store
    from labelstore.views.law import Views
    from labelstore.views.stages.mixing import Mixing

__all__ = [
    "PartnerFiles",
    "RecordedFiles",
    "is_mixed",
    "mixing_of",
    "partner_views",
    "require_unmixed",
    "view_truth",
]


def mixing_of(law: object) -> Mixing | None:
    """The stage of a store's law that mixes views with those of other images; None where none
    does, or there is no law."""
    return law.mixing if isinstance(law, ViewLaw) else None


def is_mixed(store: LabelReader) -> bool:
    """Whether a store's views are mixed with those of other images."""
    return mixing_of(store.law) is not None


def partner_views(
    store: LabelReader, image: int, views: npt.NDArray[np.int64], width: int, height: int
) -> Views:
    """What views of an image are as partners of others: all stages but the mixing.

    Args:
        image: its position. views: their numbers, stored ones or not.
        width, height: of its photo, in pixels.

    Raises:
        UsageError: the store has no view law.
    """
    if not isinstance(store.law, ViewLaw):
        raise UsageError(f"{store.path} has no view law, expected one that mixes views.")
    return store.law.unmixed(store.key_hashes[image], views, width, height)


def view_truth(
    store: LabelReader, images: npt.NDArray[np.int64], views: Views | None
) -> npt.NDArray[np.int32]:
    """(n,) int32: the ground truth of views; -1 of mixed ones, whose photos are of two classes.

    Args:
        images: (n,) positions. views: (n,) what they are, where that is known.
    """
    targets = store.targets[images]
    if views is None or views.partners is None:
        return targets
    return np.where(views.partners.image >= 0, np.int32(-1), targets)


def require_unmixed(store: LabelReader, wish: str) -> None:
    """Refuse what takes the ground truth of a view to be that of one photo.

    Args:
        wish: what was asked for, as a message begins: ``"FerKD"``, ``"labels in phases"``.

    Raises:
        UsageError: the store's views are mixed.
    """
    stage = mixing_of(store.law)
    if stage is not None:
        raise UsageError(
            f"{wish} was asked for and the views of {store.path} are mixed ({stage}), so that each "
            "has the ground truth of two photos and an unsure label is no sign of a bad crop: "
            "leave it out, or use a store whose views are not mixed.",
            arguments=("ferkd",),
        )


class PartnerFiles:
    """The files of the images that views of a store are mixed with, while the store is made.

    A label shows two photos, and a store keeps the digest of each photo once, beside the photo's
    own labels. So whoever mixed and whoever labelled a photo must have had the same file.
    """

    def __init__(self, keys: tuple[str, ...] | list[str]) -> None:
        """Of images by their keys, of none of which anything is known."""
        self._keys = keys
        self._known = np.zeros(len(keys), dtype=np.uint64)
        # Of those that labels of this process show.
        self._shown = np.zeros(len(keys), dtype=np.uint64)

    def __len__(self) -> int:
        """Of how many images they are."""
        return len(self._keys)

    def learn(self, store: Store, blocks: Iterable[int], *, remade: bool = False) -> None:
        """Take the digests of a store's blocks for those of the files, and compare with what is
        known; blocks that cannot be read are passed over.

        Args:
            store: whose first images these are, or these its. blocks: committed ones.
            remade: they are made anew; a photo of theirs that could not be decoded, which no label
                shows, may have been mended.

        Raises:
            MismatchError: as ``require``.
        """
        numbers = list(blocks)
        try:
            self._learn(store, numbers, remade)
        except CorruptError:  # which reading and verify name
            for block in numbers:
                try:
                    self._learn(store, [block], remade)
                except CorruptError:
                    continue

    def _learn(self, store: Store, blocks: list[int], remade: bool) -> None:
        for block, codes in zip(blocks, store.reader.images_of(blocks), strict=True):
            start = store.manifest.block_slice(block).start
            digests = codes["images/digest"]
            if remade:
                digests = np.where(codes["images/size"][:, 0] >= 0, digests, np.uint64(0))
            digests = digests[: max(len(self._keys) - start, 0)]
            self._compare(np.arange(start, start + len(digests)), digests)

    def require(self, digests: Mapping[int, int], unshown: Collection[int] = ()) -> None:
        """Compare files that were labelled, or mixed with others, with those that are known.

        Args:
            digests: of files, by the image's position; 0 where unknown.
            unshown: positions of those that could not be decoded, so that no label shows them.

        Raises:
            MismatchError: one is another file than before.
        """
        images = np.fromiter(digests.keys(), dtype=np.int64, count=len(digests))
        values = np.fromiter(digests.values(), dtype=np.uint64, count=len(digests))
        partners = images < len(self._keys)
        self._compare(images[partners], values[partners])
        shown = partners & ~np.isin(images, list(unshown))
        self._shown[images[shown]] = values[shown]

    def require_recorded(self, rows: npt.NDArray[np.uint64], *, shown: bool = False) -> None:
        """As ``require``, of a record.

        Args:
            rows: (n, 2) positions and digests. shown: labels of this process show them, too.
        """
        images = rows[:, 0].astype(np.int64)
        partners = images < len(self._keys)
        self._compare(images[partners], rows[partners, 1])
        if shown:
            self._shown[images[partners]] = rows[partners, 1]

    def shown_files(self) -> npt.NDArray[np.uint64]:
        """(n, 2) positions and digests of the files that labels of this process show."""
        images = np.flatnonzero(self._shown)
        return np.stack([images.astype(np.uint64), self._shown[images]], axis=1)

    def _compare(self, images: npt.NDArray[np.int64], digests: npt.NDArray[np.uint64]) -> None:
        known = self._known[images]
        other = (known != 0) & (digests != 0) & (known != digests)
        if other.any():
            key = self._keys[int(images[int(np.argmax(other))])]
            raise MismatchError(
                f"the photo {key!r} is another file here than the one that was labelled, or that "
                "views of others were mixed with: give the photos that the store was begun with, "
                "or make it anew."
            )
        self._known[images] = np.where(known != 0, known, digests)


class RecordedFiles:
    """The records of one store, and what this process has written to them.

    Of two processes that were given different files of a photo each writes before it looks, so
    that one of them sees the other's before it commits.
    """

    def __init__(self, files: PartnerFiles, records: PartnerRecords) -> None:
        """Of files that are compared, and a store's records."""
        self._files = files
        self._records = records
        self._written = np.zeros(len(files), dtype=np.bool_)

    def are_there(self) -> bool:
        """Whether there is any."""
        return self._records.are_there()

    def learn(self) -> None:
        """Compare what others have written since the last look.

        Raises:
            MismatchError: as ``PartnerFiles.require``. CorruptError: a record is damaged.
        """
        for rows in self._records.news():
            self._files.require_recorded(rows)

    def write(self, *, together: bool) -> None:
        """Write what labels of this process show; before their block is committed.

        Args:
            together: others write the store, too, and are looked at afterwards.

        Raises:
            As ``learn``; then nothing was written. StoreError: the system refuses.
        """
        rows = self._files.shown_files()
        rows = rows[~self._written[rows[:, 0].astype(np.int64)]]
        name = self._records.write(rows) if len(rows) else None
        if together:
            try:
                self.learn()
            except (MismatchError, CorruptError):
                if name is not None:
                    self._records.withdraw(name)
                raise
        self._written[rows[:, 0].astype(np.int64)] = True

    def clear(self) -> None:
        """Delete the records of a store that is complete, whose digests were all compared."""
        self._records.clear()
