"""The commit row of a block: the digests by which readers know that it is what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.format.arrays import (
    IMAGES_COLUMN,
    PRIOR_COLUMN,
    commit_columns,
    group_digests,
    image_arrays,
    images_digest,
    prior_arrays,
    unit_columns,
    view_columns,
)
from labelstore.format.unit_blocks import UnitBlocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest

__all__ = ["commit_row"]


def commit_row(
    manifest: Manifest,
    block: int,
    arrays: Mapping[str, npt.NDArray[Any]],
    unit_digests: npt.NDArray[np.uint64] | None = None,
) -> npt.NDArray[np.uint64]:
    """The digests by which readers know that a block's arrays are what was committed.

    Args:
        manifest: of the store.
        block: the block's number.
        arrays: (n, ...) its codes, by name, of all arrays of images, of views and of prior lists.
        unit_digests: those that ``UnitBlocks.block_digests`` takes of them, where they are at hand.

    Returns:
        (columns,) uint64.
    """
    row = np.zeros(commit_columns(manifest), dtype="<u8")
    measured = {spec.name: arrays[spec.name] for spec in image_arrays(manifest)}
    row[IMAGES_COLUMN] = images_digest(manifest.id, block, measured)
    for name, columns in view_columns(manifest).items():
        digests = group_digests(manifest.id, name, block, arrays[name], manifest.group_views)
        row[columns.start : columns.stop] = digests
    if manifest.unit_images is not None:
        layout, groups = UnitBlocks(manifest), np.arange(manifest.num_groups)
        if unit_digests is None:
            unit_digests = layout.block_digests(block, arrays)
        blocks = np.full(len(groups), block)
        row[unit_columns(manifest)] = layout.row_digests(blocks, groups, unit_digests)
    lists = {spec.name: arrays[spec.name] for spec in prior_arrays(manifest)}
    if lists:
        row[PRIOR_COLUMN] = images_digest(manifest.id, block, lists, "prior")
    return row
