"""Hypothesis strategies for labels, for tests of back ends and of training loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from labelstore.labels.prior import ImagePrior, decode_probs, encode_probs
from labelstore.labels.top_k import TopK

if TYPE_CHECKING:
    from labelstore.labels.soft_labels import SoftLabels

__all__ = ["soft_labels", "top_k"]


@st.composite
def top_k(
    draw: st.DrawFn,
    rows: int | None = None,
    num_classes: int | None = None,
    *,
    priors: bool = True,
) -> TopK:
    """Stored labels of 1 to 6 rows over 2 to 40 classes, with or without a prior.

    Probabilities range from spread to one-hot; some rows hold fewer than k classes, and some sum to
    a little more than 1, as half-precision labels do.
    """
    count = rows or draw(st.integers(1, 6))
    classes = num_classes or draw(st.integers(2, 40))
    k = draw(st.integers(1, min(classes, 8)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    z = rng.normal(size=(count, classes)) * draw(st.sampled_from([0.0, 1.0, 5.0, 60.0]))
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    order = np.argsort(-p, axis=-1, kind="stable")[:, :k]
    probs = np.take_along_axis(p, order, -1) * draw(st.sampled_from([0.5, 1.0, 1.0005]))
    stored = rng.integers(1, k + 1, size=(count, 1)) if draw(st.booleans()) else k
    probs = np.where(np.arange(k) < stored, probs, 0.0)
    if not priors or not draw(st.booleans()):
        return TopK(order.astype(np.int32), probs.astype(np.float32), classes)
    size = draw(st.integers(1, classes))
    mean = rng.dirichlet(np.full(classes, 0.3), size=count)
    listed = np.argsort(-mean, axis=-1)[:, :size].astype(np.int32)
    codes = encode_probs(np.take_along_axis(mean, listed, -1))
    prior = ImagePrior(
        np.where(codes > 0, listed, -1).astype(np.int32),
        decode_probs(codes),
        rng.uniform(0.2, 1.3, count).astype(np.float32),
    )
    return TopK(order.astype(np.int32), probs.astype(np.float32), classes, prior)


@st.composite
def soft_labels(
    draw: st.DrawFn, rows: int | None = None, num_classes: int | None = None
) -> SoftLabels:
    """Recovered labels, with any tail that they can have."""
    topk = draw(top_k(rows, num_classes))
    tails = ["uniform", "none"] + (["image"] if topk.prior is not None else [])
    return topk.recover(draw(st.sampled_from(tails)))
