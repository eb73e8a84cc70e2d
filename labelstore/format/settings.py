"""How labels are to be stored, and how large blocks and groups are where nobody says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

__all__ = [
    "ACCELERATOR_BLOCK_VIEWS",
    "CPU_BLOCK_VIEWS",
    "LEAST_BLOCK_LABELS",
    "MOST_BLOCK_IMAGES",
    "Encoding",
    "LabelLayout",
    "StoreOptions",
    "StoreSettings",
    "array_block_images",
    "default_block_images",
    "default_group_views",
]

Encoding = Literal["codes", "plain"]
"""What lies in a store's arrays: the quantizer's and the lists' compact codes, or class ids and
the probabilities that those codes stand for."""

LabelLayout = Literal["chunks", "units"]
"""How labels lie in a Zarr store: in chunks, groups of views of a block, that any Zarr library
reads; or in units of a few images each, which are read alone at random."""

MOST_BLOCK_IMAGES = 1024
"""Images of a block, at most, unless more are asked for."""

LEAST_BLOCK_LABELS = 16384
"""Labels of a block of labels that lie in memory, at least."""

_MOST_BLOCK_ENTRIES = 1 << 22
"""Classes of all labels of a block that is larger for the sake of ``LEAST_BLOCK_LABELS``."""

CPU_BLOCK_VIEWS, ACCELERATOR_BLOCK_VIEWS = 2048, 131_072
"""Views of a teacher's block: about two minutes of one that labels 17, or 1,100, views a second."""

MOST_BLOCKS = 2048
"""Blocks of a teacher's run, about at most: each is some 20 files."""

CHUNK_LABELS = 4096
"""Labels of a chunk, what is read at once: of a block's group of views, about at least."""


@dataclass(frozen=True)
class StoreSettings:
    """How labels are to be stored; None: as who makes the store says of each setting.

    The ranges are those of ``Manifest``, which refuses others.
    """

    k: int | None = None
    """Classes stored of each label."""
    quantizer: str | None = None
    """A name from ``labelstore.format.codecs``."""
    prior_size: int | None = None
    """Classes of each image's prior list; 0 for none."""
    top_p: float | None = None
    """Keep only as many of the k classes as this probability mass needs."""
    block_images: int | None = None
    """Images of a block, the unit that is committed."""
    group_views: int | None = None
    """Views of a group, the unit that is read."""

    def chosen(self) -> dict[str, Any]:
        """The settings that are not None, by name: what a ``Manifest`` is to have instead."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class StoreOptions(TypedDict, total=False):
    """``StoreSettings`` as the keywords of a function."""

    k: int | None
    quantizer: str | None
    prior_size: int | None
    top_p: float | None
    block_images: int | None
    group_views: int | None


def default_block_images(num_images: int, num_views: int, block_views: int) -> int:
    """Images of a block of a teacher's run, which loses the blocks in work when it is killed.

    As many as have ``block_views`` views, a power of two up to ``MOST_BLOCK_IMAGES``; more where
    there were more than ``MOST_BLOCKS`` blocks. It follows from numbers that all processes of a run
    know, not from how fast one of them is: they make one store together, and its identity holds
    its layout.
    """
    images = 1 << max(block_views // num_views, 1).bit_length() - 1
    fewest = 1 << (-(-num_images // MOST_BLOCKS) - 1).bit_length()
    return min(max(images, fewest), MOST_BLOCK_IMAGES, num_images)


def default_group_views(num_views: int, block_images: int, least: int) -> int:
    """Views of a group: as many as make a chunk of ``CHUNK_LABELS``, but ``least`` or more."""
    return min(max(least, CHUNK_LABELS // block_images), num_views)


def array_block_images(num_images: int, num_views: int, k: int) -> int:
    """Images of a block of labels that lie in memory: 1,024, and more where views are few.

    A block costs some 20 files that have to reach the disk, whatever is in it: none has fewer than
    ``LEAST_BLOCK_LABELS`` labels, but for the last, and where they are of very many classes: a
    block is encoded in memory.
    """
    labels = min(LEAST_BLOCK_LABELS, _MOST_BLOCK_ENTRIES // k)
    return min(num_images, max(MOST_BLOCK_IMAGES, labels // num_views))
