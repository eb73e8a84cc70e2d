"""Elementary functions whose float64 results have the same bits on every machine."""

from __future__ import annotations

import functools
import math
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]

__all__ = ["between", "exp", "ln", "log"]

# Terms 1/n! of exp for |x| <= ln(2)/2: the remainder is below 2**-60.
_EXP_TERMS = tuple(1.0 / math.factorial(n) for n in range(15, -1, -1))
_LN2 = math.log(2.0)
# Terms 1/(2n + 1) of atanh(s) / s for s = (m - 1) / (m + 1), m from sqrt(1/2) to sqrt(2): |s| is at
# most 0.1716, and the remainder below 2**-60.
_LOG_TERMS = tuple(1.0 / (2 * n + 1) for n in range(12, -1, -1))
_SQRT_HALF = math.sqrt(0.5)


def between(unit: Float64Array, low: float, high: float) -> Float64Array:
    """(...) ``low`` where ``unit`` (...) is 0, up to ``high`` where it is 1."""
    return low + (high - low) * unit


@functools.lru_cache(maxsize=64)
def ln(value: float) -> float:
    """Natural logarithm, correctly rounded: the C library's may differ in its last bit."""
    with localcontext() as context:
        context.prec = 50
        return float(Decimal(value).ln())


def exp(x: Float64Array) -> Float64Array:
    """e**x by additions and multiplications alone, so that every machine gives the same bits.

    NumPy's exp uses other instructions on other processors and may differ in the last bit, which
    once in many boxes would move a crop by a pixel. Error below 4 units in the last place for |x|
    up to 4.
    """
    halvings = np.rint(x / _LN2)
    rest = x - halvings * _LN2
    result = np.full_like(rest, _EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        result *= rest
        result += term
    return np.ldexp(result, halvings.astype(np.int32))


def log(x: Float64Array) -> Float64Array:
    """Natural logarithm of positive numbers by divisions, multiplications and additions alone, so
    that every machine gives the same bits. Error below 4 units in the last place.
    """
    mantissa, exponent = np.frexp(x)
    low = mantissa < _SQRT_HALF
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), exponent - low
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    result: Float64Array = np.full_like(ratio, _LOG_TERMS[0])
    for term in _LOG_TERMS[1:]:
        result = result * square + term
    return np.asarray(2 * ratio * result + exponent * _LN2)
