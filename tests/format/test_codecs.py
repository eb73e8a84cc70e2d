"""Quantizers and rank codes: what every encoding keeps, and how far it errs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from labelstore.errors import UsageError
from labelstore.format import codecs
from labelstore.format.codecs import class_ranks
from labelstore.format.codecs.base import NEAR
from labelstore.labels.ferkd import FerKD

# The largest error of the largest probability, and of each further one.
BOUNDS = {
    "ratio16": (0.00251, 0.03),
    "ratio32": (0.00251, 0.016),
    "u8": (7.7e-6, 0.004),
    "u16": (7.7e-6, 1.6e-5),
    "fp16": (7.7e-6, 2.5e-4),
    "fp32": (1e-7, 1e-7),
}


def confident(rows, k, seed=0):
    """Labels with many confidences near 1."""
    rng = np.random.default_rng(seed)
    top = np.clip(rng.beta(4, 0.7, rows), 1e-3, 1 - 1e-7)
    rest = np.sort(rng.dirichlet(np.full(20, 0.2), rows), -1)[:, ::-1][:, : k - 1]
    probs = np.concatenate([top[:, None], (1 - top)[:, None] * rest], -1)
    return np.sort(probs, -1)[:, ::-1]


def round_trip(name, probs):
    quantizer = codecs.get(name)
    top, rest = quantizer.encode(probs)
    return quantizer.decode(top, rest if rest.shape[-1] else None), top, rest


@pytest.mark.parametrize("name", codecs.QUANTIZERS)
def test_errors_stay_within_their_bounds(name):
    probs = confident(50_000, 5)
    values, _, _ = round_trip(name, probs)
    error = np.abs(values - probs)
    assert error[:, 0].max() <= BOUNDS[name][0]
    assert error[:, 1:].max() <= BOUNDS[name][1] + 0.0026 * name.startswith("ratio")


distributions = st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=8).map(
    lambda values: np.sort(np.array(values) / max(sum(values), 1.0))[::-1]
)


@pytest.mark.parametrize("name", codecs.QUANTIZERS)
@given(probs=distributions)
def test_what_every_label_keeps(name, probs):
    values, top, rest = round_trip(name, probs[None])
    assert (np.diff(values, axis=-1) <= 0).all()
    assert values.astype(np.float64).sum() <= 1.0
    assert values.min() >= 0
    quantizer = codecs.get(name)
    assert not (top == quantizer.top.fill).any()
    assert not (rest == quantizer.rest.fill).any()
    again = quantizer.encode(values)
    assert np.array_equal(again[0], top)
    if name != "fp16":
        assert np.array_equal(quantizer.decode(again[0], again[1]), values)


@pytest.mark.parametrize("name", codecs.QUANTIZERS)
@pytest.mark.parametrize("probs", [[1.0, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3, [1e-30, 1e-40, 0]])
def test_extremes(name, probs):
    values, _, _ = round_trip(name, np.array([probs]))
    assert values.astype(np.float64).sum() <= 1
    assert np.abs(values[0] - probs).max() < 0.02


@pytest.mark.parametrize("name", codecs.QUANTIZERS)
def test_decisions_from_stored_values_are_those_from_exact_ones(name):
    exact = np.concatenate([confident(200_000, 2)[:, 0], np.linspace(0.001, 1, 100_000)])
    stored = codecs.get(name).encode(exact[:, None].astype(np.float32))[0]
    stored = codecs.get(name).top.decode(stored)
    rule = FerKD()
    agree = rule.decide(stored) == rule.decide(exact.astype(np.float32))
    assert agree.mean() >= 0.9999


def test_unknown_quantizer():
    with pytest.raises(UsageError, match="ratio16"):
        codecs.get("u7")


@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 8),
    size=st.integers(0, 12),
    empty=st.integers(0, 3),
)
def test_rank_codes_give_back_every_class(seed, k, size, empty):
    rng = np.random.default_rng(seed)
    classes, images, views = 20, 4, 5
    lists = np.stack([rng.permutation(classes)[:size] for _ in range(images)]).reshape(images, size)
    if size:
        lists[0, size - min(empty, size) :] = -1
    ids = np.argsort(rng.random((images, views, classes)), -1)[..., :k]
    codes = class_ranks.encode(ids, lists, classes)
    rows = np.repeat(np.arange(images), views)
    assert np.array_equal(class_ranks.decode(codes.reshape(-1, k), lists, rows), ids.reshape(-1, k))
    assert codes.min() >= 0
    assert codes.max() < size + classes


def test_classes_in_the_lists_order_have_code_0():
    lists = np.array([[7, 3, 9, 1]])
    assert class_ranks.encode([[[7, 3, 9]]], lists, 10).tolist() == [[[0, 0, 0]]]
    assert class_ranks.encode([[[3, 5, 7]]], lists, 10).tolist() == [[[1, 9, 0]]]


@pytest.mark.parametrize("name", [name for name, q in codecs.QUANTIZERS.items() if not q.by_shares])
def test_values_that_are_near_are_within_the_bound_that_checks_of_sums_rely_on(name):
    for grid in (codecs.get(name).top, codecs.get(name).rest):
        if grid.dtype.kind == "f":
            codes = np.random.default_rng(0).random(1000).astype(grid.dtype)
        else:
            codes = np.arange(np.iinfo(grid.dtype).max).astype(grid.dtype)
        assert grid.holds(codes)
        exact = grid.decode(codes).astype(np.float64)
        assert (np.abs(grid.near(codes) - exact) <= NEAR * exact).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name, q in codecs.QUANTIZERS.items() if not q.by_shares])
def test_codes_are_those_of_the_nearest_values(name, dtype):
    quantizer = codecs.get(name)
    for grid, most in ((quantizer.top, 1), (quantizer.rest, 0.5)):
        if grid.dtype.kind == "f":
            continue
        table = grid.decode(np.arange(np.iinfo(grid.dtype).max).astype(grid.dtype))
        exact = table.astype(np.float64)
        middles = (exact[1:] + exact[:-1]) / 2
        # Each middle, the numbers of the type that lie beside it, the values, and what is not one.
        beside = [middles.astype(dtype), table.astype(dtype)]
        for _ in range(2):
            beside.insert(0, np.nextafter(beside[0], dtype(0)))
            beside.append(np.nextafter(beside[1], dtype(1)))
        beside.append(np.nextafter(middles.astype(dtype), dtype(1)))
        beside.append(np.array([0.0, -0.0, 1e-45, 1.0, 1.002, most], dtype))
        beside.append(np.random.default_rng(0).random(100_000).astype(dtype) * dtype(most))
        values = np.concatenate(beside)
        expected = np.searchsorted(middles, values.astype(np.float64))
        codes = grid.nearest(values)
        assert codes.dtype == grid.dtype
        np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("name", codecs.QUANTIZERS)
def test_single_precision_has_the_codes_of_the_same_numbers_in_double(name):
    probs = confident(50_000, 6).astype(np.float32)
    for one, other in zip(
        codecs.get(name).encode(probs), codecs.get(name).encode(probs.astype(float)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
