"""Quantizers of probabilities, one a file; ``get`` finds one by its name in the manifest."""

from __future__ import annotations

from labelstore.errors import require_choice
from labelstore.format.codecs import fp16, fp32, ratio, u8, u16
from labelstore.format.codecs.base import Quantizer, class_id_dtype

__all__ = ["DEFAULT", "QUANTIZERS", "Quantizer", "class_id_dtype", "get"]

QUANTIZERS: dict[str, Quantizer] = {
    quantizer.name: quantizer
    for quantizer in (
        ratio.RATIO16,
        ratio.RATIO32,
        u8.QUANTIZER,
        u16.QUANTIZER,
        fp16.QUANTIZER,
        fp32.QUANTIZER,
    )
}
"""All quantizers by name."""

DEFAULT = "u8"


def get(name: str) -> Quantizer:
    """The quantizer of a name; UsageError lists the names there are."""
    # A reader of single labels asks each time: what is right is told by one look.
    if name not in QUANTIZERS:
        require_choice("quantizer", name, QUANTIZERS)
    return QUANTIZERS[name]
