"""Prefix codes of bytes: each value a word of 1 to 11 bits, the commoner the shorter.

A code is the lengths of its words (Huffman 1952); the words follow from them: in the order of
length, then of value, each is the one before plus 1, as in RFC 1951, the highest bit first.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    UInt8Array = npt.NDArray[np.uint8]
    UInt16Array = npt.NDArray[np.uint16]

__all__ = ["ENTRIES", "LONGEST", "ONLY", "lengths_of", "lookup_of", "pack", "unpack", "words_of"]

LONGEST = 11
"""Bits of a word, at most."""

ENTRIES = 1 << LONGEST
"""Entries of a lookup by the next ``LONGEST`` bits."""

ONLY = 15
"""Stands for the length of a table's only value, whose word has no bits."""

_VALUES = 256

_EVEN = 8
"""The length of all words of a table whose words are the values themselves."""

_EVEN_GAIN = 0.1
"""Bits a value that another code has to gain, or values are their own words: read twice as fast."""


def lengths_of(counts: npt.NDArray[np.int64]) -> UInt8Array:
    """Lengths of words for values of some frequency.

    Args:
        counts: (tables, 256) how often each value comes.

    Returns:
        (tables, 256) uint8: 1 to ``LONGEST``; 0 for a value that does not come; ``ONLY`` for one
        that comes alone.
    """
    lengths = np.zeros(counts.shape, dtype=np.uint8)
    for row, count in zip(lengths, counts, strict=True):
        values = np.flatnonzero(count)
        if len(values) == 1:
            row[values] = ONLY
        elif len(values):
            present = count[values].tolist()
            free = _huffman(present)
            row[values] = free if max(free) <= LONGEST else _limited(present)
            spent = float((row[values] * count[values]).sum())
            if spent > (_EVEN - _EVEN_GAIN) * float(count.sum()):
                row[:] = _EVEN
    return lengths


def _huffman(counts: list[int]) -> list[int]:
    """Lengths of words, of any length, of two or more values."""
    nodes = len(counts)
    heap = [(count, node) for node, count in enumerate(counts)]
    heapq.heapify(heap)
    parent = [0] * (2 * nodes - 1)
    for node in range(nodes, 2 * nodes - 1):
        first, one = heapq.heappop(heap)
        second, other = heap[0]
        parent[one] = parent[other] = node
        heapq.heapreplace(heap, (first + second, node))
    depth = [0] * (2 * nodes - 1)
    for node in range(2 * nodes - 3, -1, -1):
        depth[node] = depth[parent[node]] + 1
    return depth[:nodes]


def _limited(counts: list[int]) -> list[int]:
    """Lengths of at most ``LONGEST`` bits that spend the least (package-merge, Larmore and
    Hirschberg 1990)."""
    values = len(counts)
    order = np.argsort(counts, kind="stable")
    coins = np.array(counts, dtype=np.float64)[order]
    every = np.eye(values, dtype=np.int64)[order]
    weights, members = coins, every
    for _ in range(LONGEST - 1):
        pairs = len(weights) // 2 * 2
        weights = np.concatenate([coins, weights[:pairs:2] + weights[1:pairs:2]])
        members = np.concatenate([every, members[:pairs:2] + members[1:pairs:2]])
        order = np.argsort(weights, kind="stable")
        weights, members = weights[order], members[order]
    lengths: list[int] = members[: 2 * values - 2].sum(axis=0).tolist()
    return lengths


def _spans(lengths: UInt8Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of (tables, 256) lengths, the values in the order of their words, and how many entries of a
    lookup each has: (tables, 256) both."""
    bits = lengths.astype(np.int64)
    spans = np.where(bits > 0, ENTRIES >> np.minimum(bits, LONGEST), 0)
    spans[bits == ONLY] = ENTRIES
    order = np.argsort(np.where(bits > 0, bits, ONLY + 1), axis=1, kind="stable")
    return order, np.take_along_axis(spans, order, axis=1)


def words_of(lengths: UInt8Array) -> UInt16Array:
    """(tables, 256) uint16: the words of values, their bits the lowest ones."""
    order, spans = _spans(lengths)
    words = np.zeros(lengths.shape, dtype=np.int64)
    np.put_along_axis(words, order, np.cumsum(spans, axis=1) - spans, axis=1)
    shift = LONGEST - np.where(lengths == ONLY, 0, lengths).astype(np.int64)
    return (words >> shift).astype(np.uint16)


def lookup_of(lengths: UInt8Array) -> UInt16Array:
    """(tables, ``ENTRIES``) uint16: ``value << 4 | length`` by the next bits; 0 in empty tables."""
    order, spans = _spans(lengths)
    bits = np.where(lengths == ONLY, 0, lengths)
    entries = order << 4 | np.take_along_axis(bits, order, axis=1)
    lookup = np.zeros((len(lengths), ENTRIES), dtype=np.uint16)
    filled = spans.sum(axis=1) == ENTRIES
    lookup[filled] = np.repeat(entries[filled].ravel(), spans[filled].ravel()).reshape(-1, ENTRIES)
    return lookup


def pack(lengths: UInt8Array) -> bytes:
    """Lengths (tables, 256) as they are stored: of each table a byte that tells how many follow,
    and in each of these the lengths of two values, the first in its lower half."""
    parts = []
    for pairs in lengths[:, ::2] | lengths[:, 1::2] << 4:
        data = pairs.tobytes().rstrip(b"\0")
        parts.append(bytes([len(data)]) + data)
    return b"".join(parts)


def unpack(data: bytes, tables: int, needed: int | None = None) -> UInt8Array:
    """(needed, 256) lengths of complete codes, or of none: the first of some tables, or all.

    Raises:
        ValueError: the bytes are not those of so many tables, or one that is needed is no code.
    """
    needed = tables if needed is None else needed
    pairs = np.zeros((needed, _VALUES // 2), dtype=np.uint8)
    at = 0
    for table in range(tables):
        count = data[at] if at < len(data) else len(data)
        part = data[at + 1 : at + 1 + count]
        if count > _VALUES // 2 or len(part) < count:
            raise ValueError("tables of words end too early")
        if table < needed:
            pairs[table, :count] = np.frombuffer(part, np.uint8)
        at += 1 + count
    lengths = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(needed, _VALUES)
    entries = _spans(lengths)[1].sum(axis=1)
    wrong = (lengths > LONGEST) & (lengths != ONLY)
    if at != len(data) or wrong.any() or not np.isin(entries, (0, ENTRIES)).all():
        raise ValueError("tables of words are no complete codes")
    return lengths
