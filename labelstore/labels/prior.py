"""The image prior: what the views of one image say on average, stored once an image.

The m largest classes of the mean of the views' full distributions. A view's residual mass (what its
stored classes leave of 1) is spread like it, raised to a power that is fitted for each image:
closer to the teacher than an even spread, since the views of a photo say nearly the same thing.

No class of the list may get more than ``MOST_UNSEEN`` of the least stored probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]
    Int32Array = npt.NDArray[np.int32]
    BoolArray = npt.NDArray[np.bool_]

__all__ = [
    "MOST_UNSEEN",
    "ImagePrior",
    "decode_probs",
    "distinct_lists",
    "encode_probs",
    "list_shares",
    "raised",
    "spread",
    "tail_weights",
]

_FOURTH_POWERS = ((np.arange(256) / 255.0) ** 4).astype(np.float32)

MOST_UNSEEN = 0.75
"""What a class that is not stored may get in the image tail, as a share of the least stored
probability, at most: it is known to be less likely, but not by how much."""

LEAST = 1e-6
"""Mass that the classes outside the list share at the least: none of them is ever impossible."""


@dataclass(frozen=True)
class ImagePrior:
    """Lists of likely classes, one for each label of a batch."""

    classes: Int32Array
    """(..., m) int32 class ids, likeliest first; -1 for an empty place, after all others."""
    probs: Float32Array
    """(..., m) float32 mean probabilities, falling; 0 for an empty place."""
    power: Float32Array
    """(...) float32: what the probabilities are raised to before they spread a residual."""

    def __getitem__(self, rows: Any) -> ImagePrior:
        """Rows by any NumPy index into the leading axes."""
        return ImagePrior(self.classes[rows], self.probs[rows], self.power[rows])

    def reshape(self, *shape: int) -> ImagePrior:
        """The same lists with other leading axes."""
        power = self.power.reshape(shape)
        whole = *power.shape, self.classes.shape[-1]
        return ImagePrior(self.classes.reshape(whole), self.probs.reshape(whole), power)


def encode_probs(probs: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Mean probabilities (...) in [0, 1] as codes 0..255 of fourth-power steps, 0 for 0 alone."""
    exact = np.asarray(probs, dtype=np.float64)
    codes = np.rint(np.clip(exact, 0, 1) ** 0.25 * 255)
    return np.where(exact > 0, np.maximum(codes, 1), 0).astype(np.uint8)


def decode_probs(codes: npt.NDArray[np.uint8]) -> Float32Array:
    """(...) float32 ``(code / 255) ** 4``."""
    return _FOURTH_POWERS.take(codes)


def tail_weights(
    prior: ImagePrior, num_classes: int, power: npt.ArrayLike | None = None
) -> tuple[Float64Array, Float64Array]:
    """Unnormalised weights by which a residual is spread.

    Returns:
        (..., m) of the listed classes (0 for an empty place) and (...) of each class outside.
    """
    if power is not None:
        return raised(*list_shares(prior, num_classes), power)
    shape, width = prior.power.shape, prior.classes.shape[-1]
    flat = prior.classes.reshape(-1, width), prior.probs.reshape(-1, width)
    lists, rows = distinct_lists(ImagePrior(*flat, prior.power.reshape(-1)))
    weights, outside = raised(*list_shares(lists, num_classes), lists.power)
    return weights[rows].reshape(*shape, width), outside[rows].reshape(shape)


def distinct_lists(prior: ImagePrior) -> tuple[ImagePrior, npt.NDArray[np.int64]]:
    """The lists of labels (n,), once where neighbours have the same, and (n,) which each has.

    The views of an image lie side by side and have one list: raising it is what takes long.
    """
    first = np.ones(len(prior.power), dtype=bool)
    first[1:] = prior.power[1:] != prior.power[:-1]
    for values in (prior.classes, prior.probs):
        first[1:] |= (values[1:] != values[:-1]).any(axis=-1)
    return prior[first], np.cumsum(first) - 1


def list_shares(
    prior: ImagePrior, num_classes: int
) -> tuple[BoolArray, Float64Array, Float64Array]:
    """What a list says: (..., m) which places are filled, (..., m) their probabilities, and (...)
    that of each class outside."""
    listed = prior.classes >= 0
    probs = np.where(listed, prior.probs, 0.0).astype(np.float64)
    outside = num_classes - listed.sum(axis=-1)
    return listed, probs, np.maximum(1.0 - probs.sum(axis=-1), LEAST) / np.maximum(outside, 1)


def raised(
    listed: BoolArray, probs: Float64Array, rest: Float64Array, power: npt.ArrayLike
) -> tuple[Float64Array, Float64Array]:
    """What ``list_shares`` gives, as weights: (..., m) of the places, (...) of each class outside.

    Args:
        power: (...), or one for all.
    """
    exponent = np.asarray(power, dtype=np.float64)
    return np.where(listed, probs ** exponent[..., None], 0.0), rest**exponent


def spread(
    weights: Float64Array, outside: Float64Array, mass: Float64Array, limit: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Spread a mass in proportion to weights, none of the listed above a limit where possible.

    What the image says on average must not overrule what was seen in this view.

    Args:
        weights: (..., m) of the listed classes; outside: (..., 1) of all others together.
        mass: (..., 1) to be spread; limit: (..., 1).

    Returns:
        (..., m) the listed classes' shares, and (...) the factor of the weights outside.
    """
    width, shape = weights.shape[-1], np.broadcast_shapes(weights.shape[:-1], mass.shape[:-1])
    rows = [
        np.broadcast_to(part, (*shape, part.shape[-1])).reshape(-1, part.shape[-1])
        for part in (weights, outside, mass, limit)
    ]
    shares, scale, over = _evenly(rows)
    # Few labels need more than a round: the others are done.
    left = np.flatnonzero(over.any(axis=-1))
    capped = over[left]
    rows = [part[left] for part in rows]
    for _ in range(width):
        if not left.size:
            break
        again, factor, over = _evenly(rows, capped)
        shares[left], scale[left] = again, factor
        some = over.any(axis=-1)
        left, rows = left[some], [part[some] for part in rows]
        capped = capped[some] | over[some]
    return shares.reshape(*shape, width), scale.reshape(shape)


def _evenly(
    rows: list[Float64Array], capped: BoolArray | None = None
) -> tuple[Float64Array, Float64Array, BoolArray]:
    """A round of ``spread``: (n, m) shares with the capped ones (n, m) at the limit, (n,) the
    factor of all weights, and (n, m) which classes are to be capped, too. ``rows`` are ``spread``'s
    arguments, (n, m) or (n, 1)."""
    weights, outside, mass, limit = rows
    free, left = weights, mass
    if capped is not None:
        free = np.where(capped, 0.0, weights)
        left = np.maximum(mass - capped.sum(axis=-1, keepdims=True) * limit, 0.0)
    total = free.sum(axis=-1, keepdims=True) + outside
    some = total > 0
    scale = np.where(some, left / np.where(some, total, 1.0), 0.0)
    shares = scale * weights
    over = shares > limit
    if capped is not None:
        over &= ~capped
        shares = np.where(capped, limit, shares)
    # Capping the last class that is free would leave mass over.
    some = np.flatnonzero(over.any(axis=-1))
    kept = np.where(over[some], 0.0, free[some])
    over[some] &= (kept.sum(axis=-1, keepdims=True) + outside[some]) > 0
    return shares, scale[:, 0], over
