"""Stores that grow: a new store that has another one's labels to the bit, and more beside them.

Nothing that is committed is written again. The new store has the images of the old one in their
order, then new ones; a block's codes are the old store's where it has them, the teacher's
elsewhere. An image's list of likely classes stays as it is when it gets more views: the codes of
its labels are ranks in it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from labelstore.errors import MismatchError, UsageError
from labelstore.format.arrays import view_arrays
from labelstore.format.blocks import BlockCodes, block_codes
from labelstore.format.manifest import LOGITS_PROBE, fingerprint
from labelstore.images.sources.ordered import OrderedSource
from labelstore.producer.growth.known_photos import KnownPhotos
from labelstore.producer.growth.lists import with_lists
from labelstore.producer.growth.plan import places_of, plan_growth
from labelstore.storage.location import same_place
from labelstore.store.lineage import lineage, origin
from labelstore.store.mixed_views import mixing_of
from labelstore.store.rewrite import require_same_format
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from labelstore.format.blocks import BlockData
    from labelstore.format.manifest import Manifest
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.growth.plan import GrowthPlan
    from labelstore.producer.progress import Progress
    from labelstore.store.store import Store

    Int64Array = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

__all__ = ["Growth", "made_otherwise"]

SHOWN = 10
"""Photos that are named, of those that are missing or others than were labelled."""

OWN_LABELS = frozenset({"grow", "parts", "prune", "publish", "pull", "recode", "subset"})
"""Operations that leave a teacher's labels as it said them."""


def made_otherwise(manifest: Manifest) -> str | None:
    """How a store was made, in words that follow "was made", where its labels are not as one
    teacher's run said them; None where they are."""
    steps = [step["operation"] for step in lineage(manifest)]
    others = [step for step in steps if step not in OWN_LABELS]
    if others:
        return f"by labelstore {others[-1]}"
    return "of given labels" if manifest.teacher is None else None


