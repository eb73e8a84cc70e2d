"""The quick ways to a probability give the bits of the plain ones."""

import numpy as np
import pytest

from labelstore.labels import prior as priors, top_k
from labelstore.labels.confidence import largest_of_mean, weighted_mean
from labelstore.labels.ensemble import EnsembleTopK
from labelstore.labels.prior import ImagePrior
from labelstore.labels.top_k import TopK
from labelstore.labels.unseen import probability_of_unseen


def plain_spread(weights, outside, mass, limit):
    """Every label takes every round."""
    capped = np.zeros(weights.shape, dtype=bool)
    scale = np.zeros_like(mass)
    for _ in range(weights.shape[-1] + 1):
        free = np.where(capped, 0.0, weights).sum(axis=-1, keepdims=True) + outside
        left = np.maximum(mass - capped.sum(axis=-1, keepdims=True) * limit, 0.0)
        scale = np.where(free > 0, left / np.where(free > 0, free, 1.0), 0.0)
        over = ~capped & (scale * weights > limit)
        over &= (np.where(capped | over, 0.0, weights).sum(-1, keepdims=True) + outside) > 0
        if not over.any():
            break
        capped |= over
    return np.where(capped, limit, scale * weights), scale[..., 0]


def plain_tail_weights(prior, num_classes, power=None):
    """Every label raises its own list."""
    return priors.raised(
        *priors.list_shares(prior, num_classes), prior.power if power is None else power
    )


def plain_largest_of_mean(topk):
    """Every candidate is compared with every class of every label."""
    lists = [member.prior.classes for member in topk.members if member.prior is not None]
    named = [np.maximum(classes, 0) for classes in lists]
    candidates = np.concatenate([*(member.indices for member in topk.members), *named], axis=-1)
    parts = []
    for member in topk.members:
        prior = member.prior
        if prior is not None:
            prior = ImagePrior(
                prior.classes[..., None, :], prior.probs[..., None, :], prior.power[..., None]
            )
        labels = member.indices[..., None, :], member.probs[..., None, :]
        parts.append(TopK(*labels, member.num_classes, prior).probability(candidates))
    return weighted_mean(parts, topk.weights).max(axis=-1)


def plain_unseen(topk, classes):
    """Labels are recovered whole."""
    return topk.recover().reshape(len(classes), 1).probability(classes).astype(np.float32)


@pytest.fixture
def plain(monkeypatch):
    """Calls a function with the plain ways in place of the quick ones."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(top_k, "spread", plain_spread)
            patch.setattr(top_k, "tail_weights", plain_tail_weights)
            patch.setattr(top_k, "probability_of_unseen", plain_unseen)
            return function(*args)

    return call


def labels_of(seed, shape, num_classes, k, m, sharpness):
    """A teacher's labels of images (first axis of shape): its own noise on what all see."""
    images, views = shape
    own = np.random.default_rng(seed)
    seen = np.random.default_rng(7).normal(size=(images, 1, num_classes))
    logits = sharpness * (seen + 0.5 * own.normal(size=(images, views, num_classes)))
    dense = np.exp(logits - logits.max(-1, keepdims=True))
    dense /= dense.sum(-1, keepdims=True)
    order = np.argsort(-dense, axis=-1)[..., :k]
    probs = np.floor(np.take_along_axis(dense, order, -1) * 255) / np.float32(255)
    # Codes of probability 0: places in which nothing is stored.
    probs[own.random(shape) < 0.05, -1:] = 0
    if not m:
        return TopK(order, probs, num_classes)
    mean = dense.mean(1)
    classes = np.argsort(-mean, axis=-1)[:, :m].astype(np.int32)
    listed = np.take_along_axis(mean, classes, -1).astype(np.float32)
    empty = np.arange(m) >= own.integers(0, m + 1, images)[:, None]
    classes[empty], listed[empty] = -1, 0
    power = own.choice(np.float32([0.2, 0.5, 1.0, 1.3]), images)
    of_views = [np.repeat(part[:, None], views, 1) for part in (classes, listed, power)]
    return TopK(order, probs, num_classes, ImagePrior(*of_views))


