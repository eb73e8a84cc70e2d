"""The image prior: what the views of one image say on average, stored once an image.

The m largest classes of the mean of the views' full distributions. A view's residual mass (what its
stored classes leave of 1) is spread like it, raised to a power that is fitted for each image:
closer to the teacher than an even spread, since the views of a photo say nearly the same thing.
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

__all__ = ["ImagePrior", "decode_probs", "encode_probs", "fit", "tail_weights"]

POWERS = np.arange(20, 131, 5)
"""Powers that are tried, in hundredths."""

_FOURTH_POWERS = ((np.arange(256) / 255.0) ** 4).astype(np.float32)

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
    return _raised(*_shares(prior, num_classes), prior.power if power is None else power)


def _shares(prior: ImagePrior, num_classes: int) -> tuple[BoolArray, Float64Array, Float64Array]:
    """(..., m) which places are filled, (..., m) their probabilities, (...) that of each class
    outside."""
    listed = prior.classes >= 0
    probs = np.where(listed, prior.probs, 0.0).astype(np.float64)
    outside = num_classes - listed.sum(axis=-1)
    return listed, probs, np.maximum(1.0 - probs.sum(axis=-1), LEAST) / np.maximum(outside, 1)


def _raised(
    listed: BoolArray, probs: Float64Array, rest: Float64Array, power: npt.ArrayLike
) -> tuple[Float64Array, Float64Array]:
    exponent = np.asarray(power, dtype=np.float64)
    return np.where(listed, probs ** exponent[..., None], 0.0), rest**exponent


def fit(
    mean: Float64Array, indices: npt.NDArray[Any], probs: npt.NDArray[Any], size: int
) -> tuple[Int32Array, npt.NDArray[np.uint8], int]:
    """The prior of one image.

    Args:
        mean: (C,) the mean of its V views' distributions.
        indices: (V, k) the stored class ids; probs: (V, k) their exact probabilities.
        size: m, how many classes to keep, at most C.

    Returns:
        (m,) int32 class ids, (m,) uint8 codes of their probabilities, and the power in hundredths
        with which the recovered labels come nearest to the teacher's, in mean KL divergence (but
        for the limit that recovery sets to each class, which is left out).
    """
    # Of equal means, the smaller class id comes first.
    order = np.argsort(-mean, kind="stable")[:size]
    codes = encode_probs(mean[order])
    classes = np.where(codes > 0, order, -1).astype(np.int32)
    prior = ImagePrior(classes, decode_probs(codes), np.ones((), dtype=np.float32))
    views, num_classes = len(indices), len(mean)
    # Mass that each class has in the tails of all views; rounding must not make it negative.
    tail = views * mean
    np.subtract.at(tail, indices.reshape(-1), probs.reshape(-1).astype(np.float64))
    tail = np.maximum(tail, 0.0)
    residual = np.maximum(1.0 - probs.sum(axis=-1, dtype=np.float64), 0.0)
    place = np.full(num_classes, -1)
    place[classes[classes >= 0]] = np.flatnonzero(classes >= 0)
    ranks = place[indices]
    shares = _shares(prior, num_classes)
    listed = shares[0]
    listed_tail = np.where(listed, tail[np.maximum(classes, 0)], 0.0)
    # A row for each power that is tried. Raising to many powers at once gives other last bits.
    pairs = [_raised(*shares, power) for power in POWERS / 100.0]
    weights = np.stack([pair[0] for pair in pairs])
    outside = np.array([pair[1] for pair in pairs])
    taken = np.where(
        ranks >= 0, np.take(weights, np.maximum(ranks, 0), axis=1), outside[:, None, None]
    )
    taken = np.where(probs > 0, taken, 0.0).sum(axis=-1)
    spread = weights.sum(axis=-1) + outside * (num_classes - int(listed.sum()))
    total = np.maximum(spread[:, None] - taken, 1e-300)
    # Cross-entropy of the tails with the spread, less what does not depend on the power.
    gain = (listed_tail[listed] * np.log(np.compress(listed, weights, axis=1))).sum(axis=-1)
    gain += (tail.sum() - listed_tail.sum()) * np.log(outside)
    costs = (residual * np.log(total)).sum(axis=-1) - gain
    return classes, codes, int(POWERS[int(np.argmin(costs))])
