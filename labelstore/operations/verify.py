"""Whether a store is whole and right: every block's digests and values, and a second look.

Reading verifies what it reads; ``verify`` reads everything. ``replay`` runs the teacher again over
a sample of views, which finds what no digest can: another teacher, other photos, other pixels.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import MismatchError, SourceError, UsageError
from labelstore.images.decoding import decode
from labelstore.images.mixing.partners import PartnerPhotos
from labelstore.images.photo_file import is_same_file, is_same_size
from labelstore.images.pixels import render
from labelstore.operations.inspection.show.sheet import photo_of
from labelstore.store.mixed_views import partner_views
from labelstore.store.store import opened
from labelstore.teachers.top_k import top_k
from labelstore.views.philox import mixed_seed, permutation

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from labelstore.errors import StoreError
    from labelstore.images.sources.choose import ImageSource
    from labelstore.store.store import Store
    from labelstore.teachers.teacher import Teacher

__all__ = ["Problem", "Replay", "VerifyReport", "replay", "verify"]

TOLERANCE = 0.02
"""By how much a replayed largest probability may differ from the stored one, beyond the quantizer's
step: other devices and library versions round otherwise."""

STEP = 0.0025
"""Half of the widest step in which any quantizer stores the largest probability."""

VIEWS_AN_IMAGE = 4
"""Replayed of each image in the sample: a photo is decoded for all of them."""


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be."""

    kind: str
    """The error's ``kind``; ``incomplete`` for a block that is not committed."""
    block: int
    images: tuple[str, str]
    """Keys of the block's first and last image."""
    message: str


