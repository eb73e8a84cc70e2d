"""Probabilities that labels are recovered to, by plain ways; labels to try quick ways on."""

import numpy as np

from labelstore.labels import prior as priors, top_k
from labelstore.labels.confidence import weighted_mean
from labelstore.labels.prior import ImagePrior
from labelstore.labels.top_k import TopK


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


def plainly(monkeypatch, function, *args):
    """What a function returns with the plain ways in place of the quick ones."""
    with monkeypatch.context() as patch:
        patch.setattr(top_k, "spread", plain_spread)
        patch.setattr(top_k, "tail_weights", plain_tail_weights)
        patch.setattr(top_k, "probability_of_unseen", plain_unseen)
        return function(*args)


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
