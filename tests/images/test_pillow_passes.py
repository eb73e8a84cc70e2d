"""Which pass Pillow takes first: the installed one's rule, and all rules in the compiled part."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from labelstore.images import resampling
from labelstore.images.pillow_passes import (
    COLUMNS_FIRST,
    FAR_SHRUNK_FIRST,
    TALL_FIRST,
    pass_order,
    rows_first,
)

ORDERS = (COLUMNS_FIRST, FAR_SHRUNK_FIRST, TALL_FIRST)


def photo_of(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resized(pixels, *sizes):
    """By Pillow, an axis at a time: (height, width) after each pass."""
    image = Image.fromarray(pixels)
    for height, width in sizes:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


@pytest.mark.parametrize(
    ("box", "size", "firsts"),
    [
        ((300, 2), (100, 40), (False, True, True)),
        ((300, 60), (40, 50), (False, True, False)),
        ((300, 200), (224, 224), (False, True, False)),
        ((300, 300), (224, 224), (False, False, False)),
        ((60, 300), (40, 50), (False, False, False)),
        ((300, 2), (400, 40), (False, False, False)),
        ((200, 2), (100, 40), (False, True, False)),
    ],
)
def test_rules(box, size, firsts):
    height, width = (np.array([side]) for side in box)
    assert tuple(bool(rows_first(height, width, size, order)[0]) for order in ORDERS) == firsts


@pytest.mark.parametrize(("height", "width", "size"), [(300, 2, (100, 40)), (120, 30, (40, 25))])
def test_the_installed_pillow_follows_the_rule_that_it_is_said_to(height, width, size):
    pixels = photo_of(height, width)
    whole = resized(pixels, size)
    rows, columns = (size[0], width), (height, size[1])
    first = rows if rows_first(np.array([height]), np.array([width]), size)[0] else columns
    assert np.array_equal(whole, resized(pixels, first, size))
    assert not np.array_equal(whole, resized(pixels, columns if first == rows else rows, size))


@pytest.mark.parametrize("order", ORDERS)
def test_the_compiled_part_follows_each_rule(order):
    compiled = resampling._compiled()
    if compiled is None:
        pytest.skip("the compiled part was not built here")
    assert compiled[1] == pass_order()
    pixels = photo_of(310, 80)
    boxes = np.array([[3, 5, 300, 2], [0, 0, 300, 60], [10, 10, 60, 70]], dtype=np.int32)
    out = np.empty((3, 100, 40, 3), dtype=np.uint8)
    number = resampling._FILTERS["bilinear"]
    resampling._call(compiled[0], order, pixels, boxes, np.zeros(3, dtype=bool), number, out)
    firsts = rows_first(boxes[:, 2], boxes[:, 3], (100, 40), order)
    for (top, left, height, width), first, view in zip(boxes.tolist(), firsts, out, strict=True):
        crop = pixels[top : top + height, left : left + width]
        between = (100, width) if first else (height, 40)
        assert np.array_equal(view, resized(crop, between, (100, 40)))
