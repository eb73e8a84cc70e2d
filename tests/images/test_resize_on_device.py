"""Crops from the device: the very bytes that Pillow makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from labelstore.errors import UsageError
from labelstore.images import resize_on_device
from labelstore.images.pillow_passes import FILTERS, taps
from labelstore.images.pixels import cut
from labelstore.images.resize_on_device import resize_boxes
from tests.support.examples import examples


def photo_of(height, width, seed=0):
    """Noise, which shows every tap, with a hard edge, at which sums overshoot."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[:, width // 2 :] = 255
    return pixels


def boxes_in(height, width, count, rng):
    heights, widths = rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)
    tops, lefts = rng.integers(0, height - heights + 1), rng.integers(0, width - widths + 1)
    return np.stack([tops, lefts, heights, widths], axis=1)


def by_pillow(pixels, boxes, flips, size, interpolation):
    image = Image.fromarray(pixels)
    return np.stack(
        [
            cut(image, box.tolist(), bool(flip), size, interpolation)
            for box, flip in zip(boxes, flips, strict=True)
        ]
    )


@examples(30)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(sorted(FILTERS)),
    st.integers(0, 1000),
)
def test_pixels_are_pillows(height, width, size, interpolation, seed):
    rng = np.random.default_rng(seed)
    pixels = photo_of(height, width, seed)
    boxes, flips = boxes_in(height, width, 5, rng), rng.random(5) < 0.5
    made = resize_boxes(torch.from_numpy(pixels), boxes, flips, size, interpolation)
    np.testing.assert_array_equal(
        made.numpy(), by_pillow(pixels, boxes, flips, size, interpolation)
    )


@pytest.mark.parametrize("interpolation", sorted(FILTERS))
def test_a_photo_of_usual_size(interpolation):
    rng = np.random.default_rng(1)
    pixels = photo_of(375, 500)
    boxes, flips = boxes_in(375, 500, 12, rng), rng.random(12) < 0.5
    boxes[0] = 0, 0, 375, 500
    boxes[1] = 3, 5, 370, 60  # the rows come first where they shrink by far more
    made = resize_boxes(torch.from_numpy(pixels), boxes, flips, (96, 64), interpolation)
    np.testing.assert_array_equal(
        made.numpy(), by_pillow(pixels, boxes, flips, (96, 64), interpolation)
    )


def test_what_does_not_fit_into_the_working_memory_goes_in_parts(monkeypatch):
    rng = np.random.default_rng(2)
    pixels = photo_of(120, 100)
    boxes, flips = boxes_in(120, 100, 9, rng), rng.random(9) < 0.5
    whole = resize_boxes(torch.from_numpy(pixels), boxes, flips, (24, 24), "bicubic")
    monkeypatch.setattr(resize_on_device, "WORKING_BYTES", 1)
    parts = resize_boxes(torch.from_numpy(pixels), boxes, flips, (24, 24), "bicubic")
    assert torch.equal(whole, parts)


def test_weights_of_a_pixel_sum_to_one():
    for interpolation in FILTERS:
        for length, size in ((500, 224), (224, 500), (7, 1), (1, 7)):
            first, weights = taps(length, size, interpolation)
            assert first.min() >= 0
            assert (first < length).all()
            # Each is rounded by itself.
            np.testing.assert_allclose(weights.sum(axis=1), 2**22, atol=weights.shape[1])


def test_refusals():
    photo = torch.zeros(10, 10, 3, dtype=torch.uint8)
    for box in ((0, 0, 11, 5), (0, 6, 5, 5), (0, 0, 0, 5), (-1, 0, 5, 5)):
        with pytest.raises(UsageError, match="leaves the photo"):
            resize_boxes(photo, np.array([box]), np.array([False]), (4, 4), "bilinear")
    with pytest.raises(UsageError, match="resize by workers"):
        resize_boxes(photo, np.array([[0, 0, 5, 5]]), np.array([False]), (4, 4), "nearest")
