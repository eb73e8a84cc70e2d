"""``u16``: two bytes for each probability."""

from __future__ import annotations

from labelstore.format.codecs.base import PowerGrid, Quantizer

# Even steps of 1/65534: the largest error, 7.7e-6, moves next to no view over a threshold.
TOP = PowerGrid(1.0, 65534, 1, "<u2")

# Squares of even steps up to 1/2: finer where probabilities are small.
REST = PowerGrid(0.5, 65534, 2, "<u2")

QUANTIZER = Quantizer(
    name="u16",
    top=TOP,
    rest=REST,
    summary="largest probability in steps of 1/65534, others two bytes each, square steps",
)
