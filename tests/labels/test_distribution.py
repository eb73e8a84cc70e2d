"""The largest classes, mean and entropy of sparse labels, against slow sums over classes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from labelstore.errors import UsageError
from labelstore.labels.distribution import each_class_once, entropy, largest, mean_distribution
from labelstore.labels.soft_labels import SoftLabels, hard, smooth

C = 7


def slow(labels, row):
    """C probabilities of a label, class by class, in float64."""
    probs = [float(labels.base[row])] * labels.num_classes
    for index, weight in zip(labels.indices[row], labels.weights[row], strict=True):
        probs[index] += float(weight)
    return probs


def some_labels(rows=40, width=5, num_classes=C, seed=0):
    """Labels of sum 1 whose sparse part names classes more than once, some with weight 0."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, num_classes, (rows, width)).astype(np.int32)
    mass = rng.uniform(0, 1, rows) * (rng.random(rows) < 0.8)
    weights = rng.dirichlet(np.full(width, 0.5), rows) * (1 - mass)[:, None]
    weights[:, -1] = np.where(rng.random(rows) < 0.3, 0, weights[:, -1])
    base = (1 - weights.sum(1)) / num_classes
    return SoftLabels(base.astype(np.float32), indices, weights.astype(np.float32), num_classes)


@pytest.mark.parametrize("width", [1, 2, 5, 12])
def test_each_class_stands_once_with_all_of_its_weight(width):
    labels = some_labels(width=width, seed=width)
    classes, probs, present = each_class_once(labels)
    for row in range(len(classes)):
        named = sorted(set(labels.indices[row].tolist()))
        assert classes[row][present[row]].tolist() == named
        assert (classes[row][~present[row]] == named[0]).all()
        expected = slow(labels, row)
        np.testing.assert_allclose(
            probs[row][present[row]], [expected[i] for i in named], rtol=0, atol=1e-12
        )
        assert (probs[row][~present[row]] == 0).all()


def test_rounding_leaves_no_probability_below_zero():
    labels = SoftLabels(
        np.float32([0.1]), np.int32([[2, 2, 3]]), np.float32([[-0.07, -0.03000001, 0.6]]), C
    )
    assert each_class_once(labels)[1].min() == 0


@pytest.mark.parametrize("shape", [(40,), (5, 8), (2, 4, 5)])
def test_entropy_is_the_sum_over_all_classes(shape):
    labels = some_labels()
    expected = [
        -sum(p * math.log(p) for p in slow(labels, row) if p > 0) for row in range(len(labels.base))
    ]
    np.testing.assert_allclose(
        entropy(labels.reshape(*shape)), np.reshape(expected, shape), rtol=0, atol=1e-12
    )


def test_entropy_of_known_labels():
    assert entropy(hard(np.array([3]), C)).tolist() == [0.0]
    uniform = SoftLabels(
        np.full(1, 1 / C, np.float32), np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32), C
    )
    assert entropy(uniform)[0] == pytest.approx(math.log(C), abs=1e-6)
    rest = 0.3 / (C - 1)
    smoothed = -(0.7 * math.log(0.7) + 0.3 * math.log(rest))
    assert entropy(smooth(np.array([3]), C, 0.3))[0] == pytest.approx(smoothed, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4, C])
def test_the_largest_are_those_of_all_classes(k):
    labels = some_labels(seed=3)
    top = largest(labels, k)
    assert top.indices.shape == top.probs.shape == (40, k)
    for row in range(40):
        probs, base = slow(labels, row), float(labels.base[row])
        # Of equals the smaller id; classes of the tail, all alike, are not stored.
        order = [c for c in sorted(range(C), key=lambda c: (-probs[c], c)) if probs[c] > base][:k]
        assert top.indices[row][: len(order)].tolist() == order
        np.testing.assert_allclose(
            top.probs[row], [*(probs[c] for c in order), *[0] * (k - len(order))], atol=1e-7
        )


def test_equals_are_in_the_order_of_their_ids():
    labels = SoftLabels(
        np.zeros(1, np.float32), np.int32([[5, 2, 4]]), np.float32([[0.4, 0.4, 0.2]]), C
    )
    assert largest(labels, 2).indices.tolist() == [[2, 5]]


@pytest.mark.parametrize("k", [0, -1, C + 1])
def test_a_k_that_is_no_number_of_classes_is_refused(k):
    with pytest.raises(UsageError, match=f"k is {k}, expected 1 to {C}"):
        largest(some_labels(), k)


@pytest.mark.parametrize("shape", [(40,), (5, 8)])
def test_the_mean_is_of_every_label(shape):
    labels = some_labels(seed=5)
    expected = np.mean([slow(labels, row) for row in range(40)], axis=0, dtype=np.float64)
    mean = mean_distribution(labels.reshape(*shape))
    assert mean.dtype == np.float64
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-12)
    assert mean.sum() == pytest.approx(1, abs=1e-6)


def test_the_mean_of_classes_that_nobody_names_is_the_bases():
    labels = smooth(np.array([1, 1]), C, 0.6)
    np.testing.assert_allclose(mean_distribution(labels), [0.1, 0.4, *[0.1] * 5], atol=1e-7)
