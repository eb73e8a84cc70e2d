"""Join stores of different images, or of different blocks, that one teacher made apart."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import MismatchError, UsageError
from labelstore.format.arrays import IMAGES_COLUMN
from labelstore.format.blocks import check_table
from labelstore.format.manifest import LOGITS_PROBE
from labelstore.storage.location import same_place
from labelstore.storage.partner_records import PartnerRecords
from labelstore.store.backends.registry import backend_of
from labelstore.store.ensembles import opened_all
from labelstore.store.lineage import TEACHER, lineage, teacher_names
from labelstore.store.mixed_views import PartnerFiles, RecordedFiles, mixing_of
from labelstore.store.rewrite import (
    Copying,
    RewriteReport,
    bytes_of,
    require_source,
    write_selection,
)
from labelstore.store.selection import Selection
from labelstore.store.store import Store
from labelstore.store.writer import LABELS, StoreWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from labelstore.format.blocks import BlockCodes
    from labelstore.format.manifest import Manifest

__all__ = ["PartsReport", "join_parts"]

ALIKE = (
    "num_views",
    "num_classes",
    "class_names",
    "k",
    "quantizer",
    "encoding",
    "prior_size",
    "top_p",
    "label_type",
    "temperature",
    "law",
)
"""What decides what a code means, or which crop it is of: the same in all parts."""

MAY_DIFFER = frozenset({"spec", "checkpoint", "device", LOGITS_PROBE})
"""What is told of a teacher and says where it ran and lay, not which one it is."""

MEANS = ("weights", "ferkd", "tail")
"""What a merge tells of how it averaged, beside the teachers."""


@dataclass(frozen=True)
class PartsReport(RewriteReport):
    """What a run of ``join_parts`` did."""

    path: str
    stores: tuple[str, ...]
    num_images: int
    num_views: int
    blocks_missing: int
    """Blocks of the new store that no part has; 0 but for parts of one unfinished store."""
    bytes: int
    seconds: float


def join_parts(
    stores: Sequence[Store | str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    allow_version_drift: bool = False,
    any_order: bool = False,
    overwrite: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> PartsReport:
    """Write the images of several stores of one teacher to one store, label by label as they are.

    Finished stores of different images become one with all of them, in the order of the stores.
    Stores of one id, each with some of its blocks, as several machines leave them that made a store
    in different places, become that store; what is missing then is made by ``generate``.

    Args:
        stores: two or more, open or as paths or URLs.
        path: the new store, in the parts' format (``*.parquet`` for Parquet). One that the same
            call was interrupted in is gone on with.
        allow_version_drift: join parts whose pixels were made by other library versions.
        any_order: put images of whole blocks before all others. Where a part's images do not fill
            its last block, those of the parts behind it begin in the middle of blocks, which are
            compressed anew otherwise, and that takes 30 times as long.
        overwrite: replace a store that is at ``path``.
        tell: called with the images and views done since it was called last.

    Raises:
        MismatchError: the parts differ in what their labels mean, in teacher, views or libraries;
            two have the same image, or the same block of other photos, or views that are mixed
            with different files of a photo. IncompleteError: a part with an id of its own is not
            finished. UsageError: fewer than two, or a path of another format. CorruptError: a part
            is damaged.
    """
    parts = opened_all(stores)
    if len(parts) < 2:
        raise UsageError(
            f"{len(parts)} store was given, and parts are two or more: name the others, or copy it "
            "with labelstore pull."
        )
    one_store = len({part.manifest.id for part in parts}) == 1
    for part in parts:
        refusal = "a part that is read: choose another name"
        if not one_store:
            require_source(part, path, refusal)
        elif same_place(path, part.path):
            raise UsageError(f"{path} is {refusal}.")
    _check_alike(parts, allow_version_drift)
    first = parts[0].manifest
    if backend_of(path).encoding != first.encoding:
        raise UsageError(
            f"{path} is of another format than {parts[0].path}: give all of them the same ending."
        )
    started = time.monotonic()
    if one_store:
        missing = _join_blocks(parts, path, overwrite, tell)
    else:
        missing = 0
        selection = _selection(parts, any_order)
        _join_images(parts, selection, path, overwrite, tell)
    joined = Store(path)
    return PartsReport(
        path=str(path),
        stores=tuple(str(part.path) for part in parts),
        num_images=joined.num_images,
        num_views=joined.num_views,
        blocks_missing=missing,
        bytes=bytes_of(joined),
        seconds=time.monotonic() - started,
    )


def _check_alike(parts: Sequence[Store], allow_version_drift: bool) -> None:
    first = parts[0]
    for part in parts[1:]:
        for name in ALIKE:
            values = getattr(first.manifest, name), getattr(part.manifest, name)
            if values[0] != values[1]:
                raise MismatchError(
                    f"{part.path} has {name.replace('_', ' ')} {_short(values[1])}, {first.path} "
                    f"{_short(values[0])}, and parts of one store are alike: make them with the "
                    "same settings, or recode one of them."
                )
        teacher = _other_teachers(first.manifest, part.manifest)
        if teacher is not None:
            raise MismatchError(
                f"{part.path} and {first.path} are of different teachers ({teacher} differs), and "
                "parts are of one: merge averages the labels of several."
            )
        if _means(first.manifest) != _means(part.manifest):
            raise MismatchError(
                f"{part.path} and {first.path} were merged with other weights, tails or rules of "
                "FerKD, and parts are of one mean: merge the stores of one of them anew."
            )
        drift = _versions(first.manifest, part.manifest)
        if drift and not allow_version_drift:
            raise MismatchError(
                f"{part.path} was made by other library versions than {first.path} ({drift}), "
                "which may make other pixels: allow the drift, or make it anew.",
                arguments=("allow_version_drift",),
            )


def _other_teachers(first: Manifest, other: Manifest) -> str | None:
    """What says that labels are of different teachers, or of means over different ones; None where
    nothing does."""
    if (first.teacher is None) != (other.teacher is None):
        return "whether one is known"
    if len(first.teachers) != len(other.teachers):
        return "the number of them"
    for one, two in zip(first.teachers, other.teachers, strict=True):
        for name in sorted((one.keys() | two.keys()) - MAY_DIFFER):
            if one.get(name) != two.get(name):
                return name
    # Of labels that came from elsewhere no more than this may be known.
    named = first.teacher is None and teacher_names(first) != teacher_names(other)
    return "the name" if named else None


def _means(manifest: Manifest) -> set[str]:
    """How the labels of several teachers were averaged; nothing where they were not."""
    steps = [step["settings"] for step in lineage(manifest) if step["operation"] == "merge"]
    return {
        json.dumps({name: settings.get(name) for name in MEANS}, sort_keys=True)
        for settings in steps
    }


def _versions(first: Manifest, other: Manifest) -> str:
    """Which libraries' versions differ, and what they are; "" where they are the same."""
    one, two = first.producer, other.producer
    names = sorted((one.keys() | two.keys()) - {LABELS, TEACHER})
    differing = [name for name in names if one.get(name) != two.get(name)]
    return ", ".join(f"{name} {two.get(name)} and {one.get(name)}" for name in differing)


