"""Labels in units: the same codes come back, by the compiled part and by NumPy alike, and damage is
an error or other labels, never a crash."""

import numpy as np
import pytest
import xxhash

from labelstore.format.arrays import ArraySpec
from labelstore.format.units import unit_code, unit_digests
from labelstore.format.units.planes import Units, tables_of, values_of
from labelstore.format.units.prefix_codes import ONLY, lengths_of, pack, unpack, words_of
from labelstore.format.units.unit_code import UnitCode

COMPILED, DIGESTS = unit_code._compiled(), unit_digests._compiled()

ways = pytest.mark.parametrize(
    "compiled",
    [
        pytest.param(True, marks=pytest.mark.skipif(COMPILED is None, reason="not built")),
        False,
    ],
)


@pytest.fixture
def use(monkeypatch):
    """Chooses the compiled part or NumPy."""

    def choose(compiled):
        monkeypatch.setattr(unit_code, "_compiled", lambda: COMPILED if compiled else None)
        monkeypatch.setattr(unit_digests, "_compiled", lambda: DIGESTS if compiled else None)

    return choose


def spec(name, dtype, *entries):
    axes = ("image", "view", "rank")[: 2 + len(entries)]
    return ArraySpec(name, np.dtype(dtype), (1, 1, *entries), axes, 0)


def of_store(kind, count, seed=0):
    """A store's code, and codes (count, ...) with the statistics of its labels."""
    rng = np.random.default_rng(seed)
    falling = np.minimum(rng.geometric(0.3, (count, 9)) - 1, 40)
    if kind == "lists":
        specs = [
            spec("labels/top_prob", "|u1"),
            spec("labels/classes", "<u2", 3),
            spec("labels/rest_probs", "|u1", 2),
        ]
        classes = falling[:, :3].astype("<u2")
        outside = rng.random(classes.shape) < 0.02
        classes[outside] = rng.integers(64, 1064, outside.sum())
        classes[rng.random(count) < 0.01] = 65535
        codes = [rng.integers(0, 256, count).astype("|u1"), classes, falling[:, 3:5].astype("|u1")]
        return UnitCode(specs, True, 1000), dict(zip((s.name for s in specs), codes, strict=True))
    if kind == "class ids":
        specs = [spec("labels/top_prob", "<u2"), spec("labels/classes", "<u2", 2)]
        ids = (rng.integers(0, 1000, (count, 1)) + falling[:, :2]) % 1000
        codes = [rng.integers(0, 65535, count).astype("<u2"), ids.astype("<u2")]
        return UnitCode(specs, False, 1000), dict(zip((s.name for s in specs), codes, strict=True))
    if kind == "floats":
        specs = [
            spec("labels/top_prob", "<f4"),
            spec("labels/classes", "<u4", 2),
            spec("labels/rest_probs", "<f2", 1),
            spec("views/box", "<i4", 4),
        ]
        codes = [
            rng.random(count).astype("<f4"),
            rng.integers(0, 100_000, (count, 2)).astype("<u4"),
            rng.random((count, 1)).astype("<f2"),
            rng.integers(-1, 400, (count, 4)).astype("<i4"),
        ]
        return UnitCode(specs, False, 90_000), dict(
            zip((s.name for s in specs), codes, strict=True)
        )
    assert kind == "alike"
    specs = [spec("labels/top_prob", "|u1"), spec("labels/classes", "<u2", 1)]
    codes = [np.full(count, 7, "|u1"), np.zeros((count, 1), "<u2")]
    return UnitCode(specs, True, 10), dict(zip((s.name for s in specs), codes, strict=True))


KINDS = ["lists", "class ids", "floats", "alike"]

LABELS = np.array([64, 64, 64, 64, 64, 48, 64, 64, 1, 3])
"""Of units: in step, and alone."""


def encoded(code, codes, labels=LABELS):
    lengths = code.fit(codes)
    data, sizes = code.encode_arrays(codes, labels, lengths)
    return pack(lengths), Units(data, sizes, labels, np.zeros(len(labels), np.int64))


def assert_same(arrays, expected):
    assert list(arrays) == list(expected)
    for name, values in expected.items():
        assert arrays[name].dtype == values.dtype
        assert arrays[name].flags.c_contiguous
        np.testing.assert_array_equal(arrays[name], values)


