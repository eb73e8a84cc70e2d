"""Headers of NumPy's ``.npy`` format, read without Python's own parser.

``numpy.load`` hands the header to ``ast.literal_eval``. Under CPython 3.11 that raises a
SystemError now and then while other threads parse, too, and a whole file would be taken for a
damaged one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from typing import Any

__all__ = ["HEADER_BYTES", "ArrayHeader", "array_header"]

HEADER_BYTES = 4096
"""Of a file's beginning, at most, are its header: a plain array's has about a hundred."""

_MAGIC = b"\x93NUMPY"
_TEXT = re.compile(r"\{(.*)\}\s*", re.DOTALL)
_MEMBER = re.compile(
    r"""\s*(['"])(?P<name>\w+)\1\s*:\s*
    (?P<value>True|False|'[<>|=]?\w+'|"[<>|=]?\w+"|\(\s*(?:\d+\s*,\s*)*(?:\d+\s*)?\))\s*(?:,|$)""",
    re.VERBOSE,
)


class ArrayHeader(NamedTuple):
    """What a ``.npy`` file says of itself."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    start: int
    """Bytes before the array's own."""


def array_header(data: bytes) -> ArrayHeader:
    """The header of a plain array (numbers or text) in format 1.0 or 2.0.

    Args:
        data: the file's first ``HEADER_BYTES`` bytes, or all where there are fewer.

    Raises:
        ValueError: it is no such header. TypeError: its ``descr`` is no type.
    """
    if data[:6] != _MAGIC or data[6:8] not in (b"\x01\x00", b"\x02\x00"):
        raise ValueError("it is no array in NumPy's format")
    begin = 10 if data[6] == 1 else 12
    start = begin + int.from_bytes(data[8:begin], "little")
    if not begin < start <= min(len(data), HEADER_BYTES):
        raise ValueError(f"its header ends at byte {start:,}")
    text = _TEXT.fullmatch(data[begin:start].decode("latin-1"))
    members = _members(text[1]) if text else {}
    if set(members) != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header is none of a plain array")
    dtype = np.dtype(members["descr"].strip("'\""))
    if dtype.kind not in "biufSU":
        raise ValueError(f"it holds {dtype}, expected numbers or text")
    shape = members["shape"].strip("()").replace(",", " ").split()
    return ArrayHeader(
        dtype,
        tuple(int(length) for length in shape),
        members["fortran_order"] == "True",
        start,
    )


def _members(text: str) -> dict[str, str]:
    """Values by name, as they are written; nothing where the text is more than members."""
    members: dict[str, str] = {}
    place = 0
    while text[place:].strip():
        member = _MEMBER.match(text, place)
        if member is None or member["name"] in members:
            return {}
        members[member["name"]] = member["value"]
        place = member.end()
    return members