def _short(value: object) -> str:
    text = "unknown" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _selection(parts: Sequence[Store], any_order: bool) -> Selection:
    """All images of the parts, in the order of the new store."""
    counts = [part.num_images for part in parts]
    selection = Selection(
        tuple(parts),
        np.repeat(np.arange(len(parts)), counts),
        np.concatenate([np.arange(count) for count in counts]),
        range(parts[0].num_views),
    )
    return selection.whole_blocks_first(_block_images(parts)) if any_order else selection


def _block_images(parts: Sequence[Store]) -> int:
    """Images of a block of the new store."""
    images = sum(part.num_images for part in parts)
    return min(max(part.manifest.block_images for part in parts), images)


def _join_images(
    parts: Sequence[Store],
    selection: Selection,
    path: str | os.PathLike[str],
    overwrite: bool,
    tell: Callable[[int, int], None] | None,
) -> None:
    _check_keys(parts)
    manifest = _manifest(parts, selection)
    keys, targets = selection.keys, selection.targets
    check_table(keys, targets, len(keys), manifest.num_classes)
    with StoreWriter(path, manifest, keys, targets, overwrite=overwrite) as writer:
        write_selection(writer, selection, tell)


def _check_keys(parts: Sequence[Store]) -> None:
    owners: dict[str, Store] = {}
    for part in parts:
        for key in part.keys:
            if owners.setdefault(key, part) is not part:
                raise MismatchError(
                    f"{part.path} and {owners[key].path} both have the image {key!r}, and parts "
                    "have different images: take the others out with labelstore subset."
                )


