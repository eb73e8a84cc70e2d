"""Chunks that are decoded in one call are those, and have the errors, of chunks one by one."""

from __future__ import annotations

import os
import shutil

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numcodecs import blosc

import labelstore
from labelstore.errors import CorruptError
from labelstore.storage.untrusted import folder_in
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


GROUPS, SHAPE, DTYPE = 3, (50, 4), np.dtype("<u2")


@pytest.fixture
def shards(tmp_path):
    """Files of shards of three chunks, by name, and their codes (shard, chunk, ...)."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 900, (5, GROUPS, *SHAPE)).astype(DTYPE)
    names = [f"{number}/0/0" for number in range(len(codes))]
    for name, parts in zip(names, codes, strict=True):
        packed = [blosc.compress(part, b"zstd", 3, typesize=2) for part in parts]
        tmp_path.joinpath(name).parent.mkdir(parents=True)
        tmp_path.joinpath(name).write_bytes(shard_of([checked(bytes(part)) for part in packed]))
    return names, codes


def of_files(folder, names, group=1, count=GROUPS):
    with folder_in(str(folder), str(folder.parent)) as descriptor:
        return many_chunks.decode_files(descriptor, names, (group, count), SHAPE, DTYPE)


@pytest.mark.skipif(COMPILED is None, reason="the compiled part is not built")
def test_the_same_chunk_of_many_files(tmp_path, shards):
    names, codes = shards
    for group in range(GROUPS):
        assert of_files(tmp_path, names, group).tobytes() == codes[:, group].tobytes()
    assert of_files(tmp_path, names[3:0:-1]).tobytes() == codes[3:0:-1, 1].tobytes()
    with pytest.raises(ValueError, match="other shapes"):
        of_files(tmp_path, names, GROUPS)
    with pytest.raises(ValueError, match="other shapes"):
        of_files(tmp_path, [*names[:2], "0\0/0/0"])


@pytest.mark.skipif(COMPILED is None, reason="the compiled part is not built")
def test_files_that_python_has_to_look_at(tmp_path, shards):
    names, _ = shards
    file = tmp_path / names[2]
    whole = file.read_bytes()
    rng = np.random.default_rng(1)
    start, size = np.frombuffer(whole[-16 * GROUPS - 4 : -4], "<u8").reshape(-1, 2)[1].tolist()
    # Of the chunk and of the index every byte counts.
    for at in (*range(start, start + size), *range(len(whole) - 16 * GROUPS - 4, len(whole))):
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(broken)
        assert of_files(tmp_path, names) is None
    for end in (0, 3, 51, len(whole) - 1):
        file.write_bytes(whole[:end])
        assert of_files(tmp_path, names) is None
    for entry in ((2**64 - 1, 2**64 - 1), (2**64 - 8, 30), (len(whole), 30), (0, 2**40), (0, 0)):
        index = np.frombuffer(whole[-16 * GROUPS - 4 : -4], "<u8").reshape(-1, 2).copy()
        index[1] = entry
        file.write_bytes(whole[: -16 * GROUPS - 4] + checked(index.tobytes()))
        assert of_files(tmp_path, names) is None
    file.unlink()
    assert of_files(tmp_path, names) is None
    os.mkfifo(file)
    assert of_files(tmp_path, names) is None
    file.unlink()

    # The very same bytes, but by a link, or from outside of the folder.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(whole)
    file.symlink_to(elsewhere)
    assert of_files(tmp_path, names) is None
    file.unlink()
    file.parent.rmdir()
    file.parent.symlink_to(tmp_path / "3/0")
    assert of_files(tmp_path, names) is None
    assert of_files(tmp_path / "3", ["0/0", "../4/0/0"]) is None
    assert of_files(tmp_path / "3", ["0/0", str(tmp_path / names[4])]) is None


@pytest.mark.parametrize("listed", [False, True])
def test_groups_of_blocks_side_by_side(tmp_path, monkeypatch, listed):
    """Of whole blocks and a last, smaller group of views; what the compiled part gives is what
    Python gives, and what is wrong is told of the block that it is wrong in."""
    lists = {"means": np.full((44, 30), 1 / 30), "prior_size": 8} if listed else {}
    store, _, _ = written(tmp_path / "a.zarr", 44, views=7, group_views=4, **lists)
    blocks = range(store.manifest.num_blocks)

    def read(group, blocks=blocks):
        return [
            (first, {name: codes.tobytes() for name, codes in run.items()})
            for first, run in labelstore.open(store.path).reader.read_runs(blocks, group)
        ]

    for group in (0, 1):
        views = store.manifest.group_slice(group)
        chunks = store.reader._backend._decoded_together("labels/classes", blocks, views)
        assert (chunks is not None) == (COMPILED is not None)
        together = read(group)
        assert [first for first, _ in together] == [0]
        one_by_one = dict(zip(blocks, (read(group, range(b, b + 1)) for b in blocks), strict=True))
        for name, codes in together[0][1].items():
            assert codes == b"".join(one_by_one[block][0][1][name] for block in blocks)
        with monkeypatch.context() as patch:
            patch.setattr(many_chunks, "_compiled", lambda: None)
            assert read(group) == together

    # Sound chunks of another block.
    files = [store.path / f"labels/classes/c/{block}/0/0" for block in (2, 3)]
    shutil.copy(*files)
    with pytest.raises(CorruptError, match=r"labels/classes: block 3 .*is not what was committed"):
        read(0)
