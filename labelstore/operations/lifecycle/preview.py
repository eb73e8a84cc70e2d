"""A sample of a store's labels as one small Parquet file that any tool shows."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import NotFoundError
from labelstore.store.indexing import evenly_spaced
from labelstore.store.store import opened
from labelstore.teachers.class_names import human_names

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pyarrow as pa

    from labelstore.store.store import Store

__all__ = ["preview", "preview_table"]

IMAGES, VIEWS, CLASSES = 50, 4, 5
"""Of the sample: images, views of each, and classes of each label, at most."""


def preview(store: Store | str | os.PathLike[str]) -> bytes:
    """`preview_table` as a Parquet file.

    Raises:
        Those of `preview_table`.
    """
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(preview_table(store), file, compression="zstd")
    return file.getvalue()


def preview_table(store: Store | str | os.PathLike[str]) -> pa.Table:
    """Labels of a sample, a row for each view: the first views of images that are evenly spaced.

    Args:
        store: a finished store, open or as a path or URL.

    Returns:
        a table with the columns ``key`` (string), ``view`` (int32), ``target`` and ``target_name``
        (int32 and string, null where unknown), ``classes`` (list of int32, likeliest first),
        ``names`` (list of string, null where classes have no names), ``probabilities`` (list of
        float32, as they are stored), ``box`` (list of int32: top, left, height and width in
        pixels of the upright photo, null where unknown) and ``flip`` (bool, null where unknown).

    Raises:
        IncompleteError: the store is not finished. NotFoundError: none of its images has labels.
        CorruptError: it is damaged.
    """
    import pyarrow as pa

    store = opened(store)
    store.require_complete()
    labelled = np.flatnonzero(store.labelled())
    if not len(labelled):
        raise NotFoundError(
            f"none of the {store.num_images} images of {store.path} has labels: there is nothing "
            "to show a sample of."
        )
    rows = labelled[evenly_spaced(len(labelled), min(IMAGES, len(labelled)))]
    views = np.arange(min(VIEWS, store.num_views))
    labels = store.read(rows[:, None], views)
    names = human_names(store.manifest)
    targets = np.repeat(store.targets[rows], len(views)).tolist()
    count = min(CLASSES, store.k)
    classes = labels.indices[..., :count].reshape(-1, count)
    probs = labels.probs[..., :count].reshape(-1, count)
    stored = [_stored(*pair) for pair in zip(classes, probs, strict=True)]
    boxes, flips = _crops(store, rows, views)
    columns: dict[str, tuple[list[Any], pa.DataType]] = {
        "key": ([store.keys[row] for row in rows for _ in views], pa.string()),
        "view": (np.tile(views, len(rows)).tolist(), pa.int32()),
        "target": ([None if target < 0 else target for target in targets], pa.int32()),
        "target_name": ([_name(names, target) for target in targets], pa.string()),
        "classes": ([pair[0] for pair in stored], pa.list_(pa.int32())),
        "names": (
            [None if names is None else [names[c] for c in pair[0]] for pair in stored],
            pa.list_(pa.string()),
        ),
        "probabilities": ([pair[1] for pair in stored], pa.list_(pa.float32())),
        "box": (boxes, pa.list_(pa.int32())),
        "flip": (flips, pa.bool_()),
    }
    return pa.table({name: pa.array(values, kind) for name, (values, kind) in columns.items()})


def _stored(classes: Any, probs: Any) -> tuple[list[int], list[float]]:
    """A label without the places that hold nothing."""
    return classes[probs > 0].tolist(), probs[probs > 0].tolist()


def _name(names: Sequence[str] | None, target: int) -> str | None:
    return None if names is None or target < 0 else names[target]


def _crops(store: Store, rows: Any, views: Any) -> tuple[list[Any], list[Any]]:
    """Boxes and flips of the views; None each where the store does not tell them."""
    if store.law is None:
        nothing = [None] * (len(rows) * len(views))
        return nothing, nothing
    crops = store.views(rows[:, None], views)
    return crops.box.reshape(-1, 4).tolist(), crops.flip.reshape(-1).tolist()
