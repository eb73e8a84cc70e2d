"""Pixels of stages: those of torchvision's public functionals on PIL images, and of Pillow."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from labelstore.images import render
from labelstore.images.mixing.blend import MIXING
from labelstore.images.stages import ERASED, OPERATIONS, apply_stages
from labelstore.views import Views, hash_keys
from labelstore.views.stages import parameters
from labelstore.views.stages.names import parse_stage
from labelstore.views.stages.parameters import Draws, StageParameters, code_of


def photo(height=40, width=56, seed=0):
    """Smooth and noisy parts, dark and bright ones."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([4 * x % 256, 5 * y % 256, (3 * x + 2 * y) % 256], axis=-1)
    noise = rng.integers(0, 256, (height, width, 3))
    mixed = np.where((x + y > height)[..., None], smooth, noise)
    return mixed.astype(np.uint8)


def by_us(operation, *values, pixels=None):
    pixels = photo() if pixels is None else pixels
    out = pixels[None].copy()
    steps = StageParameters(
        np.array([[code_of(operation)]], dtype=np.uint8), np.array([[[*values, 0.0]]])
    )
    apply_stages(out, (steps,))
    return out[0]


def sheared(image, x, y):
    shear = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return F.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])


def shifted(image, x, y):
    return F.affine(image, angle=0.0, translate=[x, y], scale=1.0, shear=[0.0, 0.0])


CASES = [
    ("brightness", (0.6,), lambda image: F.adjust_brightness(image, 0.6)),
    ("brightness", (1.37,), lambda image: F.adjust_brightness(image, 1.37)),
    ("contrast", (0.61,), lambda image: F.adjust_contrast(image, 0.61)),
    ("contrast", (1.9,), lambda image: F.adjust_contrast(image, 1.9)),
    ("saturation", (0.0,), lambda image: F.adjust_saturation(image, 0.0)),
    ("saturation", (1.4,), lambda image: F.adjust_saturation(image, 1.4)),
    ("sharpness", (0.1,), lambda image: F.adjust_sharpness(image, 0.1)),
    ("sharpness", (1.9,), lambda image: F.adjust_sharpness(image, 1.9)),
    ("hue", (0.1,), lambda image: F.adjust_hue(image, 0.1)),
    ("hue", (-0.1,), lambda image: F.adjust_hue(image, -0.1)),
    ("hue", (0.5,), lambda image: F.adjust_hue(image, 0.5)),
    ("hue", (0.001,), lambda image: F.adjust_hue(image, 0.001)),
    ("grayscale", (), lambda image: F.rgb_to_grayscale(image, num_output_channels=3)),
    ("rotate", (14.3,), lambda image: F.rotate(image, 14.3)),
    ("rotate", (-90.0,), lambda image: F.rotate(image, -90.0)),
    ("shear-x", (0.27,), lambda image: sheared(image, 0.27, 0.0)),
    ("shear-x", (-0.99,), lambda image: sheared(image, -0.99, 0.0)),
    ("shear-y", (0.09,), lambda image: sheared(image, 0.0, 0.09)),
    ("translate-x", (0.13,), lambda image: shifted(image, int(0.13 * 56), 0)),
    ("translate-x", (0.0, -9.6), lambda image: shifted(image, -9, 0)),
    ("translate-y", (-0.13,), lambda image: shifted(image, 0, -int(0.13 * 40))),
    ("posterize", (3.0,), lambda image: F.posterize(image, 3)),
    ("posterize", (8.0,), lambda image: image),
    ("solarize", (178.5,), lambda image: F.solarize(image, 178.5)),
    ("solarize", (128.0,), lambda image: F.solarize(image, 128)),
    ("autocontrast", (), F.autocontrast),
    ("equalize", (), F.equalize),
    ("blur", (1.3,), lambda image: image.filter(ImageFilter.GaussianBlur(1.3))),
    ("identity", (), lambda image: image),
]


@pytest.mark.parametrize(("operation", "values", "reference"), CASES)
def test_an_operation_is_torchvisions_on_a_pil_image(operation, values, reference):
    expected = np.asarray(reference(Image.fromarray(photo())))
    np.testing.assert_array_equal(by_us(operation, *values), expected)


def test_every_operation_has_pixels_and_a_case():
    assert (*OPERATIONS, *MIXING) == parameters.OPERATIONS
    assert {case[0] for case in CASES} | {"erase"} == set(OPERATIONS)