@dataclasses.dataclass(frozen=True)
class Growth:
    """A store that grows into a new one."""

    store: Store
    """The old one; it is only read."""
    photos: ImageSource
    plan: GrowthPlan
    compared: int = 0
    """Photos whose files were compared with what was labelled."""

    @classmethod
    def of(
        cls,
        store: Store,
        photos: ImageSource,
        path: str | os.PathLike[str],
        num_views: int | None = None,
        *,
        relabel_changed: bool = False,
        sampled: bool = False,
        workers: int = 2,
        progress: Progress | None = None,
    ) -> Growth:
        """Compare a store with a source, every photo's file with what was labelled.

        Args:
            store: finished, of one teacher. photos: its photos and new ones. path: of the new one.
            num_views: of each image; the old store's when None.
            relabel_changed: label photos anew that are other files than were labelled, and those
                that could not be decoded and are others now.
            sampled: compare ``SAMPLED`` of the files alone, spread over all: enough for a plan, not
                for a store.
            workers: threads that read. progress: told of each photo that was compared.

        Raises:
            IncompleteError: the store is not finished. MismatchError: a teacher's run did not make
                it; photos are other files, or are missing and want views. UsageError: fewer views,
                a path of the same store or of another format, or nothing is to be added.
            SourceError: a photo cannot be read.
        """
        _check_store(store, path)
        if num_views is None:
            num_views = store.num_views
        if num_views < store.num_views:
            raise UsageError(
                f"{num_views} views an image were asked for, and {store.path} has "
                f"{store.num_views}: ask for as many or more, or take a part of it by labelstore "
                "subset.",
                arguments=("num_views",),
            )
        labelled = store.labelled()
        places = places_of(store.keys, photos.keys)
        known = KnownPhotos.of(store, places)
        if sampled:
            known = known.sample()
        other = known.others(photos, workers, progress)
        changed = other[labelled[other]]
        # Of these first images views of others show parts.
        mixing = mixing_of(store.law)
        partners = 0 if mixing is None else mixing.partners
        if (other < partners).any():
            raise MismatchError(
                f"{len(other)} photos are other files than {store.path} was made of "
                f"({_named(store, other)}), and views of other photos are mixed with them: "
                "restore them.",
                arguments=("relabel_changed",) if relabel_changed else (),
            )
        if len(changed) and not relabel_changed:
            raise MismatchError(
                f"{len(changed)} photos are other files than {store.path} was made of "
                f"({_named(store, changed)}): restore them, or let all their views be labelled "
                "anew.",
                arguments=("relabel_changed",),
            )
        relabelled = other if relabel_changed else other[:0]
        plan = plan_growth(
            store.keys, labelled, store.num_views, photos.keys, num_views, relabelled, places
        )
        if (plan.missing < partners).any():
            raise MismatchError(
                f"{len(plan.missing)} photos of {store.path} are not in {photos.path} "
                f"({_named(store, plan.missing)}), and views of other photos are mixed with them: "
                "restore them."
            )
        lacking = plan.unmakeable
        if len(lacking):
            raise MismatchError(
                f"{len(lacking)} photos of {store.path} are not in {photos.path} "
                f"({_named(store, lacking)}), so that views beyond its {store.num_views} cannot "
                f"be cut of them: restore them, ask for {store.num_views} views, or leave these "
                "images out by labelstore subset.",
                arguments=("num_views",),
            )
        if not plan.views:
            raise UsageError(
                f"{store.path} has all images of {photos.path} and {num_views} views of each: ask "
                "for more views, or give new photos."
            )
        return cls(store, photos, plan, len(known.images))

    @functools.cached_property
    def source(self) -> ImageSource:
        """The photos in the order of the grown store."""
        return cast("ImageSource", OrderedSource(self.photos, self.plan.keys))

    def targets(self, of_photos: npt.NDArray[np.int32] | None = None) -> npt.NDArray[np.int32]:
        """(N,) int32 ground truth of the grown store.

        Args:
            of_photos: the source's own, in its order; when None it is unknown of new images.

        Raises:
            MismatchError: of an image of the old store it is another.
        """
        old, count, places = self.store.targets, self.plan.old_images, self.plan.places
        targets = np.full(len(places), -1, dtype=np.int32)
        if of_photos is None:
            targets[:count] = old
            return targets
        targets[places >= 0] = of_photos[places[places >= 0]]
        other = np.flatnonzero((targets[:count] != old) & (places[:count] >= 0))
        if len(other):
            first = int(other[0])
            raise MismatchError(
                f"the ground truth of {len(other)} images is another than in {self.store.path} "
                f"(of {self.store.keys[first]!r} {targets[first]}, there {old[first]}): give the "
                "class map and targets that it was made with; labelstore recode amends those of a "
                "finished store.",
                arguments=("class_map", "targets"),
            )
        targets[:count] = old
        return targets

    def manifest(self, targets: npt.NDArray[np.int32]) -> Manifest:
        """The grown store's: the old one's, but for what has grown and where it comes from.

        Views of photos that are labelled anew are probed no more.
        """
        plan, old = self.plan, self.store.manifest
        changed = self._relabelled_keys
        settings: dict[str, Any] = {
            "images": [plan.old_images, len(plan.keys)],
            "views": [plan.old_views, plan.num_views],
            "missing": len(plan.missing),
            "relabelled": len(plan.relabelled),
            "labels": self.store.reader.commits_digest(),
        }
        if changed:
            settings["relabelled_keys"] = fingerprint(
                sorted(changed), np.zeros(len(changed), dtype=np.int32)
            )
        teacher = dict(old.teacher or {})
        if LOGITS_PROBE in teacher:
            teacher[LOGITS_PROBE] = [
                entry for entry in teacher[LOGITS_PROBE] if entry["key"] not in changed
            ]
        return dataclasses.replace(
            old,
            num_images=len(plan.keys),
            num_views=plan.num_views,
            fingerprint=fingerprint(plan.keys, targets),
            probe=tuple(entry for entry in old.probe if entry["key"] not in changed),
            teacher=teacher,
            origin=origin("grow", [self.store], settings),
        )

    @property
    def provable(self) -> Manifest:
        """The old store's manifest with the probes of photos that are there as they were."""
        keys = set(self.photos.keys) - self._relabelled_keys
        old = self.store.manifest
        probe = tuple(entry for entry in old.probe if entry["key"] in keys)
        return dataclasses.replace(old, probe=probe)

    @functools.cached_property
    def _relabelled_keys(self) -> set[str]:
        return {self.store.keys[image] for image in self.plan.relabelled.tolist()}

    # Blocks

    def views_of(self, manifest: Manifest, block: int) -> int:
        """Views of a block of the grown store that are to be labelled; 0: it is a copy."""
        rows = manifest.block_slice(block)
        return int((self.plan.num_views - self.plan.first_views[rows]).sum())

    def copy(self, manifest: Manifest, block: int) -> BlockCodes:
        """The codes of a block of the grown store of which nothing is to be labelled."""
        old = self.store.stored_block(block)
        further = manifest.num_views - self.plan.old_views
        if not further:
            return old
        # All of it are images without labels: they have none of further views either.
        fills = {spec.name: spec.fill for spec in view_arrays(manifest)}
        views = {
            name: np.concatenate(
                [
                    values,
                    np.full(
                        (len(values), further, *values.shape[2:]), fills[name], dtype=values.dtype
                    ),
                ],
                axis=1,
            )
            for name, values in old.views.items()
        }
        return dataclasses.replace(old, views=views)

    def codes(self, manifest: Manifest, block: int, data: BlockData) -> BlockCodes:
        """The codes of a block: the old store's where it has them, what was labelled elsewhere.

        Args:
            manifest: of the grown store. data: what the teacher made of the block.

        Raises:
            MismatchError: a photo has become another file, or cannot be labelled any more.
        """
        rows = manifest.block_slice(block)
        count = min(rows.stop, self.plan.old_images) - rows.start
        if count <= 0:
            return block_codes(data, manifest, block)
        # Blocks are as large in both stores, so that they begin at the same images.
        old = self.store.stored_block(block)
        first = self.plan.first_views[rows][:count]
        kept = first > 0
        self._check(rows, data, old, kept & (first < manifest.num_views))
        if manifest.prior_size:
            data = with_lists(data, old, kept, self.store.manifest)
        codes = block_codes(data, manifest, block)
        for new, stored in ((codes.images, old.images), (codes.priors, old.priors)):
            for name, values in new.items():
                values[:count][kept] = stored[name][kept]
        for name, values in codes.views.items():
            values[:count, : self.plan.old_views][kept] = old.views[name][kept]
        return dataclasses.replace(codes, stored=old.stored)

    def _check(self, rows: slice, data: BlockData, old: BlockCodes, labelled: BoolArray) -> None:
        """Refuse to lose labels that the old store has, or to mix those of two photos.

        Args:
            labelled: (n,) which of the old images got more views.
        """
        if data.readable is None or data.digests is None:
            raise MismatchError("a block was labelled and nothing is known of its photos.")
        keys = self.store.keys[rows]
        stored = old.images["images/digest"]
        other = labelled & (stored != 0) & (data.digests[: len(stored)] != stored)
        if other.any():
            raise MismatchError(
                f"the photo {keys[int(np.argmax(other))]!r} has become another file since it was "
                "compared: let nothing write to the photos, and give the same command again; what "
                "was committed is kept."
            )
        lost = labelled & ~data.readable[: len(stored)]
        if lost.any():
            raise MismatchError(
                f"the photo {keys[int(np.argmax(lost))]!r} has labels in {self.store.path} and "
                "cannot be labelled here: it cannot be decoded, or the teacher has no finite "
                "logits for one of its further views; leave the image out of the old store by "
                "labelstore subset. (It would lose the labels that it has.)"
            )


def _check_store(store: Store, path: str | os.PathLike[str]) -> None:
    """Refuse what cannot grow, and a path that the grown store cannot have."""
    store.require_complete()
    manifest = store.manifest
    how = made_otherwise(manifest)
    if how is not None:
        raise MismatchError(
            f"{store.path} was made {how}, so that a teacher's labels cannot be added to it: grow "
            "the stores that it was made of, and make it again."
        )
    if not isinstance(manifest.law, ViewLaw):
        raise MismatchError(
            f"{store.path} has no view law that further views could follow: grow the store that "
            "it was made of."
        )
    if same_place(path, store.path):
        raise UsageError(
            f"{path} is the store that grows, and what is committed is never written again: give "
            "the grown store another name."
        )
    require_same_format(store, path, "a grown store")


def _named(store: Store, images: Int64Array) -> str:
    """The keys of the first few images."""
    names = ", ".join(repr(store.keys[image]) for image in images[:SHOWN].tolist())
    return f"{names}, ..." if len(images) > SHOWN else names
