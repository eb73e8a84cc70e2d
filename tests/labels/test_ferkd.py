"""FerKD's rule against equation 4, row by row, and its parameters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from labelstore.errors import LabelError, UsageError
from labelstore.labels.actions import Action, ActionCounts
from labelstore.labels.ensemble import EnsembleTopK, together
from labelstore.labels.ferkd import EnsembleFerKD, FerKD
from labelstore.labels.prior import ImagePrior
from labelstore.labels.top_k import TopK

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


def test_counts_are_of_the_views_that_have_a_confidence():
    rule = FerKD(low=0.2, middle=0.4, top=0.9)
    plane = np.array([[0.1, 0.2, 0.3, np.nan], [0.4, 0.9, 0.95, np.nan]], dtype=np.float32)
    assert rule.count(plane) == ActionCounts(2, 2, 1, 1)
    assert rule.count(plane[0]) + rule.count(plane[1]) == rule.count(plane)
    assert rule.count(plane[:, 3:]) == ActionCounts()


def test_the_rule_of_tensors_is_the_rule_of_arrays():
    torch = pytest.importorskip("torch")
    rule = FerKD()
    edges = np.float32([0.15, 0.3, 0.95])
    values = np.concatenate([edges, np.nextafter(edges, np.float32(0)), [np.nan, 0, 1]])
    values = np.concatenate([values, np.nextafter(edges, np.float32(1))]).astype(np.float32)
    for ours, theirs in zip(rule.parts(values), rule.parts(torch.from_numpy(values)), strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(("ensemble", "combine"), [("all", np.all), ("any", np.any)])
def test_teachers_discard_together(ensemble, combine):
    dropped = np.array(list(itertools.product([False, True], repeat=3))).T
    assert together(list(dropped), ensemble).tolist() == combine(dropped, axis=0).tolist()


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
    with pytest.raises(LabelError, match="a class map"):
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


@pytest.mark.parametrize("confidence", ["max", "target"])
def test_a_confidence_exactly_at_a_threshold(confidence):
    # Powers of two are the same number in every precision.
    rule = FerKD(0.125, 0.25, 0.5, confidence=confidence)
    values = [0.125, 0.25, 0.5]
    found = rule.apply(labels_of(values), [2, 2, 2])
    assert found.action.tolist() == [Action.DISCARDED, Action.CALIBRATED, Action.KEPT]
    above = np.nextafter(np.float32(values), np.float32(1))
    found = rule.apply(labels_of(above), [2, 2, 2])
    assert found.action.tolist() == [Action.CALIBRATED, Action.KEPT, Action.DISCARDED]


def test_equal_thresholds_leave_nothing_between_them():
    rule = FerKD(0.25, 0.25, 0.25)
    assert rule.decide([0.0, 0.25, 0.5, 1.0]).tolist() == [Action.DISCARDED] * 4
    assert FerKD(0, 0, 1).decide([0.0, 1e-30, 1.0]).tolist() == [
        Action.DISCARDED,
        Action.KEPT,
        Action.KEPT,
    ]


@pytest.mark.parametrize("tail", ["uniform", "none"])
def test_one_stored_class(tail):
    topk = TopK([[1]] * 3, [[0.25], [0.5], [0.99]], C)
    done = FerKD().apply(topk, [3, 3, 3], tail)
    assert done.action.tolist() == [Action.CALIBRATED, Action.KEPT, Action.DISCARDED]
    dense = done.labels.dense()
    np.testing.assert_allclose(dense[0], [0.02, 0.02, 0.02, 0.9, 0.02, 0.02], atol=1e-7)
    soft = [0.1, 0.5, 0.1, 0.1, 0.1, 0.1] if tail == "uniform" else [0, 1, 0, 0, 0, 0]
    np.testing.assert_allclose(dense[1], soft, atol=1e-7)
    # The ground truth is not stored: 0.1 of the residual is its part, whatever the label's tail.
    by_target = FerKD(0.05, 0.125, confidence="target").apply(topk[1:2], [3], tail)
    assert by_target.action.tolist() == [Action.CALIBRATED]


ROUND = [0.05, 0.1, 0.15, 0.3, 0.35, 0.45, 0.6, 0.85, 0.95]
"""Thresholds that are no exact number in any precision."""


@pytest.mark.parametrize("num_classes", [7, 20, 1000])
@pytest.mark.parametrize("tail", ["uniform", "none", "image"])
@pytest.mark.parametrize("k", [1, 2])
def test_a_threshold_meets_a_stored_probability_alike_whatever_is_looked_at(num_classes, tail, k):
    values = np.float32(ROUND)
    prior = None
    if tail == "image":
        lists = np.tile([3, 5, 6], (len(values), 1)), np.tile([0.5, 0.3, 0.1], (len(values), 1))
        prior = ImagePrior(*lists, np.full(len(values), 0.7))
    second = np.minimum((1 - values) / 2, values)
    probs = np.stack([values, second], -1)[:, :k]
    topk = TopK(np.tile([2, 4], (len(values), 1))[:, :k], probs, num_classes, prior)
    targets = np.full(len(values), 2)
    for edge in ROUND:
        for edges in ((edge, edge, 1.0), (0.0, edge, 1.0), (0.0, 0.0, edge)):
            by_max = FerKD(*edges).apply(topk, targets, tail).action
            by_target = FerKD(*edges, confidence="target").apply(topk, targets, tail).action
            assert by_max.tolist() == by_target.tolist()
            at = by_max[ROUND.index(edge)]
            bound = {0: Action.DISCARDED, 1: Action.CALIBRATED}
            expected = bound[0] if edges[0] == edge else bound[1] if edges[1] == edge else 0
            assert at == expected
    # Two teachers that say the same have a mean of just that.
    both = EnsembleTopK((topk, topk, topk), np.full(3, 1 / 3))
    for confidence in ("max", "target"):
        rule = FerKD(confidence=confidence, ensemble="mean")
        assert (rule.confidence_of(None, both, targets) == values).all()
        mean = rule.apply(both, targets, tail).action
        assert mean.tolist() == FerKD().apply(topk, targets, tail).action.tolist()


def test_the_mean_is_that_of_the_teachers_own_probabilities_whatever_the_tail():
    rng = np.random.default_rng(3)
    members = []
    for listed in (0, 4):
        probs = np.sort(rng.dirichlet(np.full(C, 0.4), 60), 1)[:, ::-1][:, :2] * 0.9
        indices = rng.random((60, C)).argsort(1)
        lists = rng.random((60, C)).argsort(1)[:, :listed], np.full((60, listed), 0.2)
        prior = ImagePrior(*lists, np.ones(60)) if listed else None
        members.append(TopK(indices[:, :2], probs, C, prior))
    both = EnsembleTopK(tuple(members), np.array([0.3, 0.7]))
    targets = rng.integers(0, C, 60)
    dense = both.recover().dense()
    for confidence, expected in (
        ("max", dense.max(1)),
        ("target", dense[np.arange(60), targets]),
    ):
        rule = FerKD(confidence=confidence, ensemble="mean")
        np.testing.assert_allclose(rule.confidence_of(None, both, targets), expected, atol=1e-6)
        np.testing.assert_allclose(
            rule.confidence_of(both.recover(), None, targets), expected, atol=1e-6
        )
        actions = [rule.apply(both, targets, tail).action.tolist() for tail in (None, "none")]
        assert actions[0] == actions[1]
    with pytest.raises(UsageError, match="neither labels nor topk"):
        FerKD().confidence_of(None, None, targets)


def test_the_teachers_own_probability_of_a_class():
    prior = ImagePrior(np.array([[1, 2, 5]]), np.array([[0.5, 0.3, 0.1]]), np.ones(1))
    plain = TopK([[5, 3]], [[0.4, 0.0]], 10)
    assert plain.probability([5]) == np.float32(0.4)
    # An empty place is no stored class.
    np.testing.assert_allclose(plain.probability([3]), 0.6 / 9, rtol=1e-6)
    listed = TopK([[5]], [[0.4]], 10, prior)
    np.testing.assert_allclose(listed.probability([1]), 0.3, rtol=1e-6)
    # Stored sums that rounding brought above 1 are not scaled.
    assert TopK([[1, 2]], [[0.6, 0.5]], 10).probability([2]) == np.float32(0.5)


@pytest.mark.parametrize("k", [1, 2, C])
def test_no_residual_mass(k):
    probs = np.zeros((2, k))
    probs[:, 0] = 1.0
    if k > 1:
        probs[1, :2] = 0.75, 0.25
    topk = TopK(np.tile(np.arange(k), (2, 1)), probs, C)
    for rule in (FerKD(), FerKD(confidence="target")):
        done = rule.apply(topk, [0, 0])
        assert done.action[0] == Action.DISCARDED
        np.testing.assert_allclose(done.labels.dense()[0], [1, 0, 0, 0, 0, 0], atol=0)
        if k > 1:
            assert done.action[1] == Action.KEPT
            np.testing.assert_allclose(done.labels.dense()[1], [0.75, 0.25, 0, 0, 0, 0], atol=0)
    # A ground truth without any probability is as far from the label as can be.
    assert FerKD(confidence="target").apply(topk, [C - 1, C - 1]).action.tolist() == [2, 2]


def test_smoothing_at_its_bounds():
    for epsilon, expected in ((0.0, [0, 1, 0, 0, 0, 0]), (1.0, [0.2, 0, 0.2, 0.2, 0.2, 0.2])):
        done = FerKD(smoothing=epsilon).apply(labels_of([0.25]), [1])
        np.testing.assert_allclose(done.labels.dense()[0], expected, atol=1e-7)


def slow_ensemble(members, rules, targets, weights, combine):
    """One view at a time: each teacher's rule, then the mean over those that keep the view."""
    dense = [member.recover("uniform").dense().astype(np.float64) for member in members]
    actions, labels = [], []
    for view, target in enumerate(targets):
        said = [
            slow_rule(float(member.confidence[view]), soft[view], target, rule)
            for member, soft, rule in zip(members, dense, rules, strict=True)
        ]
        dropped = [action == Action.DISCARDED for action, _ in said]
        voices = [
            0.0 if gone and not all(dropped) else weight
            for gone, weight in zip(dropped, weights, strict=True)
        ]
        labels.append(sum(v * label for v, (_, label) in zip(voices, said, strict=True)))
        labels[-1] = labels[-1] / sum(voices)
        if all(dropped) if combine == "all" else any(dropped):
            actions.append(Action.DISCARDED)
        elif any(action == Action.CALIBRATED for action, _ in said):
            actions.append(Action.CALIBRATED)
        else:
            actions.append(Action.KEPT)
    return actions, np.array(labels)


