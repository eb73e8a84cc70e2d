"""The quick ways to a probability give the bits of the plain ones."""

import functools

import numpy as np
import pytest

from labelstore.labels.confidence import largest_of_mean
from labelstore.labels.ensemble import EnsembleTopK
from labelstore.labels.prior import ImagePrior
from labelstore.labels.top_k import TopK
from labelstore.labels.unseen import probability_of_unseen
from tests.support.plain_labels import labels_of, plain_largest_of_mean, plain_unseen, plainly


@pytest.fixture
def plain(monkeypatch):
    """Calls a function with the plain ways in place of the quick ones."""
    return functools.partial(plainly, monkeypatch)


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
