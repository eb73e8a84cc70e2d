"""Which quantizer suits a teacher, by what is known before it labelled anything."""

from __future__ import annotations

import math

from labelstore.format import codecs

__all__ = ["COARSE", "FINE", "FLAT", "even_nats", "rounding_share", "suiting"]

FINE = "u8"
"""What is taken where the steps of ``ratio16`` are too coarse."""

GAIN = 8.0
"""How far the largest logit is taken to be above the others' log-mean-exp at high temperatures.

Measured on EfficientNet-Lite0: 9.6, 10.0 and 10.4 at temperatures 4, 20 and 40; teachers that were
trained with label smoothing have less, about the logarithm of 0.9 x classes.
"""

SPREAD = 1.2
"""The logits' standard deviation: an even spread is ``(SPREAD / temperature) ** 2 / 2`` nats from a
flat teacher. Measured on EfficientNet-Lite0 at temperatures 20 and 40: 1.2 and 1.18."""

FLAT = 0.02
"""Nats from an even spread below which a teacher is called flat: at a temperature of 6 and more."""

COARSE = 0.05
"""Share of these nats that rounding may cost."""


def even_nats(temperature: float) -> float:
    """About how far the same probability for every class is from a flat teacher's label, in nats.

    Above a temperature of about 4; a teacher at a lower one is further away than that.
    """
    return (SPREAD / temperature) * (SPREAD / temperature) / 2


def rounding_share(quantizer: str, temperature: float, num_classes: int) -> float:
    """What rounding the largest probability costs, as a share of what an even spread loses.

    An estimate before anything is known of the teacher, for choosing and warning. Above 1 a label
    is worse than the same probability for every class.

    Args:
        quantizer: a name; the steps of all but ``ratio16`` and ``ratio32`` are fine enough.
        temperature: 0 of one that is not positive and finite, which is refused elsewhere.
        num_classes: C.
    """
    if not codecs.get(quantizer).by_shares or not 0 < temperature < math.inf:
        return 0.0
    largest = min(math.exp(min(GAIN / temperature, 700.0)) / num_classes, 1.0)
    # A probability p is moved by a third of half a step squared: p ln(p / q) - p + q, averaged.
    rounding = (codecs.ratio.STEP / 2) ** 2 / 3 / (2 * largest)
    return rounding * 2 * (temperature / SPREAD) * (temperature / SPREAD)


def suiting(quantizer: str, temperature: float, num_classes: int) -> str:
    """The quantizer itself where it is fine enough, else ``FINE``."""
    coarse = rounding_share(quantizer, temperature, num_classes) > COARSE
    return FINE if coarse else quantizer
