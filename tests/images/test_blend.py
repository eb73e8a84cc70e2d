"""The pixels of mixed views: exact integers, and near torchvision's."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from labelstore.errors import DecodeError
from labelstore.images import PartnerPhotos
from labelstore.images.mixing.blend import MIXING, cutmix_box
from labelstore.views.law import Views

RANDOM = np.random.default_rng(1)


def views(height=31, width=45):
    return RANDOM.integers(0, 256, (2, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("steps", [0, 1, 255, 256, 32768, 40001, 65535, 65536])
def test_mixup_is_the_nearest_integer(steps):
    own, other = views()
    out = own.copy()
    MIXING["mixup"](out, other, np.array([steps / 65536, 0, 0]))
    exact = own.astype(object) * steps + other.astype(object) * (65536 - steps)
    np.testing.assert_array_equal(out, (2 * exact + 65536) // 131072)
    if steps in (0, 65536):
        np.testing.assert_array_equal(out, own if steps else other)


def test_every_pair_of_values_mixes_to_one_between():
    own, other = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    out = own.copy()
    MIXING["mixup"](out, other, np.array([0.3125, 0, 0]))
    assert (out >= np.minimum(own, other)).all()
    assert (out <= np.maximum(own, other)).all()


@pytest.mark.parametrize(("kind", "ours"), [(v2.MixUp, "mixup"), (v2.CutMix, "cutmix")])
def test_pixels_are_torchvisions(kind, ours):
    own, other = views(64, 64)
    batch = torch.from_numpy(np.stack([own, other])).permute(0, 3, 1, 2).float()
    values = np.array([40000 / 65536, 0.9, 0.3])
    top, left, bottom, right = cutmix_box(values, (64, 64))
    params = {"lam": values[0], "box": (left, top, right, bottom), "lam_adjusted": 0.5}
    params |= {"labels": torch.tensor([0, 1]), "batch_size": 2}
    transform = kind(alpha=1.0, num_classes=2)
    # torchvision mixes with the view before, around the end.
    expected = transform.transform(batch, params)[0].permute(1, 2, 0).numpy()
    out = own.copy()
    MIXING[ours](out, other, values)
    assert np.abs(out - expected).max() <= (0.502 if ours == "mixup" else 0)


@pytest.mark.parametrize(
    ("values", "box"),
    [
        ((1.0, 0.5, 0.5), (15, 22, 15, 22)),
        ((0.0, 0.5, 0.5), (0, 0, 30, 44)),
        ((0.75, 0.0, 0.999), (0, 33, 7, 45)),
        ((0.75, 0.5, 0.5), (8, 11, 22, 33)),
    ],
)
def test_a_box_is_clipped_and_may_be_empty(values, box):
    assert cutmix_box(np.array(values), (31, 45)) == box


def plain(count):
    return Views(np.tile(np.int32([0, 0, 8, 8]), (count, 1)), np.zeros(count, dtype=bool))


def test_partners_photos_are_decoded_once_by_several_threads_and_let_go():
    decoded = []

    def photo_of(image):
        decoded.append(image)
        time.sleep(0.01)
        return np.full((8, 8, 3), image, dtype=np.uint8)

    partners = PartnerPhotos(photo_of, lambda image, views, *_: plain(len(views)), 3 * 8 * 8 * 3)
    results = []

    def ask(image):
        results.append((image, partners(image, np.arange(2), (4, 4), "bilinear")))

    threads = [threading.Thread(target=ask, args=(n % 3,)) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(decoded) == [0, 1, 2]
    assert all(
        (pixels == image).all() and pixels.shape == (2, 4, 4, 3) for image, pixels in results
    )
    # There is room for three.
    for image in (3, 0, 4, 0):
        ask(image)
    assert len(partners._kept) <= 3
    assert decoded.count(0) <= 2


def test_a_photo_that_cannot_be_decoded_is_tried_again():
    broken = [True]

    def photo_of(image):
        if broken[0]:
            raise DecodeError("cannot be decoded")
        return np.zeros((8, 8, 3), dtype=np.uint8)

    partners = PartnerPhotos(photo_of, lambda image, views, *_: plain(len(views)))
    with pytest.raises(DecodeError):
        partners(0, np.arange(1), (4, 4), "bilinear")
    broken[0] = False
    assert partners(0, np.arange(1), (4, 4), "bilinear").shape == (1, 4, 4, 3)
