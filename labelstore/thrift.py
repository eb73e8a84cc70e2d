"""Structures in Thrift's compact protocol: a few types, as Parquet's footers and page headers have.

Every element takes a byte at least, so that nothing becomes larger than the bytes it is read from.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Wanted", "struct"]

Wanted = dict[int, Any]
"""The fields that are read, each with those that are read of it, and {} for a number or bytes; all
others are passed over."""

_DEPTH = 12
"""Structures in structures, at most: a footer has five."""

_SHORT, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
"""Types of fields; those up to 2 are truth values, which have no bytes of their own."""
_LONG_LIST = 15
_NUMBERS = 2**15
"""Numbers of fields are smaller."""


def struct(data: bytes, at: int, wanted: Wanted) -> tuple[dict[int, Any], int]:
    """The wanted fields of a structure, by number, and where it ends.

    Args:
        data: what holds it. at: its first byte. wanted: the fields that are read.

    Raises:
        IndexError: it ends too early. ValueError: it is no structure.
    """
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        kind = head & 15
        if head > 15:
            number += head >> 4
        else:
            number, at = _signed(data, at)
        if not 0 <= number < _NUMBERS or number in fields:
            # Other readers wrap numbers around, or take the first of two.
            raise ValueError(f"it has a field of number {number}, or has it twice")
        inner = wanted.get(number)
        if inner is None:
            at = _passed(data, at, kind, 0)
        else:
            fields[number], at = _value(data, at, kind, inner)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, wanted: Wanted) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _signed(data, at)
    if kind == _STRUCT:
        return struct(data, at, wanted)
    if kind == _BINARY:
        count, at = _unsigned(data, at)
        return data[at : at + count], at + count
    if kind != _LIST:
        raise ValueError(f"it has a field of type {kind}")
    count, kind, at = _list(data, at)
    values = []
    for _ in range(count):
        value, at = _value(data, at, kind, wanted)
        values.append(value)
    return values, at


def _passed(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where a value ends that is not wanted."""
    if kind in _INTEGERS:
        while data[at] > 127:
            at += 1
        return at + 1
    if kind == _BINARY:
        count, at = _unsigned(data, at)
        return at + count
    if kind < _SHORT:
        return at
    if depth > _DEPTH:
        raise ValueError("it is nested too deeply")
    if kind == _STRUCT:
        while head := data[at]:
            at += 1
            if head < 16:
                _, at = _unsigned(data, at)
            at = _passed(data, at, head & 15, depth + 1)
        return at + 1
    if kind in (_LIST, _SET):
        count, kind, at = _list(data, at)
        if kind < _SHORT:
            return at + count
        for _ in range(count):
            at = _passed(data, at, kind, depth + 1)
        return at
    if kind in (_SHORT, _DOUBLE):
        return at + (1 if kind == _SHORT else 8)
    raise ValueError(f"it has a field of type {kind}")


def _list(data: bytes, at: int) -> tuple[int, int, int]:
    """How many values a list has, their type, and where they begin."""
    head = data[at]
    count, at = head >> 4, at + 1
    if count == _LONG_LIST:
        count, at = _unsigned(data, at)
    if count > len(data) - at:
        raise ValueError("it ends in mid-list")
    return count, head & 15, at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while (byte := data[at]) > 127:
        number |= (byte & 127) << shift
        shift += 7
        at += 1
        if shift > 63:
            raise ValueError("it has a number of more than 64 bits")
    return number | byte << shift, at + 1


def _signed(data: bytes, at: int) -> tuple[int, int]:
    number, at = _unsigned(data, at)
    return (number >> 1) ^ -(number & 1), at
