"""Which views are cut, in which order: the same in a resumed run as in an undisturbed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

__all__ = ["CropRun", "crop_runs"]


@dataclass(frozen=True)
class CropRun:
    """Consecutive views of one image."""

    block: int
    row: int
    """The image's place in its block."""
    image: int
    views: range
    start: int
    """The place of its first view in the batch, as long as every photo can be decoded."""
    teachers: tuple[int, ...]
    """Numbers of the teachers that are to label them."""
    whole_image: bool
    """Whether all of the image's views are labelled, and not only those from a later one on."""
    last_of_image: bool
    last_of_batch: bool
    last_of_block: bool


def crop_runs(
    blocks: Iterable[tuple[int, slice, tuple[int, ...]]],
    num_views: int,
    batch_size: int,
    longest: int,
    first_views: npt.NDArray[np.int64] | None = None,
) -> Iterator[CropRun]:
    """Runs in order: batches never cross a block, so resuming changes none.

    Args:
        blocks: block, its images, and the numbers of the teachers that are to label them.
        num_views: of each image.
        batch_size: views of a batch. longest: views of a run, at most.
        first_views: (N,) of each image, the first view to cut; the first of all when None.
    """
    for block, rows, teachers in blocks:
        count = rows.stop - rows.start
        firsts = [0] * count if first_views is None else first_views[rows].tolist()
        total = sum(num_views - first for first in firsts)
        position = 0
        for row, first in enumerate(firsts):
            view = first
            while view < num_views:
                start = position % batch_size
                room = batch_size - start
                length = min(num_views - view, room, longest)
                position += length
                yield CropRun(
                    block=block,
                    row=row,
                    image=rows.start + row,
                    views=range(view, view + length),
                    start=start,
                    teachers=teachers,
                    whole_image=first == 0,
                    last_of_image=view + length == num_views,
                    last_of_batch=length == room or position == total,
                    last_of_block=position == total,
                )
                view += length
