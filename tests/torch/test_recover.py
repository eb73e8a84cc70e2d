"""Recovery and calibration on the device against those in NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

import labelstore
from labelstore import FerKD, TopK
from labelstore.errors import FallbackWarning, LabelError, UsageError
from labelstore.labels.calibration.phases import LabelPhases
from labelstore.labels.calibration.thresholds import ClassThresholds
from labelstore.labels.ensemble import EnsembleTopK
from labelstore.labels.ferkd import EnsembleFerKD
from labelstore.labels.prior import ImagePrior, spread
from labelstore.torch import (
    SoftLabelDataset,
    StoredLabels,
    ViewSampler,
    collate_views,
    recover,
    soft_cross_entropy,
)
from labelstore.torch.labels.stored_labels import TorchTopK, _spread as spread_on_device
from labelstore.training.recovery import Recovery
from tests.support.examples import examples

ROWS = 24


def stored_labels(seed, num_classes, k, listed):
    """Labels of all kinds: few or many classes stored, sums above 1, lists that are half empty."""
    rng = np.random.default_rng(seed)
    indices = rng.random((ROWS, num_classes)).argsort(1)[:, :k]
    probs = np.sort(rng.dirichlet(np.full(num_classes, rng.uniform(0.05, 2)), ROWS), 1)[:, ::-1]
    probs = np.ceil(probs[:, :k] * 255) / 255
    probs[rng.random((ROWS, k)).argsort(1) == 0] *= rng.random() < 0.5
    probs = np.sort(np.where(np.arange(k) < rng.integers(1, k + 1, (ROWS, 1)), probs, 0.0), 1)
    prior = None
    if listed:
        classes = rng.random((ROWS, num_classes)).argsort(1)[:, :listed]
        mean = np.sort(rng.dirichlet(np.full(listed, 0.3), ROWS) * rng.uniform(0.3, 1, (ROWS, 1)))
        held = np.arange(listed) < rng.integers(0, listed + 1, (ROWS, 1))
        prior = ImagePrior(
            np.where(held, classes, -1).astype(np.int32),
            np.where(held, mean[:, ::-1], 0.0).astype(np.float32),
            rng.choice([0.2, 0.6, 1.0, 1.3], ROWS).astype(np.float32),
        )
    return TopK(indices, probs[:, ::-1].astype(np.float32), num_classes, prior)


def rows_of(topk, target=None):
    numbers = np.arange(ROWS)
    return StoredLabels.from_numpy(topk, numbers if target is None else target, numbers, numbers)


def dense(labels):
    """(B, C) float64 probabilities of tensors."""
    wide = labels.base.double()[:, None].repeat(1, labels.num_classes)
    return wide.scatter_add_(1, labels.indices, labels.weights.double()).numpy()


def agree(stored, recovery, target):
    """Both ways' labels, weights and actions."""
    topk = stored
    expected = recovery(topk, target)
    found = recover(rows_of(topk, target), recovery)
    np.testing.assert_allclose(dense(found), expected.labels.dense(), atol=2e-6)
    np.testing.assert_allclose(dense(found).sum(1), 1.0, atol=2e-6)
    for one, other in ((found.action, expected.action), (found.weight, expected.weight)):
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one.numpy(), other)
    assert found.target.tolist() == list(target)
    return found


@pytest.mark.parametrize(
    "rule", [FerKD(0.0, 0.99, 1.0), FerKD(0.0, 0.99, 1.0, calibrate="loca"), None]
)
def test_labels_of_a_single_class_have_all_of_it(rule):
    topk = TopK(np.zeros((ROWS, 1), np.int32), np.full((ROWS, 1), 0.9, np.float32), 1)
    recovery = Recovery(None, "top-k", rule, None, None if rule else LabelPhases(4))
    target, epochs = np.zeros(ROWS, np.int64), np.arange(ROWS) % 4
    found = recover(replace(rows_of(topk, target), epoch=torch.from_numpy(epochs)), recovery)
    for labels in (dense(found), recovery(topk, target, epochs).labels.dense()):
        np.testing.assert_array_equal(labels, 1.0)