@ways
@pytest.mark.parametrize("kind", KINDS)
def test_codes_come_back(kind, compiled, use):
    use(compiled)
    code, codes = of_store(kind, LABELS.sum())
    tables, units = encoded(code, codes)
    assert_same(code.decode_arrays([tables], units), codes)


@pytest.mark.skipif(COMPILED is None, reason="not built")
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_write_the_same_bytes(kind, use):
    code, codes = of_store(kind, LABELS.sum())
    use(True)
    tables, units = encoded(code, codes)
    use(False)
    others, same = encoded(code, codes)
    assert (tables, units.data, units.sizes.tolist()) == (others, same.data, same.sizes.tolist())


def scattered(parts, labels, shards):
    """Units that lie apart: the bytes of each alone."""
    sizes = np.fromiter(map(len, parts), np.int64, len(parts))
    return Units(b"".join(parts), sizes, labels, shards)


@ways
def test_units_of_several_shards_and_scattered_ones(compiled, use):
    use(compiled)
    code = of_store("lists", 1)[0]
    many = np.array([64, 64, 64])
    shards = [of_store("lists", many.sum(), seed)[1] for seed in range(3)]
    parts = [encoded(code, codes, many) for codes in shards]
    tables = [tables for tables, _ in parts]
    together = Units(
        b"".join(units.data for _, units in parts),
        np.concatenate([units.sizes for _, units in parts]),
        np.full(9, 64),
        np.repeat(np.arange(3), 3),
    )
    every = {name: np.concatenate([c[name] for c in shards]) for name in shards[0]}
    assert_same(code.decode_arrays(tables, together), every)
    # The second unit of the first shard, and the last two of the third.
    ends = np.cumsum(together.sizes)
    pieces = [together.data[ends[i] - together.sizes[i] : ends[i]] for i in (1, 7, 8)]
    apart = scattered(pieces, np.full(3, 64), np.array([0, 2, 2]))
    at = (np.array([1, 7, 8])[:, None] * 64 + np.arange(64)).ravel()
    assert_same(
        code.decode_arrays(tables, apart), {name: codes[at] for name, codes in every.items()}
    )


@ways
def test_no_units_are_no_labels(compiled, use):
    use(compiled)
    code, codes = of_store("lists", 4)
    tables, _ = encoded(code, codes, np.array([4]))
    none = np.zeros(0, np.int64)
    decoded = code.decode_arrays([tables], scattered([], none, none))
    assert_same(decoded, {name: values[:0] for name, values in codes.items()})


@ways
@pytest.mark.parametrize("kind", KINDS)
def test_some_arrays_alone(kind, compiled, use):
    use(compiled)
    code, codes = of_store(kind, LABELS.sum())
    tables, units = encoded(code, codes)
    for name, values in codes.items():
        assert_same(code.decode_arrays([tables], units, [name]), {name: values})
    with pytest.raises(KeyError):
        code.decode_arrays([tables], units, ["labels/none"])


@ways
@pytest.mark.parametrize("kind", KINDS)
def test_digests_are_those_of_the_records(kind, compiled, use):
    use(compiled)
    code, codes = of_store(kind, LABELS.sum())
    seeds = np.random.default_rng(1).integers(0, 1 << 64, len(LABELS), np.uint64)
    records, start, expected = code.records(codes), 0, []
    for labels, seed in zip(LABELS.tolist(), seeds.tolist(), strict=True):
        # Of one label: its codes, array after array.
        one = b"".join(values[start].tobytes() for values in codes.values())
        assert records[start].tobytes() == one
        unit = records[start : start + labels].tobytes()
        expected.append(xxhash.xxh3_64_intdigest(unit, seed))
        start += labels
    assert code.unit_digests(codes, LABELS, seeds).tolist() == expected


