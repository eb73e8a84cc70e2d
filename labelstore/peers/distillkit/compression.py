"""How DistillKit packs a label: log-probabilities and class ids, in bytes.

First come ``exact_k`` values, then coefficients of a polynomial in the rank, then bins of a scale
and quantized residuals; with ``delta_encoding`` all but the first value are differences. Class ids
have as many bits as the number of classes needs, the first bit first. All is decoded in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Float64Array = npt.NDArray[np.float64]

__all__ = ["Compression"]

_FLOATS = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "float64": "<f8"}
"""DistillKit's names of types -> NumPy's; of bfloat16 its bits."""


@dataclass(frozen=True)
class _Bin:
    """Residuals of one scale."""

    scale_dtype: str
    element_bits: int
    num_elements: int

    @property
    def packed(self) -> int:
        """Bytes of the residuals."""
        return (self.element_bits * self.num_elements + 7) // 8


@dataclass(frozen=True)
class Compression:
    """How labels are packed; DistillKit's ``DistributionQuantizationConfig``."""

    d: int
    """Classes."""
    k: int
    exact_k: int
    exact_dtype: str
    polynomial_terms: tuple[int | str, ...]
    term_dtype: str
    residual_bins: tuple[_Bin, ...]
    delta_encoding: bool
    normalize_t: bool

    @classmethod
    def from_document(cls, document: Any) -> Compression:
        """Of the file's YAML; ValueError where it is none."""
        if not isinstance(document, dict) or not document.keys() >= {"d", "k", "exact_k"}:
            raise ValueError("it has no d, k and exact_k")
        bins = tuple(
            _Bin(part["scale_dtype"], part["element_bits"], part["num_elements"])
            for part in document.get("residual_bins") or ()
        )
        compression = cls(
            document["d"],
            document["k"],
            document["exact_k"],
            document.get("exact_dtype", "float32"),
            tuple(document.get("polynomial_terms") or ()),
            document.get("term_dtype", "float32"),
            bins,
            document.get("delta_encoding", True),
            document.get("normalize_t", False),
        )
        compression._check()
        return compression

    def _check(self) -> None:
        numbers = [self.d, self.k, self.exact_k]
        numbers += [
            n for part in self.residual_bins for n in (part.element_bits, part.num_elements)
        ]
        terms = [term for term in self.polynomial_terms if term not in ("sqrt", "exp")]
        if any(type(number) is not int for number in [*numbers, *terms]):
            raise ValueError("it has a number that is no integer")
        if not (1 <= self.k <= self.d < 2**31 and 0 <= self.exact_k <= self.k <= 1 << 16):
            raise ValueError(f"d is {self.d}, k {self.k} and exact_k {self.exact_k}")
        types = {
            self.exact_dtype,
            self.term_dtype,
            *(part.scale_dtype for part in self.residual_bins),
        }
        if not types <= _FLOATS.keys():
            raise ValueError(f"it has types other than {', '.join(_FLOATS)}")
        if any(abs(term) > 16 for term in terms if isinstance(term, int)) or len(terms) > 64:
            raise ValueError("it has powers above 16")
        if any(not 1 <= part.element_bits <= 32 for part in self.residual_bins):
            raise ValueError("it has residuals of more than 32 bits, which are not read here")
        left = self.k - self.exact_k - sum(part.num_elements for part in self.residual_bins)
        if left < 0 or any(part.num_elements < 1 for part in self.residual_bins):
            raise ValueError("its bins have more residuals than there are values")
        if type(self.delta_encoding) is not bool or type(self.normalize_t) is not bool:
            raise ValueError("a switch is neither true nor false")

    @property
    def index_bits(self) -> int:
        """Bits of a class id: log2 of the number of classes in float32, as DistillKit has it."""
        return int(np.ceil(np.log2(np.float32(self.d))))

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of a label's log-probabilities and of its class ids."""
        size = self.exact_k * _width(self.exact_dtype)
        size += len(self.polynomial_terms) * _width(self.term_dtype)
        size += sum(_width(part.scale_dtype) + part.packed for part in self.residual_bins)
        return size, (self.k * self.index_bits + 7) // 8

    def logprobs(self, packed: Bytes) -> Float64Array:
        """(n, k) natural logarithms of probabilities, of (n, bytes)."""
        at = self.exact_k * _width(self.exact_dtype)
        exact = _floats(packed[:, :at], self.exact_dtype)
        rest = np.zeros((len(packed), self.k - self.exact_k))
        if self.polynomial_terms:
            end = at + len(self.polynomial_terms) * _width(self.term_dtype)
            rest += _floats(packed[:, at:end], self.term_dtype) @ self._terms(rest.shape[1]).T
            at = end
        first = 0
        for part in self.residual_bins:
            end = at + _width(part.scale_dtype)
            scale = _floats(packed[:, at:end], part.scale_dtype)
            at, last = end + part.packed, first + part.num_elements
            codes = _unpacked(packed[:, end:at], part.element_bits, part.num_elements)
            lowest = -(1 << part.element_bits - 1)
            values = 2.0 * codes - 1 if part.element_bits == 1 else codes + lowest
            rest[:, first:last] += values * scale
            first = last
        logs = np.concatenate([exact, rest], axis=1)
        return logs.cumsum(axis=1) if self.delta_encoding else logs

    def indices(self, packed: Bytes) -> npt.NDArray[np.int64]:
        """(n, k) class ids, of (n, bytes)."""
        return _unpacked(packed, self.index_bits, self.k)

    def _terms(self, count: int) -> Float64Array:
        """(count, terms) what the polynomial's coefficients are multiplied with."""
        ranks = np.linspace(0, 1, count) if self.normalize_t else np.arange(count, dtype=np.float64)
        functions: Mapping[Any, Any] = {"sqrt": np.sqrt, "exp": np.exp}
        with np.errstate(all="ignore"):
            columns = [
                functions[term](ranks) if isinstance(term, str) else ranks ** float(term)
                for term in self.polynomial_terms
            ]
        return np.stack(columns, axis=1)


def _width(kind: str) -> int:
    return np.dtype(_FLOATS[kind]).itemsize


def _floats(packed: Bytes, kind: str) -> Float64Array:
    """(n, count) of (n, bytes)."""
    values = np.ascontiguousarray(packed).view(_FLOATS[kind])
    if kind == "bfloat16":
        values = (values.astype("<u4") << 16).view("<f4")
    return values.astype(np.float64)


def _unpacked(packed: Bytes, bits: int, count: int) -> npt.NDArray[np.int64]:
    """(n, count) integers of (n, bytes), each of so many bits, the highest first."""
    if not bits:
        return np.zeros((len(packed), count), np.int64)
    flat = np.unpackbits(packed, axis=1)[:, : bits * count].reshape(len(packed), count, bits)
    return flat @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
