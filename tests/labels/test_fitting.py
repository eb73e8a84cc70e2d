"""Thresholds that fit, against their definition by looking at every stored value."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, strategies as st

import labelstore
from labelstore.errors import LabelError, NotFoundError, PartialDataWarning, UsageError
from labelstore.labels import fitting
from labelstore.labels.actions import ActionCounts
from labelstore.labels.ferkd import EnsembleFerKD, FerKD
from labelstore.labels.fitting import Shares, fit_thresholds
from tests.support.stores import make_planned, once, written

make_planned, written = once(make_planned), once(written)

# The paper's Table 1: upper bound of a range, per cent of the crops below it.
TABLE_1 = [
    *((0.1, 0.43), (0.2, 1.32), (0.3, 2.61), (0.4, 4.64), (0.5, 8.31), (0.6, 12.65)),
    *((0.7, 17.69), (0.8, 25.45), (0.85, 33.59), (0.9, 62.32), (0.95, 99.67), (1.0, 100.0)),
]


@pytest.fixture(autouse=True, scope="module", params=[2**17, 0, 3])
def different_values(request):
    """Each value counted, or bins of them, or one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "_MOST_VALUES", request.param)
        yield


def fitted(values, shares=None, pieces=3):
    parts = np.array_split(np.asarray(values, dtype=np.float32), pieces)
    return fit_thresholds(lambda: iter(parts), shares or Shares(), "some store")


def slow(values, shares):
    """Every stored value is tried, as the docstring says it."""
    values = np.asarray(values, dtype=np.float32)
    values = values[~np.isnan(values)]
    stored = [np.float32(value) for value in sorted(set(values.tolist()))]
    low = max((v for v in stored if np.mean(values <= v) <= shares.hardest), default=np.float32(0))

    def between(v):
        return np.mean((values > low) & (values <= v))

    middle = max((v for v in stored if v > low and between(v) <= shares.calibrated), default=low)
    easy = (v for v in stored if v >= middle and np.mean(values > v) <= shares.easiest)
    return low, middle, min(easy, default=middle)


def check(values, shares):
    done = fitted(values, shares)
    assert tuple(np.float32([done.low, done.middle, done.top])) == slow(values, shares)
    rule = FerKD(done.low, done.middle, done.top)
    assert rule.count(np.float32(values)) == done.counts
    return done


def test_the_defaults_are_the_papers_table_1_by_interpolation():
    bounds, below = zip((0.0, 0.0), *TABLE_1, strict=True)
    low, middle, top = (float(np.interp(edge, bounds, below)) / 100 for edge in (0.15, 0.3, 0.95))
    assert (low, middle - low, 1 - top) == pytest.approx((0.00875, 0.01735, 0.0033))
    shares = Shares()
    assert shares.hardest == round(low, 3)
    assert shares.calibrated == round(middle - low, 3)
    assert shares.easiest == round(1 - top, 3)


def test_a_teacher_of_table_1_gets_the_papers_thresholds():
    """100,000 crops that lie evenly in the table's ranges."""
    bounds, below = zip((0.0, 0.0), *TABLE_1, strict=True)
    crops = np.interp((np.arange(100_000) + 0.5) / 1000, below, bounds)
    np.random.default_rng(0).shuffle(crops)
    done = fitted(crops, Shares(0.00875, 0.01735, 0.0033))
    assert (done.low, done.middle, done.top) == pytest.approx((0.15, 0.30, 0.95), abs=2e-4)
    assert done.shares() == pytest.approx(
        {"discarded_low": 0.00875, "calibrated": 0.01735, "kept": 0.9706, "discarded_high": 0.0033}
    )


def test_known_answers():
    values = np.arange(1, 101) / 100
    done = check(values, Shares(0.03, 0.29, 0.1))
    assert (done.low, done.middle, done.top) == (0.03, 0.32, 0.9)
    assert done.counts == ActionCounts(3, 29, 58, 10)
    # 29 of 100 is 0.29, although 0.29 x 100 is less than 29 as floats multiply.
    assert int(0.29 * 100) == 28


def test_views_of_one_confidence_are_treated_alike():
    values = [0.2] * 5 + [0.4] * 3 + [0.6] * 80 + [0.9] * 12
    done = check(values, Shares(0.04, 0.04, 0.119))
    assert (done.low, done.middle, done.top) == (0, 0, 0.9)
    done = check(values, Shares(0.07, 0.02, 0.12))
    assert (done.low, done.middle, done.top) == (0.2, 0.2, 0.6)
    assert check([0.5] * 10, Shares(0.5, 0.2, 0.3)).counts == ActionCounts(0, 0, 10, 0)


@pytest.mark.parametrize(
    "shares", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.25, 0.25), (0.7, 0.2, 0.1)]
)
def test_whole_shares(shares):
    values = np.random.default_rng(1).random(200)
    done = check(values, Shares(*shares))
    assert done.counts.discarded_low == round(200 * shares[0])
    assert done.counts.calibrated == round(200 * shares[1])
    # The smallest confidence is itself not above it.
    assert done.counts.discarded_high == min(round(200 * shares[2]), 199)