def test_a_rectangle_is_erased_where_it_says():
    pixels = photo()
    out = by_us("erase", 0.5, 0.25, 0.999, 0.0, pixels=pixels)
    expected = pixels.copy()
    expected[20:, :14] = ERASED
    np.testing.assert_array_equal(out, expected)
    # As for torchvision, none is as high or as wide as the view.
    tall = by_us("erase", 0.9999, 0.1, 0.0, 0.0, pixels=pixels)
    assert (tall[:39, :6] == ERASED).all()
    np.testing.assert_array_equal(tall[39:], pixels[39:])
    one = np.full((1, 1, 3), 9, dtype=np.uint8)
    np.testing.assert_array_equal(by_us("erase", 0.5, 0.5, 0.5, 0.5, pixels=one), one)


def test_stages_follow_one_another():
    pixels = photo()
    steps = [("contrast", 1.5), ("rotate", 20.0), ("posterize", 4.0)]
    expected = pixels
    for name, value in steps:
        expected = by_us(name, value, pixels=expected)
    two = StageParameters(
        np.array([[code_of(name) for name, _ in steps[:2]]], dtype=np.uint8),
        np.array([[[value, 0.0] for _, value in steps[:2]]]),
    )
    last = StageParameters(np.array([[code_of("posterize")]], dtype=np.uint8), np.array([[[4.0]]]))
    out = pixels[None].copy()
    apply_stages(out, (two, last))
    np.testing.assert_array_equal(out[0], expected)


def test_a_view_is_cut_resized_mirrored_and_then_changed():
    image = Image.fromarray(photo(90, 120))
    names = ("rotate-30", "erase-1")
    box = np.array([[3, 4, 60, 70], [10, 0, 80, 50]], dtype=np.int32)
    flip = np.array([True, False])
    hashes, numbers = hash_keys(["a", "b"]), np.arange(2, dtype=np.uint64)
    stages = tuple(
        parse_stage(name).draw(Draws(0, hashes, numbers, place)) for place, name in enumerate(names)
    )
    expected = render(image, Views(box, flip), (32, 24), "bilinear")
    apply_stages(expected, stages)
    for source in (image, np.asarray(image)):
        np.testing.assert_array_equal(
            render(source, Views(box, flip, stages), (32, 24), "bilinear"), expected
        )
    # A filter that is left to Pillow.
    nearest = render(image, Views(box, flip), (32, 24), "nearest")
    apply_stages(nearest, stages)
    np.testing.assert_array_equal(
        render(image, Views(box, flip, stages), (32, 24), "nearest"), nearest
    )


def counted(views):
    return Counter(np.ascontiguousarray(view).tobytes() for view in views)


def nearest_of(counts, results):
    """Counts by which of our results each is: the same, but for pixels that are taken from half way
    between two, where torchvision's magnitudes, float32, choose the other."""
    known = {key: np.frombuffer(key, dtype=np.uint8) for key in results}
    moved = Counter()
    for key, count in counts.items():
        if key not in known:
            other = np.frombuffer(key, dtype=np.uint8)
            apart = {ours: int((values != other).sum()) for ours, values in known.items()}
            nearest = min(apart, key=apart.get)
            key = nearest if apart[nearest] <= 0.02 * len(key) else key
        moved[key] += count
    return moved


def ours(name, pixels, count):
    hashes = np.repeat(hash_keys(["a.jpg"]), count)
    stage = parse_stage(name).draw(Draws(7, hashes, np.arange(count, dtype=np.uint64), 0))
    out = np.repeat(pixels[None], count, axis=0)
    apply_stages(out, (stage,))
    return out


def whole_transform(transform, pixels, count):
    torch.manual_seed(3)
    image = Image.fromarray(pixels)
    return [np.asarray(transform(image)) for _ in range(count)]


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("ra-n1-m9", v2.RandAugment(1, 9)),
        ("ra-n1-m22", v2.RandAugment(1, 22)),
        ("gray-0.3", v2.RandomGrayscale(0.3)),
        ("solarize-0.4-100", v2.RandomSolarize(100, 0.4)),
    ],
)
def test_results_are_torchvisions_and_as_frequent(name, transform):
    pixels = photo(24, 24)
    a = counted(ours(name, pixels, 2500))
    b = nearest_of(counted(whole_transform(transform, pixels, 2500)), a)
    assert set(a) == set(b)
    table = [[counts[key] for key in sorted(a)] for counts in (a, b)]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_results_of_trivial_augment_are_torchvisions():
    pixels = photo(24, 24)
    a = counted(ours("ta-wide", pixels, 12000))
    b = nearest_of(counted(whole_transform(v2.TrivialAugmentWide(), pixels, 1500)), a)
    assert len(a) > 400
    # Each of some 600 results comes often enough that ours has nearly all of them.
    assert sum(b[key] for key in b if key in a) >= 0.99 * sum(b.values())
