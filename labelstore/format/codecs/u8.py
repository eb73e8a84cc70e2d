"""``u8``: 3 bytes for two probabilities, 1 for each further one; the default."""

from __future__ import annotations

from labelstore.format.codecs.base import PowerGrid, Quantizer
from labelstore.format.codecs.u16 import TOP

# Fourth powers of even steps: a step is about 1.6 % of a value of 1/2 and 20 % of one of 1e-5.
REST = PowerGrid(0.5, 254, 4, "|u1")

QUANTIZER = Quantizer(
    name="u8",
    top=TOP,
    rest=REST,
    summary="largest probability in steps of 1/65534, others one byte each, fourth-power steps",
)
