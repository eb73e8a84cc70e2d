"""Which crops of a store a page shows: a sample for Figure 1, and examples by confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.ferkd import FerKD
    from labelstore.store.store import Store

    Int64Array = npt.NDArray[np.int64]

__all__ = ["examples", "figure_1", "sampled_crops"]

SAMPLE_CROPS = 2000
"""Crops of Figure 1, about."""

SAMPLE_BLOCKS = 64
"""Blocks that they come from at most: each is read and decoded."""

EXAMPLE_BINS, EXAMPLES_A_BIN = 40, 3
"""Examples are chosen in so many ranges of confidence, so that some are near any threshold."""


def sampled_crops(store: Store) -> tuple[Int64Array, Int64Array]:
    """Images (n,) and views (n,) of about ``SAMPLE_CROPS`` crops, or of all where they are fewer.

    They come from blocks, images and groups of views at even distances: a few chunks are read.
    """
    labelled = store.labelled()
    count, total = store.num_views, int(labelled.sum()) * store.num_views
    if total <= SAMPLE_CROPS:
        rows, views = np.meshgrid(np.flatnonzero(labelled), np.arange(count), indexing="ij")
        return rows.reshape(-1), views.reshape(-1)
    manifest = store.manifest
    runs = [manifest.block_slice(block) for block in range(manifest.num_blocks)]
    images_of_blocks = [run.start + np.flatnonzero(labelled[run]) for run in runs]
    blocks = _spread([images for images in images_of_blocks if images.size], SAMPLE_BLOCKS)
    crops_per_block = -(-SAMPLE_CROPS // len(blocks))
    all_rows, all_views = [], []
    for number, images in enumerate(blocks):
        some = _spread(images, crops_per_block)
        each = min(-(-crops_per_block // len(some)), count)
        # Another group of views in each block.
        start = number * manifest.num_groups // len(blocks) * manifest.group_views
        all_rows.append(np.repeat(some, each))
        all_views.append(np.tile((start + np.arange(each)) % count, len(some)))
    rows, views = np.concatenate(all_rows), np.concatenate(all_views)
    chosen = _spread(np.arange(len(rows)), SAMPLE_CROPS)
    return rows[chosen], views[chosen]


def _spread(items: Any, count: int) -> Any:
    """``count`` of the items at even distances, all where they are fewer."""
    if len(items) <= count:
        return items
    places = np.arange(count) * len(items) // count
    return items[places] if isinstance(items, np.ndarray) else [items[place] for place in places]


def figure_1(store: Store, rows: Int64Array, views: Int64Array) -> dict[str, Any] | None:
    """``crops`` of ``page_data``: of images and views (n,)."""
    width, height = (side.astype(np.float64) for side in store.sizes(rows))
    known = (width > 0) & (height > 0)
    if store.law is None or not known.any():
        return None
    rows, views, width, height = rows[known], views[known], width[known], height[known]
    box = store.views(rows, views).box.astype(np.float64)
    columns: dict[str, Any] = {
        "x": (box[:, 1] + box[:, 3] / 2) / width,
        "y": (box[:, 0] + box[:, 2] / 2) / height,
        "area": box[:, 2] * box[:, 3] / (width * height),
        "confidence": store.read(rows, views).confidence,
    }
    return {name: [round(float(x), 4) for x in column] for name, column in columns.items()}


def examples(
    store: Store, rule: FerKD, rows: Int64Array, views: Int64Array
) -> list[dict[str, Any]]:
    """``examples`` of ``page_data``, among images and views (n,)."""
    if rule.confidence == "target":
        known = store.targets[rows] >= 0
        rows, views = rows[known], views[known]
    if not rows.size:
        return []
    topk = store.read(rows, views)
    values = rule.confidence_of(None, topk, store.targets[rows])
    bins = np.minimum((values * EXAMPLE_BINS).astype(np.int64), EXAMPLE_BINS - 1)
    chosen: list[int] = []
    for number in range(EXAMPLE_BINS):
        inside = np.flatnonzero(bins == number)
        # Of different images as far as there are, and at even distances in the range.
        _, first = np.unique(rows[inside], return_index=True)
        inside = inside[first] if len(first) >= EXAMPLES_A_BIN else inside
        inside = inside[np.argsort(values[inside], kind="stable")]
        chosen += _spread(inside, EXAMPLES_A_BIN).tolist()
    chosen.sort(key=lambda place: float(values[place]))
    return [
        {
            "image": int(rows[place]),
            "key": store.keys[rows[place]],
            "view": int(views[place]),
            "confidence": float(values[place]),
            "class": int(topk.indices[place, 0]),
            "picture": None,
        }
        for place in chosen
    ]
