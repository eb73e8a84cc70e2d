"""``fp32``: single-precision floats, as the teacher gave them."""

from __future__ import annotations

from labelstore.format.codecs.base import FloatGrid, Quantizer

QUANTIZER = Quantizer(
    name="fp32",
    top=FloatGrid("<f4"),
    rest=FloatGrid("<f4"),
    summary="single precision: nothing lost but a last bit where a sum would exceed 1",
)