@pytest.mark.parametrize("combine", ["all", "any"])
@pytest.mark.parametrize("discard", ["replace", "mask"])
def test_a_rule_for_each_teacher(combine, discard):
    rng = np.random.default_rng(5)
    members = tuple(labels_of(rng.uniform(0.02, 1, size=400)) for _ in range(3))
    weights = np.array([0.5, 0.3, 0.2])
    thresholds = [(0.1, 0.2, 0.9, 0.1), (0.3, 0.5, 0.7, 0.2), (0.25, 0.25, 0.8, 0.0)]
    rules = [
        FerKD(low, middle, top, smoothing, discard=discard, ensemble=combine)
        for low, middle, top, smoothing in thresholds
    ]
    targets = rng.integers(0, C, size=400)
    done = EnsembleFerKD(tuple(rules)).apply(EnsembleTopK(members, weights), targets)
    actions, labels = slow_ensemble(members, rules, targets, weights, combine)
    assert {0, 1, 2} == set(actions)
    assert done.action.tolist() == actions
    np.testing.assert_allclose(done.labels.dense(), labels, atol=1e-6)
    dropped = np.array(actions) == Action.DISCARDED
    assert (done.weight == (0 if discard == "mask" else 1))[dropped].all()
    assert (done.weight[~dropped] == 1).all()


