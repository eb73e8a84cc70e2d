"""How many images a block has, and views a group, where nobody says."""

from __future__ import annotations

__all__ = [
    "ACCELERATOR_BLOCK_VIEWS",
    "CPU_BLOCK_VIEWS",
    "LEAST_BLOCK_LABELS",
    "MOST_BLOCK_IMAGES",
    "array_block_images",
    "default_block_images",
    "default_group_views",
]

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