@pytest.mark.skipif(DIGESTS is None, reason="not built")
def test_the_compiled_digest_is_xxh3_at_every_length():
    # One array of bytes; units of 0 to 2,100 of them, which has all its branches many times.
    code = UnitCode([spec("labels/top_prob", "|u1")], False, 10)
    rng = np.random.default_rng(0)
    sizes = np.append(np.arange(2100), [4096, 5000, 65536])
    data = rng.integers(0, 256, sizes.sum(), np.uint8)
    seeds = rng.integers(0, 1 << 64, len(sizes), np.uint64)
    seeds[::3], seeds[1::3] = 0, (1 << 64) - 1
    digests = code.unit_digests({"labels/top_prob": data}, sizes, seeds)
    ends = np.cumsum(sizes)
    for size, end, seed, digest in zip(
        sizes.tolist(), ends.tolist(), seeds.tolist(), digests.tolist(), strict=True
    ):
        assert xxhash.xxh3_64_intdigest(data[end - size : end].tobytes(), seed) == digest, size


@ways
def test_arrays_that_do_not_fit_are_refused(compiled, use):
    use(compiled)
    code, codes = of_store("lists", LABELS.sum())
    lengths, seeds = code.fit(codes), np.zeros(len(LABELS), np.uint64)
    for labels in (LABELS[:-1], LABELS + 1, np.where(LABELS == 1, -1, LABELS)):
        with pytest.raises(ValueError, match="do not fit"):
            code.encode_arrays(codes, labels, lengths)
        with pytest.raises(ValueError, match="do not fit"):
            code.unit_digests(codes, labels, seeds)
    fewer = codes | {"labels/classes": codes["labels/classes"][:, :2]}
    for call in (code.fit, lambda c: code.encode_arrays(c, LABELS, lengths)):
        with pytest.raises(ValueError, match="shapes"):
            call(fewer)


@ways
def test_the_bytes_of_a_unit_are_those_of_the_specification(compiled, use):
    use(compiled)
    # 0 three times, 1 and 2 once: words 0, 10 and 11. Ranks: 0 four times, and once the class 600,
    # which is 255 and then 16 bits: words 0 and 1.
    code = UnitCode([spec("labels/top_prob", "|u1"), spec("labels/classes", "<u2", 1)], True, 1000)
    codes = {
        "labels/top_prob": np.array([0, 1, 0, 2, 0], "|u1"),
        "labels/classes": np.array([[0], [0], [600], [0], [0]], "<u2"),
    }
    tables, units = encoded(code, codes, np.array([5]))
    bits = "0100110" + "001" + f"{600:016b}" + "00"
    assert units.data == int(bits.ljust(32, "0"), 2).to_bytes(4, "big")
    assert tables == bytes([2, 0x21, 0x02, 128, 0x01, *[0] * 126, 0x10])


