"""FerKD's rule against equation 4, row by row, and its parameters."""

from __future__ import annotations

import numpy as np
import pytest

from labelstore.calibrate import Action, FerKD
from labelstore.ensembles import EnsembleTopK
from labelstore.errors import LabelError, UsageError
from labelstore.labels import TopK

C = 6


def labels_of(confidences):
    """Labels whose largest probability, of class 2, is given; the next, class 4, has a half of
    what is left."""
    top = np.asarray(confidences, dtype=np.float32)
    second = np.minimum((1 - top) / 2, top)
    return TopK(np.tile([2, 4], (len(top), 1)), np.stack([top, second], -1), C)


def slow_rule(confidence, soft, target, rule):
    if confidence <= rule.low or confidence > rule.top:
        return Action.DISCARDED, soft
    if rule.low < confidence <= rule.middle:
        hard = np.full(C, rule.smoothing / (C - 1))
        hard[target] = 1 - rule.smoothing
        return Action.CALIBRATED, hard
    return Action.KEPT, soft


@pytest.mark.parametrize("rule", [FerKD(), FerKD(0.25, 0.5, 0.75, smoothing=0.3), FerKD(0, 0, 1)])
def test_the_rule_is_equation_4_also_on_its_bounds(rule):
    edges = [np.float32(rule.low), np.float32(rule.middle), np.float32(rule.top)]
    values = np.concatenate(
        [np.linspace(0.01, 1, 67), edges, np.nextafter(edges, 0), np.nextafter(edges, 1)]
    ).astype(np.float32)
    values = values[values > 0]
    topk = labels_of(values)
    targets = np.arange(len(values)) % C
    done = rule.apply(topk, targets)
    dense, soft = done.labels.dense(), topk.recover().dense()
    for row, value in enumerate(values):
        # Thresholds and stored confidences are compared as float32, as they are stored.
        bounds = FerKD(*(float(edge) for edge in edges), smoothing=rule.smoothing)
        action, expected = slow_rule(float(value), soft[row], targets[row], bounds)
        assert done.action[row] == action, value
        np.testing.assert_allclose(dense[row], expected, atol=1e-6)
    np.testing.assert_allclose(done.labels.total(), 1, atol=1e-5)


def test_the_papers_bounds():
    values = np.float32([0.15, 0.16, 0.30, 0.31, 0.95, 0.96])
    discarded, calibrated, kept = Action.DISCARDED, Action.CALIBRATED, Action.KEPT
    expected = [discarded, calibrated, calibrated, kept, kept, discarded]
    assert FerKD().decide(values).tolist() == expected


def test_confidence_of_the_target():
    topk = TopK([[2, 4], [2, 4], [2, 4]], [[0.5, 0.3]] * 3, C)
    rule = FerKD(confidence="target", low=0.1, middle=0.4)
    done = rule.apply(topk, [2, 4, 1])
    assert done.action.tolist() == [Action.KEPT, Action.CALIBRATED, Action.DISCARDED]
    with pytest.raises(LabelError, match="needs the ground truth"):
        rule.apply(topk, [2, 4, -1])


def test_unknown_ground_truth_is_an_error_only_where_it_is_needed():
    rule = FerKD()
    assert rule.apply(labels_of([0.5, 0.99, 0.05])).action.tolist() == [0, 2, 2]
    with pytest.raises(LabelError, match="1 of 1 views"):
        rule.apply(labels_of([0.5, 0.2]), [3, -1])
    with pytest.raises(LabelError, match="--class-map"):
        rule.apply(labels_of([0.2]))


def test_weights_by_what_is_done_with_discarded_views():
    topk, targets = labels_of([0.5, 0.99, 0.2]), [0, 0, 0]
    for discard, expected in (("mask", [1, 0, 1]), ("keep", [1, 1, 1]), ("replace", [1, 1, 1])):
        done = FerKD(discard=discard).apply(topk, targets)
        assert done.weight.tolist() == expected
        assert done.action.tolist() == [0, 2, 1]


def test_ensembles_are_calibrated_per_teacher_and_then_averaged():
    confidences = [[0.5, 0.5, 0.99, 0.2], [0.6, 0.99, 0.05, 0.8]]
    members = tuple(labels_of(row) for row in confidences)
    weights = np.array([0.25, 0.75])
    topk = EnsembleTopK(members, weights)
    targets = np.array([1, 1, 1, 1])
    one, two = (FerKD().apply(member, targets).labels.dense() for member in members)
    done = FerKD().apply(topk, targets)
    dense = done.labels.dense()
    np.testing.assert_allclose(dense[0], 0.25 * one[0] + 0.75 * two[0], atol=1e-6)
    # The second teacher discards view 1: the first alone speaks. Both discard view 2.
    np.testing.assert_allclose(dense[1], one[1], atol=1e-6)
    np.testing.assert_allclose(dense[3], 0.25 * one[3] + 0.75 * two[3], atol=1e-6)
    assert done.action.tolist() == [0, 0, 2, 1]
    assert FerKD(ensemble="any").apply(topk, targets).action.tolist() == [0, 2, 2, 1]
    mean = FerKD(ensemble="mean").apply(topk, targets)
    expected = FerKD().decide(topk.recover().dense().max(-1))
    assert mean.action.tolist() == expected.tolist()


def test_a_teacher_without_weight_has_no_voice():
    topk = EnsembleTopK((labels_of([0.5]), labels_of([0.7])), np.array([1.0, 0.0]))
    np.testing.assert_allclose(
        FerKD().apply(topk, [0]).labels.dense(), labels_of([0.5]).recover().dense(), atol=1e-6
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 0.4},
        {"top": 0.2},
        {"top": 1.2},
        {"smoothing": -0.1},
        {"confidence": "second"},
        {"discard": "drop"},
        {"ensemble": "most"},
    ],
)
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(UsageError):
        FerKD(**wrong)
