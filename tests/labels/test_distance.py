"""Distances of recovered labels, against slow sums over classes in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from labelstore.errors import LabelError
from labelstore.labels.distance import LEAST, between, between_dense, distances
from labelstore.labels.soft_labels import SoftLabels, hard
from labelstore.labels.top_k import TopK

C = 9


def teachers(rows=30, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(C, 0.5), rows)


def recovered(truth, k, tail):
    indices = np.argsort(-truth, axis=-1)[:, :k]
    probs = np.take_along_axis(truth, indices, axis=-1).astype(np.float32)
    return TopK(indices.astype(np.int32), probs, C).recover(tail)


def slow(truth, labels):
    """Mean KL divergence, mean total variation, share of equal largest classes."""
    rows = labels.dense().astype(np.float64).tolist()
    divergences, variations, kept = [], [], []
    for p, q in zip(truth.tolist(), rows, strict=True):
        divergences.append(
            sum(a * math.log(a / max(b, LEAST)) for a, b in zip(p, q, strict=True) if a > 0)
        )
        variations.append(sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2)
        kept.append(p.index(max(p)) == q.index(max(q)))
    return [float(np.mean(values)) for values in (divergences, variations, kept)]


@pytest.mark.parametrize("tail", ["uniform", "none"])
@pytest.mark.parametrize("k", [1, 3, C])
def test_they_are_the_sums_over_classes(k, tail):
    truth = teachers(seed=k)
    labels = recovered(truth, k, tail)
    between = distances([(truth, labels)])
    expected = slow(truth, labels)
    assert [between.kl_nats, between.total_variation, between.top1_kept] == pytest.approx(
        expected, abs=1e-9
    )
    assert between.labels == len(truth)


def test_batches_are_one_mean():
    truth = teachers()
    labels = recovered(truth, 2, "uniform")
    batches = [(truth[:1], labels[:1]), (truth[1:11], labels[1:11]), (truth[11:], labels[11:])]
    whole, parts = distances([(truth, labels)]), distances(iter(batches))
    assert parts.labels == whole.labels == 30
    assert parts.kl_nats == pytest.approx(whole.kl_nats, rel=1e-12)
    assert parts.total_variation == pytest.approx(whole.total_variation, rel=1e-12)
    assert parts.top1_kept == whole.top1_kept


def test_known_distances():
    truth = np.array([[0.5, 0.25, 0.25, 0, 0, 0, 0, 0, 0]])
    even = SoftLabels(
        np.full(1, 1 / C, np.float32), np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32), C
    )
    between = distances([(truth, even)])
    entropy = 1.5 * math.log(2)
    assert between.kl_nats == pytest.approx(math.log(C) - entropy, abs=1e-6)
    assert between.total_variation == pytest.approx(1 - 3 / C, abs=1e-6)
    assert between.top1_kept == 1
    # What a label rules out is finitely far.
    ruled_out = distances([(truth, hard(np.array([4]), C))])
    assert ruled_out.kl_nats == pytest.approx(-math.log(LEAST) - entropy, abs=1e-6)
    assert (ruled_out.total_variation, ruled_out.top1_kept) == (1, 0)


def test_the_same_distribution_is_not_far():
    labels = hard(np.array([0, 3]), C)
    between = distances([(labels.dense(), labels)])
    assert (between.kl_nats, between.total_variation, between.top1_kept) == (0, 0, 1)
    assert between.to_json() == {
        "kl_nats": 0.0,
        "total_variation": 0.0,
        "top1_kept": 1.0,
        "labels": 2,
    }


def test_what_cannot_be_compared_is_refused():
    labels = hard(np.array([0, 3]), C)
    with pytest.raises(LabelError, match=r"shape \(2, 8\), expected \(2, 9\)"):
        distances([(np.zeros((2, 8)), labels)])
    with pytest.raises(LabelError, match="no labels"):
        distances([])


def between_slow(p, q):
    """KL(p || q), KL(q || p) in nats and total variation of two lists, class by class."""
    pairs = list(zip(p, q, strict=True))
    return (
        sum(a * math.log(a / max(b, LEAST)) for a, b in pairs if a > 0),
        sum(b * math.log(b / max(a, LEAST)) for a, b in pairs if b > 0),
        sum(abs(a - b) for a, b in pairs) / 2,
    )


@pytest.mark.parametrize("tails", [("uniform", "uniform"), ("uniform", "none"), ("none", "none")])
@pytest.mark.parametrize("k", [(1, 1), (3, 2), (C, 1)])
def test_labels_are_as_far_from_one_another_as_their_dense_ones(k, tails):
    a, b = (recovered(teachers(24, seed), k[seed], tails[seed]) for seed in (0, 1))
    found = between(a.reshape(4, 6), b.reshape(4, 6))
    assert all(part.shape == (4, 6) for part in found)
    rows = zip(a.dense().tolist(), b.dense().tolist(), strict=True)
    slow_rows = np.array([between_slow(p, q) for p, q in rows]).reshape(4, 6, 3)
    # Dense labels are rounded to float32: a class of 1e-12 is any other number below 1e-7.
    np.testing.assert_allclose(np.stack(found, -1), slow_rows, rtol=1e-4, atol=3e-6)
    dense = between_dense(a.dense(), b.dense())
    np.testing.assert_allclose(np.stack(dense, -1).reshape(4, 6, 3), slow_rows, rtol=1e-6)
    turned = between(b, a)
    np.testing.assert_array_equal(turned.kl_ba.reshape(4, 6), found.kl_ab)
    np.testing.assert_array_equal(turned.total_variation.reshape(4, 6), found.total_variation)


def test_a_label_is_no_way_from_itself_however_it_is_written():
    label = recovered(teachers(5), 3, "uniform")
    twice = SoftLabels(
        label.base,
        np.concatenate([label.indices, label.indices], axis=-1),
        np.concatenate([label.weights / 2, label.weights / 2], axis=-1),
        C,
    )
    for other in (label, twice):
        assert max(part.max() for part in between(label, other)) < 1e-12
    # The farthest that two labels can be: each rules out what the other is sure of.
    far = between(hard([1], C), hard([2], C))
    assert far.kl_ab == far.kl_ba == pytest.approx(-math.log(LEAST))
    assert far.total_variation == 1


def test_labels_that_are_no_fellows_are_refused():
    with pytest.raises(LabelError, match="labels of the same views"):
        between(hard([1, 2], C), hard([1], C))
    with pytest.raises(LabelError, match="over 9 classes"):
        between(hard([1], C), hard([1], C + 1))
