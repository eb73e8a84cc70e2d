"""Labels in units by section 10 of SPEC.md alone, bit by bit: no part of labelstore is used."""

from __future__ import annotations

import numpy as np
import xxhash


def arrays_of_views(manifest):
    """Name, type and entries of a label's arrays, in the order of section 3."""
    labels = manifest["labels"]
    name, k, classes = labels["quantizer"], labels["k"], labels["num_classes"]
    assert labels["encoding"] == "codes"
    tops = {"ratio16": "|u1", "ratio32": "|u1", "fp32": "<f4"}
    rests = {"u16": "<u2", "fp16": "<f2", "fp32": "<f4"}
    small = classes + labels["prior_size"] <= 65535
    arrays = [
        ("labels/top_prob", tops.get(name, "<u2"), ()),
        ("labels/classes", "<u2" if small else "<u4", (k,)),
    ]
    if k > 1:
        arrays.append(("labels/rest_probs", rests.get(name, "|u1"), (k - 1,)))
    if manifest["views"]["law"] == "explicit":
        arrays += [("views/box", "<i4", (4,)), ("views/flip", "|u1", ())]
    return [(name, np.dtype(kind), shape) for name, kind, shape in arrays]


def planes_of(manifest):
    """For each plane, in order: its byte of a record, its kind, and how many codes it has.

    Kinds: "byte"; "class", a byte or 255 and 16 bits; "low", chosen by the byte behind it.
    """
    labels, place, planes = manifest["labels"], 0, []
    classes, has_lists = labels["num_classes"], labels["prior_size"] > 0
    for name, kind, shape in arrays_of_views(manifest):
        for _ in range(int(np.prod(shape, dtype=int))):
            if name == "labels/classes" and kind.itemsize == 2:
                if has_lists or classes <= 255:
                    planes.append((place, "class", 1))
                else:
                    codes = min((classes - 1) // 256 + 1, 16)
                    planes += [(place + 1, "byte", 1), (place, "low", codes)]
            else:
                planes += [(place + byte, "byte", 1) for byte in reversed(range(kind.itemsize))]
            place += kind.itemsize
    assert place <= 16384
    assert sum(codes for _, _, codes in planes) <= 16384
    return planes, place


def words_of(lengths):
    """{(length, word): value} of a prefix code."""
    single = [value for value, length in enumerate(lengths) if length == 15]
    others = sorted(
        (length, value) for value, length in enumerate(lengths) if length not in (0, 15)
    )
    if single:
        assert len(single) == 1
        assert not others
        return {(0, 0): single[0]}
    words, word, before = {}, 0, 0
    for place, (length, value) in enumerate(others):
        assert 1 <= length <= 11
        word = (word + 1 if place else 0) << (length - before)
        before = length
        words[length, word] = value
    assert not others or sum(2 ** (11 - length) for length, _ in others) == 2**11
    return words


def codes_of(tables, planes):
    """For each plane its prefix codes."""
    place, found = 0, []
    for _, _, count in planes:
        codes = []
        for _ in range(count):
            n = tables[place]
            assert n <= 128
            halves = tables[place + 1 : place + 1 + n]
            assert len(halves) == n
            place += 1 + n
            lengths = [length for byte in halves for length in (byte & 15, byte >> 4)]
            codes.append(words_of(lengths))
        found.append(codes)
    assert place == len(tables)
    return found


class Bits:
    """Bits of bytes, from the highest of each."""

    def __init__(self, data):
        self.data, self.place = data, 0

    def next(self):
        byte = self.data[self.place // 8]
        self.place += 1
        return byte >> (7 - (self.place - 1) % 8) & 1

    def number(self, count):
        value = 0
        for _ in range(count):
            value = 2 * value + self.next()
        return value

    def value(self, words):
        length = word = 0
        while (length, word) not in words:
            word, length = 2 * word + self.next(), length + 1
            assert length <= 11
        return words[length, word]


def unit_of(data, count, planes, codes, size):
    """(count, size) uint8: the records of a unit."""
    bits, records = Bits(data), np.zeros((count, size), dtype=np.uint8)
    for (place, kind, _), words in zip(planes, codes, strict=True):
        for record in records:
            if kind == "low":
                number = min(int(record[place + 1]), len(words) - 1)
                record[place] = bits.value(words[number])
                continue
            value = bits.value(words[0])
            if kind == "class":
                if value == 255:
                    value = bits.number(16)
                record[place + 1] = value // 256
            record[place] = value % 256
    filling = 8 * len(data) - bits.place
    assert 0 <= filling < 8
    assert bits.number(filling) == 0
    return records


def index_bytes(manifest):
    """The bytes of an object's index."""
    layout = manifest["layout"]
    block_images = min(layout["block_images"], manifest["images"]["count"])
    units = -(-block_images // layout["unit_images"])
    return 8 * (1 + units) * -(-manifest["views"]["count"] // layout["group_views"])


def block_of(data, manifest, block):
    """The arrays of a block by name, each (images, views, ...), and the unit digests of each group.

    Args:
        data: the bytes of ``labels/units/c/b``.
    """
    layout, views = manifest["layout"], manifest["views"]["count"]
    size, step, u = (layout[name] for name in ("block_images", "group_views", "unit_images"))
    total = manifest["images"]["count"]
    images = min(size, total - block * size)
    groups = -(-views // step)
    end = len(data) - index_bytes(manifest)
    index = np.frombuffer(data[end:], dtype="<u8").reshape(groups, -1).tolist()
    length = int.from_bytes(data[end - 4 : end], "little")
    tables = data[end - 4 - length : end - 4]
    planes, record_size = planes_of(manifest)
    codes = codes_of(tables, planes)
    place, digests = 0, []
    records = np.zeros((images, views, record_size), dtype=np.uint8)
    for group, (first, *entries) in enumerate(index):
        assert first == place
        columns = slice(group * step, min((group + 1) * step, views))
        digests.append([])
        for unit, entry in enumerate(entries):
            rows = slice(unit * u, min((unit + 1) * u, images))
            if rows.start >= images:
                assert entry == 0
                continue
            part = records[rows, columns]
            count = entry % 65536
            decoded = unit_of(
                data[place : place + count],
                part.shape[0] * part.shape[1],
                planes,
                codes,
                record_size,
            )
            digest = xxhash.xxh3_64_intdigest(decoded.tobytes(), seed=unit)
            assert digest - digest % 65536 == entry - count
            digests[-1].append(entry - count)
            records[rows, columns] = decoded.reshape(part.shape)
            place += count
    assert place + length + 4 == end
    arrays, byte = {}, 0
    for name, kind, shape in arrays_of_views(manifest):
        count = kind.itemsize * int(np.prod(shape, dtype=int))
        values = np.ascontiguousarray(records[..., byte : byte + count]).view(kind)
        arrays[name] = values.reshape(images, views, *shape)
        byte += count
    return arrays, digests


def unit_arrays(path, manifest):
    """All arrays of views of a store, and the unit digests of each group of each block."""
    size, total = manifest["layout"]["block_images"], manifest["images"]["count"]
    parts = [
        block_of((path / "labels" / "units" / "c" / str(block)).read_bytes(), manifest, block)
        for block in range(-(-total // size))
    ]
    names = parts[0][0]
    arrays = {name: np.concatenate([part[0][name] for part in parts]) for name in names}
    return arrays, [digests for _, digests in parts]
