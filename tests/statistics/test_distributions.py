"""Entropy, means and drift against the same of dense labels in float64."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from labelstore.labels.prior import ImagePrior
from labelstore.labels.top_k import TopK
from labelstore.statistics.distributions import Spread, drift_of, entropy_of, mean_labels

IMAGES, VIEWS, CLASSES, K, LISTED = 5, 6, 31, 4, 9


def stored_labels(seed, with_list=True):
    """TopK (IMAGES, VIEWS, K), some with empty places, with or without the images' lists."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(IMAGES, 1, CLASSES)) * 3 + rng.normal(size=(IMAGES, VIEWS, CLASSES))
    exact = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    order = np.argsort(-exact, axis=-1)[..., :K]
    probs = np.take_along_axis(exact, order, axis=-1).astype(np.float32)
    probs[0, 0, 2:] = 0.0
    order[0, 0, 2:] = 0
    if not with_list:
        return TopK(order, probs, CLASSES)
    mean = exact.mean(axis=1)
    listed = np.argsort(-mean, axis=-1)[:, :LISTED]
    of_lists = np.take_along_axis(mean, listed, axis=-1).astype(np.float32)
    listed[1, 5:], of_lists[1, 5:] = -1, 0.0
    prior = ImagePrior(
        np.repeat(listed[:, None], VIEWS, axis=1).astype(np.int32),
        np.repeat(of_lists[:, None], VIEWS, axis=1),
        np.full((IMAGES, VIEWS), 0.7, np.float32),
    )
    return TopK(order, probs, CLASSES, prior)


@pytest.mark.parametrize("with_list", [True, False])
@pytest.mark.parametrize("label_type", ["top-k", "hard", "smoothing"])
@given(seed=st.integers(0, 2**31))
def test_they_are_those_of_the_dense_labels(with_list, label_type, seed):
    labels = stored_labels(seed, with_list).as_type(label_type)
    dense = labels.dense().astype(np.float64)
    slow = [
        [-sum(p * np.log(p) for p in label if p > 0) for label in of_image] for of_image in dense
    ]
    assert entropy_of(labels) == pytest.approx(np.array(slow), abs=1e-5)
    means = mean_labels(labels)
    assert means == pytest.approx(dense.mean(axis=1), abs=1e-6)
    traces = [np.trace(np.cov(of_image, rowvar=False, bias=True)) for of_image in dense]
    assert drift_of(labels, means) == pytest.approx(np.array(traces), abs=1e-5)


def test_drift_of_views_that_agree_is_0_and_of_two_that_do_not_a_half():
    sure = np.ones((2, 2, 1), np.float32)
    classes = np.array([[[3], [3]], [[3], [5]]])
    labels = TopK(classes, sure, 8).recover("uniform")
    assert drift_of(labels, mean_labels(labels)).tolist() == [0.0, 0.5]


def test_a_spread_has_every_value_in_a_bin_and_its_mean():
    values = np.random.default_rng(0).random((7, 30)) * 2
    values[0, :3] = 0.0, 2.0, 0.1
    spread = Spread(2.0)
    spread.add(values[:3])
    spread.add(values[3:])
    counts = [row["count"] for row in spread.histogram()]
    assert counts == np.histogram(values, bins=20, range=(0, 2))[0].tolist()
    assert spread.mean == pytest.approx(values.mean())
    assert spread.error(values.size) == 0.0


def test_a_spread_of_one_class_has_one_value():
    spread = Spread(0.0)
    spread.add(np.zeros(4))
    assert spread.histogram()[0]["count"] == 4
    assert Spread(1.0).mean is None
