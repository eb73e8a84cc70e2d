"""Soft-label algebra against slow dense float64 references, and FKD's recoveries."""

from __future__ import annotations

import numpy as np
import pytest

from labelstore.errors import FallbackWarning, LabelError, UsageError
from labelstore.labels.prior import ImagePrior, decode_probs, encode_probs
from labelstore.labels.soft_labels import SoftLabels, hard, mix, smooth
from labelstore.labels.top_k import TopK
from tests.support.lists import fit_one


def random_topk(rng, rows=40, k=5, classes=50, sharp=3.0):
    z = rng.normal(size=(rows, classes)) * sharp
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    order = np.argsort(-p, axis=-1)[:, :k]
    return TopK(order, np.take_along_axis(p, order, -1), classes), p


def slow_dense(label):
    out = np.zeros((len(label), label.num_classes))
    for row in range(len(label)):
        out[row] = float(label.base[row])
        for index, weight in zip(label.indices[row], label.weights[row], strict=True):
            out[row, index] += float(weight)
    return out


@pytest.mark.parametrize(("k", "classes"), [(1, 2), (1, 50), (5, 50), (49, 50), (50, 50)])
def test_uniform_tail_is_marginal_smoothing(k, classes):
    topk, _ = random_topk(np.random.default_rng(0), k=k, classes=classes)
    dense = topk.recover("uniform").dense().astype(float)
    for row in range(len(topk)):
        stored = topk.probs[row].astype(float)
        expected = np.full(classes, max(0.0, 1 - stored.sum()) / max(classes - k, 1))
        expected[topk.indices[row]] = stored if k < classes else stored / stored.sum()
        np.testing.assert_allclose(dense[row], expected, atol=2e-7)
    np.testing.assert_allclose(dense.sum(-1), 1, atol=1e-5)


def test_no_tail_is_renorm():
    topk, _ = random_topk(np.random.default_rng(1))
    dense = topk.recover("none").dense()
    for row in range(len(topk)):
        expected = np.zeros(50)
        expected[topk.indices[row]] = topk.probs[row] / topk.probs[row].sum()
        np.testing.assert_allclose(dense[row], expected, atol=2e-7)


def test_hard_and_smoothing():
    topk, _ = random_topk(np.random.default_rng(2))
    assert np.array_equal(topk.hard().dense(), np.eye(50, dtype=np.float32)[topk.indices[:, 0]])
    soft = topk.smoothing().dense()
    for row in range(len(topk)):
        top = float(topk.probs[row, 0])
        expected = np.full(50, (1 - top) / 49)
        expected[topk.indices[row, 0]] = top
        np.testing.assert_allclose(soft[row], expected, atol=2e-7)
    assert np.array_equal(topk.as_type("hard").indices, topk.hard().indices)


@pytest.mark.parametrize("tail", ["uniform", "none"])
def test_sums_above_one_give_no_negative_entry(tail):
    probs = np.float16([[0.9995, 0.0009, 0.0003], [1, 1e-3, 1e-4], [0.5, 0.5, 0.0]])
    topk = TopK(np.tile(np.arange(3), (3, 1)), probs, 10)
    label = topk.recover(tail)
    assert slow_dense(label).min() >= -1e-9
    np.testing.assert_allclose(label.total(), 1, atol=1e-6)


def test_a_stored_zero_is_not_stored():
    topk = TopK([[4, 0, 0]], [[0.6, 0.0, 0.0]], 5)
    np.testing.assert_allclose(topk.recover("uniform").dense()[0], [0.1, 0.1, 0.1, 0.1, 0.6])
    np.testing.assert_allclose(topk.recover("none").dense()[0], [0, 0, 0, 0, 1])


@pytest.mark.parametrize("k", [1, 3])
def test_image_tail_spreads_the_residual_like_the_prior(k):
    rng = np.random.default_rng(3)
    z = 1.5 * rng.normal(size=40) + rng.normal(size=(30, 40))
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    order = np.argsort(-p, -1)[:, :k]
    topk = TopK(order, np.take_along_axis(p, order, -1).astype(np.float32), 40)
    limited = 0
    classes, codes, power, _ = fit_one(p.mean(0), topk.indices, topk.probs, 8)
    prior = ImagePrior(
        np.tile(classes, (30, 1)),
        np.tile(decode_probs(codes), (30, 1)),
        np.full(30, power / 100, dtype=np.float32),
    )
    label = TopK(topk.indices, topk.probs, 40, prior).recover("image")
    dense = slow_dense(label)
    listed = {int(c): float(q) for c, q in zip(classes, decode_probs(codes), strict=True)}
    rest = max(1 - sum(listed.values()), 1e-6) / (40 - len(listed))
    for row in range(30):
        stored = topk.indices[row].tolist()
        spread = np.array(
            [0.0 if c in stored else listed.get(c, rest) ** (power / 100) for c in range(40)]
        )
        mass = 1 - topk.probs[row].astype(float).sum()
        # No listed class gets more than 3/4 of the least stored: pour what is over on.
        limit, expected = 0.75 * float(topk.probs[row].min()), mass * spread / spread.sum()
        may_be = np.array([c in listed and c not in stored for c in range(40)])
        while (over := (expected > limit * (1 + 1e-12)) & may_be).any():
            fixed = over | (expected >= limit * (1 - 1e-12)) & may_be
            free = np.where(fixed, 0.0, spread)
            expected = np.where(fixed, limit, (mass - limit * fixed.sum()) * free / free.sum())
            limited += 1
        expected[stored] = topk.probs[row]
        np.testing.assert_allclose(dense[row], expected, atol=3e-7)
    assert limited > 2


