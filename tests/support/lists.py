"""An image's list of likely classes, fitted alone."""

from __future__ import annotations

from labelstore.labels.lists.fit import FittedLists, fit


def fit_one(mean, indices, probs, size, **options):
    """What ``fit`` says of one image: (C,) mean, (V, k) class ids and probabilities."""
    return FittedLists(
        *(part[0] for part in fit(mean[None], indices[None], probs[None], size, **options))
    )