SETTINGS = [
    # num_classes, k, m, sharpness
    (50, (2, 2, 2), (8, 8, 8), 4.0),
    (50, (2, 2, 2), (8, 8, 8), 0.3),
    (50, (1, 5, 3), (0, 12, 8), 1.0),
    (12, (3, 1), (9, 12), 1.0),
    (6, (6, 2), (0, 4), 1.5),
    (300, (10, 10), (64, 64), 2.0),
    (300, (1,), (64,), 0.2),
]


@pytest.mark.parametrize(("num_classes", "k", "m", "sharpness"), SETTINGS)
def test_the_quick_ways_give_the_bits_of_the_plain_ones(plain, num_classes, k, m, sharpness):
    shape = (40, 5)
    members = tuple(
        labels_of(seed, shape, num_classes, *size, sharpness)
        for seed, size in enumerate(zip(k, m, strict=True))
    )
    targets = np.random.default_rng(1).integers(0, num_classes, (40, 1))
    for member in members:
        quick, slow = member.recover(), plain(member.recover)
        assert np.array_equal(quick.base, slow.base)
        assert np.array_equal(quick.weights, slow.weights)
        own = member.probability(np.broadcast_to(targets, shape))
        assert np.array_equal(own, plain(member.probability, targets))
        flat = TopK(
            member.indices.reshape(200, -1),
            member.probs.reshape(200, -1),
            num_classes,
            member.prior
            and ImagePrior(
                member.prior.classes.reshape(200, -1),
                member.prior.probs.reshape(200, -1),
                member.prior.power.reshape(200),
            ),
        )
        every = np.broadcast_to(np.arange(num_classes), (200, num_classes))
        unstored = ~((every[..., None] == flat.indices[:, None]) & (flat.probs[:, None] > 0)).any(
            -1
        )
        quickly, slowly = probability_of_unseen(flat, every), plain(plain_unseen, flat, every)
        assert np.array_equal(quickly[unstored], slowly[unstored])
    for weights in (np.full(len(k), 1 / len(k)), np.arange(len(k)) / max(sum(range(len(k))), 1)):
        if len(k) > 1:
            both = EnsembleTopK(members, weights)
            largest = largest_of_mean(both)
            assert largest.shape == shape
            assert np.array_equal(largest, plain(plain_largest_of_mean, both))
            one = EnsembleTopK(tuple(member[3, 2] for member in members), weights)
            assert largest_of_mean(one) == largest[3, 2]


def test_the_largest_of_a_mean_may_be_of_a_class_that_no_teacher_stores():
    lists = np.array([[2]]), np.float32([[0.9]]), np.float32([1.0])
    members = tuple(TopK([[own]], [[0.4]], 4, ImagePrior(*lists)) for own in (0, 1))
    both = EnsembleTopK(members, np.array([0.5, 0.5]))
    # Either stored class has 0.2 and some of what is left; class 2 has 0.3 of both teachers.
    assert largest_of_mean(both) == np.float32(0.3)
    assert both.recover().dense()[0].argmax() == 2


def test_what_no_store_holds_is_recovered_whole():
    """A list that names a class twice, and ids that are of no class."""
    lists = np.int32([[2, 2, 1]]), np.float32([[0.3, 0.2, 0.1]]), np.float32([1.0])
    twice = TopK([[0]], [[0.4]], 4, ImagePrior(*lists))
    assert twice.probability([2]) == twice.recover().probability([2]).astype(np.float32)
    assert twice.probability([-1]) == twice.recover().base
    once = TopK(
        [[0, 9]], [[0.4, 0.0]], 4, ImagePrior(*(part[..., 1:] for part in lists[:2]), lists[2])
    )
    assert once.probability([2]) == once.recover().probability([2]).astype(np.float32)
