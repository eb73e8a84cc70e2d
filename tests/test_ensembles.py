"""Ensembles: aligned by key, refused when they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from core_data import written

import labelstore
from labelstore.errors import MismatchError, UsageError
from labelstore.views import ViewLaw


def test_the_mean_of_members_in_another_order(tmp_path):
    first, _, _ = written(tmp_path / "a.zarr", k=3)
    keys = list(first.keys)
    order = np.random.default_rng(0).permutation(20)
    second, _, _ = written(
        tmp_path / "b.zarr",
        k=5,
        seed=1,
        quantizer="fp32",
        keys=[keys[row] for row in order],
        widths=np.arange(20)[order] + 40,
        heights=np.arange(20)[order] + 30,
        targets=np.arange(20)[order],
        block_images=5,
    )
    both = labelstore.ensemble([first, second], weights=[1, 3])
    images, views = np.arange(20)[:, None], np.arange(6)
    place = np.argsort(order)
    expected = 0.25 * first.read(images, views).recover().dense()
    expected += 0.75 * second.read(place[:, None], views).recover().dense()
    got = both.read(images, views)
    np.testing.assert_allclose(got.recover().dense(), expected, atol=1e-6)
    assert [member.k for member in got.members] == [3, 5]
    assert np.array_equal(both.targets, first.targets)
    assert both.complete
    assert both.labelled().all()
    by_key = both.read([keys[7]], 2).recover().dense()
    np.testing.assert_allclose(by_key, expected[7, 2][None], atol=1e-6)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"law": ViewLaw(seed=2)}, "different views"),
        ({"classes": 31}, "30 and 31 classes"),
        ({"images": 19}, "20 and 19 images"),
        ({"widths": np.arange(20) + 41}, "other sizes, 20 in all, first 'c/000.jpg'"),
        ({"targets": np.zeros(20, dtype=int)}, "ground truth of 19 images"),
        ({"class_names": [f"x{number}" for number in range(30)]}, "name their classes"),
    ],
)
def test_stores_that_do_not_fit_are_refused(tmp_path, other, words):
    names = [f"n{number}" for number in range(30)]
    first, _, _ = written(tmp_path / "a.zarr", class_names=names)
    second, _, _ = written(tmp_path / "b.zarr", seed=1, **other)
    with pytest.raises(MismatchError, match=words):
        labelstore.ensemble([first, second])


def test_other_keys_and_other_boxes_are_refused(tmp_path):
    first, _, _ = written(tmp_path / "a.zarr")
    second, _, _ = written(tmp_path / "b.zarr", keys=[f"d/{n}.jpg" for n in range(20)])
    with pytest.raises(labelstore.LabelStoreError, match="no image with key"):
        labelstore.ensemble([first, second])
    boxes, flips = np.ones((20, 6, 4), dtype=int), np.zeros((20, 6), dtype=bool)
    one, _, _ = written(tmp_path / "c.zarr", law=None, boxes=boxes, flips=flips)
    same, _, _ = written(tmp_path / "d.zarr", law=None, boxes=boxes, flips=flips, seed=1)
    assert labelstore.ensemble([one, same]).num_views == 6
    boxes[3, 2, 0] = 2
    moved, _, _ = written(tmp_path / "e.zarr", law=None, boxes=boxes, flips=flips)
    with pytest.raises(MismatchError, match=r"different crops of 'c/003\.jpg'"):
        labelstore.ensemble([one, moved])
    bare = [written(tmp_path / f"{name}.zarr", law=None)[0] for name in "fg"]
    with pytest.raises(MismatchError, match="cannot be aligned"):
        labelstore.ensemble(bare)


def test_weights(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr")
    for weights in ([1.0], [-1, 2], [0, 0]):
        with pytest.raises(UsageError, match="weights"):
            labelstore.ensemble([store, store], weights)
    with pytest.raises(UsageError, match="no stores"):
        labelstore.ensemble([])
