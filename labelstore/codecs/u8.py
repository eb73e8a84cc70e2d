"""``u8``: 3 bytes for two probabilities, 1 for each further one; the default."""

from __future__ import annotations

import numpy as np

from labelstore.codecs.base import Quantizer, TableGrid
from labelstore.codecs.u16 import TOP

# Fourth powers of even steps: a step is about 1.6 % of a value of 1/2 and 20 % of one of 1e-5.
REST = TableGrid((0.5 * (np.arange(255) / 254.0) ** 4).astype(np.float32), "|u1")

QUANTIZER = Quantizer(
    name="u8",
    top=TOP,
    rest=REST,
    summary="largest probability in steps of 1/65534, others one byte each, fourth-power steps",
)