FLOATS = st.floats(0, 1, width=32)
# Neighbours in the bits of a float32, and pairs on either side of a bin's border.
CODES = st.integers(0x3EFFFFFE, 0x3F000003).map(lambda code: float(np.uint32(code).view("f4")))
FEW = st.sampled_from([0.0, -0.0, 1e-45, 0.1, 0.3, 0.5, 0.97, 1.0, float("nan")])


@given(
    st.lists(FLOATS | CODES | FEW, min_size=1, max_size=60),
    st.lists(st.floats(0, 1) | st.sampled_from([0.1, 0.25, 0.5]), min_size=3, max_size=3),
)
def test_no_stored_value_comes_nearer_from_below(values, shares):
    total = max(sum(shares), 1.0)
    asked = Shares(*(share / total for share in shares))
    if np.isnan(values).all():
        with pytest.raises(NotFoundError, match="some store has no label"):
            fitted(values, asked)
        return
    done = check(values, asked)
    reached = done.shares()
    zeros = np.mean(np.array(values)[~np.isnan(values)] == 0)
    assert reached["discarded_low"] <= max(asked.hardest, zeros)
    assert reached["calibrated"] <= asked.calibrated
    assert reached["discarded_high"] <= asked.easiest


@pytest.mark.parametrize(
    "shares", [(-0.1, 0, 0), (0.5, 0.3, 0.3), (0, 0, 1.1), (0, float("nan"), 0)]
)
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(UsageError, match="at most 1 together"):
        Shares(*shares)


@pytest.mark.parametrize("value", [1.5, -0.25])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(LabelError, match="expected probabilities"):
        fitted([0.5, value])


@pytest.mark.parametrize(
    ("quantizer", "suffix"),
    # Confidences are the same values from either backend.
    [("fp32", "zarr"), ("fp32", "parquet"), ("fp16", "zarr"), ("ratio16", "zarr"), ("u8", "zarr")],
)
def test_a_store_gets_the_rule_of_its_own_confidences(tmp_path, quantizer, suffix):
    store, *_ = written(tmp_path / f"a.{suffix}", images=50, quantizer=quantizer)
    shares = Shares(0.1, 0.2, 0.15)
    rule = FerKD.fit(store, 0.1, 0.2, 0.15, smoothing=0.2, discard="mask", ensemble="any")
    low, middle, top = slow(store.confidence(), shares)
    assert tuple(np.float32([rule.low, rule.middle, rule.top])) == (low, middle, top)
    assert rule == FerKD(rule.low, rule.middle, rule.top, 0.2, "max", "mask", "any")
    assert FerKD.fit(labelstore.open(store.path), 0.1, 0.2, 0.15).low == rule.low
    # The numbers are short enough to be copied, and say the same.
    assert FerKD(*(float(f"{edge}") for edge in (rule.low, rule.middle, rule.top))).count(
        store.confidence()
    ) == rule.count(store.confidence())


def test_of_an_ensemble_each_teacher_has_its_rule_for_what_is_read(tmp_path):
    keys = [f"{number}.jpg" for number in range(40)]
    a, *_ = written(tmp_path / "a.zarr", 30, views=6, keys=keys[:30], targets=np.zeros(30, int))
    b, *_ = written(
        *(tmp_path / "b.zarr", 30),
        views=9,
        seed=5,
        keys=keys[10:][::-1],
        targets=np.zeros(30, int),
        widths=np.arange(30)[::-1] + 50,
        heights=np.arange(30)[::-1] + 40,
    )
    both = labelstore.ensemble([a, b], images="intersection")
    rule = FerKD.fit(both, 0.1, 0.2, 0.1, ensemble="any")
    assert isinstance(rule, EnsembleFerKD)
    assert rule.ensemble == "any"
    planes = (a.confidence()[10:], b.confidence()[10:, :6])
    for own, plane in zip(rule.rules, planes, strict=True):
        expected = slow(plane, Shares(0.1, 0.2, 0.1))
        assert tuple(np.float32([own.low, own.middle, own.top])) == expected
    assert rule.rules[0].low != rule.rules[1].low
    with pytest.raises(UsageError, match="mean label are not stored"):
        FerKD.fit(both, ensemble="mean")
    assert FerKD.fit(labelstore.ensemble([a]), ensemble="mean").low == FerKD.fit(a).low


def test_an_incomplete_store_says_so_and_an_empty_one_is_refused(tmp_path):
    part, _ = make_planned(tmp_path / "part.zarr", blocks=[0, 2])
    with pytest.warns(PartialDataWarning, match=r"part\.zarr is not complete"):
        rule = FerKD.fit(part, 0.1, 0.1, 0.1)
    committed = np.concatenate([plane for _, plane in part.iter_confidence()])
    expected = slow(committed, Shares(0.1, 0.1, 0.1))
    assert tuple(np.float32([rule.low, rule.middle, rule.top])) == expected
    empty, _ = make_planned(tmp_path / "empty.zarr", blocks=[])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NotFoundError, match=r"empty\.zarr has no label"):
            FerKD.fit(empty)


def test_a_path_is_no_open_store():
    with pytest.raises(UsageError, match=r"open it with labelstore\.open"):
        FerKD.fit("teacher.zarr")
