"""A slab: one group of views of a store's images in memory, and how large it is.

A slab is named by the store's id and the commit digests of its chunks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from labelstore.errors import NotFoundError
from labelstore.format.arrays import prior_arrays, view_arrays
from labelstore.store.chunks.memory_cache import flat_take
from labelstore.store.indexing import as_array, common_shape
from labelstore.store.slabs.file_layout import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.labels.top_k import TopK
    from labelstore.store.chunks.label_decoder import LabelDecoder
    from labelstore.store.chunks.reader import BlockReader
    from labelstore.store.slabs.shared_file import SharedArrays

    Codes = dict[str, npt.NDArray[Any]]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["Slab", "SlabLayouts", "label_bytes"]


class Slab:
    """One group of views of the images 0..num_images-1, mapped."""

    def __init__(
        self, shared: SharedArrays, views: slice, num_images: int, decoder: LabelDecoder
    ) -> None:
        self._held = shared
        self._decoder = decoder
        self.views = views
        """The views of the group."""
        self.num_images = num_images
        """How many images, from the first on: all, or as many as the bound had room for."""
        self.nbytes = shared.nbytes
        """Bytes of memory, of all processes together."""
        self.path = shared.path
        """Its file."""
        self.closed = False
        """Whether it was given up."""

    @property
    def bytes_per_label(self) -> float:
        """Bytes of memory for each label."""
        labels = self.num_images * len(range(self.views.start, self.views.stop))
        return self.nbytes / labels

    def covers(self, images: Int64Array, views: Int64Array) -> npt.NDArray[np.bool_]:
        """(n,) bool: which views (n,) of images (n,) it holds."""
        inside = (views >= self.views.start) & (views < self.views.stop)
        return np.asarray(inside & (images < self.num_images))

    def read(self, images: npt.ArrayLike, views: npt.ArrayLike) -> TopK:
        """As ``Store.read``, of views that it holds; images by position.

        Raises:
            NotFoundError: another image or view.
        """
        rows, columns = as_array(images, "image"), as_array(views, "view")
        shape = common_shape(rows, columns)
        rows, columns = (
            np.broadcast_to(part, shape).reshape(-1).astype(np.int64) for part in (rows, columns)
        )
        outside = ~self.covers(rows, columns) | (rows < 0)
        if outside.any():
            place = int(np.argmax(outside))
            raise NotFoundError(
                f"view {columns[place]} of image {rows[place]} was asked for, this slab has views "
                f"{self.views.start} to {self.views.stop - 1} of images 0 to "
                f"{self.num_images - 1}: read it from the store."
            )
        return self._decoder.labels(rows, self.gather(rows, columns), shape)

    def gather(self, images: Int64Array, views: Int64Array) -> Codes:
        """Codes (n, ...) of views that it holds, by array name."""
        width = self.views.stop - self.views.start
        places = images * width + (views - self.views.start)
        return {name: flat_take(array, places, 2) for name, array in self._held.arrays.items()}

    def close(self) -> None:
        """Stop using it, here and in the store; the last process to do so frees the memory."""
        self.closed = True
        self._held.close()


def label_bytes(manifest: Manifest) -> int:
    """Bytes that a view's label takes in a slab, but for the slab's header and padding."""
    return sum(spec.dtype.itemsize * math.prod(spec.shape[2:]) for spec in view_arrays(manifest))


class SlabLayouts:
    """What the slabs of one store hold."""

    def __init__(self, reader: BlockReader) -> None:
        self._reader = reader
        self._manifest = reader.manifest
        self._layouts: dict[tuple[int | None, int], Layout] = {}

    def clear(self) -> None:
        """Forget what was committed."""
        self._layouts = {}

    def images(self, blocks: int) -> int:
        """Images of the first blocks."""
        return min(blocks * self._manifest.block_images, self._manifest.num_images)

    def layout(self, group: int | None, blocks: int) -> Layout:
        """The file of the first blocks' group of views; of all prior lists for None."""
        known = self._layouts.get((group, blocks))
        if known is not None:
            return known
        digests = self._reader.commits(blocks, group)
        images = self.images(blocks)
        if group is None:
            shapes = [(spec, spec.shape) for spec in prior_arrays(self._manifest)]
        else:
            views = self._manifest.group_slice(group)
            width = views.stop - views.start
            shapes = [
                (spec, (images, width, *spec.shape[2:])) for spec in view_arrays(self._manifest)
            ]
        layout = Layout(
            prefix=self._manifest.id,
            identity={
                "store": self._manifest.id,
                "group": group,
                "images": images,
                "commits": xxhash.xxh3_128_hexdigest(np.ascontiguousarray(digests).tobytes()),
            },
            arrays=[(spec.name, spec.dtype, shape) for spec, shape in shapes],
        )
        self._layouts[group, blocks] = layout
        return layout

    def lists(self) -> Layout:
        """The file of all prior lists."""
        return self.layout(None, self._manifest.num_blocks)

    def lists_fit(self, slab_bytes: int) -> bool:
        """Whether the prior lists may be shared: with them there is room for half a slab."""
        slab = self.layout(0, self._manifest.num_blocks).nbytes
        return self.lists().nbytes + slab / 2 <= slab_bytes

    def blocks(self, group: int, slab_bytes: int) -> int:
        """How many blocks a slab has: all where the bound has room for them."""
        every, room = self._manifest.num_blocks, slab_bytes
        if self._manifest.prior_size and self.lists_fit(slab_bytes):
            room -= self.lists().nbytes
        size = self.layout(group, every).nbytes
        if size <= room:
            return every
        # The files' headers and padding are a few pages.
        return max(int((room - 65536) * every // size), 0)

    def fitting(self, groups: Sequence[int], slab_bytes: int) -> list[int]:
        """Those of groups, in their order, whose slabs fit into a bound together; the first in any
        case, of which as many blocks are held as fit. None where nothing may be held."""
        if not slab_bytes:
            return []
        room = slab_bytes
        if self._manifest.prior_size and self.lists_fit(slab_bytes):
            room -= self.lists().nbytes
        chosen: list[int] = []
        for group in groups:
            room -= self.layout(group, self._manifest.num_blocks).nbytes
            if chosen and room < 0:
                break
            chosen.append(group)
        return chosen
