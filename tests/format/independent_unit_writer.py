"""Objects of units by section 10 of SPEC.md alone, with prefix codes that nothing was fitted to.

Commits hold digests of what units decode to, so an object may stand in the place of another that
says the same.
"""

from __future__ import annotations

import random

import numpy as np
import xxhash

from tests.format.independent_units import arrays_of_views, planes_of, words_of

FLAT = [8] * 256
"""A code whose words are the values themselves."""


def skewed(seed):
    """Lengths 1 to 11 of all 256 values, of a complete code."""
    rng, lengths = random.Random(seed), list(FLAT)
    for _ in range(300):
        length = rng.randint(2, 10)
        alike = [value for value, other in enumerate(lengths) if other == length]
        if len(alike) >= 3:
            one, *two = rng.sample(alike, 3)
            lengths[one] = length - 1
            for value in two:
                lengths[value] = length + 1
    return lengths


def table_of(lengths):
    """A code as the tables have it."""
    halves = [low | high << 4 for low, high in zip(lengths[::2], lengths[1::2], strict=True)]
    while halves and not halves[-1]:
        halves.pop()
    return bytes([len(halves), *halves])


def object_of(arrays, manifest, lengths_of, tables=None, change=lambda piece: piece):
    """The object of a block.

    Args:
        arrays: the block's codes by name, (images, views, ...).
        lengths_of: (plane, code, values) -> 256 lengths; the values are all that it has to code.
        tables: bytes to stand in the place of the tables.
        change: (bytes of a unit) -> what stands there.
    """
    records = records_of(arrays, manifest)
    planes, _ = planes_of(manifest)
    coded = [symbols(records, *plane) for plane in planes]
    lengths = [
        [
            lengths_of(plane, code, set(values[numbers == code].tolist()))
            for code in range(planes[plane][2])
        ]
        for plane, (values, numbers, _) in enumerate(coded)
    ]
    texts = [
        [{value: word_text(*key) for key, value in words_of(code).items()} for code in row]
        for row in lengths
    ]
    layout = manifest["layout"]
    u, step = layout["unit_images"], layout["group_views"]
    units = -(-min(layout["block_images"], manifest["images"]["count"]) // u)
    data, index = b"", []
    for start in range(0, records.shape[1], step):
        row = [len(data)]
        for unit in range(units):
            place = slice(unit * u, (unit + 1) * u), slice(start, start + step)
            part = np.ascontiguousarray(records[place])
            if not part.size:
                row.append(0)
                continue
            text = "".join(
                words[number][value] + behind
                for words, (values, numbers, raw) in zip(texts, coded, strict=True)
                for value, number, behind in zip(
                    *(array[place].reshape(-1).tolist() for array in (values, numbers, raw)),
                    strict=True,
                )
            )
            eights = (text[at : at + 8].ljust(8, "0") for at in range(0, len(text), 8))
            piece = change(bytes(int(eight, 2) for eight in eights))
            digest = xxhash.xxh3_64_intdigest(part.tobytes(), seed=unit)
            row.append(digest - digest % 65536 + len(piece))
            data += piece
        index.append(row)
    if tables is None:
        tables = b"".join(table_of(code) for row in lengths for code in row)
    rows = np.array(index, dtype="<u8").tobytes()
    return data + tables + len(tables).to_bytes(4, "little") + rows


def word_text(length, word):
    """A word as a text of bits."""
    return f"{word:0{length}b}" if length else ""


def records_of(arrays, manifest):
    """(images, views, bytes) of a block's labels."""
    parts = []
    for name, kind, _ in arrays_of_views(manifest):
        array = np.ascontiguousarray(arrays[name].astype(kind))
        parts.append(array.view(np.uint8).reshape(*array.shape[:2], -1))
    return np.concatenate(parts, -1)


def symbols(records, place, kind, count):
    """Of a plane, (images, views) each: the values that are coded, the number of the code of each,
    and the bits that follow its word as a text."""
    value = records[..., place].astype(int)
    number, raw = np.zeros_like(value), np.full(value.shape, "", dtype=object)
    if kind == "low":
        number = np.minimum(records[..., place + 1], count - 1).astype(int)
    if kind == "class":
        whole = value + 256 * records[..., place + 1].astype(int)
        value = np.minimum(whole, 255)
        raw[value == 255] = [f"{code:016b}" for code in whole[value == 255].tolist()]
    return value, number, raw
