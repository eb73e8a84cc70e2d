"""Many boxes at once by the compiled part: the very bytes that Pillow makes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from labelstore.images import resampling
from labelstore.images.pixels import INTERPOLATIONS, cut, render
from labelstore.images.resampling import can_resize, pixels_of, resize_into, whole_pays

built = pytest.mark.skipif(
    not can_resize((8, 8), "bilinear"), reason="the compiled part was not built here"
)

FILTERS = sorted(set(INTERPOLATIONS) - {"nearest"})


def noise(height, width, seed=0):
    """The hardest photo: no two neighbours alike, a third of the bytes black or white."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.where(rng.random(pixels.shape) < 1 / 3, (pixels > 127) * np.uint8(255), pixels)


def boxes_of(rng, height, width, count):
    tall, wide = rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)
    top = (rng.random(count) * (height - tall + 1)).astype(int)
    left = (rng.random(count) * (width - wide + 1)).astype(int)
    boxes = np.stack([top, left, tall, wide], axis=1).astype(np.int32)
    return SimpleNamespace(box=boxes, flip=rng.random(count) < 0.5, stages=())


def by_pillow(pixels, views, size, interpolation):
    image = Image.fromarray(pixels)
    return np.stack(
        [
            cut(image, box, bool(flip), size, interpolation)
            for box, flip in zip(views.box.tolist(), views.flip, strict=True)
        ]
    )


@built
@pytest.mark.parametrize("interpolation", FILTERS)
def test_views_of_any_shape_have_pillows_bytes(interpolation):
    rng = np.random.default_rng(FILTERS.index(interpolation))
    sides = [(1, 1), (1, 40), (70, 1), (64, 64), (65, 129), (300, 60), (61, 311), (250, 240)]
    sizes = [(224, 224), (1, 1), (1, 33), (31, 2), (64, 64), (97, 45)]
    for number, (height, width) in enumerate(sides):
        pixels = noise(height, width, number)
        views = boxes_of(rng, height, width, 6)
        views.box[0] = 0, 0, height, width
        for size in sizes:
            out = np.full((6, *size, 3), 7, dtype=np.uint8)
            resize_into(pixels, views, interpolation, out)
            np.testing.assert_array_equal(out, by_pillow(pixels, views, size, interpolation))


@built
def test_far_shrunk_sides_have_pillows_bytes():
    pixels = noise(1500, 1100)
    views = SimpleNamespace(
        box=np.array([[0, 0, 1500, 1100], [1, 2, 1499, 20], [7, 3, 9, 1097]], dtype=np.int32),
        flip=np.array([True, False, True]),
    )
    for interpolation in FILTERS:
        out = np.empty((3, 17, 23, 3), dtype=np.uint8)
        resize_into(pixels, views, interpolation, out)
        np.testing.assert_array_equal(out, by_pillow(pixels, views, (17, 23), interpolation))


@built
def test_a_photo_or_its_boxes_are_taken_out_of_pillow_whichever_is_less():
    pixels = noise(90, 110)
    few = SimpleNamespace(
        box=np.array([[5, 6, 30, 40], [60, 70, 30, 40]]), flip=np.array([True, False]), stages=()
    )
    rng = np.random.default_rng(0)
    for views, whole in ((few, False), (boxes_of(rng, 90, 110, 40), True)):
        assert whole_pays((110, 90), views.box) is whole
        expected = by_pillow(pixels, views, (24, 32), "bicubic")
        out = np.empty_like(expected)
        photo = Image.fromarray(pixels)
        # Pixels in another memory order, too.
        turned = np.asfortranarray(pixels)
        for source, target in ((photo, None), (pixels, None), (turned, None), (photo, out)):
            made = render(source, views, (24, 32), "bicubic", target)
            np.testing.assert_array_equal(made, expected)
        assert made is out


