"""Make a store of another project's label files."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import LabelError, UsageError
from labelstore.format import codecs
from labelstore.format.blocks import BlockPriors, check_table, empty_block
from labelstore.format.codecs.suitability import suiting
from labelstore.format.manifest import EXPLICIT, Manifest, fingerprint
from labelstore.format.settings import StoreSettings, array_block_images
from labelstore.images.sources.listing import walk
from labelstore.labels.distribution import mean_distribution
from labelstore.labels.top_k import TopK
from labelstore.peers.choose import open_peer
from labelstore.producer.manifests import stored_manifest
from labelstore.producer.settings import FIDELITIES
from labelstore.storage.location import place_of, same_place
from labelstore.store.backends.registry import backend_of, unit_images_of
from labelstore.store.lineage import CONVERTED_FROM, TEACHER
from labelstore.store.rewrite import BlockMaker, RewriteReport, bytes_of
from labelstore.store.store import Store
from labelstore.store.writer import LABELS, StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.format.blocks import BlockData
    from labelstore.format.settings import LabelLayout
    from labelstore.peers.peer_labels import PeerLabels, PeerOptions, PeerReader

__all__ = ["ConversionReport", "ConversionSettings", "convert"]

_RUN_ENTRIES = 1 << 22
"""Probabilities that are in memory at a time, about."""

_RUN_IMAGES = 64
"""Images that are read at a time, at most."""


@dataclass(frozen=True)
class ConversionSettings:
    """What is told of labels because files do not say it, and how they are to be stored."""

    teacher_name: str | None = None
    """What made the labels, in words, for the manifest; None: unknown."""
    temperature: float | None = None
    """Probabilities: of the softmax that they are of; None: unknown, or as the project's own code
    has it. Logits: what they are divided by before softmax; None: 1."""
    fidelity: str | None = None
    """A name of ``FIDELITIES``; None: labels of k classes as they are, without a list, dense ones
    as "balanced"."""
    store: StoreSettings = dataclasses.field(default_factory=StoreSettings)
    """Single settings in the stead of the fidelity's."""
    layout: LabelLayout | None = None
    """How labels lie in a Zarr store; when None as they do in one that is gone on with, else in
    chunks."""
    targets: Callable[[PeerReader], npt.NDArray[np.int32] | None] | None = None
    """Makes (images,) ground truth, -1 unknown, of the reader; None, and where it returns None:
    what the files say, or unknown."""


@dataclass(frozen=True)
class ConversionReport(RewriteReport):
    """What a run of ``convert`` did."""

    path: str
    format: str
    num_images: int
    num_views: int
    k: int
    blocks_made: int
    """Blocks that were not there before."""
    bytes_before: int
    """Of the files that were converted."""
    bytes_after: int
    seconds: float
    replayable: bool
    """Whether a student can be shown the labelled crops: boxes and flips are stored."""
    notes: tuple[str, ...]
    """What the files do not say, and what became of it."""


def convert(
    files: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    format: str,
    options: PeerOptions,
    settings: ConversionSettings | None = None,
    overwrite: bool = False,
    workers: int | None = 1,
    begin: Callable[[PeerReader], Callable[[int, int], None]] | None = None,
) -> ConversionReport:
    """Make a store of another project's label files; a call that was interrupted goes on.

    Labels of k classes keep them, unless fewer are asked for; dense ones are cut to the k largest,
    with each image's list of likely classes fitted to the mean of all its views.

    Args:
        files: those that are converted, a file or a folder. path: the new store.
        format: one of ``labelstore.peers.choose.READERS``.
        options: what the files do not say of themselves: classes, photos.
        settings: the same of labels, and how they are stored.
        overwrite: replace a store that is at ``path``.
        workers: processes that read, check and encode, on Linux: forks of this one, each with a
            block of labels in memory. None: one a core, up to eight. The store is the same.
        begin: called with the reader before labels are read; what it returns is called with the
            images and views done since it was called last.

    Raises:
        FormatError, CorruptError, LabelError: a file, which is named, is none of the format,
        damaged, or holds what is no label. UsageError: what the files do not say is missing, or
        settings do not fit. MismatchError: another store is at ``path``, or the photos are others
        than the labels'.
    """
    settings = settings or ConversionSettings()
    if same_place(path, files):
        raise UsageError(f"{path} is what is converted: choose another name for the store.")
    started = time.monotonic()
    reader = open_peer(format, files, options)
    truth = None
    if settings.targets is not None and reader.num_classes is not None:
        truth = settings.targets(reader)
    manifest, truth = _manifest(reader, format, path, settings, options.boxes, truth)
    stored = stored_manifest(path, overwrite=overwrite)
    units = unit_images_of(path, settings.layout, manifest.group_views, stored)
    manifest = dataclasses.replace(manifest, unit_images=units)
    tell = None if begin is None else begin(reader)
    make = functools.partial(_block, reader, manifest)
    with (
        contextlib.closing(BlockMaker(make, path, manifest.num_blocks, workers)) as maker,
        StoreWriter(path, manifest, reader.keys, truth, overwrite=overwrite) as writer,
    ):
        blocks = maker.write(writer, tell)
    store = Store(path)
    return ConversionReport(
        path=str(place_of(path)),
        format=format,
        num_images=manifest.num_images,
        num_views=manifest.num_views,
        k=manifest.k,
        blocks_made=blocks,
        bytes_before=_bytes_at(Path(files)),
        bytes_after=bytes_of(store),
        seconds=round(time.monotonic() - started, 3),
        replayable=manifest.law is not None,
        notes=tuple(reader.notes),
    )


