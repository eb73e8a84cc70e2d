"""How large the blocks and groups of a new store are."""

from __future__ import annotations

import pytest

from labelstore.format.settings import (
    ACCELERATOR_BLOCK_VIEWS,
    CPU_BLOCK_VIEWS,
    MOST_BLOCK_IMAGES,
    array_block_images,
    default_block_images,
    default_group_views,
)


@pytest.mark.parametrize(
    ("images", "views", "block_views", "block", "group"),
    [
        (75, 200, CPU_BLOCK_VIEWS, 8, 200),
        (75, 500, CPU_BLOCK_VIEWS, 4, 500),
        (600, 500, CPU_BLOCK_VIEWS, 4, 500),
        (600, 500, ACCELERATOR_BLOCK_VIEWS, 256, 16),
        (3, 2, CPU_BLOCK_VIEWS, 3, 2),
        (100_000, 1, CPU_BLOCK_VIEWS, 1024, 1),
        (100_000, 200, CPU_BLOCK_VIEWS, 64, 64),
        (1_281_167, 500, ACCELERATOR_BLOCK_VIEWS, 1024, 4),
        (1_281_167, 500, CPU_BLOCK_VIEWS, 1024, 4),
        (5, 10_000, CPU_BLOCK_VIEWS, 1, 4096),
    ],
)
def test_of_a_teachers_run(images, views, block_views, block, group):
    size = default_block_images(images, views, block_views)
    assert (size, default_group_views(views, size, 4)) == (block, group)


@pytest.mark.parametrize("block_views", [CPU_BLOCK_VIEWS, ACCELERATOR_BLOCK_VIEWS])
@pytest.mark.parametrize("images", [1, 75, 5_000, 130_000, 2_000_000])
@pytest.mark.parametrize("views", [1, 10, 500, 3_000])
def test_a_kill_loses_little_and_blocks_are_not_too_many(images, views, block_views):
    size = default_block_images(images, views, block_views)
    assert 1 <= size <= min(images, MOST_BLOCK_IMAGES)
    blocks = -(-images // size)
    assert blocks <= 2048 or size in (MOST_BLOCK_IMAGES, images)
    assert size * views <= max(block_views, views) or blocks > 1024 or size == images


def test_arrays_of_very_many_classes_are_not_encoded_at_once():
    assert array_block_images(10_000, 1, 10) == 10_000
    assert array_block_images(10_000, 1, 1000) == 4194
