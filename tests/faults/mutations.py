"""Mutations of bytes: blind ones, and ones that know what they change and mend its checksums."""

from __future__ import annotations

import copy
import json
import re

import google_crc32c
import numpy as np
from numcodecs import blosc

CRC = 4
NUMBERS = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63)
NUMBERS += (2**64 - 1, 2**64 - 16)


def blind(data, rng, others):
    """Bytes changed somehow: flips, cuts, swaps, splices with ``others``, numbers set."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = _changed(data, rng, others)
    return bytes(data)


def _changed(data, rng, others):
    size = len(data)
    kind = rng.randrange(10)
    if not size or kind == 0:
        return data + rng.randbytes(rng.choice((1, 4, 16, 300)))
    start = rng.randrange(size)
    length = min(rng.choice((1, 2, 4, 8, 16, 64)), size - start)
    if kind <= 2:
        data[start] ^= 1 << rng.randrange(8)
    elif kind == 3:
        data[start : start + length] = rng.randbytes(length)
    elif kind == 4:
        width = rng.choice((1, 2, 4, 8))
        number = rng.choice(NUMBERS) % 256**width
        data[start : start + width] = number.to_bytes(width, rng.choice(("little", "big")))
        del data[size:]
    elif kind == 5:
        del data[start:]
    elif kind == 6:
        del data[start : start + length]
    elif kind == 7:
        there = rng.randrange(size)
        first, second = data[start : start + length], data[there : there + length]
        data[start : start + length], data[there : there + length] = second, first
    elif kind == 8:
        other = rng.choice(others)
        there = rng.randrange(len(other) + 1)
        data[start : start + length] = other[there : there + rng.choice((length, len(other)))]
    else:
        data[start:start] = data[start : start + length]
    return data


def with_crc(data):
    """Bytes and the CRC-32C behind them."""
    return bytes(data) + google_crc32c.value(bytes(data)).to_bytes(CRC, "little")


def mended(data, rng, others):
    """A chunk that ends in its CRC-32C: changed, and the checksum of what it is now."""
    body = bytearray(data[:-CRC])
    if rng.random() < 0.4 and len(body) >= 16:
        # The header of blosc: version, flags, type size; bytes, block size, compressed bytes.
        place = rng.choice((0, 1, 2, 3, 4, 8, 12))
        width = 1 if place < 4 else 4
        body[place : place + width] = near(body[place : place + width], rng)
        return with_crc(body)
    return with_crc(blind(body, rng, others))


def near(field, rng):
    """A little-endian number that is beside the one that stands there, or an extreme."""
    width = len(field)
    number = int.from_bytes(field, "little")
    flipped = number ^ 1 << rng.randrange(8 * width)
    numbers = (number + 1, number - 1, number * 2, number // 2, flipped, *NUMBERS)
    return (rng.choice(numbers) % 256**width).to_bytes(width, "little")


def other_numbers(fields, rng):
    """Some numbers of a Parquet page header (``page_headers.Page.fields``) changed, in place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder = fields
        while True:
            field = holder[rng.choice(list(holder))]
            if isinstance(field[1], dict) and field[1]:
                holder = field[1]
                continue
            break
        if isinstance(field[1], int):
            number = field[1]
            near = (number + 1, number - 1, number * 2, number // 2, -number)
            number = rng.choice((*near, *NUMBERS, -1)) % 2**64
            field[1] = number - 2**64 if number >= 2**63 else number


class Shard:
    """The inner chunks of a shard, and its index."""

    def __init__(self, data, count):
        self.data = data[: len(data) - 16 * count - CRC]
        index = np.frombuffer(data[len(self.data) : -CRC], "<u8")
        self.index = index.reshape(count, 2).copy()
        self.places = [place for place in range(count) if self.index[place, 0] < len(self.data)]

    def chunk(self, place):
        """The bytes of a chunk."""
        offset, size = self.index[place].tolist()
        return self.data[offset : offset + size]

    def with_chunk(self, place, chunk):
        """The shard's bytes with another chunk in a place."""
        chunks = {held: self.chunk(held) for held in self.places} | {place: chunk}
        index, body = self.index.copy(), b""
        for held, data in chunks.items():
            index[held] = len(body), len(data)
            body += data
        return body + with_crc(index.tobytes())

    def with_index(self, rng):
        """The shard's bytes with an index that says something else, and its right checksum."""
        index = bytearray(self.index.tobytes())
        for _ in range(rng.choice((1, 1, 2))):
            place = 8 * rng.randrange(len(index) // 8)
            index[place : place + 8] = near(index[place : place + 8], rng)
        return self.data + with_crc(index)


def unpacked(chunk, dtype):
    """The values of a chunk of blosc and CRC-32C."""
    return np.frombuffer(blosc.decompress(chunk[:-CRC]), dtype)


def packed(values):
    """A chunk of values, as the library writes it."""
    shuffle = blosc.SHUFFLE if values.dtype.itemsize > 1 else blosc.NOSHUFFLE
    # Of an array, not of its bytes: the size of its type stands in the header.
    return with_crc(blosc.compress(np.ascontiguousarray(values), b"zstd", 5, shuffle))


def other_values(values, rng):
    """Values of the same type and shape of which some are others, extremes as a rule."""
    values = values.copy()
    flat = values.reshape(-1)
    if values.dtype.kind == "f":
        hostile = (np.nan, np.inf, -np.inf, -1.0, -0.0, 2.0, 1e-40, 0.9999999)
    else:
        limits = np.iinfo(values.dtype)
        hostile = (0, 1, 2, 7, 8, 9, limits.max, limits.max - 1, limits.min, limits.max // 2)
    if rng.random() < 0.2:
        flat[:] = rng.choice(hostile)
    for _ in range(rng.choice((1, 1, 2, 5))):
        flat[rng.randrange(len(flat))] = rng.choice((*hostile, flat[rng.randrange(len(flat))]))
    return values


HOSTILE = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        255,
        65535,
        65536,
        2**31,
        2**63,
        10**30,
        -(10**30),
        0.5,
        -0.5,
    ),
    *(1.0, 1e-320, 1e308, float("nan"), float("inf"), "", "x", "ratio16", "fp32", "explicit", "\0"),
    *("\x1b[2J", "\ud800", "é" * 500, [], {}, [0], [[]], {"name": "x"}, [1e400, 2], [3, 2, 1]),
)


def other_document(document, rng):
    """A JSON document in which members are others, gone, new, or exchanged."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            return document
        holder, name = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0:
            del holder[name]
        elif kind == 1:
            other, theirs = rng.choice(places)
            holder[name] = json.loads(json.dumps(other[theirs]))
        elif kind == 2 and isinstance(holder, dict):
            name = rng.choice(("x", "", "id", "format", "\x1b", "count"))
            holder[name] = copy.deepcopy(rng.choice(HOSTILE))
        elif kind == 3 and isinstance(holder[name], (int, float)):
            holder[name] = rng.choice((-1, 1)) * holder[name] + rng.choice((-1, 0, 1, 0.5))
        elif kind == 4:
            holder[name] = f"@deep{rng.choice((3, 100, 2000, 100_000))}@"
        else:
            holder[name] = copy.deepcopy(rng.choice(HOSTILE))
    return document


def text_of(document):
    """A document as JSON, with lists in lists where ``other_document`` wants some."""
    text = json.dumps(document)
    return re.sub('"@deep([0-9]+)@"', lambda found: "[" * int(found[1]) + "]" * int(found[1]), text)


def _places(document, depth=20):
    """All members of a document but the deepest: what holds each, and its name there."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for name, value in list(entries):
        yield document, name
        if isinstance(value, (dict, list)) and depth and len(value) < 2_000:
            yield from _places(value, depth - 1)
