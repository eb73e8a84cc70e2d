"""Write a store from arrays."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xxhash

from labelstore.errors import (
    LabelError,
    UsageError,
)
from labelstore.format import codecs
from labelstore.format.blocks import BlockData, check_table, default_block_images
from labelstore.format.manifest import EXPLICIT, Manifest, fingerprint
from labelstore.labels import prior
from labelstore.store.backends.registry import backend_of
from labelstore.store.store import Store
from labelstore.store.writer import LABELS, StoreWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.labels.top_k import LabelType
    from labelstore.views.law import ViewLaw

__all__ = ["write"]


def write(
    path: str | os.PathLike[str],
    indices: npt.ArrayLike,
    probs: npt.ArrayLike,
    num_classes: int,
    keys: Sequence[str] | None = None,
    targets: npt.ArrayLike | None = None,
    *,
    widths: npt.ArrayLike | None = None,
    heights: npt.ArrayLike | None = None,
    law: ViewLaw | None = None,
    boxes: npt.ArrayLike | None = None,
    flips: npt.ArrayLike | None = None,
    means: npt.ArrayLike | None = None,
    prior_size: int = 64,
    quantizer: str = codecs.DEFAULT,
    label_type: LabelType = "top-k",
    temperature: float | None = None,
    class_names: Sequence[str] | None = None,
    teacher: Mapping[str, Any] | None = None,
    block_images: int | None = None,
    group_views: int | None = None,
    overwrite: bool = False,
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
        widths, heights: (images,) pixels of the upright images, needed with ``law``.
        law: the view law that the labelled crops follow, or
        boxes, flips: (images, views, 4) and (images, views), explicit crops. With neither, labels
            can be read but a data set cannot replay their views.
        means: (images, num_classes), the mean of each image's views' full distributions. With it
            each image keeps a list of its ``prior_size`` likeliest classes, and the tail of its
            labels is spread like that.
        quantizer: a name from ``labelstore.format.codecs``.
        label_type, temperature, class_names, teacher: for the manifest.
        block_images, group_views: layout; the defaults suit.
        overwrite: replace a store that is there.

    Returns:
        the finished store, open. A call that was interrupted goes on where it stopped when it is
        repeated.

    Raises:
        LabelError, UsageError: arrays that do not fit. MismatchError: another store is there.
    """
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
    kind: Literal["explicit"] | ViewLaw | None = law
    if boxes is not None or flips is not None:
        if law is not None:
            raise UsageError("both a law and boxes were given: a view has one or the other.")
        kind = EXPLICIT  # type: ignore[assignment]
    if law is not None and (widths is None or heights is None):
        raise UsageError("a law was given without widths and heights: boxes depend on both.")
    manifest = Manifest(
        num_images=num_images,
        num_views=num_views,
        num_classes=num_classes,
        k=k,
        fingerprint=fingerprint(names, truth.astype(np.int32)),
        law=kind,
        block_images=block_images or default_block_images(num_images),
        group_views=min(group_views or backend_of(path).group_views, num_views),
        quantizer=quantizer,
        prior_size=0 if means is None else min(prior_size, num_classes),
        label_type=label_type,
        temperature=temperature,
        class_names=None if class_names is None else tuple(class_names),
        teacher=teacher,
    )
    optional = {"widths": widths, "heights": heights, "boxes": boxes, "flips": flips}
    given = {name: _array_like(value) for name, value in optional.items() if value is not None}
    averages = None if means is None else _array_like(means)
    if averages is not None and averages.shape != (num_images, num_classes):
        raise LabelError(
            f"means have shape {averages.shape}, expected {(num_images, num_classes)}: the mean "
            "distribution of each image."
        )
    arrays = {"indices": ids, "probs": values, **given}
    if averages is not None:
        arrays["means"] = averages
    # Stores of other labels have other ids, though all else is the same.
    manifest = dataclasses.replace(manifest, producer={LABELS: _digest(arrays, manifest)})
    with StoreWriter(path, manifest, names, truth.astype(np.int32), overwrite=overwrite) as writer:
        for block in writer.pending_blocks():
            rows = manifest.block_slice(block)
            extra: dict[str, Any] = {name: np.asarray(value[rows]) for name, value in given.items()}
            if averages is not None:
                extra |= _priors(averages[rows], ids[rows], values[rows], manifest.prior_size)
            writer.write_block(block, BlockData(ids[rows], values[rows], **extra))
    return Store(path)


def _digest(arrays: Mapping[str, npt.NDArray[Any]], manifest: Manifest) -> str:
    """xxh3_128, as hexadecimal, of arrays, block by block."""
    digest = xxhash.xxh3_128()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        for block in range(manifest.num_blocks):
            rows = np.ascontiguousarray(array[manifest.block_slice(block)])
            digest.update(rows.reshape(-1).view(np.uint8).data)
    return str(digest.hexdigest())


def _priors(
    means: npt.NDArray[Any], ids: npt.NDArray[Any], probs: npt.NDArray[Any], size: int
) -> dict[str, npt.NDArray[Any]]:
    """The prior lists of a block's images, as ``BlockData`` has them."""
    fitted = [
        prior.fit(np.asarray(mean, dtype=np.float64), one, values, size)
        for mean, one, values in zip(means, ids, probs, strict=True)
    ]
    classes, codes, powers = zip(*fitted, strict=True)
    return {
        "prior_classes": np.stack(classes),
        "prior_probs": np.stack(codes),
        "prior_power": np.array(powers, dtype=np.uint8),
    }


def _array_like(value: npt.ArrayLike) -> npt.NDArray[Any]:
    """Arrays and memory maps as they are, anything else as an array."""
    return value if isinstance(value, np.ndarray) else np.asarray(value)
