"""Chunks that are decoded in one call are those, and have the errors, of chunks one by one."""

from __future__ import annotations

import os

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numcodecs import blosc

from labelstore.errors import CorruptError
from labelstore.store.backends.zarr import many_chunks
from labelstore.store.backends.zarr.shards import chunks_in
from labelstore.store.backends.zarr.unit_objects import HeldObject
from tests.support.stores import written

COMPILED = many_chunks._compiled()
COUNT = 9


def checked(data):
    return data + google_crc32c.value(data).to_bytes(4, "little")


def shard_of(chunks, gap=0):
    """The bytes of a shard, the last chunks first, so many bytes between two."""
    starts, data = [], b""
    for chunk in chunks[::-1]:
        starts.append(len(data))
        data += chunk + b"\7" * gap
    places = zip(starts[::-1], map(len, chunks), strict=True)
    return data + checked(np.array(list(places), "<u8").tobytes())


def read(data, places, shape, dtype, *, together):
    """The arrays, or the error's kind and words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(many_chunks, "_compiled", lambda: COMPILED if together else None)
        try:
            return chunks_in(HeldObject(data), places, COUNT, shape, dtype, 0)
        except (ValueError, CorruptError) as error:
            return type(error), str(error)


def compare(data, places, shape, dtype):
    one, many = (read(data, places, shape, dtype, together=way) for way in (False, True))
    if isinstance(one, tuple):
        assert many == one
        return None
    for found, expected in zip(many, one, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    return one


def test_the_compiled_part_is_used_where_it_was_built():
    # numcodecs' wheels for Linux show zstd's functions.
    built = many_chunks.compiled_part("labelstore.store.backends.zarr._chunks") is not None
    assert (COMPILED is not None) == built


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["|u1", "<u2", "<f4", "<u8"]),
    shape=st.tuples(st.integers(1, 300), st.integers(1, 6)),
    distinct=st.sampled_from([1, 2, 7, 2**16]),
    level=st.integers(0, 9),
    shuffle=st.sampled_from([blosc.NOSHUFFLE, blosc.SHUFFLE, blosc.BITSHUFFLE]),
    block=st.sampled_from([0, 128, 1000, 2048]),
    gap=st.sampled_from([0, 3, 5000]),
)
def test_chunks_together_and_one_by_one(seed, dtype, shape, distinct, level, shuffle, block, gap):
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    codes = rng.integers(0, distinct, (COUNT, *shape)).astype(dtype)
    packed = [
        blosc.compress(part, b"zstd", level, shuffle, block, typesize=dtype.itemsize)
        for part in codes
    ]
    shard = shard_of([checked(bytes(part)) for part in packed], gap)
    for places in (range(COUNT), rng.permutation(COUNT), [*range(8), 3]):
        found = compare(shard, list(places), shape, dtype)
        assert np.array_equal(found, codes[list(places)])

    # What was changed on disk, and what has a checksum of its own.
    for _ in range(10):
        broken = bytearray(shard)
        broken[rng.integers(len(broken))] ^= 1 << rng.integers(8)
        compare(
            bytes(broken[: rng.integers(len(broken) // 2, len(broken) + 1)]),
            range(COUNT),
            shape,
            dtype,
        )
        compare(bytes(broken), range(COUNT), shape, dtype)
        forged = bytearray(packed[4])
        at = rng.integers(min(len(forged), 40)) if rng.integers(2) else rng.integers(len(forged))
        forged[at] = rng.integers(256)
        chunks = [checked(bytes(part)) for part in (*packed[:4], forged, *packed[5:])]
        compare(shard_of(chunks), range(COUNT), shape, dtype)


def test_chunks_that_are_not_there():
    codes = np.arange(COUNT * 8, dtype=np.uint8).reshape(COUNT, 4, 2)
    shard = shard_of([checked(bytes(blosc.compress(part, b"zstd", 3))) for part in codes])
    index = np.frombuffer(shard[-16 * COUNT - 4 : -4], "<u8").reshape(-1, 2).copy()
    for entry in ((2**64 - 1, 2**64 - 1), (2**64 - 8, 30), (len(shard), 30), (0, 2**40), (0, 0)):
        index[3] = entry
        other = shard[: -16 * COUNT - 4] + checked(index.tobytes())
        found = compare(other, range(COUNT), (4, 2), np.dtype("u1"))
        assert (found is not None) == (entry[0] == entry[1] == 2**64 - 1)
    assert not found or not found[3].any()


def test_every_group_of_largest_probabilities_is_compared_with_its_digest(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr", 20, views=40, group_views=4)
    file = store.path / "labels/top_prob/c/1/0"
    whole = file.read_bytes()
    index = np.frombuffer(whole[-16 * 10 - 4 : -4], "<u8").reshape(-1, 2)
    planes = list(store.reader.top_probs_of([0, 1, 2]))
    assert [plane.shape for plane in planes] == [(8, 40), (8, 40), (4, 40)]
    for first in range(10):
        # Sound chunks, exchanged.
        other = index.copy()
        other[[first, (first + 1) % 10]] = index[[(first + 1) % 10, first]]
        file.write_bytes(whole[: -16 * 10 - 4] + checked(other.tobytes()))
        view = 4 * (first % 9)
        with pytest.raises(CorruptError, match=rf"block 1 \(images 8 to 15, views {view} to"):
            list(store.reader.top_probs_of([0, 1, 2]))
    os.replace(store.path / "labels/top_prob/c/0/0", file)
    with pytest.raises(CorruptError, match=r"block 1 \(images 8 to 15, views 0 to"):
        list(store.reader.top_probs_of([1]))
