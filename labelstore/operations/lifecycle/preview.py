"""A sample of a store's labels as one small Parquet file that any tool shows."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import NotFoundError
from labelstore.operations.inspection.show.image import operations_of
from labelstore.peers.exports.hugging_face import label_table
from labelstore.peers.exports.part import LabelRun
from labelstore.store.indexing import evenly_spaced
from labelstore.store.store import opened
from labelstore.teachers.class_names import human_names

if TYPE_CHECKING:
    import os

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
        a table as ``labelstore.peers.exports.hugging_face.label_table`` has it, of the likeliest
        classes alone. Where views are augmented, ``operations`` tells what was done to each crop
        after it was mirrored: a list of ``name`` (string), ``values`` (list of float64), and
        ``partner`` (string) and ``partner_view`` (int32) of what it was mixed with, else null.

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
    shown = np.arange(min(VIEWS, store.num_views))
    views = np.broadcast_to(shown, (len(rows), len(shown)))
    crops = None if store.law is None else store.views(rows[:, None], views)
    run = LabelRun(rows, views, store.read(rows[:, None], views), crops)
    table = label_table(store, run, human_names(store.manifest), CLASSES)
    if crops is None or not crops.stages:
        return table
    # A box alone would show other pixels than were labelled.
    operations = [operations_of(crops, place, store.keys) for place in np.ndindex(views.shape)]
    return table.append_column("operations", pa.array(operations, _operations_type()))


def _operations_type() -> pa.DataType:
    import pyarrow as pa

    fields = [
        ("name", pa.string()),
        ("values", pa.list_(pa.float64())),
        ("partner", pa.string()),
        ("partner_view", pa.int32()),
    ]
    return pa.list_(pa.struct(fields))
