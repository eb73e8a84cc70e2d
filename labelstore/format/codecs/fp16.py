"""``fp16``: half-precision floats, with the largest probability in 65,534 even steps."""

from __future__ import annotations

from labelstore.format.codecs.base import FloatGrid, Quantizer
from labelstore.format.codecs.u16 import TOP

# Half precision has steps of 1/2048 near 1, too coarse for a threshold of 0.95: TOP is finer.
QUANTIZER = Quantizer(
    name="fp16",
    top=TOP,
    rest=FloatGrid("<f2"),
    summary="largest probability in steps of 1/65534, others in half precision",
)
