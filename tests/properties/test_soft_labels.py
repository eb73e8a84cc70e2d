"""What holds for every soft label: it is a distribution, mixing keeps it one, and the loss in one
pass is the dense loss."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from labelstore.labels.actions import Action
from labelstore.labels.ferkd import FerKD
from labelstore.labels.soft_labels import mix
from labelstore.testing.strategies import soft_labels, top_k


def dense(label):
    """The definition, entry by entry, in float64."""
    out = np.zeros((len(label), label.num_classes))
    for row in range(len(label)):
        out[row] = float(label.base[row])
        for index, weight in zip(label.indices[row], label.weights[row], strict=True):
            out[row, index] += float(weight)
    return out


def check_distribution(label):
    probabilities = dense(label)
    assert probabilities.min() >= -1e-7
    assert label.dense().min() >= 0
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=3e-6)
    np.testing.assert_allclose(label.total(), probabilities.sum(-1), atol=1e-9)
    np.testing.assert_allclose(label.dense(), probabilities, atol=1e-6)


@given(soft_labels())
def test_recovered_labels_are_distributions(label):
    check_distribution(label)


@given(st.data())
def test_mixing_is_closed(data):
    labels = [data.draw(soft_labels(3, 12)) for _ in range(data.draw(st.integers(1, 4)))]
    parts = data.draw(st.lists(st.floats(0, 1), min_size=len(labels), max_size=len(labels)))
    weights = (np.array(parts) + 1e-3) / (np.array(parts) + 1e-3).sum()
    mixed = mix(labels, weights)
    check_distribution(mixed)
    expected = sum(w * dense(label) for w, label in zip(weights, labels, strict=True))
    np.testing.assert_allclose(dense(mixed), expected, atol=2e-6)


@given(soft_labels(), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 3.0, 100.0]))
def test_the_loss_in_one_pass_is_the_dense_loss(label, seed, scale):
    z = np.random.default_rng(seed).normal(size=(len(label), label.num_classes)) * scale
    shifted = z - z.max(-1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    expected = -(dense(label) * log_softmax).sum(-1)
    np.testing.assert_allclose(label.cross_entropy(z), expected, rtol=1e-5, atol=1e-5 * scale)


@given(top_k())
def test_stored_probabilities_are_recovered_as_they_are(topk):
    label = topk.recover()
    stored = topk.probs > 0
    total = topk.probs.sum(-1, dtype=np.float64)
    for row in range(len(topk)):
        for index, prob in zip(topk.indices[row][stored[row]], topk.probs[row], strict=False):
            expected = float(prob) / max(1.0, total[row])
            if stored[row].sum() < topk.num_classes:
                found = float(label[row : row + 1].probability([index])[0])
                assert abs(found - expected) < 1e-6


@given(top_k(), st.sampled_from(["max", "target"]), st.integers(0, 2**32 - 1))
def test_calibrated_labels_are_distributions(topk, confidence, seed):
    targets = np.random.default_rng(seed).integers(0, topk.num_classes, len(topk))
    done = FerKD(confidence=confidence).apply(topk, targets)
    check_distribution(done.labels)
    calibrated = done.action == Action.CALIBRATED
    found = done.labels.probability(targets)[calibrated]
    np.testing.assert_allclose(found, 0.9, atol=1e-6)
