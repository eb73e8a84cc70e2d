"""Chunks that are read directly against the same chunks as zarr reads them."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from core_data import make_planned, written
from zarr.codecs import ZstdCodec

from labelstore.backends.shards import is_direct, read_chunks
from labelstore.backends.zarr import ZarrBackend
from labelstore.errors import CorruptError


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
    names = [name for name in backend._arrays if name.startswith("labels/")]
    assert backend._direct == set(names)
    for name in names:
        array = zarr.open_array(store.path / name, mode="r")
        for block in range(manifest.num_blocks):
            rows = manifest.block_slice(block)
            for columns in (slice(0, 4), slice(4, 7), slice(0, 7)):
                found = backend.read(name, rows, columns)
                np.testing.assert_array_equal(found, array[rows, columns])
                assert found.dtype == array.dtype


def test_boxes_and_an_absent_block(store):
    backend = open_backend(store)
    assert {"views/box", "views/flip"} <= backend._direct
    array = zarr.open_array(store.path / "views/box", mode="r")
    assert np.array_equal(backend.read("views/box", slice(8, 16), slice(4, 7)), array[8:16, 4:7])
    (store.path / "views/box/c/1/0/0").unlink()
    assert (backend.read("views/box", slice(8, 16), slice(0, 4)) == -1).all()


def test_a_run_over_two_blocks_is_left_to_zarr(store):
    array = zarr.open_array(store.path / "labels/classes", mode="r")
    found = open_backend(store).read("labels/classes", slice(4, 12), slice(0, 7))
    assert np.array_equal(found, array[4:12])


def test_damage_is_an_error_wherever_it_is(store):
    backend = open_backend(store)
    file = store.path / "labels/classes/c/0/0/0"
    whole = file.read_bytes()
    shape, dtype = backend._arrays["labels/classes"].chunks, np.dtype("<u2")
    for place in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[place] ^= 4
        file.write_bytes(broken)
        failed = 0
        for group in range(2):
            try:
                read_chunks(file, [group], 2, shape, dtype, 0)
            except ValueError:
                failed += 1
        assert failed, place
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(CorruptError, match="cannot be read at images 0 to 7, views 0 to 3"):
            backend.read("labels/classes", slice(0, 8), slice(0, 4))


def test_other_codecs_are_left_to_zarr(tmp_path):
    array = zarr.create_array(
        tmp_path / "a", shape=(8, 8), shards=(8, 8), chunks=(8, 4), dtype="u1", compressors=None
    )
    assert not is_direct(array)
    array = zarr.create_array(
        tmp_path / "b",
        shape=(8, 8),
        shards=(8, 8),
        chunks=(8, 4),
        dtype="u1",
        compressors=(ZstdCodec(),),
    )
    assert not is_direct(array)
    assert not is_direct(zarr.create_array(tmp_path / "c", shape=(8,), dtype="u1"))