labels = st.tuples(
    st.integers(0, 10_000), st.integers(6, 30), st.integers(1, 6), st.sampled_from([0, 1, 3, 6])
)


@examples(25)
@given(labels, st.sampled_from([None, "uniform", "none"]))
def test_every_tail(case, tail):
    topk = stored_labels(*case)
    agree(topk, Recovery(tail, "top-k", None, None), np.arange(ROWS) % topk.num_classes)


@given(st.integers(0, 10_000))
def test_every_class_stored_or_listed(seed):
    topk = stored_labels(seed, 6, 1 + seed % 6, 6)
    agree(topk, Recovery("image", "top-k", None, None), np.zeros(ROWS, np.int64))


@pytest.mark.parametrize("label_type", ["hard", "smoothing"])
def test_other_label_types(label_type):
    agree(stored_labels(1, 9, 3, 4), Recovery(None, label_type, None, None), np.zeros(ROWS))


@examples(25)
@given(
    labels,
    st.sampled_from(["max", "target"]),
    st.sampled_from(["replace", "mask"]),
    st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted),
    st.sampled_from([0.0, 0.1]),
)
def test_every_rule(case, confidence, discard, thresholds, smoothing):
    topk = stored_labels(*case)
    rule = FerKD(*thresholds, smoothing=smoothing, confidence=confidence, discard=discard)
    target = np.random.default_rng(0).integers(0, topk.num_classes, ROWS)
    agree(topk, Recovery(None, "top-k", rule, None), target)


def classes_of(num_classes, seed):
    """Thresholds of their own for some of the classes."""
    rng = np.random.default_rng(seed)
    own = np.flatnonzero(rng.random(num_classes) < 0.6)
    return ClassThresholds(num_classes, own, *np.sort(rng.random((3, len(own))), axis=0))


@examples(25)
@given(
    labels, st.sampled_from(["max", "target"]), st.lists(st.floats(0, 1), min_size=3, max_size=3)
)
def test_every_rule_by_class(case, confidence, edges):
    topk = stored_labels(*case)
    rule = FerKD(*sorted(edges), confidence=confidence, discard="mask")
    rule = replace(rule, by_class=classes_of(topk.num_classes, case[0]))
    target = np.random.default_rng(0).integers(0, topk.num_classes, ROWS)
    agree(topk, Recovery(None, "top-k", rule, None), target)


@examples(25)
@given(labels, st.sampled_from(["all", "mean"]), st.sampled_from([0.5, 0.9]))
def test_labels_that_the_ground_truth_leads(case, combine, alpha):
    topk = stored_labels(*case)
    rule = FerKD(0.05, 0.8, 0.95, calibrate="loca", alpha=alpha, ensemble=combine)
    target = np.random.default_rng(0).integers(0, topk.num_classes, ROWS)
    agree(topk, Recovery(None, "top-k", rule, None), target)
    other = stored_labels(case[0] + 1, topk.num_classes, 3, 0)
    both = EnsembleTopK((topk, other), np.array([0.3, 0.7]))
    agree(both, Recovery(None, "top-k", rule, None), target)


def test_a_rule_by_class_of_an_unknown_ground_truth_and_of_other_classes():
    topk = stored_labels(3, 12, 3, 4)
    own = ClassThresholds(12, (0, 5), (0.1, 0.4), (0.5, 0.4), (0.6, 0.5))
    rule = FerKD(0.3, 0.3, 0.8, by_class=own)
    target = np.where(np.arange(ROWS) % 3 == 0, 5, -1)
    found = agree(topk, Recovery(None, "top-k", rule, None), target)
    assert len(set(found.action.tolist())) == 2
    with pytest.raises(UsageError, match="thresholds for 12 classes and the labels are of 13"):
        recover(rows_of(stored_labels(3, 13, 3, 4)), Recovery(None, "top-k", rule, None))


