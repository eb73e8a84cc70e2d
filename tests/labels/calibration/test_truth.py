"""LoCa against a slow dense reference, written from its formula."""

from __future__ import annotations

import numpy as np
import pytest

from labelstore.errors import LabelError, UsageError
from labelstore.labels.actions import Action
from labelstore.labels.calibration.truth import with_leading_truth
from labelstore.labels.ensemble import EnsembleTopK
from labelstore.labels.ferkd import FerKD
from labelstore.labels.prior import ImagePrior
from labelstore.labels.soft_labels import SoftLabels
from labelstore.labels.top_k import TopK

C, ROWS = 12, 60


def slow_loca(p, target, alpha):
    """Dense, in float64, class by class."""
    p = np.asarray(p, dtype=np.float64)
    largest_other = max(p[c] for c in range(len(p)) if c != target)
    if p[target] > largest_other:
        return p
    s = alpha / (1 - p[target] + largest_other)
    out = np.array([s * p[c] for c in range(len(p))])
    out[target] = 1 - sum(out[c] for c in range(len(p)) if c != target)
    return out


def stored(seed, k=3, listed=4):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(C, 0.4), ROWS)
    order = np.argsort(-p, axis=1)[:, :k]
    prior = None
    if listed:
        mean = -np.sort(-rng.dirichlet(np.ones(listed), ROWS) * 0.9, axis=1)
        lists = rng.random((ROWS, C)).argsort(1)[:, :listed]
        prior = ImagePrior(lists, mean, np.full(ROWS, 0.7))
    return TopK(order, np.take_along_axis(p, order, 1).astype(np.float32), C, prior)


@pytest.mark.parametrize("tail", ["uniform", "none", "image"])
@pytest.mark.parametrize("alpha", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("k", [1, 3])
def test_the_ground_truth_leads_and_the_others_keep_their_proportions(tail, alpha, k):
    topk = stored(0, k)
    target = np.arange(ROWS) % C
    rule = FerKD(0.1, 0.6, 0.9, calibrate="loca", alpha=alpha)
    done = rule.apply(topk, target, tail)
    soft, dense = topk.recover(tail).dense(), done.labels.dense()
    calibrated = done.action == Action.CALIBRATED
    assert 10 < calibrated.sum() < ROWS
    np.testing.assert_array_equal(done.action, FerKD(0.1, 0.6, 0.9).apply(topk, target).action)
    for row in range(ROWS):
        expected = slow_loca(soft[row], target[row], alpha) if calibrated[row] else soft[row]
        np.testing.assert_allclose(dense[row], expected, atol=1e-6)
        if calibrated[row]:
            rest = np.delete(dense[row], target[row])
            assert dense[row, target[row]] > rest.max()
    np.testing.assert_allclose(done.labels.total(), 1, atol=1e-5)
    assert dense.min() >= 0


def test_a_known_answer():
    # 0.2 and 0.5: the others are multiplied by 0.9 / 1.3, and 1 - 0.8 x 0.9 / 1.3 is left.
    labels = SoftLabels([0.1] * 2, [[2, 4], [2, 4]], [[0.4, 0.1]] * 2, 5)
    done = with_leading_truth(labels, np.array([True, True]), np.array([4, 2]), 0.9)
    s = 0.9 / 1.3
    expected = [[0.1 * s, 0.1 * s, 0.5 * s, 0.1 * s, 1 - 0.8 * s], [0.1, 0.1, 0.5, 0.1, 0.2]]
    np.testing.assert_allclose(done.dense(), expected, atol=1e-7)


def test_classes_alike_and_classes_named_twice():
    even = SoftLabels([0.25], [[0, 0, 0]], [[0.0, 0.25, -0.25]], 4)
    done = with_leading_truth(even, np.array([True]), np.array([3]), 0.8)
    np.testing.assert_allclose(done.dense()[0], slow_loca([0.25] * 4, 3, 0.8), atol=1e-7)


@pytest.mark.parametrize("ensemble", ["all", "mean"])
def test_several_teachers(ensemble):
    members = (stored(1), stored(2, k=2, listed=0))
    topk = EnsembleTopK(members, np.array([0.4, 0.6]))
    target = np.arange(ROWS) % C
    rule = FerKD(0, 1, 1, calibrate="loca", ensemble=ensemble)
    dense = rule.apply(topk, target).labels.dense()
    parts = [member.recover().dense().astype(np.float64) for member in members]
    for row in range(ROWS):
        mean = 0.4 * parts[0][row] + 0.6 * parts[1][row]
        if ensemble == "mean":
            expected = slow_loca(mean, target[row], 0.9)
        else:
            own = [slow_loca(part[row], target[row], 0.9) for part in parts]
            expected = 0.4 * own[0] + 0.6 * own[1]
        np.testing.assert_allclose(dense[row], expected, atol=1e-6)


def test_what_it_needs():
    rule = FerKD(calibrate="loca")
    with pytest.raises(LabelError, match="1 of 1 views"):
        rule.apply(TopK([[1]], [[0.2]], C), [-1])
    kept = rule.apply(TopK([[1]], [[0.5]], C), [-1])
    assert kept.labels.indices.shape == (1, 2)
    for wrong in ({"alpha": 0}, {"alpha": 1}, {"calibrate": "scale"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            FerKD(**wrong)
