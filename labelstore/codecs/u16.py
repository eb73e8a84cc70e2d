"""``u16``: two bytes for each probability."""

from __future__ import annotations

import numpy as np

from labelstore.codecs.base import Quantizer, TableGrid

# Even steps of 1/65534: the largest error, 7.7e-6, moves next to no view over a threshold.
TOP = TableGrid((np.arange(65535) / 65534.0).astype(np.float32), "<u2")

# Squares of even steps up to 1/2: finer where probabilities are small.
REST = TableGrid((0.5 * (np.arange(65535) / 65534.0) ** 2).astype(np.float32), "<u2")

QUANTIZER = Quantizer(
    name="u16",
    top=TOP,
    rest=REST,
    summary="largest probability in steps of 1/65534, others two bytes each, square steps",
)
