"""Short rows are copied as numbers: the bytes, and so the digests, are those of a plain copy."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from labelstore.format.arrays import array_digest, chunk_digests, group_digests, side_by_side
from labelstore.format.units import unit_digests

SHAPES = [(9, 1), (9, 2), (9, 3), (9, 4), (9, 8), (9, 2, 3), (9, 4, 1), (0, 4), (9, 0)]


@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<f2", "<u4", "<f4", "<u8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_digests_and_joined_groups_are_those_of_plain_copies(dtype, shape):
    rng = np.random.default_rng(1)
    parts = [rng.integers(0, 255, shape).astype(dtype) for _ in range(3)]
    plain = np.concatenate(parts, axis=1)
    joined = side_by_side(parts)
    assert joined.dtype == plain.dtype
    assert np.array_equal(joined, plain)
    width = shape[1]
    for group, part in enumerate(parts):
        # A slice of a wider array, its transpose, and every other column.
        for codes in (plain[:, group * width : (group + 1) * width], part.T, plain[:, ::2]):
            expected = xxhash.xxh3_64(f"id/name/1/{group}\0".encode() + codes.tobytes())
            assert array_digest("id", "name", 1, group, codes) == expected.intdigest()


@pytest.fixture(params=[True, False], ids=["compiled", "python"])
def compiled(request, monkeypatch):
    """Whether digests of many are taken by the compiled part."""
    part = unit_digests._compiled()
    if request.param and part is None:
        pytest.skip("not built")
    monkeypatch.setattr(unit_digests, "_compiled", lambda: part if request.param else None)


@pytest.mark.parametrize("shape", [(9, 3), (9, 12), (300, 70), (2, 40, 3), (5, 33, 1), (1, 18, 2)])
@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<f4"])
def test_digests_of_groups_and_chunks_are_those_of_each(dtype, shape, compiled):
    rng = np.random.default_rng(1)
    wide = rng.integers(0, 255, (shape[0], shape[1] + 2, *shape[2:])).astype(dtype)
    # Also of codes that are a part of wider ones.
    for codes in (wide[:, 1:-1], wide[:, 1:-1].copy()):
        for width in (1, 2, 3, 4, 5, 8, 100):
            groups = [codes[:, start : start + width] for start in range(0, shape[1], width)]
            expected = [array_digest("id", "name", 1, g, part) for g, part in enumerate(groups)]
            assert group_digests("id", "name", 1, codes, width).tolist() == expected
            places = [(1, group) for group in range(len(groups))]
            assert chunk_digests("id", "name", places, groups).tolist() == expected


def test_digests_of_chunks_of_several_blocks(compiled):
    chunks = [np.arange(size, dtype="<u2").reshape(-1, 2) for size in (8, 2, 0, 500)]
    places = [(3, 99), (10, 0), (11, 100), (1234, 7)]
    expected = [
        array_digest("id", "name", *place, part) for place, part in zip(places, chunks, strict=True)
    ]
    assert chunk_digests("id", "name", places, chunks).tolist() == expected
    assert chunk_digests("id", "name", [], []).tolist() == []


def test_groups_without_heads_are_refused(compiled):
    codes = np.zeros((3, 4), dtype=np.uint8)
    for heads, arrays in (([b"a"] * 3, [codes]), ([b"a"], [codes]), ([], [codes]), ([b"a"], [])):
        with pytest.raises(ValueError, match="heads"):
            unit_digests.group_digests(heads, arrays, 2)


def test_parts_of_different_widths_are_joined():
    parts = [np.arange(4, dtype="<u2").reshape(2, 2), np.arange(6, dtype="<u2").reshape(2, 3)]
    parts.append(np.arange(8, dtype="<u2").reshape(2, 4))
    assert np.array_equal(side_by_side(parts), np.concatenate(parts, axis=1))
