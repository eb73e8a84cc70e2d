"""Blocks that are copied as a whole keep the objects that they have; others are encoded anew."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numcodecs import blosc

import labelstore
from labelstore.errors import CorruptError
from labelstore.format.blocks import StoredArray, StoredObject
from labelstore.operations.lifecycle.copy import copy
from labelstore.operations.lifecycle.parts import join_parts
from labelstore.operations.lifecycle.subset import ViewChoice, subset
from labelstore.operations.recode import recode
from labelstore.operations.verify import verify
from labelstore.store.backends.zarr.metadata import ArrayLayout
from labelstore.store.backends.zarr.shard_writing import BlockEncoder
from tests.support.shards import SHARDS, chunks_of, turned_round
from tests.support.stores import files_of, written


def blocks_of(path):
    return {
        name: data
        for name, data in files_of(path).items()
        if name.startswith(("labels/", "views/"))
    }


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.zarr"
    written(path, 10, block_images=4, group_views=2, prior_size=4)
    turned_round(path)
    return labelstore.open(path)


def test_copies_have_the_objects_of_their_source(source, tmp_path):
    copy(source, tmp_path / "copy.zarr")
    assert files_of(tmp_path / "copy.zarr") == files_of(source.path)


def test_other_ground_truth_leaves_labels_as_they_lie(source, tmp_path):
    recode(source, tmp_path / "none.zarr", targets=np.full(10, -1))
    assert blocks_of(tmp_path / "none.zarr") == blocks_of(source.path)
    assert verify(tmp_path / "none.zarr").whole
    other = labelstore.open(tmp_path / "none.zarr")
    assert (other.targets == -1).all()
    images, views = np.arange(10)[:, None], np.arange(source.num_views)
    assert np.array_equal(other.read(images, views).indices, source.read(images, views).indices)


def test_the_first_blocks_are_taken_whole_and_others_encoded(source, tmp_path):
    subset(source, tmp_path / "first.zarr", images=np.arange(8))
    before, after = blocks_of(source.path), blocks_of(tmp_path / "first.zarr")
    objects = {name for name in after if not name.endswith("zarr.json")}
    assert {name for name in objects if after[name] == before[name]} == objects
    subset(source, tmp_path / "moved.zarr", images=np.arange(1, 10))
    moved = labelstore.open(tmp_path / "moved.zarr")
    assert verify(moved).whole
    images, views = np.arange(9)[:, None], np.arange(source.num_views)
    assert np.array_equal(moved.read(images, views).probs, source.read(images + 1, views).probs)


@pytest.mark.parametrize("views", [4, 3, 1])
def test_the_first_views_keep_their_groups(source, tmp_path, views):
    subset(source, tmp_path / "few.zarr", views=range(views))
    assert verify(tmp_path / "few.zarr").whole
    before, after = chunks_of(source.path), chunks_of(tmp_path / "few.zarr")
    assert before.keys() == after.keys()
    whole = views // source.manifest.group_views
    for name, chunks in after.items():
        assert chunks[:whole] == before[name][:whole]
        # The group that is cut has no code of a view that is not there.
        assert all(chunk != before[name][whole] for chunk in chunks[whole:])
    images, few = np.arange(10)[:, None], np.arange(views)
    new = labelstore.open(tmp_path / "few.zarr")
    assert np.array_equal(new.read(images, few).probs, source.read(images, few).probs)


def test_whole_blocks_of_a_part_come_first_where_any_order_will_do(source, tmp_path):
    # All images but the second and the last: of three blocks the middle one is whole.
    rows = [0, 2, 3, 4, 5, 6, 7, 8]
    subset(source, tmp_path / "few.zarr", images=rows, views=range(4), any_order=True)
    few = labelstore.open(tmp_path / "few.zarr")
    order = [4, 5, 6, 7, 0, 2, 3, 8]
    assert verify(few).whole
    assert few.keys == tuple(source.keys[row] for row in order)
    assert few.targets.tolist() == source.targets[order].tolist()
    images, views = np.arange(8)[:, None], np.arange(4)
    expected = source.read(np.array(order)[:, None], views)
    assert np.array_equal(few.read(images, views).probs, expected.probs)
    before, after = chunks_of(source.path), chunks_of(few.path)
    for name in SHARDS:
        tail = "0/0" if name != "labels/top_prob" else "0"
        assert after[f"{name}/c/0/{tail}"] == before[f"{name}/c/1/{tail}"][:2]
    # Views of their own go along.
    own = tmp_path / "own.zarr"
    subset(source, own, images=rows, views=ViewChoice(2), any_order=True)
    subset(source, tmp_path / "as.zarr", images=rows, views=ViewChoice(2))
    one, other = labelstore.open(own), labelstore.open(tmp_path / "as.zarr")
    assert one.keys == few.keys
    for key in one.keys:
        assert np.array_equal(one.read(key, [0, 1]).probs, other.read(key, [0, 1]).probs)
        assert np.array_equal(one.views(key, [0, 1]).box, other.views(key, [0, 1]).box)


def test_bits_are_compared_and_not_numbers(tmp_path):
    # 0.0 and -0.0 are equal and have other digests; NaN is the same and not equal.
    codes = np.array([[0.5, 0.0, np.nan, np.nan]], dtype="<f4")
    layout = ArrayLayout(codes.dtype, (1, 4), (1, 2), (1, 4), float("nan"))
    encoder = BlockEncoder(layout, blosc.Blosc(cname="zstd", typesize=4))
    plain = BlockEncoder(layout, blosc.Blosc(cname="zstd", clevel=0, shuffle=2, typesize=4))
    stored = StoredArray(StoredObject(plain.encode(codes), (1, 2), 2, float("nan")), codes)
    assert encoder.encode(codes, stored) == plain.encode(codes) != encoder.encode(codes)
    negative = np.array([[0.5, -0.0, np.nan, np.nan]], dtype="<f4")
    assert encoder.encode(negative, stored) == encoder.encode(negative)
    # Where what is left out means something else, nothing is taken.
    other = dataclasses.replace(stored, object=dataclasses.replace(stored.object, fill=0.0))
    assert encoder.encode(codes, other) == encoder.encode(codes)


def test_parts_keep_their_objects_where_blocks_begin_at_the_same_images(tmp_path):
    for name, images in (("a", 8), ("b", 6)):
        keys = [f"{name}/{number}" for number in range(images)]
        written(
            tmp_path / f"{name}.zarr", images, keys=keys, block_images=4, group_views=2, seed=images
        )
        turned_round(tmp_path / f"{name}.zarr")
    join_parts([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "c.zarr")
    assert verify(tmp_path / "c.zarr").whole
    joined, second = blocks_of(tmp_path / "c.zarr"), blocks_of(tmp_path / "b.zarr")
    for name in SHARDS:
        tail = "0/0" if name != "labels/top_prob" else "0"
        for block in range(2):
            assert joined[f"{name}/c/{block + 2}/{tail}"] == second[f"{name}/c/{block}/{tail}"]


def test_whole_blocks_of_parts_come_first_where_any_order_will_do(tmp_path):
    parts = {}
    for name, images in (("a", 6), ("b", 9), ("c", 3)):
        keys = [f"{name}/{number}" for number in range(images)]
        path = tmp_path / f"{name}.zarr"
        written(path, images, keys=keys, block_images=4, group_views=2, seed=images)
        turned_round(path)
        parts[name] = labelstore.open(path)
    join_parts(list(parts.values()), tmp_path / "all.zarr", any_order=True)
    joined = labelstore.open(tmp_path / "all.zarr")
    assert verify(joined).whole
    whole = [*parts["a"].keys[:4], *parts["b"].keys[:8]]
    rest = [*parts["a"].keys[4:], *parts["b"].keys[8:], *parts["c"].keys]
    assert joined.keys == (*whole, *rest)
    for part in parts.values():
        images, views = np.arange(part.num_images)[:, None], np.arange(part.num_views)
        here = joined.positions(list(part.keys))
        assert np.array_equal(joined.targets[here], part.targets)
        one, other = part.read(images, views), joined.read(here[:, None], views)
        assert np.array_equal(one.indices, other.indices)
        assert np.array_equal(one.probs, other.probs)
    objects = {name: data for name, data in blocks_of(joined.path).items() if "/c/" in name}
    for block, (part, own) in enumerate([("a", 0), ("b", 0), ("b", 1)]):
        before = blocks_of(parts[part].path)
        for name, data in objects.items():
            array, place = name.split("/c/")
            number, *tail = place.split("/")
            if int(number) == block:
                assert data == before["/".join([f"{array}/c", str(own), *tail])]


def test_what_is_no_longer_what_was_committed_is_not_copied(source, tmp_path):
    shard = source.path / "labels/classes/c/1/0/0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptError, match="labels/classes"):
        copy(source, tmp_path / "copy.zarr")
    assert 1 in labelstore.open(tmp_path / "copy.zarr").missing_blocks()
