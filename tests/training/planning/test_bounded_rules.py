"""What bounds decide is what the exact confidences decide."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, strategies as st

import labelstore
from labelstore import EnsembleFerKD, FerKD
from labelstore.errors import LabelError
from labelstore.labels.calibration.thresholds import ClassThresholds
from labelstore.labels.confidence import weighted_mean
from labelstore.labels.ensemble import EnsembleTopK
from labelstore.training.decisions import confidence_planes, decisions
from labelstore.training.planning.bounded_rules import deciding_confidence
from labelstore.training.planning.coded_rules import decided
from labelstore.views.law import ViewLaw
from tests.support.examples import examples
from tests.support.plain_labels import labels_of, plain_largest_of_mean, plainly

SHAPE = (30, 4)


def exact_confidence(confidence, topk, truths):
    """(...) float32, every label recovered whole."""
    members = topk.members
    if confidence == "max" and len(members) == 1:
        # It is stored, and of a label that stores nothing it is 0.
        return members[0].confidence
    with pytest.MonkeyPatch.context() as patch:
        plain = functools.partial(plainly, patch)
        if confidence == "max":
            return plain(plain_largest_of_mean, topk)
        parts = [plain(member.probability, np.broadcast_to(truths, SHAPE)) for member in members]
        return weighted_mean(parts, topk.weights)


def rules_of(confidence, exact, truths, num_classes, rng):
    """Rules on whose thresholds labels lie, next to which they lie, and which few divide."""
    on = np.sort(rng.choice(exact.ravel(), 3))
    below = np.maximum(np.nextafter(on, np.float32(-1)), 0)
    above = np.minimum(np.nextafter(on, np.float32(2)), 1)
    classes = np.unique(rng.choice(truths[truths >= 0], 3))
    own = np.sort(rng.choice(exact.ravel(), (len(classes), 3)), axis=1)
    by_class = ClassThresholds(num_classes, tuple(classes), *own.astype(np.float64).T)
    edges = [on, below, above, (0, 0, 1), (0, 0, 0), (1, 1, 1), (0.15, 0.3, 0.95)]
    for low, middle, top in (tuple(map(float, part)) for part in edges):
        yield FerKD(low, middle, top, confidence=confidence, ensemble="mean")
    middle = [float(edge) for edge in on]
    yield FerKD(*middle, confidence=confidence, ensemble="mean", by_class=by_class)


@examples(15)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 12)), min_size=1, max_size=4),
    num_classes=st.sampled_from([6, 7, 19, 60]),
    sharpness=st.sampled_from([0.1, 0.5, 1.0, 2.0, 5.0]),
    confidence=st.sampled_from(["max", "target"]),
)
def test_bounds_decide_as_labels_recovered_whole_do(
    seed, sizes, num_classes, sharpness, confidence
):
    rng = np.random.default_rng(seed)
    members = tuple(
        labels_of(seed % 1000 + number, SHAPE, num_classes, k, min(m, num_classes), sharpness)
        for number, (k, m) in enumerate(sizes)
    )
    weights = rng.choice([0.0, 1.0, 2.5], len(members)) + (np.arange(len(members)) == 0)
    topk = EnsembleTopK(members, weights / weights.sum())
    truths = rng.integers(0, num_classes, (SHAPE[0], 1))
    exact = exact_confidence(confidence, topk, truths)
    for rule in rules_of(confidence, exact, truths, num_classes, rng):
        found = deciding_confidence(rule, topk, truths)
        assert found.dtype == np.float32
        assert np.array_equal(rule.decide(found, truths), rule.decide(exact, truths))
        parts = zip(rule.parts(found, truths), rule.parts(exact, truths), strict=True)
        assert all(np.array_equal(*part) for part in parts)


def test_labels_that_no_threshold_divides_are_not_recovered(monkeypatch):
    """Two teachers of 300 classes: bounds alone decide most, and not all."""
    members = tuple(labels_of(seed, SHAPE, 300, 2, 64, 3.0) for seed in (1, 2))
    topk = EnsembleTopK(members, np.array([0.5, 0.5]))
    truths, counted, plain = np.full((SHAPE[0], 1), 7), [], FerKD.confidence_of
    monkeypatch.setattr(
        FerKD,
        "confidence_of",
        lambda rule, labels, part, targets: (
            counted.append(len(targets)),
            plain(rule, labels, part, targets),
        )[1],
    )
    for confidence in ("max", "target"):
        rule = FerKD(confidence=confidence, ensemble="mean")
        deciding_confidence(rule, topk, truths)
    assert 0 < sum(counted) < 0.2 * 2 * np.prod(SHAPE)


def logits_of(seed, images, views, classes):
    own, seen = np.random.default_rng(seed), np.random.default_rng(11)
    truths = seen.integers(0, classes, images)
    logits = seen.normal(size=(images, 1, classes)) + own.normal(size=(images, views, classes))
    logits[np.arange(images), :, truths] += seen.uniform(0, 8, (images, 1))
    return logits, truths


@pytest.mark.parametrize(
    ("quantizer", "temperature"),
    [
        # Each of both; all pairs take their time.
        pytest.param(name, temperature, marks=() if row == column else pytest.mark.slow)
        for row, name in enumerate(("ratio16", "u8", "fp16"))
        for column, temperature in enumerate((4.0, 0.5, 1.0))
    ],
)
def test_decisions_of_stores_are_those_of_their_exact_confidences(tmp_path, quantizer, temperature):
    images, views, classes = 24, 10, 40
    paths = [tmp_path / f"{name}.zarr" for name in "ab"]
    for seed, path in enumerate(paths):
        logits, truths = logits_of(seed, images, views, classes)
        probs = np.exp(logits / temperature)
        probs /= probs.sum(-1, keepdims=True)
        order = np.argsort(-probs, axis=-1)[..., : 2 + seed]
        labelstore.write(
            path,
            order,
            np.take_along_axis(probs, order, -1),
            classes,
            targets=truths,
            means=probs.mean(1),
            prior_size=12,
            quantizer=quantizer,
            block_images=10,
            group_views=4,
            law=ViewLaw(3),
            widths=np.full(images, 40),
            heights=np.full(images, 30),
        )
    both, one = labelstore.ensemble(paths), labelstore.open(paths[0])
    truths, cases = both.targets, set()
    for confidence in ("max", "target"):
        options = {"confidence": confidence, "ensemble": "mean"}
        for reader in (both, one):
            plane = np.concatenate(
                [plane for _, plane in confidence_planes(reader, FerKD(**options))]
            )
            on = np.quantile(plane, [0.2, 0.4, 0.8], method="nearest").tolist()
            for edges in (on, (0.15, 0.3, 0.95)):
                rule = FerKD(*edges, **options)
                expected = decided(rule, plane, truths[:, None])
                actual = decisions(reader, rule)
                assert np.array_equal(actual.passes, expected.passes)
                assert np.array_equal(actual.calibrated, expected.calibrated)
                assert actual.counts[0].views == expected.counts
                cases.add(expected.counts)
    assert len(cases) >= 4
    # Each teacher by its own rule is decided by its own bounds.
    rules = tuple(FerKD(0.1, middle, 0.9, confidence="target") for middle in (0.2, 0.4))
    own = decisions(both, EnsembleFerKD(rules))
    for rule, reader, counts in zip(rules, map(labelstore.open, paths), own.counts, strict=True):
        assert decisions(reader, rule).counts[0].views == counts.views


def test_an_unknown_ground_truth_is_told_with_how_many_there_are():
    topk = labels_of(1, SHAPE, 12, 2, 4, 1.0)
    truths = np.where(np.arange(SHAPE[0]) < 2, -1, 3)[:, None]
    with pytest.raises(LabelError, match="8 of 120 views"):
        deciding_confidence(FerKD(confidence="target"), topk, truths)
