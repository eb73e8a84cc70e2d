"""Write a store from arrays."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import xxhash

from labelstore.errors import (
    LabelError,
    UsageError,
)
from labelstore.format import codecs
from labelstore.format.blocks import BlockData, BlockPriors, check_table
from labelstore.format.manifest import EXPLICIT, Manifest, fingerprint
from labelstore.format.settings import StoreSettings, array_block_images
from labelstore.store.backends.registry import backend_of, unit_images_of
from labelstore.store.rewrite import write_blocks
from labelstore.store.store import Store
from labelstore.store.writer import LABELS, StoreWriter
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    import numpy.typing as npt

    from labelstore.format.settings import LabelLayout
    from labelstore.labels.top_k import LabelType
    from labelstore.views.law import ViewLaw

__all__ = ["WriteOptions", "write"]

PRIOR_SIZE = 64
"""Classes of an image's list, where means are given and no other size."""


class WriteOptions(TypedDict, total=False):
    """What ``write`` may be told besides the labels; see there."""

    widths: npt.ArrayLike | None
    heights: npt.ArrayLike | None
    law: ViewLaw | None
    boxes: npt.ArrayLike | None
    flips: npt.ArrayLike | None
    means: npt.ArrayLike | None
    prior_size: int
    quantizer: str
    label_type: LabelType
    temperature: float | None
    class_names: Sequence[str] | None
    teacher: Mapping[str, Any] | None
    block_images: int | None
    group_views: int | None
    layout: LabelLayout | None


