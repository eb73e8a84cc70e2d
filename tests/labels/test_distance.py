"""Distances of recovered labels, against slow sums over classes in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from labelstore.errors import LabelError
from labelstore.labels.distance import LEAST, distances
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
