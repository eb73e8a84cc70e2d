"""Which arrays are labels, and that what says so quickly and what says why agree."""

from __future__ import annotations

import numpy as np
import pytest

from labelstore.errors import LabelError
from labelstore.format.label_checks import are_labels, require_labels

CLASSES = 50


def labels(k=4, images=3, views=5):
    rng = np.random.default_rng(k)
    indices = np.argsort(rng.random((images, views, CLASSES)), axis=-1)[..., :k].astype(np.int32)
    probs = np.sort(rng.dirichlet(np.ones(k + 1), (images, views))[..., :k], axis=-1)[..., ::-1]
    return indices, probs.astype(np.float32)


def agreed(indices, probs):
    """Whether these are labels, by both."""
    quick = are_labels(indices, probs, CLASSES)
    try:
        require_labels(indices, probs, CLASSES, 0)
    except LabelError:
        assert not quick
    else:
        assert quick
    return quick


@pytest.mark.parametrize("k", [1, 2, 4, 16, 17, 40])
def test_labels_are_labels(k):
    indices, probs = labels(k)
    assert agreed(indices, probs)
    assert agreed(indices, probs.astype(np.float64))
    assert agreed(np.asfortranarray(indices), np.asfortranarray(probs))
    assert agreed(indices[:0], probs[:0])


@pytest.mark.parametrize("k", [2, 4, 17])
@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e-6, 1.01, 2.0])
def test_a_number_that_is_no_probability(k, place, value):
    indices, probs = labels(k)
    probs[1, 2, place] = value
    assert not agreed(indices, probs)


@pytest.mark.parametrize("k", [2, 4, 17])
def test_a_class_twice(k):
    indices, probs = labels(k)
    indices[1, 2, -1] = indices[1, 2, 0]
    assert not agreed(indices, probs)
    # Of probability 0 it says nothing.
    probs[1, 2, -1] = 0
    assert agreed(indices, probs)


def test_ids_sums_and_order():
    indices, probs = labels()
    for wrong in (-1, CLASSES):
        broken = indices.copy()
        broken[2, 4, 3] = wrong
        assert not agreed(broken, probs)
    assert not agreed(indices.astype(np.float32), probs)
    assert not agreed(indices, probs[..., ::-1])
    even = np.full_like(probs, 0.2501)
    assert agreed(indices, even)
    even[0, 0] = 0.252
    assert not agreed(indices, even)
