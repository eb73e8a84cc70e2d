"""Which views an image shows in which epoch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from labelstore.errors import UsageError
from labelstore.training.budget import budget_images, budget_showings
from labelstore.training.cycle import groups_of_epoch, most_confident, random_views, surgical_views
from labelstore.views.philox import hash_keys, mixed_seed
from tests.support.examples import examples

HASHES = hash_keys([f"class/{number}.jpg" for number in range(40)])

KNOWN = [[[9, 8], [8, 9], [9, 8]], [[6, 5], [6, 4], [5, 4]], [[7, 4], [7, 5], [7, 6]]]
KNOWN_SURGICAL = [[6, 9], [8, 2], [7, 1]]
KNOWN_PACE = [[58, 56], [59, 57], [57, 59]]
"""Of three images: epochs 0, 1 and 7 of 10 views in groups of 4, two shown; epoch 1 surgical;
epoch 40 of 200 views at a pace of 77."""

KNOWN_BUDGET = [[1, 2, 5, 6, 7], [0, 2, 3, 4, 5], [0, 1, 3, 4, 6, 7], [2, 3, 4, 6, 7]]
"""Of eight images: epochs 0 to 3 of a budget of 2 / 3."""


def epochs(count, **sizes):
    return np.stack([random_views(HASHES, epoch, **sizes) for epoch in range(count)], axis=1)


@pytest.mark.parametrize(
    ("num_views", "group_views", "views_per_image"),
    [(12, 4, 1), (12, 4, 3), (10, 4, 2), (10, 4, 5), (6, 6, 2), (7, 3, 7), (8, 1, 4), (1, 4, 1)],
)
def test_every_view_is_shown_once_before_any_comes_again(num_views, group_views, views_per_image):
    sizes = {"num_views": num_views, "group_views": group_views, "seed": 3}
    length = num_views // views_per_image
    shown = epochs(3 * length, views_per_image=views_per_image, **sizes)
    cycles = shown.reshape(len(HASHES), 3, num_views)
    assert (np.sort(cycles, axis=2) == np.arange(num_views)).all()


def walked(showings, passes, m, group_views=4, seed=0, pace=None):
    """(images, showings, m): the walks of the first images over their passing views."""
    hashes, fallback = HASHES[: len(passes)], np.full((len(passes), m), -1)
    sizes = {"group_views": group_views, "views_per_image": m, "seed": seed, "pace": pace}
    return np.stack(
        [surgical_views(hashes, number, passes, fallback, **sizes) for number in showings], axis=1
    )


@examples(10)
@given(
    num_views=st.integers(1, 40) | st.integers(60, 90),
    group_views=st.integers(1, 17),
    share=st.sampled_from([0.05, 0.2, 0.5, 0.8, 1.0]),
    data=st.data(),
)
def test_no_view_comes_again_before_all_that_pass_were_shown(num_views, group_views, share, data):
    m = data.draw(st.integers(1, min(num_views, 12)))
    seed = data.draw(st.integers(0, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    # Shares differ from image to image, as they do.
    passes = rng.random((12, num_views)) < rng.uniform(share, 1, size=(12, 1)) * share
    count = 2 * -(-num_views // m) + 3
    pace = data.draw(st.none() | st.integers(1, num_views))
    shown = walked(range(count), passes, m, group_views, seed, pace)
    for walk, ok in zip(shown, passes, strict=True):
        own = np.flatnonzero(ok)
        if not own.size:
            assert (walk == -1).all()
            continue
        times = np.cumsum([np.bincount(row, minlength=num_views) for row in walk], axis=0)
        assert times[:, ~ok].sum() == 0
        # After every showing, whether or not m divides their number.
        assert (np.ptp(times[:, own], axis=1) <= 1).all()
        assert all(len(set(row)) == min(m, own.size) for row in walk.tolist())
        if own.size >= m:
            shared = [len(set(a) & set(b)) for a, b in itertools.pairwise(walk.tolist())]
            assert set(shared) == {max(0, 2 * m - own.size)}


@examples(30)
@given(
    num_views=st.integers(2, 60),
    group_views=st.integers(1, 17),
    views_per_image=st.integers(1, 6),
    showing=st.integers(0, 2**32 - 1),
)
def test_any_showing_is_the_same_alone_and_far_into_training(
    num_views, group_views, views_per_image, showing
):
    m = min(views_per_image, num_views)
    passes = np.random.default_rng(num_views).random((6, num_views)) < 0.6
    passes[:, 0] = True
    near = walked([showing, max(showing - 1, 0)], passes, m, group_views)
    numbers = np.array([showing, max(showing - 1, 0)] * 3)
    mixed = surgical_views(
        HASHES[:6], numbers, passes, near[:, 0], group_views=group_views, views_per_image=m, seed=0
    )
    assert (mixed == near[np.arange(6), np.arange(6) % 2]).all()
    sizes = {"num_views": num_views, "group_views": group_views, "views_per_image": m}
    whole = random_views(HASHES[:6], numbers, seed=0, **sizes)
    for row in range(6):
        alone = random_views(HASHES[row : row + 1], numbers[row], seed=0, **sizes)
        assert (alone == whole[row]).all()


def test_cycles_are_drawn_anew_where_the_border_allows_it():
    passes = np.random.default_rng(0).random((len(HASHES), 48)) < 0.7
    for m in (1, 3, 4):
        shown = walked(range(3 * 48), passes, m).reshape(len(HASHES), -1).tolist()
        for row, own in zip(shown, passes.sum(axis=1).tolist(), strict=True):
            assert row[:own] != row[own : 2 * own] != row[2 * own : 3 * own]
    # Six views, four at a time: another order would show more than two of them again at once.
    few = np.ones((len(HASHES), 6), dtype=bool)
    shown = walked(range(12), few, 4).reshape(len(HASHES), 8, 6)
    assert (shown == shown[:, :1]).all()


@pytest.mark.parametrize("views_per_image", [1, 3, 4, 10])
def test_an_epoch_reads_the_same_few_groups_for_all_images(views_per_image):
    sizes = {"num_views": 22, "group_views": 4, "views_per_image": views_per_image, "seed": 5}
    for epoch in range(12):
        groups = groups_of_epoch(epoch, **sizes)
        read = random_views(HASHES, epoch, **sizes) // 4
        for row in read:
            assert set(row.tolist()) == set(groups.tolist())
        # It may begin inside a group, and the last, smaller one (two views) may stand among them.
        assert len(groups) <= -(-views_per_image // 4) + 2


def test_groups_come_in_another_order_in_every_cycle():
    sizes = {"num_views": 40, "group_views": 4, "views_per_image": 4, "seed": 0}
    orders = [
        tuple(int(groups_of_epoch(cycle * 10 + step, **sizes)[0]) for step in range(10))
        for cycle in range(5)
    ]
    assert len(set(orders)) == 5
    assert all(sorted(order) == list(range(10)) for order in orders)
    # One half of the groups always comes before the other.
    assert len({frozenset(order[:5]) for order in orders}) == 1


def test_an_image_keeps_its_views_in_any_company():
    sizes = {"num_views": 20, "group_views": 4, "views_per_image": 3, "seed": 9}
    together = random_views(HASHES, 4, **sizes)
    chosen = [7, 3, 31]
    assert (random_views(HASHES[chosen], 4, **sizes) == together[chosen]).all()
    assert random_views(HASHES[:0], 4, **sizes).shape == (0, 3)


def test_images_seeds_and_cycles_differ():
    sizes = {"num_views": 64, "group_views": 64, "views_per_image": 8}
    first = random_views(HASHES, 0, seed=0, **sizes)
    assert len({tuple(row) for row in first.tolist()}) == len(HASHES)
    assert (random_views(HASHES, 0, seed=1, **sizes) != first).any(axis=1).all()
    assert (random_views(HASHES, 8, seed=0, **sizes) != first).any(axis=1).all()


def test_views_of_a_group_are_equally_likely():
    hashes = hash_keys([str(number) for number in range(6000)])
    shown = random_views(hashes, 0, num_views=12, group_views=6, views_per_image=1, seed=0)
    counts = np.bincount(shown[:, 0] % 6, minlength=6)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 20.5  # 5 degrees of freedom, p = 0.001


def test_a_schedule_never_changes_between_releases():
    sizes = {"num_views": 10, "group_views": 4, "views_per_image": 2, "seed": 0}
    assert [random_views(HASHES[:3], epoch, **sizes).tolist() for epoch in (0, 1, 7)] == KNOWN
    passes = np.arange(30).reshape(3, 10) % 3 == 0
    fallback = np.zeros((3, 2), dtype=np.int64)
    surgical = surgical_views(
        HASHES[:3], 1, passes, fallback, group_views=4, views_per_image=2, seed=0
    )
    assert surgical.tolist() == KNOWN_SURGICAL
    assert walked([40], np.ones((3, 200), dtype=bool), 2, pace=77)[:, 0].tolist() == KNOWN_PACE
    assert mixed_seed("order", 0) != mixed_seed("order", 1) != mixed_seed("groups", 1)


def test_surgical_views_do_not_depend_on_the_other_images():
    rng = np.random.default_rng(0)
    passes = rng.random((len(HASHES), 30)) < 0.1
    fallback = rng.integers(0, 30, size=(len(HASHES), 4))
    sizes = {"group_views": 4, "views_per_image": 4, "seed": 0}
    together = surgical_views(HASHES, 6, passes, fallback, **sizes)
    for image in range(len(HASHES)):
        one = slice(image, image + 1)
        alone = surgical_views(HASHES[one], 6, passes[one], fallback[one], **sizes)
        assert (alone == together[one]).all()


@pytest.mark.parametrize(("a", "b", "held"), [(50, 50, 0.95), (9, 3, 0.9), (3, 2, 0.75)])
def test_images_of_different_shares_stay_at_neighbouring_groups(a, b, held):
    """So that a few groups in memory serve an epoch, also late in training."""
    rng = np.random.default_rng(0)
    shares = rng.beta(a, b, size=(400, 1))
    passes = rng.random((400, 240)) < shares
    passes[:, 0] = True
    hashes = hash_keys([str(number) for number in range(400)])
    sizes = {"group_views": 4, "views_per_image": 2, "seed": 0}
    pace, fallback = int(np.median(passes.sum(axis=1))), np.zeros((400, 2), dtype=np.int64)
    inside = []
    for showing in (0, 50, 200, 500):
        shown = surgical_views(hashes, showing, passes, fallback, pace=pace, **sizes)
        falling = -np.sort(-np.bincount(shown.reshape(-1) // 4, minlength=60))
        # A quarter of the store.
        inside.append(falling[:15].sum() / falling.sum())
    assert np.mean(inside) > held


def test_most_confident_views_come_first_and_unknown_ones_last():
    confidence = np.array([[0.2, 0.9, np.nan, 0.9], [0.1, 0.0, 0.3, 0.2]], dtype=np.float32)
    assert most_confident(confidence, 4).tolist() == [[1, 3, 0, 2], [2, 3, 0, 1]]
    assert most_confident(confidence, 1).tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views_per_image": 9}, "views per image is 9, expected 1 to 8"),
        ({"views_per_image": 0}, "views per image is 0"),
        ({"showings": -1}, "showings reach from -1 to -1"),
        ({"showings": 2**32}, "expected 0 to"),
        ({"showings": [0, 2**32] * 20}, "showings reach from 0 to 4294967296"),
        ({"showings": [0, 1, 2]}, "expected one number or"),
        ({"group_views": 0}, "groups of 0"),
    ],
)
def test_impossible_numbers_are_refused(change, words):
    numbers = {"showings": 0, "num_views": 8, "group_views": 4, "views_per_image": 2, "seed": 0}
    with pytest.raises(UsageError, match=words):
        random_views(HASHES, **{**numbers, **change})


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="one row for each image"):
        surgical_views(
            HASHES,
            0,
            np.ones((3, 8), dtype=bool),
            np.zeros((3, 1)),
            group_views=4,
            views_per_image=1,
            seed=0,
        )


@given(
    count=st.integers(1, 60),
    share=st.integers(1, 12).flatmap(lambda q: st.tuples(st.integers(1, q), st.just(q))),
    cycle=st.integers(0, 4),
    seed=st.integers(0, 3),
)
def test_a_budget_shows_every_image_equally_often(count, share, cycle, seed):
    p, q = share
    epochs = [budget_images(count, cycle * q + step, share, seed) for step in range(q)]
    for shown in epochs:
        assert len(set(shown.tolist())) == len(shown)
        assert (np.diff(shown) > 0).all()
        assert count * p // q <= len(shown) <= -(-count * p // q)
    assert np.bincount(np.concatenate(epochs), minlength=count).tolist() == [p] * count


def test_a_budget_groups_other_images_in_every_cycle_and_seed():
    def groups(cycle, seed):
        return {tuple(budget_images(90, 3 * cycle + step, (1, 3), seed)) for step in range(3)}

    drawn = [groups(0, 0), groups(1, 0), groups(2, 0), groups(0, 1)]
    assert len(set.union(*drawn)) == 12
    assert groups(1, 0) == drawn[1]
    # Neighbours in the data set are not neighbours in an epoch.
    assert all(3 < np.mean(np.array(epoch) < 45) * 30 < 27 for epoch in drawn[0])


@examples(30)
@given(
    count=st.integers(1, 40),
    share=st.integers(1, 9).flatmap(lambda q: st.tuples(st.integers(1, q), st.just(q))),
    seed=st.integers(0, 3),
)
def test_showings_under_a_budget_are_counted(count, share, seed):
    before = np.zeros(count, dtype=int)
    for epoch in range(2 * share[1] + 3):
        assert budget_showings(count, epoch, share, seed).tolist() == before.tolist()
        shown = budget_images(count, epoch, share, seed)
        assert np.ptp(before[shown]) <= 1 if shown.size else True
        before[shown] += 1


def test_budgets_never_change_between_releases():
    assert [budget_images(8, epoch, (2, 3), 0).tolist() for epoch in range(4)] == KNOWN_BUDGET


@pytest.mark.parametrize(
    ("count", "epoch", "share"),
    [(0, 0, (1, 2)), (5, -1, (1, 2)), (5, 2**32, (1, 2)), (5, 0, (0, 2)), (5, 0, (3, 2))],
)
def test_impossible_budgets_are_refused(count, epoch, share):
    for function in (budget_images, budget_showings):
        with pytest.raises(UsageError, match="expected"):
            function(count, epoch, share, 0)