def _manifest(parts: Sequence[Store], selection: Selection) -> Manifest:
    """The joined store's: the teacher is the first part's, asked about the views of all."""
    digests = [part.reader.commits_digest() for part in parts]
    first = parts[0].manifest
    manifest = dataclasses.replace(
        selection.manifest("parts", {"labels": digests}),
        block_images=_block_images(parts),
        # A digest of given labels is of the first part's alone; ``settings`` has all.
        producer={name: value for name, value in first.producer.items() if name != LABELS},
    )
    if first.teacher is None:
        return manifest
    answers = [
        dict(answer)
        for part in parts
        for answer in (part.manifest.teacher or {}).get(LOGITS_PROBE, ())
    ]
    teacher = dict(first.teacher) | ({LOGITS_PROBE: answers} if answers else {})
    return dataclasses.replace(manifest, teacher=teacher)


def _check_blocks(parts: Sequence[Store]) -> None:
    """Refuse parts of one store that have a block of other photos.

    Its labels may differ in their last bits, and then those of the first part are taken.
    """
    of_images = np.stack([part.reader.all_commits[:, IMAGES_COLUMN] for part in parts])
    for part, own in zip(parts[1:], of_images[1:], strict=True):
        other = (of_images != 0) & (own != 0) & (of_images != own)
        if other.any():
            number, block = (int(place) for place in np.argwhere(other)[0])
            rows = part.manifest.block_slice(block)
            raise MismatchError(
                f"{part.path} and {parts[number].path} both have block {block} (the images from "
                f"{part.keys[rows.start]!r} on), of other photos: their files, or which of them "
                "have labels, differ; make one of them anew from the photos of the other."
            )


def _partner_files(parts: Sequence[Store], blocks_of: Sequence[set[int]]) -> PartnerFiles | None:
    """The files of the photos that views are mixed with, compared between parts of one store; None
    where none are mixed."""
    mixing = mixing_of(parts[0].manifest.law)
    if mixing is None:
        return None
    files = PartnerFiles(parts[0].keys[: mixing.partners])
    for part, blocks in zip(parts, blocks_of, strict=True):
        files.learn(part, sorted(blocks))
        for rows in PartnerRecords(part.path, part.manifest.id).news():
            files.require_recorded(rows, shown=True)
    return files


def _join_blocks(
    parts: Sequence[Store],
    path: str | os.PathLike[str],
    overwrite: bool,
    tell: Callable[[int, int], None] | None,
) -> int:
    """Copy each block from a part that has it; how many none has."""
    first = parts[0]
    manifest = first.manifest
    blocks_of = [set(range(manifest.num_blocks)) - set(part.missing_blocks()) for part in parts]
    _check_blocks(parts)
    files = _partner_files(parts, blocks_of)
    with StoreWriter(path, manifest, first.keys, first.targets, overwrite=overwrite) as writer:
        records = None
        if files is not None:
            records = RecordedFiles(files, PartnerRecords(path, manifest.id))
            records.learn()
            records.write(together=False)
        pending = set(writer.pending_blocks())
        # The first part that has a block: it comes last.
        owners = {
            block: part
            for part, own in zip(reversed(parts), reversed(blocks_of), strict=True)
            for block in own & pending
        }

        def codes(block: int) -> BlockCodes | None:
            return owners[block].stored_block(block) if block in owners else None

        for block in Copying.of(writer, parts).copied(range(manifest.num_blocks), codes):
            if tell is not None:
                rows = manifest.block_slice(block)
                images = rows.stop - rows.start
                tell(images, images * manifest.num_views)
        missing = len(pending) - len(owners)
        if records is not None and not missing:
            records.clear()
    return missing
