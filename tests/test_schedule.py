"""Which views an image shows in which epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelstore.errors import UsageError
from labelstore.philox import hash_keys
from labelstore.schedule import (
    budget_images,
    groups_of_epoch,
    mixed_seed,
    most_confident,
    random_views,
    surgical_views,
)

HASHES = hash_keys([f"class/{number}.jpg" for number in range(40)])

KNOWN = [[[2, 3], [2, 1], [3, 2]], [[1, 0], [0, 3], [0, 1]], [[2, 1], [3, 0], [0, 3]]]
KNOWN_SURGICAL = [[3, 0], [2, 8], [7, 1]]
"""Of three images: epochs 0, 1 and 7 of 10 views in groups of 4, two shown; epoch 1 surgical."""

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


def test_views_that_do_not_divide_are_left_out_in_turn():
    sizes = {"num_views": 11, "group_views": 4, "views_per_image": 3, "seed": 0}
    shown = epochs(60, **sizes)
    cycles = shown.reshape(len(HASHES), 20, 9)
    assert all(len(set(row)) == 9 for row in cycles.reshape(-1, 9).tolist())
    # Over twenty cycles no view of any image stays hidden.
    assert all(set(row) == set(range(11)) for row in shown.reshape(len(HASHES), -1).tolist())


@pytest.mark.parametrize("views_per_image", [1, 3, 4, 10])
def test_an_epoch_reads_the_same_few_groups_for_all_images(views_per_image):
    sizes = {"num_views": 22, "group_views": 4, "views_per_image": views_per_image, "seed": 5}
    for epoch in range(12):
        groups = groups_of_epoch(epoch, **sizes)
        read = random_views(HASHES, epoch, **sizes) // 4
        for row in read:
            assert set(row.tolist()) == set(groups.tolist())
        # The last, smaller group (5: two views) may stand among them.
        assert len(groups) <= -(-views_per_image // 4) + 2


def test_groups_come_in_another_order_in_every_cycle():
    sizes = {"num_views": 40, "group_views": 4, "views_per_image": 4, "seed": 0}
    orders = [
        tuple(int(groups_of_epoch(cycle * 10 + step, **sizes)[0]) for step in range(10))
        for cycle in range(5)
    ]
    assert len(set(orders)) == 5
    assert all(sorted(order) == list(range(10)) for order in orders)


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
    shown = random_views(hashes, 0, num_views=6, group_views=6, views_per_image=1, seed=0)
    counts = np.bincount(shown[:, 0], minlength=6)
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
    assert mixed_seed("order", 0) != mixed_seed("order", 1) != mixed_seed("groups", 1)


@settings(max_examples=200, deadline=None)
@given(
    num_views=st.integers(1, 14),
    group_views=st.integers(1, 6),
    data=st.data(),
    share=st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]),
)
def test_surgical_schedule_keeps_what_passes_and_replaces_the_rest(
    num_views, group_views, data, share
):
    m = data.draw(st.integers(1, num_views))
    epoch, seed = data.draw(st.integers(0, 50)), data.draw(st.integers(0, 5))
    passes = np.random.default_rng(epoch).random((len(HASHES), num_views)) < share
    fallback = np.random.default_rng(seed).integers(0, num_views, size=(len(HASHES), m))
    sizes = {"group_views": group_views, "views_per_image": m, "seed": seed}
    shown = surgical_views(HASHES, epoch, passes, fallback, **sizes)
    scheduled = random_views(HASHES, epoch, num_views=num_views, **sizes)
    loaded = set(groups_of_epoch(epoch, num_views=num_views, **sizes).tolist())
    for row, plan, ok, last in zip(shown, scheduled, passes, fallback, strict=True):
        good = set(np.flatnonzero(ok).tolist())
        if not good:
            assert row.tolist() == last.tolist()
            continue
        assert set(row.tolist()) <= good
        assert all(a == b for a, b in zip(row, plan, strict=True) if ok[b])
        if len(good) >= m:
            assert len(set(row.tolist())) == m
            near = {view for view in good if view // group_views in loaded}
            far = [view for view in row.tolist() if view // group_views not in loaded]
            assert len(far) == max(0, m - len(near))
        else:
            assert set(row.tolist()) == good
            counts = np.bincount(row)[sorted(good)]
            assert counts.max() - counts.min() <= 1


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


def test_replacements_from_elsewhere_vary_with_the_epoch():
    # Only views of group 0 pass; from the other groups' epochs they are drawn anew each time.
    passes = np.zeros((len(HASHES), 400), dtype=bool)
    passes[:, :50] = True
    fallback = np.zeros((len(HASHES), 1), dtype=np.int64)
    sizes = {"group_views": 50, "views_per_image": 1, "seed": 0}
    shown = np.concatenate(
        [surgical_views(HASHES, epoch, passes, fallback, **sizes) for epoch in range(200)], axis=1
    )
    assert (shown < 50).all()
    assert min(len(set(row)) for row in shown.tolist()) > 40


def test_most_confident_views_come_first_and_unknown_ones_last():
    confidence = np.array([[0.2, 0.9, np.nan, 0.9], [0.1, 0.0, 0.3, 0.2]], dtype=np.float32)
    assert most_confident(confidence, 4).tolist() == [[1, 3, 0, 2], [2, 3, 0, 1]]
    assert most_confident(confidence, 1).tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views_per_image": 9}, "views per image is 9, expected 1 to 8"),
        ({"views_per_image": 0}, "views per image is 0"),
        ({"epoch": -1}, "epoch is -1"),
        ({"epoch": 2**32}, "expected 0 to"),
        ({"group_views": 0}, "groups of 0"),
    ],
)
def test_impossible_numbers_are_refused(change, words):
    numbers = {"epoch": 0, "num_views": 8, "group_views": 4, "views_per_image": 2, "seed": 0}
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


@settings(max_examples=150, deadline=None)
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


def test_budgets_never_change_between_releases():
    assert [budget_images(8, epoch, (2, 3), 0).tolist() for epoch in range(4)] == KNOWN_BUDGET


@pytest.mark.parametrize(
    ("count", "epoch", "share"),
    [(0, 0, (1, 2)), (5, -1, (1, 2)), (5, 2**32, (1, 2)), (5, 0, (0, 2)), (5, 0, (3, 2))],
)
def test_impossible_budgets_are_refused(count, epoch, share):
    with pytest.raises(UsageError, match="expected"):
        budget_images(count, epoch, share, 0)
