"""Estimates from a part: their intervals hold the truth as often as they say."""

import numpy as np
import pytest

from labelstore.statistics.sampling import error_of_mean, error_of_share, groups_of_views


@pytest.mark.parametrize("share", [0.003, 0.1, 0.5, 0.97])
def test_the_interval_of_a_share_holds_the_truth_nineteen_times_in_twenty(share):
    rng = np.random.default_rng(7)
    whole, part = 4000, 400
    kinds = np.zeros(whole, bool)
    kinds[: round(share * whole)] = True
    truth, inside, trials = kinds.mean(), 0, 2000
    for _ in range(trials):
        count = int(rng.choice(kinds, part, replace=False).sum())
        inside += abs(count / part - truth) <= error_of_share(count, part, whole)
    assert inside / trials >= 0.94


def test_the_interval_of_a_mean_holds_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(8)
    values = rng.gamma(2.0, size=3000)
    inside, trials = 0, 2000
    for _ in range(trials):
        part = rng.choice(values, 300, replace=False)
        error = error_of_mean(part.sum(), (part**2).sum(), 300, 3000)
        inside += abs(part.mean() - values.mean()) <= error
    assert 0.93 <= inside / trials <= 0.97


def test_all_of_them_have_no_error():
    assert error_of_share(3, 10, 10) == 0.0
    assert error_of_mean(3.0, 9.0, 10, 10) == 0.0
    assert error_of_share(0, 0, 10) == 0.0


@pytest.mark.parametrize(
    ("wanted", "groups"),
    [(1, [5]), (4, [5]), (5, [2, 7]), (40, list(range(10))), (1000, list(range(10)))],
)
def test_groups_are_spread_evenly(wanted, groups):
    assert groups_of_views(wanted, group_views=4, num_groups=10).tolist() == groups
