"""Labels in units: the same codes come back, by the compiled part and by NumPy alike, and damage is
an error or other labels, never a crash."""

import numpy as np
import pytest

from labelstore.format.arrays import ArraySpec
from labelstore.format.units import unit_code
from labelstore.format.units.prefix_codes import ONLY, lengths_of, pack, unpack, words_of
from labelstore.format.units.unit_code import UnitCode, Units

COMPILED = unit_code._compiled()

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


def encoded(code, records, labels=LABELS):
    lengths = code.fit(records)
    data, sizes = code.encode(records, labels, lengths)
    return pack(lengths), Units(data, sizes, labels, np.zeros(len(labels), np.int64))


@ways
@pytest.mark.parametrize("kind", KINDS)
def test_codes_come_back(kind, compiled, use):
    use(compiled)
    code, codes = of_store(kind, LABELS.sum())
    records = code.records(codes)
    tables, units = encoded(code, records)
    decoded = code.codes(code.decode([tables], units))
    for name, values in codes.items():
        assert decoded[name].dtype == values.dtype
        np.testing.assert_array_equal(decoded[name], values)


@pytest.mark.skipif(COMPILED is None, reason="not built")
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_write_the_same_bytes(kind, use):
    code, codes = of_store(kind, LABELS.sum())
    records = code.records(codes)
    use(True)
    tables, units = encoded(code, records)
    use(False)
    others, same = encoded(code, records)
    assert (tables, units.data, units.sizes.tolist()) == (others, same.data, same.sizes.tolist())


@ways
def test_units_of_several_shards_and_one_alone(compiled, use):
    use(compiled)
    shards = [of_store("lists", 3 * 64, seed) for seed in range(3)]
    code = shards[0][0]
    every = [code.records(codes) for _, codes in shards]
    parts = [encoded(code, records, np.array([64, 64, 64])) for records in every]
    together = Units(
        b"".join(units.data for _, units in parts),
        np.concatenate([units.sizes for _, units in parts]),
        np.full(9, 64),
        np.repeat(np.arange(3), 3),
    )
    records = code.decode([tables for tables, _ in parts], together)
    np.testing.assert_array_equal(records, np.concatenate(every))
    tables, units = parts[1]
    start, stop = np.cumsum(units.sizes)[:2]
    one = Units(units.data[start:stop], units.sizes[1:2], np.array([64]), np.array([0]))
    np.testing.assert_array_equal(code.decode([tables], one), every[1][64:128])


@ways
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_array_alone(kind, compiled, use):
    use(compiled)
    code, codes = of_store(kind, LABELS.sum())
    tables, units = encoded(code, code.records(codes))
    first = code.codes(code.decode([tables], units, "labels/top_prob"))["labels/top_prob"]
    np.testing.assert_array_equal(first, codes["labels/top_prob"])


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
    tables, units = encoded(code, code.records(codes), np.array([5]))
    bits = "0100110" + "001" + f"{600:016b}" + "00"
    assert units.data == int(bits.ljust(32, "0"), 2).to_bytes(4, "big")
    assert tables == bytes([2, 0x21, 0x02, 128, 0x01, *[0] * 126, 0x10])


@ways
def test_damage_is_an_error_or_other_labels(compiled, use):
    use(compiled)
    code, codes = of_store("lists", LABELS.sum())
    records = code.records(codes)
    tables, units = encoded(code, records)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150 if compiled else 20):
        data = bytearray(units.data)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        packed = bytearray(tables)
        if rng.random() < 0.3:
            packed[rng.integers(len(packed))] ^= 1 << rng.integers(8)
        try:
            found = code.decode([bytes(packed)], Units(bytes(data), *_rest(units)))
        except ValueError:
            refused += 1
            continue
        assert found.shape == records.shape
        assert (found != records).any()
    assert refused > (20 if compiled else 2)
    for wrong in (tables[:-1], tables + b"\0", b"", bytes([200]) + tables[1:]):
        with pytest.raises(ValueError, match=r"."):
            code.decode([wrong], units)
    short = Units(
        units.data[:-1], np.append(units.sizes[:-1], units.sizes[-1] - 1), *_rest(units)[1:]
    )
    with pytest.raises(ValueError, match=r"."):
        code.decode([tables], short)
    # As if all were zeros, or ones: as many bits as can be.
    for byte in (b"\0", b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            code.decode([tables], Units(byte * len(units.data), *_rest(units)))


def _rest(units):
    return units.sizes, units.labels, units.shards


@ways
def test_sizes_that_do_not_fit_are_refused(compiled, use):
    use(compiled)
    code, codes = of_store("lists", LABELS.sum())
    tables, units = encoded(code, code.records(codes))
    for sizes in (units.sizes + 1, -units.sizes, units.sizes << 40, units.sizes << 62):
        with pytest.raises(ValueError, match="do not fit"):
            code.decode([tables], Units(units.data, sizes, units.labels, units.shards))


def test_values_without_a_word_are_refused(use):
    code, codes = of_store("alike", 4)
    records = code.records(codes)
    lengths = code.fit(records)
    records[1, 0] = 8
    for compiled in (True, False):
        use(compiled)
        with pytest.raises(ValueError, match="no word"):
            code.encode(records, np.array([4]), lengths)


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
