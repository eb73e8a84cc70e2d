"""Random numbers: the published vectors, ranges, and independence of order."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from labelstore.views.philox import bounded, hash_keys, permutation, philox4x32, uniform

ONES = 0xFFFFFFFF
# Random123's kat_vectors for philox4x32-10: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_published_vectors(counter, key, result):
    words = philox4x32(counter, key[0] | key[1] << 32)
    assert tuple(int(word) for word in words) == result


def test_any_shape_order_and_length_gives_the_same_words():
    first = np.arange(40_000, dtype=np.uint64)
    whole = philox4x32((first, 1, 2, 3), 9)
    chosen = np.random.default_rng(0).permutation(40_000)[:1000]
    for word, part in zip(whole, philox4x32((first[chosen], 1, 2, 3), 9), strict=True):
        assert np.array_equal(word[chosen], part)
    square = philox4x32((first.reshape(200, 200), 1, 2, 3), 9)
    assert np.array_equal(square[3].reshape(-1), whole[3])


def test_ranges():
    words = np.array([0, 1, ONES], dtype=np.uint32)
    assert uniform(words).tolist() == [0.0, 2.0**-32, 1 - 2.0**-32]
    assert bounded(words, 7).tolist() == [0, 0, 6]
    assert bounded(words, 2**31 - 1).tolist() == [0, 0, 2**31 - 2]


def test_permutation_is_one_and_differs_by_stream():
    order = permutation(5000, 3, (1, 2))
    assert sorted(order.tolist()) == list(range(5000))
    assert np.array_equal(order, permutation(5000, 3, (1, 2)))
    assert not np.array_equal(order, permutation(5000, 3, (1, 3)))
    assert not np.array_equal(order, permutation(5000, 4, (1, 2)))


def test_key_hash_is_xxh3_of_utf8():
    # xxh3_64 of the empty input, from its specification.
    assert int(hash_keys([""])[0]) == 0x2D06800538D394C2
    assert len({*hash_keys(["a", "b", "ä", "a/b.jpg"]).tolist()}) == 4


def test_half_a_character_leaves_the_other_hashes_as_they_are():
    keys = ["a", "ä/日本.jpg", ""]
    with_half = hash_keys([*keys, "a\udc80", *keys])
    assert with_half[:3].tolist() == with_half[4:].tolist() == hash_keys(keys).tolist()
    assert int(with_half[3]) == xxhash.xxh3_64_intdigest(b"a\xed\xb2\x80")