def _bytes_at(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(os.stat(f"{path}/{name}").st_size for name in walk(path))
    return path.stat().st_size


def _manifest(
    reader: PeerReader,
    format: str,
    path: str | os.PathLike[str],
    settings: ConversionSettings,
    boxes: bool,
    targets: npt.ArrayLike | None,
) -> tuple[Manifest, npt.NDArray[np.int32]]:
    """What the store will be, and its ground truth."""
    if reader.num_classes is None:
        raise UsageError(
            f"{format} files do not say how many classes the teacher has, and a label's tail is "
            "spread over all of them: give the number of classes.",
            arguments=("num_classes",),
        )
    num_images = len(reader.keys)
    truth = reader.targets if targets is None else np.asarray(targets)
    if truth is None:
        truth = np.full(num_images, -1, dtype=np.int32)
    check_table(reader.keys, truth, num_images, reader.num_classes)
    truth = truth.astype(np.int32)
    temperature = _temperature(reader, format, settings)
    store = _store_settings(reader, reader.num_classes, temperature, settings)
    k = store.k or 1
    producer = {LABELS: reader.digest, CONVERTED_FROM: format, **reader.extra}
    if settings.teacher_name is not None:
        producer[TEACHER] = settings.teacher_name
    manifest = Manifest(
        num_images=num_images,
        num_views=reader.num_views,
        num_classes=reader.num_classes,
        fingerprint=fingerprint(reader.keys, truth),
        law=EXPLICIT if reader.explicit and boxes else reader.law,
        label_type=reader.label_type,
        temperature=temperature,
        class_names=reader.class_names,
        producer=producer,
        **{
            "k": k,
            "block_images": array_block_images(num_images, reader.num_views, k),
            "group_views": min(backend_of(path).group_views, reader.num_views),
            **store.chosen(),
        },
    )
    return manifest, truth


def _temperature(reader: PeerReader, format: str, settings: ConversionSettings) -> float | None:
    asked = settings.temperature
    if reader.values == "logits":
        return 1.0 if asked is None else asked
    if asked is not None and reader.temperature not in (None, asked):
        raise UsageError(
            f"the temperature is {asked:g}, and {format} labels are of a softmax at "
            f"{reader.temperature:g}: leave it out.",
            arguments=("temperature",),
        )
    return reader.temperature if asked is None else asked


def _store_settings(
    reader: PeerReader, num_classes: int, temperature: float | None, settings: ConversionSettings
) -> StoreSettings:
    """How labels are stored: of a fidelity, or as they are."""
    asked, sparse = settings.store, reader.values == "top-k"
    if sparse and asked.k is not None and reader.k is not None and asked.k > reader.k:
        raise UsageError(
            f"k is {asked.k}, expected at most {reader.k}, what the files hold.", arguments=("k",)
        )
    fidelity = settings.fidelity or (None if sparse else "balanced")
    if fidelity is not None and fidelity not in FIDELITIES:
        raise UsageError(
            f"the fidelity is {fidelity!r}, expected one of {', '.join(FIDELITIES)}.",
            arguments=("fidelity",),
        )
    most = num_classes if reader.k is None else reader.k
    base = StoreSettings(k=most, quantizer=codecs.DEFAULT, prior_size=0)
    if fidelity is not None and reader.label_type == "top-k":
        base = FIDELITIES[fidelity]
        base = dataclasses.replace(
            base,
            k=min(base.k or most, most),
            prior_size=min(base.prior_size or 0, num_classes),
            quantizer=suiting(base.quantizer or codecs.DEFAULT, temperature or 1.0, num_classes),
        )
    if asked.k is not None:
        # A fidelity's mass goes with its own number of classes.
        base = dataclasses.replace(base, top_p=None)
    return dataclasses.replace(base, **asked.chosen())


def _block(reader: PeerReader, manifest: Manifest, rows: slice) -> BlockData:
    """The data of a run of images."""
    count = rows.stop - rows.start
    data, lists = empty_block(manifest, count), BlockPriors(manifest, count)
    sizes: dict[str, Any] = {
        "widths": np.full(count, -1, dtype=np.int32),
        "heights": np.full(count, -1, dtype=np.int32),
        "digests": np.zeros(count, dtype=np.uint64),
    }
    wide = manifest.num_classes if reader.values != "top-k" else manifest.k
    step = max(1, min(_RUN_IMAGES, _RUN_ENTRIES // (manifest.num_views * wide)))
    for start in range(rows.start, rows.stop, step):
        numbers = range(start, min(start + step, rows.stop))
        part = slice(start - rows.start, numbers.stop - rows.start)
        labels = reader.images(numbers)
        indices, probs, means = _top_k(labels, reader, manifest)
        data.indices[part], data.probs[part] = indices[..., : manifest.k], probs[..., : manifest.k]
        if data.boxes is not None and data.flips is not None:
            if labels.boxes is None or labels.flips is None:
                raise LabelError(f"the labels of {reader.keys[start]!r} have no boxes.")
            data.boxes[part], data.flips[part] = labels.boxes, labels.flips
        for name, of_all in sizes.items():
            known = getattr(labels, name)
            if known is not None:
                of_all[part] = known
        if manifest.prior_size:
            if means is None:
                labels_of = (
                    TopK(of_image, own_probs, manifest.num_classes)
                    for of_image, own_probs in zip(indices, probs, strict=True)
                )
                means = np.stack([mean_distribution(label.recover()) for label in labels_of])
            places = np.arange(part.start, part.stop)
            lists.fit(places, means, data.indices[part], data.probs[part])
    return dataclasses.replace(data, **sizes, **lists.arrays())


def _top_k(
    labels: PeerLabels, reader: PeerReader, manifest: Manifest
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float64] | None]:
    """(n, V, k) class ids and probabilities, and of dense labels (n, C) means, else None."""
    if labels.dense is None:
        if labels.indices is None or labels.probs is None:
            raise LabelError(f"the files of {reader.keys[0]!r} hold no labels.")
        return labels.indices, _at_most_one(labels.probs), None
    probs = labels.dense.astype(np.float64)
    if reader.values == "logits":
        probs /= manifest.temperature or 1.0
        probs -= probs.max(axis=-1, keepdims=True)
        np.exp(probs, out=probs)
        probs /= probs.sum(axis=-1, keepdims=True)
    # Of equal probabilities that of the smaller class id comes first, as for a teacher's.
    order = np.argsort(-probs, axis=-1, kind="stable")[..., : manifest.k]
    values = np.take_along_axis(probs, order, axis=-1)
    return order.astype(np.int32), values.astype(np.float32), probs.mean(axis=1)


def _at_most_one(probs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Probabilities (..., k) of which those of rounded values that sum to more than 1 are scaled.

    Half precision does that to a confident teacher's. As they are, a store would leave out their
    smallest classes.
    """
    total = probs[..., 0].astype(np.float64)
    for place in range(1, probs.shape[-1]):
        total += probs[..., place]
    if total.max(initial=0.0) <= 1:
        return probs
    # Of float64 any label's may be more once it is rounded.
    over = total > 1 if probs.dtype == np.float32 else np.ones(total.shape, dtype=bool)
    # Few labels, mostly; they keep their order in memory, in which sums depend on it.
    by_places = probs.strides[-1] > probs.strides[-2]
    rows = np.moveaxis(np.moveaxis(probs, -1, 0)[:, over], 0, -1) if by_places else probs[over]
    total = rows.sum(axis=-1, keepdims=True, dtype=np.float64)
    scaled = np.where(total > 1, rows / np.maximum(total, 1e-30), rows).astype(np.float32)
    # What rounding to float32 leaves above 1.
    rest = scaled.sum(axis=-1, keepdims=True, dtype=np.float64) > 1
    result = probs.astype(np.float32)
    result[over] = np.where(rest, scaled * np.float32(1 - 2**-22), scaled)
    return result