def test_the_fitted_power_is_about_the_best_of_those_tried():
    rng = np.random.default_rng(4)
    centre = rng.normal(size=60) * 3
    z = centre + rng.normal(size=(200, 60))
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    order = np.argsort(-p, -1)[:, :2]
    probs = np.take_along_axis(p, order, -1)
    classes, codes, power, _ = fit_one(p.mean(0), order, probs, 20)

    def divergence(hundredths):
        prior = ImagePrior(
            np.tile(classes, (200, 1)),
            np.tile(decode_probs(codes), (200, 1)),
            np.full(200, hundredths / 100, dtype=np.float32),
        )
        q = TopK(order, probs, 60, prior).recover().dense().astype(float)
        return float((p * np.log(p / q)).sum(-1).mean())

    costs = {hundredths: divergence(hundredths) for hundredths in range(20, 131, 5)}
    # The fit leaves out that no class gets more than the least stored one: about a hundredth.
    assert costs[power] == pytest.approx(min(costs.values()), rel=0.02)
    uniform = TopK(order, probs, 60).recover().dense()
    assert costs[power] < 0.6 * float((p * np.log(p / uniform)).sum(-1).mean())


def test_image_tail_without_a_prior_is_uniform_and_says_so():
    topk, _ = random_topk(np.random.default_rng(5))
    with pytest.warns(FallbackWarning, match="uniform"):
        label = topk.recover("image")
    assert np.array_equal(label.weights, topk.recover("uniform").weights)


def test_prior_codes_keep_zero_apart_from_the_smallest_mass():
    codes = encode_probs([1.0, 0.25, 1e-12, 0.0])
    assert codes.tolist() == [255, 180, 1, 0]
    assert decode_probs(codes)[3] == 0
    exact = np.logspace(-4, 0, 200)
    assert np.max(np.abs(decode_probs(encode_probs(exact)) / exact - 1)) < 0.1


def test_mix_is_the_weighted_sum():
    rng = np.random.default_rng(6)
    labels = [random_topk(rng)[0].recover(tail) for tail in ("uniform", "none", "uniform")]
    weights = rng.dirichlet([1, 1, 1], size=40).T
    mixed = mix(labels, weights)
    expected = sum(w[:, None] * slow_dense(label) for w, label in zip(weights, labels, strict=True))
    np.testing.assert_allclose(slow_dense(mixed), expected, atol=3e-7)
    np.testing.assert_allclose(mixed.total(), 1, atol=1e-6)
    assert mixed.indices.shape == (40, 15)


@pytest.mark.parametrize("number", [7, 3, 9])
def test_the_probability_of_one_class_of_one_label(number):
    """Of a label without leading axes, too: stored or spread."""
    topk = TopK(np.array([7, 3]), np.array([0.6, 0.3]), 11)
    expected = topk.recover().dense()[number]
    assert topk.probability(number) == pytest.approx(expected, abs=1e-6)
    assert topk.probability(number).shape == ()


def test_probability_and_cross_entropy_against_dense():
    rng = np.random.default_rng(7)
    label = mix([random_topk(rng)[0].recover() for _ in range(2)], [0.3, 0.7])
    dense = slow_dense(label)
    classes = rng.integers(0, 50, 40)
    np.testing.assert_allclose(label.probability(classes), dense[np.arange(40), classes], atol=1e-7)
    z = rng.normal(size=(40, 50)) * 20 + 300
    log_softmax = z - z.max(-1, keepdims=True)
    log_softmax -= np.log(np.exp(log_softmax).sum(-1, keepdims=True))
    expected = -(dense * log_softmax).sum(-1)
    np.testing.assert_allclose(label.cross_entropy(z), expected, rtol=1e-6)


def test_smooth():
    np.testing.assert_allclose(smooth([2], 5, 0.2).dense()[0], [0.05, 0.05, 0.8, 0.05, 0.05])
    np.testing.assert_array_equal(hard([1, 0], 2).dense(), [[0, 1], [1, 0]])


def test_rows_and_shapes():
    topk, _ = random_topk(np.random.default_rng(8), rows=12)
    label = topk.recover()
    square = label.reshape(3, 4)
    assert square.dense().shape == (3, 4, 50)
    assert np.array_equal(square[1, 2].dense(), label[6].dense())
    assert np.array_equal(topk[3:5].probs, topk.probs[3:5])


def test_what_is_no_label_is_refused():
    with pytest.raises(LabelError, match="shape"):
        SoftLabels(np.zeros(3), np.zeros((3, 2)), np.zeros((3, 1)), 5)
    with pytest.raises(LabelError, match="shape"):
        TopK([[1, 2]], [[0.5]], 5)
    with pytest.raises(LabelError, match="class ids run"):
        hard([-1], 5)
    with pytest.raises(LabelError, match="logits"):
        hard([1], 5).cross_entropy(np.zeros((1, 4)))
    with pytest.raises(LabelError, match="cannot be mixed"):
        mix([hard([1], 5), hard([1], 6)], [0.5, 0.5])
    with pytest.raises(LabelError, match="non-negative"):
        mix([hard([1], 5)], [-1.0])
    with pytest.raises(UsageError, match="tail"):
        TopK([[1]], [[0.5]], 5).recover("flat")
    with pytest.raises(UsageError, match="k is 3"):
        TopK([[1, 2]], [[0.5, 0.2]], 5).truncate(3)
    with pytest.raises(UsageError, match="smoothing"):
        smooth([1], 5, 1.5)
