"""The fit of an image's list, against the formula written power by power."""

from __future__ import annotations

import numpy as np

from labelstore.format import codecs
from labelstore.labels.lists.fit import POWERS, fit
from labelstore.labels.prior import (
    ImagePrior,
    decode_probs,
    encode_probs,
    tail_weights,
)
from tests.support.lists import fit_one


def rounded(probs):
    """Probabilities as the default quantizer lets them be read."""
    quantizer = codecs.get("ratio16")
    return quantizer.decode(*quantizer.encode(probs))


def slow_fit(mean, indices, probs, size):
    order = np.lexsort((np.arange(len(mean)), -mean))[:size]
    codes = encode_probs(mean[order])
    classes = np.where(codes > 0, order, -1).astype(np.int32)
    prior = ImagePrior(classes, decode_probs(codes), np.ones((), dtype=np.float32))
    tail = len(indices) * mean
    np.subtract.at(tail, indices.reshape(-1), probs.reshape(-1).astype(np.float64))
    tail = np.maximum(tail, 0.0)
    residual = np.maximum(1.0 - probs.sum(axis=-1, dtype=np.float64), 0.0)
    place = np.full(len(mean), -1)
    place[classes[classes >= 0]] = np.flatnonzero(classes >= 0)
    ranks = place[indices]
    listed_tail = np.where(classes >= 0, tail[np.maximum(classes, 0)], 0.0)
    costs = []
    for power in POWERS / 100.0:
        weights, outside = tail_weights(prior, len(mean), power)
        taken = np.where(ranks >= 0, weights[np.maximum(ranks, 0)], outside)
        taken = np.where(probs > 0, taken, 0.0).sum(axis=-1)
        others = len(mean) - int((classes >= 0).sum())
        total = np.maximum(weights.sum() + outside * others - taken, 1e-300)
        gain = (listed_tail[classes >= 0] * np.log(weights[classes >= 0])).sum()
        gain += (tail.sum() - listed_tail.sum()) * np.log(outside)
        costs.append((residual * np.log(total)).sum() - gain)
    return classes, codes, int(POWERS[int(np.argmin(costs))])


def cases(rng, count):
    """Images of many shapes: (V, C) distributions, (V, k) ids and probabilities, list size."""
    for _ in range(count):
        num_classes, views = int(rng.choice([2, 5, 100, 1000])), int(rng.choice([1, 2, 30, 100]))
        k, size = min(int(rng.integers(1, 11)), num_classes), int(rng.choice([1, 3, 16, 64]))
        spread = rng.choice([0.1, 1, 3, 8])
        logits = rng.standard_normal((views, num_classes)) * spread + rng.choice([0, 4]) * (
            rng.standard_normal(num_classes)
        )
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
        if rng.random() < 0.1:  # Sure of everything: all powers cost the same, but for rounding.
            p = np.eye(num_classes, dtype=np.float32)[rng.integers(0, num_classes, views)]
        indices = np.argsort(-p, axis=1, kind="stable")[:, :k]
        probs = np.take_along_axis(p, indices, axis=1)
        if rng.random() < 0.4:
            probs = np.where(np.cumsum(probs, axis=1) - probs < rng.random(), probs, 0)
        yield p, indices, probs, min(size, num_classes)


def test_all_powers_at_once_fit_to_the_bit_what_each_alone_does():
    with_list = 0
    for p, indices, probs, size in cases(np.random.default_rng(0), 150):
        mean = p.astype(np.float64).sum(axis=0) / len(p)
        fitted = fit_one(mean, indices, probs, size, fewest=indices.shape[1])
        if (fitted.classes < 0).all():  # An even spread is nearer.
            continue
        with_list += 1
        classes, codes, power = slow_fit(mean, indices, probs, size)
        np.testing.assert_array_equal(fitted.classes, classes)
        np.testing.assert_array_equal(fitted.codes, codes)
        assert fitted.powers == power
    assert with_list > 75


def test_an_image_gets_the_same_list_alone_and_in_company():
    """Sharp and flat ones together, some with empty places and some with fewer classes a label."""
    rng = np.random.default_rng(1)
    kinds = set()
    for views, classes, k, size in ((1, 5, 2, 3), (30, 40, 4, 16), (100, 100, 9, 64)):
        scale = rng.choice([0.1, 1, 4, 300], (40, 1, 1))
        logits = scale * (rng.standard_normal((40, views, classes)) + rng.standard_normal(classes))
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        p = (p / p.sum(axis=-1, keepdims=True)).astype(np.float32)
        indices = np.argsort(-p, axis=-1, kind="stable")[..., :k]
        probs = np.take_along_axis(p, indices, axis=-1)
        probs = np.where(np.cumsum(probs, axis=-1) - probs < 0.97, probs, 0)
        means = p.astype(np.float64).sum(axis=1) / views
        together = fit(means, indices, probs, size, rounded)
        for image in range(40):
            alone = fit_one(means[image], indices[image], probs[image], size, rounded=rounded)
            for part, expected in zip(together, alone, strict=True):
                np.testing.assert_array_equal(part[image], expected)
            empty, fewer = (alone.classes < 0).sum(), alone.kept < (probs[image] > 0).sum(-1).max()
            kinds.add(("even" if empty == size else "part" if empty else "full", bool(fewer)))
    assert len(kinds) >= 4, kinds