@ways
def test_damage_is_an_error_or_other_labels(compiled, use):
    use(compiled)
    code, codes = of_store("lists", LABELS.sum())
    tables, units = encoded(code, codes)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150 if compiled else 20):
        data = bytearray(units.data)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        packed = bytearray(tables)
        if rng.random() < 0.3:
            packed[rng.integers(len(packed))] ^= 1 << rng.integers(8)
        try:
            decoded = code.decode_arrays([bytes(packed)], Units(bytes(data), *_rest(units)))
        except ValueError:
            refused += 1
            continue
        assert {n: a.shape for n, a in decoded.items()} == {n: a.shape for n, a in codes.items()}
        assert any((decoded[name] != codes[name]).any() for name in codes)
    assert refused > (20 if compiled else 2)
    for wrong in (tables[:-1], tables + b"\0", b"", bytes([200]) + tables[1:]):
        with pytest.raises(ValueError, match=r"."):
            code.decode_arrays([wrong], units)
    short = Units(
        units.data[:-1], np.append(units.sizes[:-1], units.sizes[-1] - 1), *_rest(units)[1:]
    )
    with pytest.raises(ValueError, match=r"."):
        code.decode_arrays([tables], short)
    # As if all were zeros, or ones: as many bits as can be.
    for byte in (b"\0", b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            code.decode_arrays([tables], Units(byte * len(units.data), *_rest(units)))


def _rest(units):
    return units.sizes, units.labels, units.shards


@ways
def test_sizes_that_do_not_fit_are_refused(compiled, use):
    use(compiled)
    code, codes = of_store("lists", LABELS.sum())
    tables, units = encoded(code, codes)
    for sizes in (units.sizes + 1, -units.sizes, units.sizes << 40, units.sizes << 62):
        with pytest.raises(ValueError, match="do not fit"):
            code.decode_arrays([tables], Units(units.data, sizes, units.labels, units.shards))


def test_values_without_a_word_are_refused(use):
    code, codes = of_store("alike", 4)
    lengths = code.fit(codes)
    codes["labels/top_prob"][1] = 8
    for compiled in (True, False):
        use(compiled)
        with pytest.raises(ValueError, match="no word"):
            code.encode_arrays(codes, np.array([4]), lengths)


def test_codes_are_complete_and_near_the_entropy():
    rng = np.random.default_rng(0)
    for ratio in (0.9, 0.6, 0.3, 0.01):
        counts = np.floor(1e9 * ratio ** np.arange(256))[None].astype(np.int64)
        counts = counts[:, rng.permutation(256)]
        lengths = lengths_of(counts)
        # It is read back only if it is complete.
        np.testing.assert_array_equal(unpack(pack(lengths), 1), lengths)
        if (lengths == ONLY).any():
            continue
        share = counts[counts > 0] / counts.sum()
        entropy = -(share * np.log2(share)).sum()
        spent = (share * lengths[counts > 0]).sum()
        assert entropy <= spent <= max(1.02, entropy + 0.17)
        words = {
            f"{word:0{bits}b}"
            for word, bits in zip(words_of(lengths)[0], lengths[0], strict=True)
            if bits
        }
        assert len(words) == (counts > 0).sum()
        assert not any(a != b and b.startswith(a) for a in words for b in words)


def damaged(rng, code, parts, tables):
    """Units of which some have other bits or lengths, and tables of which one may."""
    parts = [bytearray(part) for part in parts]
    for part in parts:
        kind = rng.integers(6)
        if kind == 0:
            part[rng.integers(len(part))] ^= 1 << rng.integers(8)
        elif kind == 1:
            del part[rng.integers(len(part)) :]
        elif kind == 2:
            part += bytes(rng.integers(1, 9))
        elif kind == 3:
            part[:] = rng.integers(0, 256, rng.integers(2 * len(part)), np.uint8).tobytes()
    if rng.random() < 0.2:
        tables = bytearray(tables)
        tables[rng.integers(len(tables))] ^= 1 << rng.integers(8)
    return [bytes(part) for part in parts], bytes(tables)


@pytest.mark.skipif(COMPILED is None, reason="not built")
@pytest.mark.parametrize("kind", ["lists", "class ids", "floats"])
def test_both_ways_refuse_the_same_damage(kind, use):
    code, codes = of_store(kind, 5 * 20)
    labels = np.full(5, 20)
    tables, units = encoded(code, codes, labels)
    ends = np.cumsum(units.sizes)
    whole = [units.data[e - s : e] for e, s in zip(ends, units.sizes, strict=True)]
    rng = np.random.default_rng(2)
    outcomes = set()
    for step in range(40):
        parts, packed = damaged(rng, code, whole, tables)
        names = None if step % 2 else ["labels/top_prob"]
        results = []
        for compiled in (True, False):
            use(compiled)
            units = scattered(parts, labels, units.shards)
            try:
                arrays = code.decode_arrays([packed], units, names)
            except ValueError:
                arrays = None
            results.append(arrays and {name: a.tobytes() for name, a in arrays.items()})
        assert results[0] == results[1], step
        outcomes.add(results[0] is None)
    assert outcomes == {True, False}


@ways
def test_a_unit_that_is_not_filled_up_with_zeros_is_damaged(compiled, use):
    use(compiled)
    code, codes = of_store("lists", 20)
    tables, units = encoded(code, codes, np.array([20]))
    data = bytearray(units.data)
    # The bits of the words end within the last byte.
    words = unpack(tables, code.tables)
    records, bits = code.records(codes), 0
    for plane in code.planes:
        values = values_of(plane, records)
        lengths = words[tables_of(plane, records), np.minimum(values, 255)]
        bits += int(lengths[lengths != ONLY].sum()) + 16 * int(plane.wide * (values >= 255).sum())
    assert -(-bits // 8) == len(data)
    assert bits % 8, "another seed has filling"
    data[-1] |= 1
    with pytest.raises(ValueError, match=r"damaged|filled"):
        code.decode_arrays([tables], Units(bytes(data), *_rest(units)))
