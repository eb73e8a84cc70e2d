"""The cache of chunks: what is taken from it is what was loaded, within its bound."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, strategies as st

from labelstore.format.arrays import ArraySpec
from labelstore.store.chunks.memory_cache import ChunkCache

IMAGES, VIEWS, CHUNKS = 3, 2, 7
SPECS = (
    ArraySpec("a", np.dtype("<u2"), (IMAGES * CHUNKS, VIEWS), ("image", "view"), 0),
    ArraySpec("b", np.dtype("|u1"), (IMAGES * CHUNKS, VIEWS, 4), ("image", "view", "rank"), 0),
)
SLOT_BYTES = IMAGES * VIEWS * (2 + 4)


def chunk_codes(chunk):
    """Codes that say where they are from; the last chunk is smaller."""
    images = IMAGES - (chunk == CHUNKS - 1)
    places = np.arange(images * VIEWS).reshape(images, VIEWS)
    return {
        "a": (1000 * chunk + places).astype("<u2"),
        "b": (10 * chunk + places[..., None] + np.arange(4)).astype("|u1"),
    }


def entries(count, seed):
    rng = np.random.default_rng(seed)
    chunks = rng.integers(0, CHUNKS, count)
    images = rng.integers(0, IMAGES - (chunks == CHUNKS - 1))
    return chunks, images, rng.integers(0, VIEWS, count)


def expected(chunks, images, views):
    found = [chunk_codes(chunk) for chunk in chunks]
    places = list(zip(found, images, views, strict=True))
    return {name: np.array([codes[name][i, v] for codes, i, v in places]) for name in "ab"}


@given(
    cache_bytes=st.integers(0, SLOT_BYTES * (CHUNKS + 2)),
    batches=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1000)), min_size=1, max_size=8),
)
def test_every_entry_is_its_own_whatever_was_given_up(cache_bytes, batches):
    pool = ChunkCache(SPECS, (IMAGES, VIEWS), CHUNKS, cache_bytes)
    asked = []

    def load(chunks):
        asked.extend(chunks)
        return [chunk_codes(chunk) for chunk in chunks]

    for count, seed in batches:
        where = entries(count, seed)
        asked.clear()
        found, right = pool.take(*where, load), expected(*where)
        assert all(np.array_equal(found[name], right[name]) for name in "ab")
        assert len(asked) == len(set(asked))
        assert pool.used_bytes <= max(cache_bytes, SLOT_BYTES)
        # What fits is kept: asking again loads nothing.
        if len(set(where[0])) <= pool.capacity:
            asked.clear()
            pool.take(*where, load)
            assert not asked


def test_a_load_that_fails_leaves_no_chunk_behind():
    pool = ChunkCache(SPECS, (IMAGES, VIEWS), CHUNKS, SLOT_BYTES * 3)
    where = (np.array([0, 1, 2]), np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64))

    def broken(chunks):
        raise ValueError("damaged")

    def half(chunks):
        yield chunk_codes(chunks[0])
        raise ValueError("damaged")

    for failing in (broken, half):
        with pytest.raises(ValueError, match="damaged"):
            pool.take(*where, failing)
    found = pool.take(*where, lambda chunks: [chunk_codes(chunk) for chunk in chunks])
    assert np.array_equal(found["a"], expected(*where)["a"])


def test_threads_may_share_it():
    pool = ChunkCache(SPECS, (IMAGES, VIEWS), CHUNKS, SLOT_BYTES * 3)

    def work(seed):
        where = entries(30, seed)
        found = pool.take(*where, lambda chunks: [chunk_codes(chunk) for chunk in chunks])
        return all(np.array_equal(found[name], expected(*where)[name]) for name in "ab")

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(200)))


def test_the_chunk_used_longest_ago_is_given_up_first():
    chunks, room = 400, 200
    spec = ArraySpec("a", np.dtype("<u2"), (chunks, 1), ("image", "view"), 0)
    pool = ChunkCache((spec,), (1, 1), chunks, 2 * room)
    assert pool.capacity == room
    here, zero = OrderedDict(), np.zeros(1, dtype=np.int64)
    asked = []

    def load(wanted):
        asked.extend(wanted)
        return [{"a": np.full((1, 1), chunk, dtype="<u2")} for chunk in wanted]

    # Most often one of few, so that many of those loaded are used again.
    draws = np.random.default_rng(0).geometric(0.008, 5000) % chunks
    for chunk in draws.tolist():
        asked.clear()
        assert pool.take(np.array([chunk]), zero, zero, load)["a"] == [chunk]
        assert asked == ([] if chunk in here else [chunk])
        here[chunk] = None
        here.move_to_end(chunk)
        if len(here) > room:
            here.popitem(last=False)
    assert len(here) == room
