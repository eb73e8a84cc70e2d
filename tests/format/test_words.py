"""Short rows are copied as numbers: the bytes, and so the digests, are those of a plain copy."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from labelstore.format.arrays import array_digest, group_digests, side_by_side

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


@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<f4"])
@pytest.mark.parametrize("views", [3, 4, 8, 10, 11])
@pytest.mark.parametrize("width", [1, 3, 4, 5])
def test_digests_of_groups_are_those_of_each(dtype, views, width):
    wide = np.random.default_rng(1).integers(0, 255, (9, 12)).astype(dtype)
    # Also of codes that are a part of wider ones.
    for codes in (wide[:, :views], wide[:, :views].copy()):
        groups = [codes[:, start : start + width] for start in range(0, views, width)]
        expected = [array_digest("id", "name", 1, g, part) for g, part in enumerate(groups)]
        assert group_digests("id", "name", 1, codes, width).tolist() == expected


def test_parts_of_different_widths_are_joined():
    parts = [np.arange(4, dtype="<u2").reshape(2, 2), np.arange(6, dtype="<u2").reshape(2, 3)]
    parts.append(np.arange(8, dtype="<u2").reshape(2, 4))
    assert np.array_equal(side_by_side(parts), np.concatenate(parts, axis=1))
