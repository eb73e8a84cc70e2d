"""Entropy and other temperatures against dense float64 arithmetic written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

import labelstore
from labelstore.errors import UsageError
from labelstore.labels.distribution import each_class_once, entropy
from labelstore.labels.prior import ImagePrior
from labelstore.labels.soft_labels import SoftLabels, hard, mix, smooth
from labelstore.labels.temperature import at_temperature
from labelstore.labels.top_k import TopK
from labelstore.testing.strategies import soft_labels


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def dense(label):
    out = np.zeros((len(label), label.num_classes))
    for row in range(len(label)):
        out[row] = float(label.base[row])
        for index, weight in zip(label.indices[row], label.weights[row], strict=True):
            out[row, index] += float(weight)
    return np.maximum(out, 0.0)


def tempered(p, factor):
    """``p ** (1 / factor)`` over its sum, by logarithms."""
    with np.errstate(divide="ignore"):
        return softmax(np.log(p) / factor)


def stored(z, k):
    p = softmax(z)
    order = np.argsort(-p, -1)[:, :k]
    return TopK(order, np.take_along_axis(p, order, -1), z.shape[1])


@given(soft_labels(), st.sampled_from([0.05, 0.5, 1.0, 2.0, 20.0]))
def test_any_label_at_another_temperature(label, factor):
    p = dense(label)
    # Rounding of 1e-8 counts where a high temperature raises it.
    assume(factor <= 1 or not ((p > 0) & (p < 1e-6)).any())
    result = at_temperature(label, factor)
    np.testing.assert_allclose(dense(result), tempered(p, factor), atol=3e-6)
    np.testing.assert_allclose(result.total(), 1, atol=3e-6)


@given(soft_labels(3, 12), soft_labels(3, 12))
def test_entropy_of_mixed_labels(first, second):
    label = mix([first, second, first], [0.3, 0.5, 0.2])
    p = dense(label)
    expected = -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
    np.testing.assert_allclose(entropy(label), expected, atol=1e-6)


def test_entropy_of_known_labels():
    assert entropy(hard([3], 10))[0] == 0
    np.testing.assert_allclose(
        entropy(SoftLabels(np.full(1, 0.1), [[0]], [[0.0]], 10)), np.log(10), rtol=1e-6
    )
    expected = -(0.8 * np.log(0.8) + 4 * 0.05 * np.log(0.05))
    np.testing.assert_allclose(entropy(smooth([2], 5, 0.2)), expected, rtol=1e-6)


def test_labels_without_a_sparse_part():
    even = SoftLabels(np.full(2, 0.25), np.zeros((2, 0)), np.zeros((2, 0)), 4)
    np.testing.assert_allclose(entropy(even), np.log(4))
    np.testing.assert_allclose(at_temperature(even, 3.0).dense(), 0.25)


def test_a_class_that_stands_twice_counts_once():
    label = SoftLabels([0.1], [[4, 2, 4]], [[0.2, 0.1, 0.3]], 5)
    classes, probs, present = each_class_once(label)
    assert classes[0, :2].tolist() == [2, 4]
    assert present[0].tolist() == [True, True, False]
    np.testing.assert_allclose(probs[0], [0.2, 0.6, 0.0], atol=1e-7)
    p = np.array([0.1, 0.1, 0.2, 0.1, 0.6])
    np.testing.assert_allclose(
        at_temperature(label, 0.5).dense()[0], p**2 / (p**2).sum(), rtol=1e-6
    )


@pytest.mark.parametrize("factor", [0.5, 2.0, 7.0])
def test_with_all_classes_stored_it_is_the_teacher_at_that_temperature(factor):
    z = np.random.default_rng(0).normal(size=(20, 12)) * 3
    result = at_temperature(stored(z, 12), factor)
    np.testing.assert_allclose(dense(result), softmax(z / factor), atol=1e-6)


@pytest.mark.parametrize("tail", ["uniform", "none", "image"])
@pytest.mark.parametrize("k", [1, 4])
def test_ratios_of_stored_classes_are_the_teachers(tail, k):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(10, 50)) * 2
    plain = stored(z, k)
    mean = softmax(z).mean(0)
    likely = np.argsort(-mean)[:8].astype(np.int32)
    prior = ImagePrior(
        np.tile(likely, (10, 1)),
        np.tile(mean[likely].astype(np.float32), (10, 1)),
        np.full(10, 0.7, dtype=np.float32),
    )
    topk = TopK(plain.indices, plain.probs, 50, prior)
    result = dense(at_temperature(topk, 2.0, tail))
    found = np.take_along_axis(result, topk.indices, 1)
    exact = np.take_along_axis(softmax(z / 2.0), topk.indices, 1)
    np.testing.assert_allclose(found / found[:, :1], exact / exact[:, :1], rtol=1e-4)
    np.testing.assert_allclose(result, tempered(dense(topk.recover(tail)), 2.0), atol=2e-6)


def test_a_uniform_tail_counts_by_its_number_of_classes():
    topk = TopK([[3]], [[0.6]], 9)
    result = at_temperature(topk, 2.0, "uniform")
    total = 0.6**0.5 + 8 * (0.4 / 8) ** 0.5
    expected = np.full(9, (0.4 / 8) ** 0.5 / total)
    expected[3] = 0.6**0.5 / total
    np.testing.assert_allclose(result.dense()[0], expected, rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 0.5, 2.0, 1e3])
def test_no_residual_mass(factor):
    result = at_temperature(TopK([[3, 1]], [[0.75, 0.25]], 9), factor, "uniform")
    odds = 3.0 ** -(1 / factor) if factor > 0.01 else 0.0
    expected = [1 / (1 + odds), odds / (1 + odds)]
    np.testing.assert_allclose(result.dense()[0, [3, 1]], expected, rtol=1e-6)
    assert result.base[0] == 0


def test_extreme_temperatures_end_at_the_largest_class_and_at_even():
    z = np.random.default_rng(2).normal(size=(5, 30)) * 3
    topk = stored(z, 3)
    sharp, flat = at_temperature(topk, 1e-4), at_temperature(topk, 1e6)
    np.testing.assert_allclose(sharp.dense(), topk.hard().dense(), atol=1e-6)
    np.testing.assert_allclose(flat.dense(), 1 / 30, rtol=1e-4)


def test_there_and_back():
    topk = stored(np.random.default_rng(3).normal(size=(5, 30)), 4)
    back = at_temperature(labelstore.at_temperature(topk, 3.0), 1 / 3.0)
    np.testing.assert_allclose(back.dense(), topk.recover().dense(), rtol=1e-4)


def test_what_cannot_be_is_refused():
    topk = stored(np.zeros((1, 4)), 2)
    for factor in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(UsageError, match="expected a positive number"):
            at_temperature(topk, factor)
    with pytest.raises(UsageError, match="recovered already"):
        at_temperature(topk.recover(), 2.0, "uniform")
