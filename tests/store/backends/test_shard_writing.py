"""Objects of blocks that are put together here against those that zarr makes of the same codes."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore, StorePath

from labelstore.store.backends.zarr.arrays import ArrayGrid
from labelstore.store.backends.zarr.creation import create_array, group_document
from labelstore.store.backends.zarr.metadata import ArrayLayout
from labelstore.store.backends.zarr.shard_writing import BlockEncoder

RNG = np.random.default_rng(0)


def made(tmp_path, dtype, shape, chunks, shards, fill, level=5, name="a"):
    """An array, and its encoder."""
    store = LocalStore(tmp_path)
    axes = tuple(f"axis{number}" for number in range(len(shape)))
    create_array(store, name, dtype, ArrayGrid(shape, chunks, shards), axes, fill, level)
    array = zarr.open_array(store, path=name, mode="r+", zarr_format=3)
    kind = np.dtype(object if dtype == "str" else dtype)
    layout = ArrayLayout(kind, shape, chunks, shards, fill, name != "commits")
    return array, BlockEncoder.of(array.metadata.to_dict()["codecs"], layout)


def of_zarr(array, block, codes):
    """The object of a block as zarr makes it; None where it makes none."""
    objects = {}
    rows = (array.shards or array.chunks)[0]
    held = zarr.Array(zarr.AsyncArray(array.metadata, StorePath(MemoryStore(objects), array.path)))
    held[block * rows : block * rows + len(codes)] = codes
    (data,) = [*objects.values()] or [None]
    return None if data is None else bytes(data.to_bytes())


def random_codes(dtype, shape):
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RNG.random(shape).astype(kind)
    return RNG.integers(0, 200, shape).astype(kind)


@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<u4", "<f2", "<f4", "<i4"])
@pytest.mark.parametrize(("level", "rest"), [(1, ()), (5, (1,)), (9, (3,))])
def test_objects_are_those_of_zarr(tmp_path, dtype, level, rest):
    fill = float("nan") if np.dtype(dtype).kind == "f" else 201
    # The last block and the last group of views are cut off.
    shape, chunks, shards = (20, 7, *rest), (8, 4, *rest), (8, 8, *rest)
    array, encoder = made(tmp_path, dtype, shape, chunks, shards, fill, level)
    for block, images in ((0, 8), (1, 8), (2, 4)):
        codes = random_codes(dtype, (images, *shape[1:]))
        assert encoder.encode(codes) == of_zarr(array, block, codes)
        # A group of fill values alone has no chunk, and a block of them no object.
        codes[:, :4] = fill
        assert encoder.encode(codes) == of_zarr(array, block, codes)
        codes[...] = fill
        assert encoder.encode(codes) is None is of_zarr(array, block, codes)
        codes[0, 0] = 1
        assert encoder.encode(codes) == of_zarr(array, block, codes)


def test_a_shard_of_many_groups(tmp_path):
    array, encoder = made(tmp_path, "<u2", (30, 100, 2), (16, 4, 2), (16, 100, 2), 65535)
    codes = random_codes("<u2", (16, 100, 2))
    assert encoder.encode(codes) == of_zarr(array, 0, codes)
    # As labels come that were transposed.
    codes = np.asfortranarray(codes[:14])
    assert encoder.encode(codes) == of_zarr(array, 1, codes)


@pytest.mark.parametrize("shape", [(20,), (20, 2)])
def test_arrays_without_views(tmp_path, shape):
    array, encoder = made(tmp_path, "<i4", shape, (8, *shape[1:]), None, 0)
    for block, images in ((0, 8), (2, 4)):
        for codes in (random_codes("<i4", (images, *shape[1:])), np.zeros((images, *shape[1:]))):
            codes = codes.astype("<i4")
            assert encoder.encode(codes) == of_zarr(array, block, codes)


def test_commit_rows(tmp_path):
    array, encoder = made(tmp_path, "<u8", (3, 5), (1, 5), None, 0, name="commits")
    row = np.arange(5, dtype="<u8")[None]
    assert encoder.encode(row) == of_zarr(array, 1, row)
    assert encoder.encode(row * 0) is None


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("str", ["a.jpg", "", "\N{SNOWMAN}/\N{GRINNING FACE}.png", "x" * 300, "e"]),
        # What is as an array says that nothing was written is written all the same.
        ("<i4", [-2, 3, -1, 2**31 - 1, -2]),
    ],
)
@pytest.mark.parametrize("rows", [2, 5])
def test_tables_are_those_of_zarr(tmp_path, dtype, values, rows):
    fill = "" if dtype == "str" else -2
    _, encoder = made(tmp_path / "empty", dtype, (5,), (rows,), None, fill)
    grid = ArrayGrid((5,), (rows,), None)
    array = create_array(LocalStore(tmp_path), "a", dtype, grid, ("axis0",), fill)
    kind = np.dtypes.StringDType() if dtype == "str" else np.int32
    array[:] = np.array(values, dtype=kind)
    tables = list(encoder.table(np.array(values, dtype=object if dtype == "str" else np.int32)))
    assert tables == [(tmp_path / f"a/c/{row}").read_bytes() for row in range(-(-5 // rows))]


def test_a_groups_description_is_zarrs(tmp_path):
    attribute = {"one": [1, 2.5, None], "text": "\N{SNOWMAN}", "nested": {"a": True}}
    zarr.create_group(tmp_path, attributes={"labelstore": attribute})
    assert (tmp_path / "zarr.json").read_bytes() == group_document(attribute)
