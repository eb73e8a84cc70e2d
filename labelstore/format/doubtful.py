"""Which labels a quick look at their codes leaves in doubt: what is looked at in earnest.

``validity`` says what labels are. The compiled part (``_doubtful.c``) passes over a chunk's codes
once and leaves out the labels that are surely some, nearly always all: NumPy takes three times as
long, a quarter of all that reading a chunk takes. It is tried on labels of which it is known what
is wrong before it is used; where it was not built, all labels are in doubt.

What pays for it: ``python -m benchmarks.read_epoch``.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.compiled import compiled_part
from labelstore.format import codecs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest

    Codes = Mapping[str, npt.NDArray[Any]]
    _Parts = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]
    """Codes of a chunk: the largest probabilities, the others, classes; and of its lists."""
    UInt32Array = npt.NDArray[np.uint32]

__all__ = ["ROUNDING", "doubtful_labels", "why_unused"]

ROUNDING = 1e-6
"""By how much a sum of float32 probabilities may exceed 1."""

_ONE = 1 << 30
"""The size of probability 1 where sizes are summed as integers."""

_MOST = int((1 + ROUNDING) * _ONE) - 1
"""The most that the sizes of a label may sum to: less than what floats may, by more than theirs are
rounded."""

_NO_VALUE = 2**32 - 1
"""In place of a size: the code is that of no probability."""

_BYTES, _WORDS, _FLOATS, _SHARES = range(4)
"""How probabilities are stored, as the compiled part counts."""


_PART = "labelstore.format._doubtful"

# Now, and not by a thread that reads ahead: a data loader that forks while one imports would leave
# its workers waiting for the import to end.
compiled_part(_PART)


class _Stored(NamedTuple):
    """How the probabilities of a store are looked at."""

    kind: int
    dtype: np.dtype[Any]
    """Of a code of the others than the largest."""
    sizes: UInt32Array
    """(codes,) of the others: each one's value, rounded up; 0 of shares, and none of floats."""
    most: int
    """The largest code of the largest probability; none of floats."""


def doubtful_labels(
    chunks: Sequence[tuple[Codes, npt.NDArray[Any]]], manifest: Manifest
) -> npt.NDArray[np.int64] | None:
    """(d,) numbers, rising, of the labels that are perhaps none; None where all may be.

    Args:
        chunks: of n images' labels, which all have some, the codes by array name, each
            (n, views, ...), and (n, m) codes of the images' lists; m is 0 where class ids are no
            ranks in them. Labels are numbered chunk after chunk.
        manifest: says how they are stored.
    """
    module = _compiled()
    if module is None:
        return None
    stored = _stored("fp32" if manifest.encoding == "plain" else manifest.quantizer)
    parts: list[_Parts] = []
    for codes, lists in chunks:
        top, classes = codes["labels/top_prob"], codes["labels/classes"]
        if classes.dtype.itemsize != 2 or lists.dtype.itemsize != 2:
            return None
        rest = codes.get("labels/rest_probs")
        if rest is None:
            rest = np.empty((*top.shape, 0), stored.dtype)
        parts.append((top, rest, classes, lists))
    return _doubtful_places(module, stored, parts, manifest.num_classes)


def _doubtful_places(
    module: Any, stored: _Stored, chunks: Sequence[_Parts], num_classes: int
) -> npt.NDArray[np.int64]:
    """As ``doubtful_labels``."""
    out = np.empty(sum(math.prod(classes.shape[:2]) for _, _, classes, _ in chunks), np.int64)
    count = module.doubtful(
        stored.kind,
        [tuple(map(_in_a_row, parts)) for parts in chunks],
        stored.sizes,
        stored.most,
        num_classes,
        _MOST,
        _MOST / _ONE,
        out,
    )
    return out[:count]


def _in_a_row(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array as the compiled part reads it; it nearly always is that."""
    flags = part.flags
    if flags.c_contiguous and flags.aligned:
        return part
    return np.require(part, requirements=["C", "A"])


@functools.cache
def _stored(quantizer: str) -> _Stored:
    """Of the codes of a quantizer."""
    coding = codecs.get(quantizer)
    top, rest = coding.top.values, coding.rest
    values: npt.NDArray[Any] | None
    if top is None:
        return _Stored(_FLOATS, rest.dtype, np.empty(0, dtype=np.uint32), 0)
    if isinstance(coding, codecs.ratio.RatioQuantizer):
        kind, values = _SHARES, np.zeros(coding.rest.steps + 1)
    else:
        kind, values = _BYTES if rest.dtype.itemsize == 1 else _WORDS, rest.values
    if values is None:
        # The bits of halves from 0 to 1 are ordered as they are.
        values = np.arange(np.float16(1).view(np.uint16) + 1, dtype="<u2").view("<f2")
    sizes = np.full(256**rest.dtype.itemsize, _NO_VALUE, dtype=np.uint32)
    sizes[: len(values)] = np.ceil(values.astype(np.float64) * _ONE)
    return _Stored(kind, rest.dtype, sizes, len(top) - 1)


def why_unused() -> str | None:
    """Why the compiled part, which is there, does not look; None where it does, or is not there."""
    if compiled_part(_PART) is None or _compiled() is not None:
        return None
    return f"it does not find the labels that NumPy {np.__version__} finds"


@functools.cache
def _compiled() -> Any:
    """The compiled module; None where NumPy has to look at all labels."""
    module = compiled_part(_PART)
    return module if module is not None and _finds(module) else None


def _finds(module: Any) -> bool:
    """Whether it finds the labels that are none among some, stored in each way."""
    probs, classes = np.tile([0.5, 0.3, 0.1], (8, 1)), np.tile([0, 0, 4 + 5], (8, 1))
    probs[1:3] = [0.5, 0.1, 0.3], [0.9, 0.4, 0.3]
    # An empty place, a listed class beside the list, a class twice, one that there is not.
    classes[3:7] = [0, 2, 9], [0, 4 + 2, 9], [0, 9, 9], [0, 0, 4 + 12]
    lists = np.tile(np.array([1, 2, 3, 65535], dtype=np.uint16), (4, 1))
    for name, wrong in (
        ("u8", range(1, 7)),
        ("u16", range(1, 7)),
        ("fp32", range(1, 7)),
        ("ratio16", range(3, 7)),
    ):
        stored, quantizer = _stored(name), codecs.get(name)
        top = quantizer.top.nearest(probs[:, 0])
        rest = (
            np.ones((8, 2), np.uint8)
            if quantizer.by_shares
            else quantizer.rest.nearest(probs[:, 1:])
        )
        coded = top.reshape(4, 2), rest.reshape(4, 2, 2)
        ids = classes.astype(np.uint16).reshape(4, 2, 3)
        # Of the first image, and of the others.
        chunks = [
            (coded[0][part], coded[1][part], ids[part], lists[part])
            for part in (slice(0, 1), slice(1, 4))
        ]
        if _doubtful_places(module, stored, chunks, 12).tolist() != list(wrong):
            return False
    return True
