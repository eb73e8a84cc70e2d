"""Chunks that are read directly against the same chunks as zarr reads them."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest
import zarr
from numcodecs import blosc

from labelstore.errors import CorruptError
from labelstore.store.backends.zarr.backend import ZarrBackend
from labelstore.store.backends.zarr.shards import decode, decode_strings, read_chunks
from tests.support.stores import make_planned, written


@pytest.fixture
def store(tmp_path):
    boxes = np.arange(20 * 7 * 4).reshape(20, 7, 4)
    flips = np.arange(140).reshape(20, 7) % 3 == 1
    return written(tmp_path / "a.zarr", views=7, k=3, law=None, boxes=boxes, flips=flips)[0]


def open_backend(store):
    backend = ZarrBackend(store.path)
    backend.open_arrays(store.manifest)
    return backend


@pytest.mark.parametrize("quantizer", ["ratio16", "u16", "fp16", "fp32"])
def test_every_chunk_is_what_zarr_reads(tmp_path, quantizer):
    store, _ = make_planned(tmp_path / "a.zarr", views=7, k=3, quantizer=quantizer)
    backend = open_backend(store)
    manifest = store.manifest
    for name in ("labels/top_prob", "labels/classes", "labels/rest_probs"):
        array = zarr.open_array(store.path / name, mode="r")
        for block in range(manifest.num_blocks):
            rows = manifest.block_slice(block)
            for columns in (slice(0, 4), slice(4, 7), slice(0, 7)):
                found = backend.read(name, rows, columns)
                np.testing.assert_array_equal(found, array[rows, columns])
                assert found.dtype == array.dtype


def test_boxes_and_an_absent_block(store):
    backend = open_backend(store)
    array = zarr.open_array(store.path / "views/box", mode="r")
    assert np.array_equal(backend.read("views/box", slice(8, 16), slice(4, 7)), array[8:16, 4:7])
    (store.path / "views/box/c/1/0/0").unlink()
    assert (backend.read("views/box", slice(8, 16), slice(0, 4)) == -1).all()


def test_a_run_over_two_blocks(store):
    array = zarr.open_array(store.path / "labels/classes", mode="r")
    found = open_backend(store).read("labels/classes", slice(4, 12), slice(0, 7))
    assert np.array_equal(found, array[4:12])


def test_damage_is_an_error_wherever_it_is(store):
    backend = open_backend(store)
    file = store.path / "labels/classes/c/0/0/0"
    whole = file.read_bytes()
    shape, dtype = (8, 4, 3), np.dtype("<u2")
    for place in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[place] ^= 4
        file.write_bytes(broken)
        failed = 0
        for group in range(2):
            try:
                read_chunks(file, store.path, [group], 2, shape, dtype, 0)
            except ValueError:
                failed += 1
        assert failed, place
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(CorruptError, match="cannot be read at images 0 to 7, views 0 to 3"):
            backend.read("labels/classes", slice(0, 8), slice(0, 4))


def checked(data):
    return data + google_crc32c.value(data).to_bytes(4, "little")


def chunk(codes):
    return blosc.compress(codes.tobytes(), b"zstd", 5, typesize=codes.itemsize)


def changed(data, at, value):
    return data[:at] + value.to_bytes(4, "little") + data[at + 4 :]


@pytest.mark.parametrize("kind", ["compressed", "stored"])
def test_a_header_that_does_not_describe_its_bytes(kind):
    codes = np.zeros(4096, "<u2")
    if kind == "stored":
        codes = np.random.default_rng(0).integers(0, 65536, 4096).astype("<u2")
    whole = chunk(codes)
    assert bool(whole[2] & 2) == (kind == "stored")
    np.testing.assert_array_equal(decode(checked(whole), (4096,), codes.dtype), codes)
    forged = [whole[:place] for place in (0, 3, 16, len(whole) - 1)]
    forged += [whole + b"0", whole[:3] + b"\4" + whole[4:], whole[:3] + b"\0" + whole[4:]]
    forged += [b"\3" + whole[1:], whole[:1] + b"\2" + whole[2:]]
    # Of data that is stored as it is the size of a block says nothing.
    for at in (4, 12) if kind == "stored" else (4, 8, 12):
        forged += [changed(whole, at, value) for value in (0, 1, 8191, 2**31 - 1, 2**32 - 1)]
    # Another codec of blosc, of more code than zstd.
    forged.append(blosc.compress(np.zeros(4096, "<u2").tobytes(), b"lz4", 5, typesize=2))
    for data in forged:
        with pytest.raises(ValueError, match=r"describe|compressed|checksum|decompression"):
            decode(checked(data), (4096,), codes.dtype)
    with pytest.raises(ValueError, match="8192 bytes are compressed, expected 8190"):
        decode(checked(whole), (4095,), codes.dtype)


def test_strings_that_do_not_fit_their_chunk():
    def packed(*lengths, count):
        data = count.to_bytes(4, "little")
        for length in lengths:
            data += length.to_bytes(4, "little") + b"abc"
        return checked(chunk(np.frombuffer(data, "u1")))

    assert decode_strings(packed(3, 3, count=2), 2) == ["abc", "abc"]
    bad = [packed(3, 3, count=1), packed(3, 3, count=3), packed(3, 3, count=2**32 - 1)]
    bad += [packed(3, length, count=2) for length in (4, 2**31, 2**32 - 1, 2**32 - 11)]
    for data in bad:
        with pytest.raises(ValueError, match=r"strings|truncated|negative"):
            decode_strings(data, 2)
    with pytest.raises(ValueError, match="400,000,004 when decompressed"):
        decode_strings(checked(chunk(np.zeros(400_000_004, "u1"))), 100_000_000)