@examples(25)
@given(labels, st.sampled_from(["all", "any", "mean", "each"]), st.sampled_from(["max", "target"]))
def test_several_teachers(case, combine, confidence):
    seed, num_classes, k, listed = case
    members = (
        stored_labels(seed, num_classes, k, listed),
        stored_labels(seed + 1, num_classes, 3, 0),
        stored_labels(seed + 2, num_classes, k, 5),
    )
    topk = EnsembleTopK(members, np.array([0.5, 0.5, 0.0]))
    target = np.random.default_rng(1).integers(0, num_classes, ROWS)
    own = "all" if combine == "each" else combine
    rule = FerKD(0.2, 0.4, 0.8, confidence=confidence, ensemble=own, discard="mask")
    if combine == "each":
        other = FerKD(0.1, 0.5, 0.9, 0.3, confidence, "mask", own, classes_of(num_classes, seed))
        rule = EnsembleFerKD((rule, other, rule))
    agree(topk, Recovery(None, "top-k", rule, None), target)
    agree(topk, Recovery("uniform", "top-k", None, None), target)


@given(
    st.integers(0, 10_000),
    st.integers(1, 70),
    st.sampled_from([0.0, 1e-9, 0.3]),
    st.sampled_from([0.05, 0.5, 3.0]),
)
def test_a_mass_is_spread_as_round_by_round(seed, size, outside, share):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(size, rng.uniform(0.05, 3)), ROWS)
    weights[rng.random((ROWS, size)) < 0.2] = 0.0
    weights[:, : size // 3] = weights[:, :1]
    mass = rng.random((ROWS, 1))
    limit = np.where(rng.random((ROWS, 1)) < 0.1, 1.0, share / size * rng.random((ROWS, 1)))
    around = np.full((ROWS, 1), outside)
    expected = spread(weights, around, mass, limit)
    found = spread_on_device(*map(torch.from_numpy, (weights, around, mass, limit)))
    np.testing.assert_allclose(found[0].numpy(), expected[0], atol=1e-12)
    np.testing.assert_allclose(found[1][:, 0].numpy(), expected[1], rtol=1e-9, atol=1e-12)


def test_a_known_answer():
    # Class 5 is stored with 0.4. The list says 0.5, 0.3 and 0.1 for classes 1, 2 and 5, and 0.1 for
    # the seven others together. Of the residual 0.6, class 1 would take more than 0.75 * 0.4 = 0.3
    # (0.6 * 0.5 / (0.5 + 0.3 + 0.1) = 0.33), so it takes 0.3; class 2 and the others share 0.3 as
    # 0.3 to 0.1.
    prior = ImagePrior(np.array([[1, 2, 5]]), np.array([[0.5, 0.3, 0.1]]), np.ones(1))
    topk = TopK(np.array([[5]]), np.array([[0.4]]), 10, prior)
    expected = np.full(10, 0.3 * 0.1 / 0.4 / 7)
    expected[[5, 1, 2]] = 0.4, 0.3, 0.3 * 0.3 / 0.4
    found = TorchTopK.from_numpy(topk).recover()
    np.testing.assert_allclose(dense(found)[0], expected, atol=1e-6)


@pytest.mark.parametrize("tail", ["uniform", "none", "image"])
@pytest.mark.parametrize("num_classes", [7, 20, 1000])
@pytest.mark.parametrize("teachers", [1, 3])
def test_thresholds_decide_on_the_device_as_in_numpy(tail, num_classes, teachers):
    edges = [0.05, 0.15, 0.3, 0.45, 0.6, 0.95]
    values = np.repeat(np.float32(edges), ROWS // len(edges))
    prior = ImagePrior(
        np.tile([3, 5, 6], (ROWS, 1)), np.tile([0.5, 0.3, 0.1], (ROWS, 1)), np.full(ROWS, 0.7)
    )
    topk = TopK(
        np.tile([2, 4], (ROWS, 1)),
        np.stack([values, np.minimum((1 - values) / 2, values)], -1),
        num_classes,
        prior if tail == "image" else None,
    )
    target = np.tile([2, 4, 3, 1], ROWS // 4)
    ensemble = EnsembleTopK((topk,) * teachers, np.full(teachers, 1 / teachers))
    for confidence in ("max", "target"):
        for low, middle, top in [(0.05, 0.15, 0.3), (0.15, 0.3, 0.95), (0.3, 0.45, 0.6)]:
            rule = FerKD(low, middle, top, confidence=confidence, ensemble="mean")
            labels = topk if teachers == 1 else ensemble
            agree(labels, Recovery(tail, "top-k", rule, None), target)


def test_a_ground_truth_that_is_needed_is_not_guessed():
    topk = stored_labels(0, 10, 3, 4)
    target = np.where(np.arange(ROWS) == 7, -1, 2)
    never = Recovery(None, "top-k", FerKD(0, 0, 1), None)
    agree(topk, never, target)
    for rule in (FerKD(0, 1, 1), FerKD(0, 0, 1, confidence="target")):
        recovery = Recovery(None, "top-k", rule, None)
        with pytest.raises(LabelError) as expected:
            recovery(topk, target)
        with pytest.raises(LabelError) as found:
            recover(rows_of(topk, target), recovery)
        assert str(found.value) == str(expected.value)


def test_what_the_device_cannot_do_is_refused():
    stored = rows_of(stored_labels(0, 10, 3, 0))
    with pytest.raises(UsageError, match="at another temperature"):
        recover(stored, Recovery(None, "top-k", None, (2.0,)))
    with pytest.raises(UsageError, match="2 rules were given for 1"):
        recover(stored, Recovery(None, "top-k", EnsembleFerKD((FerKD(), FerKD())), None))
    with pytest.warns(FallbackWarning, match="no image prior"):
        recover(stored, Recovery("image", "top-k", None, None))


def test_a_loss_asks_for_recovered_labels():
    with pytest.raises(UsageError, match="the target is a StoredLabels"):
        soft_cross_entropy(torch.zeros(ROWS, 10), rows_of(stored_labels(0, 10, 3, 0)))


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_it_compiles_without_a_break():
    topk = EnsembleTopK((stored_labels(0, 20, 3, 6), stored_labels(1, 20, 2, 0)), np.full(2, 0.5))
    recovery = Recovery(None, "top-k", FerKD(0.1, 0.4, 0.9, discard="mask"), None)
    stored = rows_of(topk, np.arange(ROWS) % 20)
    torch._dynamo.reset()
    compiled = torch.compile(recover, fullgraph=True, backend="aot_eager")
    found, expected = compiled(stored, recovery), recover(stored, recovery)
    np.testing.assert_allclose(dense(found), dense(expected), atol=1e-6)
    assert torch.equal(found.action, expected.action)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_loader_of_stored_labels(store, photos, workers):
    rule = FerKD(low=0.3, middle=0.5, top=0.9, discard="mask")
    batches = []
    for labels in ("stored", "recovered"):
        data = SoftLabelDataset(photos, store, ferkd=rule, labels=labels)
        sampler = ViewSampler(data, views_per_image=3)
        loader = DataLoader(data, 4, sampler=sampler, collate_fn=collate_views, num_workers=workers)
        batches.append(list(loader))
    for (pixels, stored), (same, expected) in zip(*batches, strict=True):
        assert torch.equal(pixels, same)
        found = recover(stored.to("cpu"), data.recovery)
        assert len(stored) == len(expected) == len(stored[1:]) + 1
        np.testing.assert_allclose(dense(found), dense(expected), atol=2e-6)
        for name in ("target", "image", "view", "action", "weight"):
            assert torch.equal(getattr(found, name), getattr(expected, name))
        logits = torch.randn(len(found), found.num_classes)
        torch.testing.assert_close(
            soft_cross_entropy(logits, found), soft_cross_entropy(logits, expected)
        )


def test_labels_are_recovered_or_stored(store, photos):
    with pytest.raises(UsageError, match='labels is \'raw\', expected "recovered" or "stored"'):
        SoftLabelDataset(photos, store, labels="raw")
    with pytest.raises(UsageError, match="temperature"):
        SoftLabelDataset(photos, store, labels="stored", temperature=2.0)
    both = labelstore.ensemble([store, store])
    data = SoftLabelDataset(photos, both, labels="stored")
    (_, stored), *_ = data.__getitems__([next(iter(ViewSampler(data)))])
    assert [len(member.probs) for member in stored.members] == [1, 1]


RULES = {
    "none": None,
    "max": FerKD(0.1, 0.4, 0.9),
    "target": FerKD(0.1, 0.4, 0.9, confidence="target"),
    "any": FerKD(0.1, 0.4, 0.9, ensemble="any", discard="mask"),
    "mean": FerKD(0.1, 0.4, 0.9, ensemble="mean"),
    "each": EnsembleFerKD((FerKD(0.1, 0.4, 0.9), FerKD(0.2, 0.5, 0.8))),
}


def two_teachers():
    members = (stored_labels(0, 20, 3, 6), stored_labels(1, 20, 2, 0))
    return EnsembleTopK(members, np.array([0.3, 0.7]))


class Transfers(TorchDispatchMode):
    """Operations with tensors on more than one kind of device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, made)) if isinstance(leaf, torch.Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.found.append(str(function))
        return made


@pytest.mark.parametrize("rule", RULES)
def test_nothing_waits_for_the_device(rule):
    # Tensors without values: whatever needs one on the processor raises.
    stored = rows_of(two_teachers(), np.arange(ROWS) % 20)
    recovery = Recovery(None, "top-k", RULES[rule], None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = stored._map(lambda tensor: torch.empty_like(tensor, device="cuda"))
        with Transfers() as transfers:
            found = recover(there, recovery)
    assert transfers.found == []
    assert found.base.device.type == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rule", RULES)
def test_the_same_on_a_gpu_without_waiting(rule):
    stored = rows_of(two_teachers(), np.arange(ROWS) % 20)
    recovery = Recovery(None, "top-k", RULES[rule], None)
    there = stored.pin_memory().to("cuda", non_blocking=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = recover(there, recovery)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = recover(stored, recovery)
    np.testing.assert_allclose(dense(found.to("cpu")), dense(expected), atol=2e-6)
    if expected.action is not None:
        assert torch.equal(found.action.cpu(), expected.action)


@examples(25)
@given(labels, st.sampled_from([None, "uniform", "none"]))
def test_the_mean_of_one_teacher_is_what_is_recovered(case, tail):
    topk = EnsembleTopK((stored_labels(*case),), np.ones(1))
    rule = FerKD(0.2, 0.5, 0.9, ensemble="mean", discard="mask")
    agree(topk, Recovery(tail, "top-k", rule, None), np.arange(ROWS) % topk.num_classes)


@pytest.mark.parametrize(("tail", "label_type"), [("flat", "top-k"), (None, "smooth")])
def test_unknown_words_are_refused_as_in_numpy(tail, label_type):
    topk, recovery = stored_labels(0, 10, 3, 4), Recovery(tail, label_type, None, None)
    with pytest.raises(UsageError) as expected:
        recovery(topk, np.zeros(ROWS))
    with pytest.raises(UsageError) as found:
        recover(rows_of(topk), recovery)
    assert str(found.value) == str(expected.value)


def test_rows_are_taken_and_joined():
    stored = rows_of(two_teachers(), np.arange(ROWS) % 20)
    again = StoredLabels.cat([stored[:5], stored[torch.arange(5, ROWS)]])
    for own, other in zip((stored, *stored.members), (again, *again.members), strict=True):
        for name, value in vars(own).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, getattr(other, name))
    assert again.weights == stored.weights


@pytest.mark.parametrize("other", [(20, 3, 0), (20, 2, 6), (21, 3, 6)])
def test_parts_of_different_stores_are_not_joined(other):
    parts = [rows_of(stored_labels(0, *kind)) for kind in ((20, 3, 6), other)]
    for order in (parts, parts[::-1]):
        with pytest.raises(LabelError, match="were to follow"):
            StoredLabels.cat(order)
