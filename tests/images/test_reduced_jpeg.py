"""Photos decoded to a part of their size: the right part, at the right place."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from labelstore.errors import SourceError, UsageError
from labelstore.images.decoding import decode
from labelstore.images.pixels import cut
from labelstore.images.reduced_jpeg import REDUCTIONS, Photo, decode_reduced, reduction_for


def ramps(width, height, mode="RGB"):
    """Red rises to the right, green downwards, each from 20 to 230: places can be read from it."""
    right = np.broadcast_to(np.linspace(20, 230, width), (height, width))
    down = np.broadcast_to(np.linspace(20, 230, height)[:, None], (height, width))
    pixels = np.stack([right, down, np.full((height, width), 128.0)], axis=-1)
    return Image.fromarray(pixels.round().astype(np.uint8)).convert(mode)


def encoded(image, format="JPEG", **options):
    buffer = BytesIO()
    image.save(buffer, format, **({"quality": 95, "subsampling": 0} | options))
    return buffer.getvalue()


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("boxes", "size", "expected"),
    [
        ([[0, 0, 224, 224]], (224, 224), 1),
        ([[0, 0, 447, 900]], (224, 224), 1),
        ([[0, 0, 448, 448]], (224, 224), 2),
        ([[0, 0, 448, 448], [9, 9, 447, 800]], (224, 224), 1),
        ([[0, 0, 100, 50]], (25, 10), 4),
        ([[0, 0, 5000, 5000]], (32, 32), 8),
        ([[0, 0, 10, 10]], (224, 224), 1),
    ],
)
def test_the_reduction_is_the_largest_that_enlarges_no_view(boxes, size, expected):
    assert reduction_for(np.array(boxes, dtype=np.int32), size) == expected


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (203, 157)), (3, (203, 157)), (3, (200, 152)), (6, (200, 152))]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_views_are_where_they_are_in_the_whole_photo(
    reduction, orientation, size, mode, progressive
):
    file = encoded(ramps(*size, mode), progressive=progressive, exif=exif_of(orientation))
    whole = decode(file, "a")
    photo = decode_reduced(file, "a", reduction)
    assert (photo.width, photo.height) == whole.size
    # Turned photos are reduced only to whole pixels.
    assert photo.reduction == (1 if orientation > 1 and size[0] % 8 else reduction)
    assert photo.image.size == tuple(-(-side // photo.reduction) for side in whole.size)
    # A colour grows by 1.0 to 1.4 a pixel: views that lie wrong by one would show.
    for box in ([0, 0, whole.height, whole.width], [17, 21, 95, 104], [53, 1, 91, 88]):
        for flip in (False, True):
            args = (box, flip, (11, 10), "bilinear")
            found = photo.cut(*args).astype(int)
            expected = cut(whole, *args).astype(int)
            assert abs(found - expected).max() <= (0 if photo.reduction == 1 else 3)
            assert abs((found - expected).mean(axis=(0, 1))).max() < 0.7


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    reduction=st.sampled_from(REDUCTIONS),
    orientation=st.integers(1, 8),
)
def test_sizes_are_those_of_the_whole_photo(width, height, reduction, orientation):
    file = encoded(ramps(width, height), exif=exif_of(orientation))
    whole, photo = decode(file, "a"), decode_reduced(file, "a", reduction)
    assert (photo.width, photo.height) == whole.size
    assert photo.reduction in (1, reduction)
    assert photo.image.size == tuple(-(-side // photo.reduction) for side in whole.size)
    box = (0, 0, whole.height, whole.width)
    assert photo.cut(box, True, (3, 5), "bicubic").shape == (3, 5, 3)


def test_nothing_outside_a_box_is_looked_at():
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:, :128] = 255
    photo = decode_reduced(encoded(Image.fromarray(pixels)), "a", 4)
    assert photo.cut((0, 128, 256, 128), False, (32, 32), "lanczos").max() <= 2
    assert photo.cut((0, 0, 256, 128), False, (32, 32), "lanczos").min() >= 253


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP"])
def test_other_formats_are_decoded_whole(format):
    file = encoded(ramps(64, 48), format)
    photo = decode_reduced(file, "a", 8)
    assert (photo.image.size, photo.reduction) == ((64, 48), 1)
    assert photo == Photo.whole(photo.image)


def test_errors_are_those_of_whole_photos():
    file = encoded(ramps(300, 200))
    with pytest.raises(SourceError, match=r"cannot decode the image here\.jpg"):
        decode_reduced(file[: len(file) // 2], "here.jpg", 2)
    photo = decode_reduced(file, "a", 2)
    with pytest.raises(UsageError, match="leaves the image of 200 x 300"):
        photo.cut((150, 0, 51, 10), False, (4, 4), "bilinear")
    with pytest.raises(UsageError, match="interpolation is 'none'"):
        photo.cut((0, 0, 9, 9), False, (4, 4), "none")
