"""How a slab's file is filled: with verified chunks, by several threads, within a bound."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from labelstore.store.slabs import shared_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from labelstore.store.chunks.reader import BlockReader
    from labelstore.store.slabs.file_layout import Layout
    from labelstore.store.slabs.shared_file import SharedArrays, SharedFileWriter
    from labelstore.store.slabs.slab import Codes, SlabLayouts

__all__ = ["NoRoomError", "SlabMaker", "bytes_of_others"]

_BATCH = 16
"""Blocks that a thread reads at a time."""


class NoRoomError(Exception):
    """A slab does not fit into the bound beside what other processes hold."""


def bytes_of_others(folder: Path, layout: Layout) -> int:
    """Bytes of all slabs of a store in a folder but one, of all processes."""
    return shared_file.used(folder, layout.prefix, besides=layout.name)


class SlabMaker:
    """Makes the slabs of one store, or takes those that another process makes."""

    def __init__(self, reader: BlockReader, layouts: SlabLayouts) -> None:
        """``reader`` reads and verifies chunks; ``layouts`` say what each slab holds."""
        self._reader = reader
        self._layouts = layouts
        self._block_images = reader.manifest.block_images

    def make(
        self,
        folder: Path,
        group: int | None,
        blocks: int,
        slab_bytes: int,
        go_on: Callable[[], None] = lambda: None,
    ) -> SharedArrays:
        """A slab's file, or that of the prior lists, made here or by another process.

        Args:
            folder: where slabs lie.
            group: of views; None for the prior lists.
            blocks: how many of the first blocks it holds.
            slab_bytes: of all slabs of the store in the folder; 0 for no bound.
            go_on: called now and then, and may raise to give up.

        Raises:
            NoRoomError: it exceeds the bound together with what others have taken meanwhile.
            OSError, StoreError: it cannot be made. IncompleteError, CorruptError: labels are
            missing or damaged.
        """
        layout = self._layouts.layout(group, blocks)

        def fill_part(writer: SharedFileWriter, part: range) -> None:
            go_on()
            self._fill(writer, group, part)

        def fill(writer: SharedFileWriter) -> None:
            # Its own room is taken by now: of two who looked at the same time one sees the other.
            if slab_bytes and bytes_of_others(folder, layout) + layout.nbytes > slab_bytes:
                raise NoRoomError
            starts = range(0, blocks, _BATCH)
            parts = [range(start, min(start + _BATCH, blocks)) for start in starts]
            threads = self._reader.threads
            if threads == 1 or len(parts) == 1:
                for part in parts:
                    fill_part(writer, part)
                return
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(functools.partial(fill_part, writer), parts):
                    pass

        return shared_file.make(folder, layout, fill, go_on)

    def _fill(self, writer: SharedFileWriter, group: int | None, blocks: range) -> None:
        runs: Iterator[tuple[int, Codes]]
        if group is None:
            runs = zip(blocks, self._reader.prior_codes_of(blocks), strict=True)
        else:
            runs = self._reader.read_runs(blocks, group)
        for first, codes in runs:
            for name, values in codes.items():
                writer.put(name, first * self._block_images, values)
