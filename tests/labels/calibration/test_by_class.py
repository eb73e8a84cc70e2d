"""Thresholds by class, against their definition by looking at every stored value of a class."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

import labelstore
from labelstore.errors import FallbackWarning, LabelError, UsageError
from labelstore.labels.actions import Action
from labelstore.labels.calibration import by_class
from labelstore.labels.calibration.by_class import FEWEST_VIEWS, fit_classes
from labelstore.labels.calibration.thresholds import ClassThresholds
from labelstore.labels.ferkd import EnsembleFerKD, FerKD
from labelstore.labels.fitting import Shares, fit_thresholds
from labelstore.labels.top_k import TopK
from tests.support.stores import written

OWN = ClassThresholds(4, (1, 3), (0.1, 0.5), (0.2, 0.6), (0.7, 1.0))
SHARES = 0.1, 0.2, 0.15


def of_classes(path, **options):
    """A store of 60 images x 100 views of 4 classes; class 3 has 900 views, class 2 none, and 9
    images no ground truth."""
    targets = np.resize([0, 1, 0, 1, 1], 60)
    targets[3:12] = 3
    targets[20:29] = -1
    return written(path, images=60, views=100, targets=targets, classes=4, k=2, **options)[0]


def slow_decision(value, target, rule):
    """The docstrings' words, view by view."""
    low, middle, top = rule.low, rule.middle, rule.top
    if target in rule.by_class.classes:
        place = rule.by_class.classes.index(target)
        low, middle, top = (
            edges[place] for edges in (rule.by_class.low, rule.by_class.middle, rule.by_class.top)
        )
    if value <= np.float32(low) or value > np.float32(top):
        return Action.DISCARDED
    return Action.CALIBRATED if value <= np.float32(middle) else Action.KEPT


@pytest.mark.parametrize("quantizer", ["fp32", "ratio16"])
def test_each_class_gets_what_fits_its_own_views(tmp_path, quantizer, suffix):
    store = of_classes(tmp_path / f"a.{suffix}", quantizer=quantizer)
    rule = FerKD.fit(store, *SHARES, by="class", smoothing=0.2)
    whole = FerKD.fit(store, *SHARES, smoothing=0.2)
    assert (rule.low, rule.middle, rule.top) == (whole.low, whole.middle, whole.top)
    assert rule.smoothing == 0.2
    # 9 x 100 views are too few, and -1 is no class.
    assert rule.by_class.classes == (0, 1)
    plane = store.confidence()
    for place, number in enumerate(rule.by_class.classes):
        values = plane[store.targets == number]
        fit = fit_thresholds(lambda values=values: iter([values]), Shares(*SHARES), "a class")
        own = rule.by_class.of_class(number)
        assert own == (fit.low, fit.middle, fit.top)
        assert own == tuple(
            getattr(rule.by_class, name)[place] for name in ("low", "middle", "top")
        )
        counts = rule.count(values, np.full((len(values), 1), number))
        assert counts == fit.counts
        assert counts.discarded_high / counts.views == pytest.approx(0.15, abs=0.01)
    assert rule.by_class.low[0] != rule.by_class.low[1]
    assert FerKD.fit(labelstore.open(store.path), *SHARES, by="class", smoothing=0.2) == rule


def test_a_few_classes_at_a_time_are_as_good_as_all(tmp_path, monkeypatch):
    store = of_classes(tmp_path / "a.zarr")
    rule = FerKD.fit(store, *SHARES, by="class")
    monkeypatch.setattr(by_class, "_VALUES", 1)
    assert FerKD.fit(store, *SHARES, by="class") == rule


def test_the_order_of_images_decides_nothing():
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 5, 200).astype(np.int32)
    plane = rng.random((200, 40), dtype=np.float32)
    plane[rng.random(plane.shape) < 0.2] = np.nan
    shuffled = rng.permutation(200)

    def fitted(order, pieces):
        parts = np.array_split(order, pieces)
        return fit_classes(
            lambda: ((targets[part], plane[part]) for part in parts), Shares(*SHARES), 5, "some"
        )

    assert fitted(np.arange(200), 1) == fitted(shuffled, 7)
    views = [int((~np.isnan(plane[targets == number])).sum()) for number in range(5)]
    assert fitted(shuffled, 7).classes == tuple(
        number for number in range(5) if views[number] >= FEWEST_VIEWS
    )