def test_equal_rules_are_one_rule():
    rng = np.random.default_rng(1)
    topk = EnsembleTopK(
        tuple(labels_of(rng.uniform(0.02, 1, size=50)) for _ in range(2)), np.array([0.5, 0.5])
    )
    targets = np.arange(50) % C
    one, each = FerKD().apply(topk, targets), EnsembleFerKD((FerKD(),) * 2).apply(topk, targets)
    assert one.action.tolist() == each.action.tolist()
    assert (one.labels.dense() == each.labels.dense()).all()
    single = EnsembleFerKD([FerKD()]).apply(topk.members[0], targets)
    assert (single.labels.dense() == FerKD().apply(topk.members[0], targets).labels.dense()).all()


def test_rules_that_do_not_fit_each_other_or_the_teachers_are_refused():
    for change in ({"confidence": "target"}, {"discard": "mask"}, {"ensemble": "any"}):
        with pytest.raises(UsageError, match=next(iter(change))):
            EnsembleFerKD((FerKD(), FerKD(**change)))
    with pytest.raises(UsageError, match="for the mean label give a single FerKD"):
        EnsembleFerKD((FerKD(ensemble="mean"),))
    with pytest.raises(UsageError, match="rules are empty"):
        EnsembleFerKD(())
    rules = EnsembleFerKD((FerKD(), FerKD()))
    with pytest.raises(UsageError, match="2 rules were given for 1 teachers"):
        rules.apply(labels_of([0.5]))
    with pytest.raises(UsageError, match="2 rules were given for 3 teachers"):
        rules.apply(EnsembleTopK((labels_of([0.5]),) * 3, np.full(3, 1 / 3)))