def test_pixels_taken_out_of_pillow_are_all_of_them(monkeypatch):
    """Sizes about the steps of the loop; photos of several pieces, the last one smaller; parts."""
    for height, width in ((1, 1), (1, 7), (1, 8), (3, 3), (5, 13), (211, 71), (1, 70000)):
        pixels = noise(height, width, width)
        photo = Image.fromarray(pixels)
        for piece in (1 << 23, 4 * width, 8 * width + 3):
            monkeypatch.setattr(resampling, "_PIECE", piece)
            taken = pixels_of(photo)
            np.testing.assert_array_equal(taken, pixels)
            assert taken.flags.writeable
            assert taken.flags.c_contiguous
        part = photo.crop((width // 3, 0, width, height))
        np.testing.assert_array_equal(pixels_of(part), pixels[:, width // 3 :])
    large = noise(1500, 3000)  # 18 MB: more than Pillow keeps in one piece
    monkeypatch.undo()
    np.testing.assert_array_equal(pixels_of(Image.fromarray(large)), large)


@built
def test_only_an_rgb_image_of_the_same_size_is_taken():
    take = resampling._compiled()[0].take_pixels
    photo = Image.fromarray(noise(20, 30))
    if not hasattr(photo, "__arrow_c_array__"):
        pytest.skip("this Pillow lends no memory")
    out = np.empty((20, 30, 3), dtype=np.uint8)
    take(*photo.__arrow_c_array__(), out)
    np.testing.assert_array_equal(out, np.asarray(photo))
    with pytest.raises(ValueError, match="no RGB image"):
        take(*photo.convert("L").__arrow_c_array__(), out)
    with pytest.raises(ValueError, match="another shape"):
        take(*photo.__arrow_c_array__(), out[:10])
    with pytest.raises(ValueError):
        take(None, None, out)


@built
def test_threads_do_not_disturb_each_other():
    pixels = noise(120, 150)
    views = boxes_of(np.random.default_rng(1), 120, 150, 30)
    expected = by_pillow(pixels, views, (40, 48), "lanczos")

    def make(_):
        out = np.empty_like(expected)
        resize_into(pixels, views, "lanczos", out)
        return out

    with ThreadPoolExecutor(4) as pool:
        for made in pool.map(make, range(24)):
            np.testing.assert_array_equal(made, expected)


@built
@pytest.mark.parametrize(
    "box", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 21, 5), (0, 28, 5, 5), (2**31 - 1, 0, 2, 2)]
)
def test_a_box_outside_the_photo_touches_no_memory(box):
    views = SimpleNamespace(box=np.array([box]), flip=np.array([False]))
    out = np.full((1, 8, 8, 3), 7, dtype=np.uint8)
    with pytest.raises(ValueError, match="outside the photo"):
        resize_into(noise(20, 30), views, "bilinear", out)
    assert (out == 7).all()


@built
def test_arrays_that_do_not_fit_are_refused():
    views = SimpleNamespace(box=np.array([[0, 0, 5, 5]]), flip=np.array([False]))
    right = np.empty((1, 8, 8, 3), dtype=np.uint8)
    for photo, out in (
        (noise(20, 30)[:, :, :2].copy(), right),
        (noise(20, 30).astype(np.int16), right),
        (noise(20, 30), np.empty((2, 8, 8, 3), dtype=np.uint8)),
        (noise(20, 30), np.empty((1, 8, 8, 3), dtype=np.float32)),
    ):
        with pytest.raises(ValueError, match="arrays of other shapes"):
            resize_into(photo, views, "bilinear", out)
    with pytest.raises((ValueError, BufferError)):
        resize_into(noise(20, 30), views, "bilinear", right[:, :, ::2])


@built
def test_another_order_of_the_passes_is_noticed():
    module, reorders = resampling._compiled()
    assert resampling._is_pillow(module, reorders)
    assert not resampling._is_pillow(module, not reorders)


def test_without_the_compiled_part_pillow_cuts_the_same(monkeypatch):
    pixels = noise(90, 110)
    views = boxes_of(np.random.default_rng(2), 90, 110, 9)
    made = [render(Image.fromarray(pixels), views, (24, 32), name) for name in INTERPOLATIONS]
    monkeypatch.setattr(resampling, "_compiled", lambda: None)
    assert not can_resize((24, 32), "bilinear")
    for name, before in zip(INTERPOLATIONS, made, strict=True):
        after = render(Image.fromarray(pixels), views, (24, 32), name)
        np.testing.assert_array_equal(after, before)