def test_the_rule_looks_at_each_view_s_class():
    rule = FerKD(by_class=OWN)
    values = np.float32([0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.55, 0.7, 0.95, 0.96, 1])
    targets = np.array([-1, 0, 1, 2, 3])[:, None]
    expected = [[slow_decision(v, t, rule) for v in values] for t in targets[:, 0]]
    np.testing.assert_array_equal(rule.decide(np.tile(values, (5, 1)), targets), expected)
    for target in targets[:, 0].tolist():
        alone = rule.of_class(target)
        assert alone.by_class is None
        assert alone.decide(values).tolist() == rule.decide(values, target).tolist()
    topk = TopK([[2, 0]] * len(values), np.stack([values, np.zeros_like(values)], -1), 4)
    for target in (0, 1, 3):
        done, alone = (
            each.apply(topk, np.full(len(values), target)) for each in (rule, rule.of_class(target))
        )
        assert done.action.tolist() == alone.action.tolist()
        np.testing.assert_array_equal(done.labels.dense(), alone.labels.dense())
    assert rule.count(values[:4], [1, 1, 1, 3]) == rule.count(values[:4], np.array([1, 1, 1, 3]))


def test_what_a_rule_by_class_needs_to_know():
    rule = FerKD(by_class=OWN)
    with pytest.raises(LabelError, match="need the ground truth and none was given"):
        rule.decide([0.5])
    with pytest.raises(LabelError, match="thresholds for 4 classes"):
        rule.decide([0.5, 0.5], [1, 4])
    with pytest.raises(UsageError, match="thresholds for 4 classes and the labels are of 6"):
        rule.apply(TopK([[1]], [[0.5]], 6), [1])
    # A calibrated label needs the ground truth, as ever; a kept one does not.
    assert rule.apply(TopK([[1]], [[0.5]], 4), [-1]).action.tolist() == [Action.KEPT]
    with pytest.raises(LabelError, match="calibration needs the ground truth"):
        rule.apply(TopK([[1]], [[0.2]], 4), [-1])


def test_thresholds_of_classes_are_plain_values():
    assert ClassThresholds(**json.loads(json.dumps(OWN.to_json()))) == OWN
    same = pickle.loads(
        pickle.dumps(ClassThresholds(4, np.array([1, 3]), *OWN.table((0, 0, 1))[:, [1, 3]]))
    )
    close = [np.float32(edges).tolist() for edges in (OWN.low, OWN.middle, OWN.top)]
    assert [np.float32(edges).tolist() for edges in (same.low, same.middle, same.top)] == close
    assert hash(pickle.loads(pickle.dumps(OWN))) == hash(OWN)
    assert (
        len({FerKD(by_class=OWN), FerKD(by_class=ClassThresholds(**OWN.to_json())), FerKD()}) == 2
    )
    assert OWN.digest() != ClassThresholds(5, OWN.classes, OWN.low, OWN.middle, OWN.top).digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": (3, 1)}, "rising ids from 0 to 3"),
        ({"classes": (1, 4)}, "rising ids from 0 to 3"),
        ({"low": (0.1,)}, "1, 2, 2 thresholds"),
        ({"top": (0.7, 0.4)}, "thresholds of class 3 are 0.5, 0.6, 0.4"),
    ],
)
def test_thresholds_that_are_none_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        ClassThresholds(**{**OWN.to_json(), **changes})


def test_of_an_ensemble_each_teacher_has_its_own(tmp_path):
    a, b = (of_classes(tmp_path / f"{name}.zarr", seed=seed) for seed, name in enumerate("ab"))
    both = labelstore.ensemble([a, b])
    rule = FerKD.fit(both, *SHARES, by="class", ensemble="any")
    assert isinstance(rule, EnsembleFerKD)
    assert rule.rules == tuple(
        FerKD.fit(store, *SHARES, by="class", ensemble="any") for store in (a, b)
    )
    assert rule.rules[0].by_class != rule.rules[1].by_class
    with pytest.raises(UsageError, match="thresholds for 4 classes"):
        rule.require_classes(5)


def test_a_store_of_few_views_says_so(tmp_path):
    store, *_ = written(tmp_path / "a.zarr")
    with pytest.warns(FallbackWarning, match=r"no class of .*a\.zarr has 1,000 labelled views"):
        rule = FerKD.fit(store, by="class")
    assert rule.by_class.classes == ()
    plane = store.confidence()
    counts = FerKD.fit(store).count(plane)
    assert rule.count(plane, store.targets[:, None]) == counts
    with pytest.raises(UsageError, match="by is 'image', expected one of store, class"):
        FerKD.fit(store, by="image")
