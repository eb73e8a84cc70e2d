"""Quantiles of values that come in parts, against a sorted list of all."""

import math

import numpy as np
import pytest

from labelstore.statistics.quantiles import Quantiles


@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
def test_they_are_those_of_the_sorted_values_to_a_thousandth(spread):
    rng = np.random.default_rng(0)
    values = np.exp(spread * rng.normal(size=5000))
    values[:200] = 0
    quantiles = Quantiles()
    for part in np.array_split(values, 7):
        quantiles.add(part.reshape(-1, 1))
    ranked = np.sort(values.astype(np.float32))
    for share in (0.0, 0.03, 0.1, 0.5, 0.9, 0.99, 1.0):
        exact = float(ranked[max(math.ceil(share * 5000), 1) - 1])
        assert quantiles.value(share) == pytest.approx(exact, rel=1e-3, abs=0)
    assert quantiles.count == 5000


def test_zero_is_exact_and_has_one_sign():
    quantiles = Quantiles()
    quantiles.add(np.array([0.0, -0.0, 0.0, 1.0]))
    assert [quantiles.value(share) for share in (0.25, 0.5, 0.75)] == [0, 0, 0]
    assert quantiles.value(1.0) == pytest.approx(1.0, rel=1e-3)


def test_their_errors_hold_in_19_of_20_samples():
    rng = np.random.default_rng(1)
    whole = rng.gamma(2.0, size=20_000)
    for share in (0.1, 0.5, 0.9):
        exact = np.quantile(whole, share)
        inside = 0
        for _ in range(200):
            quantiles = Quantiles()
            quantiles.add(rng.choice(whole, 2000, replace=False))
            error = quantiles.error(share, whole.size)
            inside += abs(quantiles.value(share) - exact) <= error
        assert 0.88 <= inside / 200 <= 0.995
    everything = Quantiles()
    everything.add(whole)
    assert everything.error(0.5, whole.size) == 0
