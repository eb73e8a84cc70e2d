"""Curricula: which views come when, from easy to hard and back."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st

import labelstore
from labelstore.errors import LabelError, UsageError
from labelstore.labels.actions import Action
from labelstore.labels.ferkd import FerKD
from labelstore.training.curriculum import confidence_order, curriculum_views
from labelstore.training.decisions import view_mask
from tests.support.stores import once, written

written = once(written)


def slow_places(n, epoch, epochs, m, direction):
    """The sorted places of one image, by exact fractions."""
    if n >= epochs * m:
        places = [math.floor(Fraction((epoch * m + j) * n, epochs * m)) for j in range(m)]
    elif n >= m:
        start = math.floor(Fraction(epoch * (n - m), epochs - 1))
        places = [start + j for j in range(m)]
    else:
        places = [j % n for j in range(m)]
    return places if direction == "easy-to-hard" else [n - 1 - place for place in places]


@given(
    num_views=st.integers(1, 40),
    epochs=st.integers(1, 25),
    direction=st.sampled_from(["easy-to-hard", "hard-to-easy"]),
    data=st.data(),
)
def test_a_curriculum_goes_over_the_range_once(num_views, epochs, direction, data):
    m = data.draw(st.integers(1, num_views))
    counts = np.array(data.draw(st.lists(st.integers(1, num_views), min_size=1, max_size=4)))
    rng = np.random.default_rng(num_views)
    order = np.stack([rng.permutation(num_views) for _ in counts]).astype(np.uint16)
    shown = np.stack(
        [curriculum_views(order, e, epochs, m, direction, counts) for e in range(epochs)], axis=1
    )
    assert shown.shape == (len(counts), epochs, m)
    for row, views, n in zip(shown, order.tolist(), counts.tolist(), strict=True):
        expected = [slow_places(n, e, epochs, m, direction) for e in range(epochs)]
        assert row.tolist() == [[views[place] for place in places] for places in expected]
        places = np.array(expected)
        if n >= m:
            # No epoch shows a view twice; the pace never turns back.
            assert all(len(set(epoch)) == m for epoch in expected)
            first = places[:, 0] if direction == "easy-to-hard" else -places[:, 0]
            assert (np.diff(first) >= 0).all()
        if n >= epochs * m:
            assert len(set(places.ravel().tolist())) == epochs * m
            gaps = np.abs(np.diff(places.ravel()))
            assert gaps.max(initial=0) - gaps.min(initial=num_views) <= 1
        else:
            assert set(places.ravel().tolist()) == set(range(n))


def test_known_answers():
    order = np.arange(10)[None]
    epochs = [curriculum_views(order, e, 5, 2)[0].tolist() for e in range(5)]
    assert epochs == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    back = [curriculum_views(order, e, 5, 2, "hard-to-easy")[0].tolist() for e in range(5)]
    assert back == [[9, 8], [7, 6], [5, 4], [3, 2], [1, 0]]
    assert [curriculum_views(order, e, 3, 1)[0, 0] for e in range(3)] == [0, 3, 6]
    # Ten views for sixteen places: a window of four that moves.
    window = [curriculum_views(order, e, 4, 4)[0].tolist() for e in range(4)]
    assert window == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert curriculum_views(order, 999_999, 1_000_000, 10)[0].tolist() == list(range(10))


def test_large_numbers_stay_exact():
    order = np.arange(2**16, dtype=np.uint16)[None]
    shown = curriculum_views(order, 999_999, 1_000_000, 1, "easy-to-hard")
    assert shown.tolist() == [[2**16 - 1]]
    m = 300
    expected = slow_places(2**16, 150, 200, m, "easy-to-hard")
    assert curriculum_views(order, 150, 200, m)[0].tolist() == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": 3}, "epoch is 3, expected 0 to 2"),
        ({"epoch": -1}, "epoch is -1"),
        ({"epochs": 0}, "epochs is 0, expected 1 to 1000000"),
        ({"views_per_image": 5}, "views per image is 5, expected 1 to 4"),
        ({"views_per_image": 0}, "views per image is 0"),
        ({"direction": "up"}, "direction is 'up', expected one of easy-to-hard, hard-to-easy"),
        ({"counts": [1, 0]}, "from 0 to 1, expected .2,. numbers from 1 to 4"),
        ({"counts": [1]}, "counts have shape .1,."),
        ({"order": np.arange(4)}, "order has shape .4,."),
    ],
)
def test_impossible_numbers_are_refused(change, words):
    given = {"order": np.zeros((2, 4)), "epoch": 0, "epochs": 3, "views_per_image": 2}
    with pytest.raises(UsageError, match=words):
        curriculum_views(**{**given, **change})


def slow_order(confidence):
    """Easiest first, ties by number, NaN last."""
    rows = []
    for row in confidence.tolist():
        known = [view for view, value in enumerate(row) if not math.isnan(value)]
        unknown = [view for view, value in enumerate(row) if math.isnan(value)]
        rows.append(sorted(known, key=lambda view: (-row[view], view)) + unknown)
    return rows


def test_a_store_is_ordered_by_its_confidence(tmp_path, suffix):
    store, _, probs = written(tmp_path / f"a.{suffix}", views=9, quantizer="fp32")
    found = confidence_order(store)
    assert found.views.dtype == np.uint16
    assert found.views.tolist() == slow_order(probs[..., 0])
    assert found.counts.tolist() == [9] * 20


def test_ties_keep_the_order_of_the_views(tmp_path):
    values = np.random.default_rng(0).choice([0.25, 0.5, 0.75], size=(3, 90, 1))
    store = labelstore.write(tmp_path / "a.zarr", np.zeros((3, 90, 1), dtype=int), values, 4)
    assert confidence_order(store).views.tolist() == slow_order(store.confidence())


def test_by_the_ground_truth(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr", views=9)
    dense = store.read(np.arange(20)[:, None], np.arange(9)).recover("uniform").dense()
    target = dense[np.arange(20), :, store.targets]
    found = confidence_order(store, FerKD(confidence="target")).views
    sorted_values = np.take_along_axis(target, found.astype(int), axis=1)
    assert (np.diff(sorted_values, axis=1) <= 1e-7).all()
    assert (found != confidence_order(store).views).any()
    bare, _, _ = written(tmp_path / "b.zarr", targets=np.full(20, -1))
    with pytest.raises(LabelError, match="needs the ground truth"):
        confidence_order(bare, FerKD(confidence="target"))


def test_an_ensemble_is_ordered_by_its_mean_label(tmp_path):
    one, _, _ = written(tmp_path / "a.zarr", views=9)
    two, _, _ = written(tmp_path / "b.zarr", views=7, seed=1, block_images=6)
    both = labelstore.ensemble([one, two], [1, 2])
    dense = both.read(np.arange(20)[:, None], np.arange(7)).recover("uniform").dense()
    found = confidence_order(both).views
    assert found.shape == (20, 7)
    values = np.take_along_axis(dense.max(-1), found.astype(int), axis=1)
    assert (np.diff(values, axis=1) <= 1e-7).all()


def test_discarded_views_take_no_part(tmp_path):
    store, _, probs = written(tmp_path / "a.zarr", views=9, quantizer="fp32")
    rule = FerKD(low=0.45, middle=0.5, top=0.7)
    passes = rule.decide(probs[..., 0]) != Action.DISCARDED
    counts = passes.sum(axis=1)
    assert counts.min() == 0 < counts.max()
    found = confidence_order(store, rule, mask=view_mask(store, rule, 2), least=2)
    every = slow_order(probs[..., 0])
    for row, count, order, good in zip(found.views, found.counts, every, passes, strict=True):
        kept = [view for view in order if good[view]]
        assert count == (len(kept) or 2)
        assert row.tolist() == kept + [view for view in order if not good[view]]
