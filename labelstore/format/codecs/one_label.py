"""One label at a time, by the compiled part (``_one_label.c``).

Each call of NumPy takes a microsecond, and a label of a few classes would need a dozen.

It knows quantizers whose codes are places in tables. What it gives is to the bit what
``labelstore.format.encoding`` makes of the codes.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.compiled import compiled_part
from labelstore.format.codecs.base import TableGrid
from labelstore.labels.prior import decode_probs

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.format.codecs.base import Quantizer

    Codes = Mapping[str, npt.NDArray[Any]]
    Int32Array = npt.NDArray[np.int32]
    Float32Array = npt.NDArray[np.float32]

__all__ = ["OneLabel"]

_INT32, _FLOAT32 = np.dtype(np.int32), np.dtype(np.float32)

_NO_CODES = np.empty(0, dtype=np.uint8)

_POWERS = decode_probs(np.arange(256, dtype=np.uint8))
"""Mean probabilities of lists, by their codes."""


class OneLabel:
    """Decodes single labels of a store, whose codes are known to be those of labels."""

    def __init__(self, decode: Any, quantizer: Quantizer, k: int, list_size: int) -> None:
        """``decode`` is the compiled function; ``k`` classes a label, ``list_size`` a list."""
        self._decode = decode
        self._tables = quantizer.top.values, quantizer.rest.values
        self._k, self._list_size = k, list_size

    @classmethod
    def of(cls, quantizer: Quantizer, k: int, list_size: int) -> OneLabel | None:
        """Of labels in codes; None where the compiled part is not there, or does not know them."""
        decode = _compiled()
        tables = isinstance(quantizer.top, TableGrid) and isinstance(quantizer.rest, TableGrid)
        return cls(decode, quantizer, k, list_size) if decode is not None and tables else None

    def decode(self, codes: Codes, place: int) -> tuple[Int32Array, Float32Array] | None:
        """Class ids (k,) and probabilities (k,); None where there is no label.

        Args:
            codes: (n, ...) by array name; class ids are stored as they are.
            place: of the label, 0..n-1.
        """
        k = self._k
        ids, probs = np.empty(k, _INT32), np.empty(k, _FLOAT32)
        rest = codes["labels/rest_probs"] if k > 1 else _NO_CODES
        top, classes = codes["labels/top_prob"], codes["labels/classes"]
        done = self._decode(place, 0, top, rest, classes, *self._tables, ids, probs)
        return (ids, probs) if done else None

    def decode_listed(
        self, codes: Codes, place: int, lists: tuple[npt.NDArray[Any], npt.NDArray[Any]], image: int
    ) -> tuple[Int32Array, Float32Array, Int32Array, Float32Array] | None:
        """As ``decode``, of class ids that are places in an image's list; and this, decoded.

        Args:
            codes: (n, ...) by array name; place: of the label, 0..n-1.
            lists: codes (images, m) of lists and of their probabilities; image: which is the
                label's.

        Returns:
            also the list's class ids (m,), -1 for an empty place, and probabilities (m,).
        """
        k, size = self._k, self._list_size
        ids, probs = np.empty(k, _INT32), np.empty(k, _FLOAT32)
        listed, listed_probs = np.empty(size, _INT32), np.empty(size, _FLOAT32)
        rest = codes["labels/rest_probs"] if k > 1 else _NO_CODES
        top, classes = codes["labels/top_prob"], codes["labels/classes"]
        written = ids, probs, *lists, _POWERS, listed, listed_probs
        done = self._decode(place, image, top, rest, classes, *self._tables, *written)
        return (ids, probs, listed, listed_probs) if done else None


@functools.cache
def _compiled() -> Any:
    """The compiled function; None where the part was not built."""
    part = compiled_part("labelstore.format.codecs._one_label")
    return None if part is None else part.one_label