@dataclass(frozen=True)
class VerifyReport:
    """What was read, and what is wrong with it."""

    path: str
    id: str
    blocks: int
    images: int
    unreadable_images: int
    problems: tuple[Problem, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        problems = [{**asdict(p), "images": list(p.images)} for p in self.problems]
        return {**asdict(self), "problems": problems, "whole": self.whole}


@dataclass(frozen=True)
class Replay:
    """A sample of views that the teacher saw again."""

    views: int
    images: int
    tolerance: float
    largest_difference: float
    """Of a largest probability, stored against replayed."""
    mean_difference: float
    same_top1: float
    """Share of the views whose largest class is the same."""
    differing: tuple[str, ...]
    """Keys of images with a view that differs by more than the tolerance: its largest probability,
    or its largest class where the teacher does not hesitate between two."""
    changed: tuple[str, ...]
    """Keys of images whose file is another than the one that was labelled."""

    @property
    def agrees(self) -> bool:
        """Whether no view differs, and every photo is the file that was labelled."""
        return not self.differing and not self.changed

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        keys = {"differing": list(self.differing), "changed": list(self.changed)}
        return {**asdict(self), **keys, "agrees": self.agrees}


def verify(
    store: Store | str | os.PathLike[str], tell: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Read every block of a store and name what is missing, damaged or no label.

    Args:
        store: any, open or as a path or URL; one that is still being made lacks blocks, which are
            problems here.
        tell: called after each block with its images and views.

    Raises:
        CorruptError: the table of images is damaged, without which no block can be named.
    """
    store = opened(store)
    manifest, keys = store.manifest, store.keys
    problems: list[Problem] = []
    unreadable = 0
    for block, errors in enumerate(_checked(store)):
        rows = manifest.block_slice(block)
        ends = (keys[rows.start], keys[rows.stop - 1])
        problems += [Problem(error.kind, block, ends, str(error)) for error in errors]
        if tell is not None:
            tell(rows.stop - rows.start, (rows.stop - rows.start) * manifest.num_views)
    if not problems:
        unreadable = len(store.unreadable())
    return VerifyReport(
        path=str(store.path),
        id=manifest.id,
        blocks=manifest.num_blocks,
        images=manifest.num_images,
        unreadable_images=unreadable,
        problems=tuple(problems),
    )


def _checked(store: Store) -> Iterator[list[StoreError]]:
    """What is wrong with each block, in order, from as many threads as read chunks."""
    blocks, threads = range(store.manifest.num_blocks), store.reader.threads
    if threads == 1:
        yield from map(store.check_block, blocks)
        return
    # What only the first asks for, all of them use.
    store.missing_blocks()
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(store.check_block, blocks)


def replay(
    store: Store | str | os.PathLike[str],
    source: ImageSource,
    teacher: Teacher,
    share: float,
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    batch_size: int = 16,
    tell: Callable[[int, int], None] | None = None,
) -> Replay:
    """Run the teacher over a sample of a store's views and compare.

    Args:
        store: finished, open or as a path or URL, with views that can be replayed.
        source: the photos. teacher: the one that made the store, on any device.
        share: of all views, above 0 to 1; at least one image's.
        tolerance: in probability. seed: of the sample.
        tell: called after each image with 1 and its views.

    Raises:
        MismatchError: the teacher or its input is another than the store's; a photo has another
            size; the store's views cannot be replayed. SourceError: a photo is missing or cannot be
            decoded. IncompleteError: the store is not finished. UsageError: numbers out of range.
    """
    if not 0 < share <= 1:
        raise UsageError(f"the share to replay is {share}, expected above 0, up to 1.")
    store = opened(store)
    store.require_complete()
    _check_teacher(store, teacher)
    labelled = np.flatnonzero(store.labelled())
    per_image = min(VIEWS_AN_IMAGE, store.num_views)
    count = max(1, min(len(labelled), round(share * len(labelled) * store.num_views / per_image)))
    order = permutation(len(labelled), mixed_seed("replay", seed), (0, 0))
    places = {key: place for place, key in enumerate(source.keys)}
    size, interpolation = teacher.preprocessing.input_size, teacher.preprocessing.interpolation
    partners = PartnerPhotos(partial(photo_of, store, source=source), partial(partner_views, store))
    differences: list[npt.NDArray[np.float64]] = []
    same = 0
    differing, changed = [], []
    for image in np.sort(labelled[order[:count]]).tolist():
        key = store.keys[image]
        if key not in places:
            raise SourceError(
                f"{source.path} has no {key!r}, which was labelled: give the folder that the store "
                "was made from."
            )
        views = np.arange(per_image) * store.num_views // per_image
        data = source.read(places[key])
        if not is_same_file(data, int(store.image_digests(image))):
            changed.append(key)
        photo = decode(data, str(source.path_of(places[key])))
        width, height = (int(side) for side in store.sizes(image))
        if not is_same_size(photo.size, (width, height)):
            raise MismatchError(
                f"the photo {key!r} is {photo.width} x {photo.height} pixels and {width} x "
                f"{height} was labelled: give the folder that the store was made from."
            )
        pixels = render(photo, store.views(image, views), size, interpolation, partners=partners)
        ids, probs = _labels(teacher, pixels, store, batch_size)
        stored = store.read(image, views)
        difference = np.abs(stored.confidence.astype(np.float64) - probs[:, 0])
        agree = stored.indices[:, 0] == ids[:, 0]
        # Of two classes that are nearly alike either may come first.
        close = probs[:, 0] - probs[:, 1] <= 2 * (tolerance + STEP)
        if ((difference > tolerance + STEP) | ~(agree | close)).any():
            differing.append(key)
        same += int(agree.sum())
        differences.append(difference)
        if tell is not None:
            tell(1, per_image)
    apart = np.concatenate(differences)
    return Replay(
        views=len(apart),
        images=count,
        tolerance=tolerance,
        largest_difference=float(apart.max()),
        mean_difference=float(apart.mean()),
        same_top1=same / len(apart),
        differing=tuple(differing),
        changed=tuple(changed),
    )


def _labels(
    teacher: Teacher, pixels: npt.NDArray[np.uint8], store: Store, batch_size: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """(n, 2) class ids and probabilities at the store's temperature."""
    ids, probs = [], []
    for start in range(0, len(pixels), batch_size):
        logits = teacher.logits(pixels[start : start + batch_size])
        count, temperature = min(2, teacher.num_classes), float(store.manifest.temperature or 1.0)
        classes, values = top_k(logits, count, temperature)
        ids.append(classes)
        probs.append(values)
    second = np.concatenate(probs).astype(np.float64)
    if second.shape[1] == 1:
        second = np.concatenate([second, np.zeros_like(second)], axis=1)
    return np.concatenate(ids), second


def _check_teacher(store: Store, teacher: Teacher) -> None:
    """MismatchError where the teacher is not the one that made the store."""
    made_by = store.manifest.teacher
    if made_by is None:
        raise MismatchError(
            f"{store.path} does not say which teacher made it: merged stores and those of other "
            "producers cannot be replayed."
        )
    here = teacher.describe()
    for name in ("weights_digest", "input_size", "mean", "std", "interpolation"):
        if here[name] != made_by[name]:
            raise MismatchError(
                f"the teacher's {name.replace('_', ' ')} is {here[name]}, {store.path} was made "
                f"with {made_by[name]}: give the same teacher and weights.",
                arguments=("teacher", "checkpoint"),
            )
