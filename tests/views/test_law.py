"""The view law: torchvision's distribution, and the same boxes everywhere."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from labelstore.errors import UsageError
from labelstore.views import boxes
from labelstore.views.boxes import BoxLaw
from labelstore.views.exact import exp, ln
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys, philox4x32

HASHES = hash_keys([f"photo/{number}.jpg" for number in range(400)])


def draws(law, key_hash, view):
    """(10, 4) words of a view's attempts."""
    counter = (key_hash & 0xFFFFFFFF, key_hash >> 32, np.arange(10), view)
    return np.stack(philox4x32(counter, law.seed), axis=-1).tolist()


def slow_box(law, key_hash, view, width, height):
    """One box by the law's definition, in plain Python with the machine's own exp."""
    for x in draws(law, key_hash, view):
        u = [word / 2**32 for word in x]
        area = width * height * (law.scale[0] + (law.scale[1] - law.scale[0]) * u[0])
        low, high = math.log(law.ratio[0]), math.log(law.ratio[1])
        aspect = math.exp(low + (high - low) * u[1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return (x[2] * (height - h + 1) >> 32, x[3] * (width - w + 1) >> 32, h, w)
    w, h = width, height
    if width / height < law.ratio[0]:
        h = max(1, round(width / law.ratio[0]))
    elif width / height > law.ratio[1]:
        w = max(1, round(height * law.ratio[1]))
    return ((height - h) // 2, (width - w) // 2, h, w)


@pytest.mark.parametrize("law", [ViewLaw(seed=5), ViewLaw(2**64 - 1, (0.3, 0.9), (0.2, 6.0), 0.2)])
def test_boxes_equal_the_slow_definition(law):
    sizes = [(500, 375), (375, 500), (33, 900), (900, 31), (1, 1), (1, 500), (4000, 3000)]
    for number, (width, height) in enumerate(sizes):
        found = law(HASHES[:10, None], np.arange(20), width, height).box
        for image in range(10):
            for view in range(20):
                expected = slow_box(law, int(HASHES[image]), view, width, height)
                assert tuple(found[image, view].tolist()) == expected, (number, image, view)


LAWS = [
    BoxLaw(1, (0.08, 1.0), (3 / 4, 4 / 3), 0.5),
    BoxLaw(2**64 - 1, (1e-4, 1e-3), (1e-3, 1e3), 0.999),
    BoxLaw(2**63, (1.0, 1.0), (1.0, 1.0), 0.0),
    BoxLaw(7, (0.9, 1.0), (3.0, 4.0), 1.0),
    BoxLaw(9, (0.5, 1.0), (1e-200, 1e200), 0.25),
]


@pytest.mark.skipif(boxes._compiled() is None, reason="the compiled part was not built here")
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # ratios beyond all use
def test_the_compiled_part_draws_what_numpy_draws(law):
    """Small, thin, usual and the largest images; few views and more than are tried together."""
    rng = np.random.default_rng(law.seed)
    for count, most in ((1, 9), (50, 3), (5000, 600), (300, 2**31)):
        hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
        numbers = rng.integers(0, 2**32, count, dtype=np.uint64)
        width, height = rng.integers(1, most, (2, count))
        of = law, hashes, numbers, width, height
        for drawn, expected in zip(boxes.draw_boxes(*of), boxes._by_numpy(*of), strict=True):
            assert drawn.dtype == expected.dtype
            np.testing.assert_array_equal(drawn, expected)


def test_without_the_compiled_part_the_views_are_the_same(monkeypatch):
    law, of = ViewLaw(seed=3), (HASHES[:30, None], np.arange(7), 640, 427)
    expected = law(*of)
    monkeypatch.setattr(boxes, "_compiled", lambda: None)
    views = law(*of)
    np.testing.assert_array_equal(views.box, expected.box)
    np.testing.assert_array_equal(views.flip, expected.flip)


@pytest.mark.skipif(boxes._compiled() is None, reason="the compiled part was not built here")
def test_arrays_of_other_types_touch_no_memory():
    views = [np.ones(4, np.uint64), np.ones(4, np.uint64), np.ones(4, np.int64), np.ones(4, int)]
    law = (0, 0.1, 1.0, 0.0, 0.0, 1.0, 1.0, 0.5)
    for wrong in range(4):
        for part in (np.ones(3, np.int64), np.ones(4, np.int32), np.ones((4, 1), np.int64)):
            parts = [*views[:wrong], part, *views[wrong + 1 :]]
            with pytest.raises(ValueError, match="other shapes or types"):
                boxes._compiled().draw(*parts, law, np.empty((4, 4), np.int32), np.empty(4, bool))
    for box, flip in (((4, 3), 4), ((3, 4), 4), ((4, 4), 3)):
        with pytest.raises(ValueError, match="other shapes or types"):
            boxes._compiled().draw(*views, law, np.empty(box, np.int32), np.empty(flip, bool))


def test_known_boxes_never_change():
    views = ViewLaw(seed=1)(hash_keys(["n01440764/a.jpg"])[0], np.arange(4), 500, 375)
    assert views.box.tolist() == KNOWN_BOXES
    assert views.flip.tolist() == KNOWN_FLIPS


KNOWN_BOXES = [[46, 14, 289, 361], [120, 180, 139, 150], [45, 15, 266, 354], [32, 147, 310, 235]]
KNOWN_FLIPS = [False, True, False, False]


@pytest.mark.parametrize(
    ("width", "height"),
    [
        *((500, 375), (40, 1000)),
        *(pytest.param(*sides, marks=pytest.mark.slow) for sides in ((64, 48), (900, 120))),
    ],
)
def test_distribution_is_torchvisions(width, height):
    law = ViewLaw(seed=3)
    ours = law(HASHES[:, None], np.arange(25), width, height).box.reshape(-1, 4)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(10_000)]
    )
    assert ours.shape == theirs.shape

    def features(box):
        top, left, h, w = box.T.astype(float)
        free_y, free_x = height - h, width - w
        yield h * w
        yield w / h
        yield np.where(free_y > 0, top / np.maximum(free_y, 1), 0.5)
        yield np.where(free_x > 0, left / np.maximum(free_x, 1), 0.5)

    for mine, other in zip(features(ours), features(theirs), strict=True):
        assert stats.ks_2samp(mine, other).pvalue > 1e-3


def test_flips_have_their_probability():
    for flip in (0.0, 0.25, 1.0):
        share = ViewLaw(seed=2, flip=flip)(HASHES[:, None], np.arange(100), 9, 9).flip.mean()
        assert abs(share - flip) < 5 * math.sqrt(0.25 / 40_000) * (0 < flip < 1) + 1e-12


def test_pure_in_order_subset_and_type():
    law = ViewLaw(seed=4)
    whole = law(HASHES[:, None], np.arange(50), 640, 480)
    rows, columns = np.array([7, 3, 3, 399]), np.array([49, 0, 11, 5])
    part = law(HASHES[rows], columns.astype(np.int16), np.int32(640), 480)
    assert np.array_equal(part.box, whole.box[rows, columns])
    assert np.array_equal(part.flip, whole.flip[rows, columns])
    one = law(int(HASHES[7]), 49, 640, 480)
    assert one.box.tolist() == whole.box[7, 49].tolist()


def test_boxes_lie_inside_the_image():
    rng = np.random.default_rng(0)
    width, height = rng.integers(1, 700, (2, 400))
    top, left, h, w = np.moveaxis(
        ViewLaw(seed=8)(HASHES[:, None], np.arange(20), width[:, None], height[:, None]).box, -1, 0
    )
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height[:, None]).all()
    assert (left + w <= width[:, None]).all()


def test_exp_and_ln_are_good_to_four_units():
    x = np.linspace(-4, 4, 2001)
    with localcontext() as context:
        context.prec = 40
        exact = np.array([float(Decimal(float(value)).exp()) for value in x])
    assert np.max(np.abs(exp(x) - exact) / np.spacing(exact)) <= 4
    assert ln(math.e) == pytest.approx(1, abs=1e-15)
    assert ln(0.75) == -0.2876820724517809


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 0.2)},
        {"scale": (0.1, 1.1)},
        {"ratio": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"flip": 1.5},
    ],
)
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ViewLaw(**wrong)


def test_other_laws_are_refused():
    description = ViewLaw(seed=6, flip=0.1).to_json()
    assert ViewLaw.from_json(description) == ViewLaw(seed=6, flip=0.1)
    with pytest.raises(UsageError, match="version 2"):
        ViewLaw.from_json({**description, "version": 2})
    with pytest.raises(UsageError, match="without pixels"):
        ViewLaw()(HASHES, 0, 0, 5)