def write(
    path: str | os.PathLike[str],
    indices: npt.ArrayLike,
    probs: npt.ArrayLike,
    num_classes: int,
    keys: Sequence[str] | None = None,
    targets: npt.ArrayLike | None = None,
    *,
    overwrite: bool = False,
    **options: Unpack[WriteOptions],
) -> Store:
    """Make a store of labels from any producer.

    Args:
        path: the new store's folder, by habit named ``*.zarr``.
        indices: (images, views, k) class ids, 0..num_classes-1, different within a row.
        probs: (images, views, k) probabilities, largest first, sum at most 1. Arrays are read
            block by block, so memory maps of any size will do.
        num_classes: of the teacher.
        keys: one unique string an image, as a rule its path in the data set; ``"0"``, ``"1"``...
            when None.
        targets: (images,) ground-truth class ids, -1 unknown; all unknown when None.
        overwrite: replace a store that is there.
        options: keywords, each of which may be left out:

            - ``widths``, ``heights``: (images,) pixels of the upright images, needed with ``law``;
            - ``law``: the view law that the labelled crops follow, or ``boxes``, ``flips``:
              (images, views, 4) and (images, views), explicit crops. With neither, labels can be
              read but a data set cannot replay their views;
            - ``means``: (images, num_classes), the mean of each image's views' full distributions.
              With it each image keeps a list of its ``prior_size`` (64) likeliest classes, and the
              tail of its labels is spread like that;
            - ``quantizer``: a name from ``labelstore.format.codecs``;
            - ``label_type`` ("top-k"), ``temperature``, ``class_names``, ``teacher``: for the
              manifest;
            - ``block_images``, ``group_views``: sizes of blocks and groups; the defaults suit;
            - ``layout``: how labels lie in a Zarr store: ``"chunks"`` (the default), or
              ``"units"``, which are read alone at random (version 2 of the format; no other Zarr
              library reads them).

    Returns:
        the finished store, open. A call that was interrupted goes on where it stopped when it is
        repeated.

    Raises:
        LabelError, UsageError: arrays that do not fit. MismatchError: another store is there.
        TypeError: a keyword that is none of these.
    """
    unknown = sorted(options.keys() - WriteOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"write() got an unexpected keyword argument {unknown[0]!r}")
    ids, values = _array_like(indices), _array_like(probs)
    if ids.ndim != 3 or ids.shape != values.shape or not ids.size:
        raise LabelError(
            f"indices have shape {ids.shape} and probs {values.shape}, expected two equal shapes "
            "(images, views, k)."
        )
    num_images, num_views, k = ids.shape
    names = [str(index) for index in range(num_images)] if keys is None else list(keys)
    truth = np.full(num_images, -1) if targets is None else np.asarray(targets)
    check_table(names, truth, num_images, num_classes)
    class_names = options.get("class_names")
    group_views = min(options.get("group_views") or backend_of(path).group_views, num_views)
    settings = StoreSettings(
        k=k,
        quantizer=options.get("quantizer", codecs.DEFAULT),
        prior_size=_prior_size(options, num_classes),
        block_images=options.get("block_images") or array_block_images(num_images, num_views, k),
        group_views=group_views,
    )
    manifest = Manifest(
        num_images=num_images,
        num_views=num_views,
        num_classes=num_classes,
        fingerprint=fingerprint(names, truth.astype(np.int32)),
        law=_law(options, names),
        label_type=options.get("label_type", "top-k"),
        temperature=options.get("temperature"),
        class_names=None if class_names is None else tuple(class_names),
        teacher=options.get("teacher"),
        unit_images=unit_images_of(path, options.get("layout"), group_views),
        **settings.chosen(),
    )
    optional = {
        "widths": options.get("widths"),
        "heights": options.get("heights"),
        "boxes": options.get("boxes"),
        "flips": options.get("flips"),
    }
    facts = {name: _array_like(value) for name, value in optional.items() if value is not None}
    arrays = {"indices": ids, "probs": values, **facts}
    means = options.get("means")
    if means is not None:
        arrays["means"] = _array_like(means)
        if arrays["means"].shape != (num_images, num_classes):
            raise LabelError(
                f"means have shape {arrays['means'].shape}, expected {(num_images, num_classes)}: "
                "the mean distribution of each image."
            )
    # Stores of other labels have other ids, though all else is the same.
    manifest = dataclasses.replace(manifest, producer={LABELS: _digest(arrays, manifest)})

    def block(rows: slice) -> BlockData:
        lists = BlockPriors(manifest, rows.stop - rows.start)
        if "means" in arrays:
            means = np.asarray(arrays["means"][rows])
            lists.fit(np.arange(len(means)), means, ids[rows], values[rows])
        extra: dict[str, Any] = {name: np.asarray(array[rows]) for name, array in facts.items()}
        return BlockData(ids[rows], values[rows], **extra, **lists.arrays())

    with StoreWriter(path, manifest, names, truth.astype(np.int32), overwrite=overwrite) as writer:
        write_blocks(writer, block)
    return Store(path)


def _prior_size(options: WriteOptions, num_classes: int) -> int:
    if options.get("means") is None:
        return 0
    return min(options.get("prior_size", PRIOR_SIZE), num_classes)


def _law(options: WriteOptions, keys: Sequence[str]) -> Any:
    """The manifest's law: as given, explicit where there are crops, None for neither."""
    law = options.get("law")
    explicit = options.get("boxes") is not None or options.get("flips") is not None
    if explicit and law is not None:
        raise UsageError("both a law and boxes were given: a view has one or the other.")
    if law is not None and (options.get("widths") is None or options.get("heights") is None):
        raise UsageError("a law was given without widths and heights: boxes depend on both.")
    if explicit:
        return EXPLICIT
    return None if law is None else law.among(hash_keys(keys))


def _digest(arrays: Mapping[str, npt.NDArray[Any]], manifest: Manifest) -> str:
    """xxh3_128, as hexadecimal, of arrays, block by block."""
    digest = xxhash.xxh3_128()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        for block in range(manifest.num_blocks):
            rows = np.ascontiguousarray(array[manifest.block_slice(block)])
            digest.update(rows.reshape(-1).view(np.uint8).data)
    return str(digest.hexdigest())


def _array_like(value: npt.ArrayLike) -> npt.NDArray[Any]:
    """Arrays and memory maps as they are, anything else as an array."""
    return value if isinstance(value, np.ndarray) else np.asarray(value)
