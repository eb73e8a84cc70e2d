"""Pickles that differ in nothing but what their arrays hold.

A project's label files are saved by one line of code, a million times: the instructions of all of
them are the same, byte for byte, around other numbers. What the machine would make of such a pickle
follows from what it makes of the first, with *holes* where long texts stand. A form is used only
where every byte outside of the holes is the same; whatever else is there is left to the machine.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from labelstore.peers.pickles.latin1 import latin1_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

    from labelstore.peers.pickles.torch_zip import TorchZip

__all__ = ["LEAST_HOLE", "ArrayForm", "Form", "Hole", "RecordForm", "form_of"]

LEAST_HOLE = 16
"""Bytes of a text that may be an array's values, at least; shorter ones are names."""

_LENGTH = struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class Hole:
    """A long text of which it does not matter what it says."""

    number: int
    encoded: bool = False
    """Whether it stands for the text's bytes in Latin-1."""


@dataclasses.dataclass(frozen=True)
class ArrayForm:
    """An array whose values are the bytes of a hole."""

    number: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]


@dataclasses.dataclass(frozen=True)
class RecordForm:
    """A contiguous tensor that is the beginning of a record of a file of ``torch.save``."""

    name: str
    dtype: np.dtype[Any]
    count: int
    """Elements."""
    shape: tuple[int, ...] = ()

    def of(self, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...]) -> RecordForm:
        """A tensor of this memory; ValueError where it is not all of it, in order."""
        step = 1
        for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
            if stride != step:
                raise ValueError("a tensor is not contiguous")
            step *= size
        if offset or step != self.count:
            raise ValueError("a tensor is a part of its memory")
        return dataclasses.replace(self, shape=sizes)


class Form:
    """What the machine makes of all pickles with the same bytes around holes.

    Args:
        data: one of them. holes: where its holes begin and end, their lengths standing in the four
            bytes before them, in rising order. value: what the machine makes of it, none a hole.
    """

    def __init__(self, data: bytes, holes: Sequence[tuple[int, int]], value: Any) -> None:
        ends, starts = [0, *(end for _, end in holes)], [*(at - 4 for at, _ in holes), len(data)]
        self._pieces = [data[end:start] for end, start in zip(ends, starts, strict=True)]
        self._value = value

    def holes_in(self, data: bytes) -> list[bytes] | None:
        """What a pickle has in the holes; None where it is not of this form."""
        first, *rest = self._pieces
        if not data.startswith(first):
            return None
        at, holes = len(first), []
        for piece in rest:
            start = at + 4
            if start > len(data):
                return None
            end = start + _LENGTH.unpack_from(data, at)[0]
            if not data.startswith(piece, end):
                return None
            holes.append(data[start:end])
            at = end + len(piece)
        return holes if at == len(data) else None

    def filled(
        self, holes: Sequence[bytes], records: TorchZip, without: Collection[int] = ()
    ) -> Any:
        """The value of a pickle of this form.

        Args:
            holes: what it has in the holes. records: of its file. without: places in a list, whose
                arrays are not needed: of those in holes zeros are returned, of their shape and
                type. Of records the checksum is looked at all the same.

        Raises:
            ValueError: an array has fewer or more values than its shape says, or a record is
                missing or damaged: the machine tells.
        """
        if without and type(self._value) is list:
            return [
                _zeros(member.dtype, member.shape)
                if place in without and type(member) is ArrayForm
                else _filled(member, holes, records)
                for place, member in enumerate(self._value)
            ]
        return _filled(self._value, holes, records)


def form_of(data: bytes, holes: Sequence[tuple[int, int]], value: Any) -> Form | None:
    """As ``Form``; None where the value depends on what a hole says."""
    return None if _has_hole(value) else Form(data, holes, value)


def _has_hole(value: Any) -> bool:
    if isinstance(value, dict):
        return _has_hole(list(value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_hole, value))
    return isinstance(value, Hole)


@functools.lru_cache(maxsize=64)
def _zeros(dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Zeros that take no memory and are not written to; making them takes as long as opening a
    file."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def _filled(value: Any, holes: Sequence[bytes], records: TorchZip) -> Any:
    kind = type(value)
    if kind is ArrayForm:
        raw = latin1_bytes(holes[value.number])
        flat: npt.NDArray[Any] = np.frombuffer(raw, dtype=value.dtype)
        return flat.reshape(value.shape, order=value.order)
    if kind is RecordForm:
        elements: npt.NDArray[Any] = np.frombuffer(records.read(value.name), dtype=value.dtype)
        return elements[: value.count].reshape(value.shape)
    if kind is list:
        return [_filled(member, holes, records) for member in value]
    if kind is tuple:
        return tuple([_filled(member, holes, records) for member in value])
    if kind is dict:
        return {key: _filled(member, holes, records) for key, member in value.items()}
    return value
