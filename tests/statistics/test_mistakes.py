"""Confused classes and suspect ground truth against slow loops over dense mean labels."""

import numpy as np
import pytest

from labelstore.statistics.image_labels import KEPT, joined, of_images
from labelstore.statistics.mistakes import confused_pairs, suspicions

IMAGES, CLASSES = 60, 7


def mean_labels_of(seed, wrong=0.2):
    """Targets (N,), and mean labels (N, C) that mostly agree with them."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, CLASSES, IMAGES)
    seen = np.where(rng.random(IMAGES) < wrong, rng.integers(0, CLASSES, IMAGES), targets)
    means = rng.dirichlet(np.full(CLASSES, 0.3), IMAGES) + 1.5 * np.eye(CLASSES)[seen]
    targets[::9] = -1
    return targets.astype(np.int32), means / means.sum(axis=1, keepdims=True)


def kept(targets, means, parts=1):
    numbers = np.arange(len(targets)) + 100
    top = means.argmax(axis=1)[:, None].astype(np.int32)
    runs = np.array_split(np.arange(len(targets)), parts)
    pieces = [of_images(numbers[run], targets[run], means[run], top[run]) for run in runs]
    return joined(pieces, means.shape[1])


@pytest.mark.parametrize("seed", range(5))
def test_confused_pairs_are_those_of_a_slow_loop(seed):
    targets, means = mean_labels_of(seed)
    expected = {}
    for target, label in zip(targets, means, strict=True):
        likeliest = sorted(range(CLASSES), key=lambda c, label=label: (-label[c], c))[:KEPT]
        for other in likeliest:
            if target >= 0 and other != target:
                pair = (int(target), other)
                expected[pair] = expected.get(pair, 0.0) + label[other]
    members = np.bincount(targets[targets >= 0], minlength=CLASSES)
    shares = {pair: mass / members[pair[0]] for pair, mass in expected.items()}
    told = confused_pairs(kept(targets, means, parts=3), CLASSES, count=10)
    assert [pair.share for pair in told] == pytest.approx(sorted(shares.values())[::-1][:10])
    for pair in told:
        assert pair.share == pytest.approx(shares[pair.target, pair.predicted])
        most = sorted(
            (-means[n, pair.predicted], n) for n in np.flatnonzero(targets == pair.target)
        )
        wanted = [(n + 100, -value) for value, n in most]
        assert len(pair.images) <= 3
        for (image, share), (expected_image, expected_share) in zip(
            pair.images, wanted, strict=False
        ):
            assert image == expected_image
            assert share == pytest.approx(expected_share, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_suspicions_are_those_of_confident_learning_read_slowly(seed):
    targets, means = mean_labels_of(seed)
    known = [n for n in range(IMAGES) if targets[n] >= 0]
    thresholds = [np.mean([means[n, c] for n in known if targets[n] == c]) for c in range(CLASSES)]
    expected = []
    for n in known:
        confident = [c for c in range(CLASSES) if means[n, c] >= thresholds[c]]
        counted = max(confident, key=lambda c, n=n: means[n, c]) if confident else targets[n]
        margin = means[n, targets[n]] - max(means[n, c] for c in range(CLASSES) if c != targets[n])
        expected.append((margin, n, counted != targets[n]))
    expected.sort()
    told = suspicions(kept(targets, means, parts=4), CLASSES, count=25)
    assert told.judged == len(known)
    assert told.candidates == sum(candidate for *_, candidate in expected) > 0
    assert [entry.image - 100 for entry in told.entries] == [n for _, n, _ in expected[:25]]
    for entry, (margin, n, candidate) in zip(told.entries, expected, strict=False):
        assert entry.margin == pytest.approx(margin, abs=1e-6)
        assert entry.target == targets[n]
        assert entry.candidate == candidate
        others = [c for c in range(CLASSES) if c != targets[n]]
        assert entry.suggested == max(others, key=lambda c, n=n: means[n, c])
        assert entry.suggested_probability == pytest.approx(means[n, entry.suggested], abs=1e-6)


def test_exchanged_images_are_first():
    rng = np.random.default_rng(3)
    targets = np.repeat(np.arange(20), 20).astype(np.int32)
    means = np.full((400, 20), 0.3 / 19)
    means[np.arange(400), targets] = 0.7
    means += rng.random(means.shape) * 0.02
    means /= means.sum(axis=1, keepdims=True)
    exchanged = rng.choice(400, 20, replace=False)
    targets[exchanged] = (targets[exchanged] + 1 + rng.integers(0, 18, 20)) % 20
    told = suspicions(kept(targets, means), 20, count=40)
    # Some are not as sure as the mean of the class that they belong to.
    assert 10 < told.candidates <= 20
    assert {entry.image - 100 for entry in told.entries[:20]} == set(exchanged.tolist())


def test_without_ground_truth_nothing_is_suspect():
    targets, means = mean_labels_of(1)
    told = suspicions(kept(np.full_like(targets, -1), means), CLASSES, count=5)
    assert (told.judged, told.candidates, told.entries) == (0, 0, ())
    assert confused_pairs(kept(np.full_like(targets, -1), means), CLASSES, 5) == []
    assert suspicions(joined([], CLASSES), CLASSES, 5).entries == ()


def test_one_class_is_never_mistaken():
    labels = kept(np.zeros(4, np.int32), np.ones((4, 1)))
    assert suspicions(labels, 1, 5).entries == ()
    assert confused_pairs(labels, 1, 5) == []
