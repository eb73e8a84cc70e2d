"""Stores whose labels lie in units: what they say is what the same labels say in chunks, however
they are read and whatever is made of them."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, strategies as st

import labelstore
from labelstore.errors import CorruptError, LabelStoreError, MismatchError, UsageError
from labelstore.format.blocks import BlockCodes
from labelstore.format.manifest import Manifest
from labelstore.format.units import unit_code, unit_digests
from labelstore.format.versions import VERSION_2
from labelstore.operations.lifecycle.copy import copy
from labelstore.operations.lifecycle.gc import gc
from labelstore.operations.lifecycle.subset import subset
from labelstore.operations.materialize import materialize
from labelstore.operations.merge import merge
from labelstore.operations.recode import recode
from labelstore.operations.verify import verify
from labelstore.store.chunks.disk_cache import VARIABLE
from labelstore.store.reissue import reissued
from labelstore.store.writer import StoreWriter
from labelstore.testing.network import FileServer
from tests.support.examples import examples
from tests.support.stores import (
    files_of,
    in_units,
    make_planned,
    once,
    planned,
    said_of_labels,
    written,
)

BOXES = {
    "law": None,
    "boxes": np.arange(20 * 7 * 4).reshape(20, 7, 4),
    "flips": np.arange(140).reshape(20, 7) % 3 == 1,
}

KINDS = {
    "lists": lambda path: once(make_planned)(path, views=7)[0],
    "lists, top 1": lambda path: once(make_planned)(path, views=7, k=1)[0],
    "few classes": lambda path: once(written)(path, views=7, group_views=4, quantizer="u8")[0],
    "class ids": lambda path: once(written)(path, views=5, classes=1000, quantizer="u16")[0],
    "fp16": lambda path: once(written)(path, views=7, group_views=3, quantizer="fp16")[0],
    "fp32": lambda path: once(written)(path, views=3, classes=300, quantizer="fp32")[0],
    "boxes": lambda path: written(path, views=7, group_views=4, **BOXES)[0],
    "many classes": lambda path: labelstore.write(
        path, np.arange(12).reshape(3, 2, 2) * 9000, np.full((3, 2, 2), 0.4), 100_000
    ),
}


@pytest.fixture(params=list(KINDS))
def chunks(request, tmp_path):
    """A store with chunks of some kind of labels; 20 images, as a rule, in blocks of 8."""
    return KINDS[request.param](tmp_path / "chunks.zarr")


def test_all_that_is_read_is_the_same(chunks, tmp_path):
    # Units of 3 of 8 images: the last of a block has 2, and the last block has 4.
    units = in_units(chunks, tmp_path / "units.zarr", 3)
    assert said_of_labels(units) == said_of_labels(chunks)
    again = labelstore.open(units.path)
    one, other = again.read(1, 1), chunks.read(1, 1)
    for _ in range(2):  # from the store, then from what is kept
        one = again.read(1, 1)
        assert np.array_equal(one.indices, other.indices)
        assert np.array_equal(one.probs, other.probs)
    for block in range(units.manifest.num_blocks):
        for theirs, ours in zip(chunks.block_codes(block), units.block_codes(block), strict=True):
            assert theirs.keys() == ours.keys()
            assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)
    assert verify(units).whole


def test_there_and_back_is_the_same_to_the_last_byte(chunks, tmp_path):
    report = recode(chunks, tmp_path / "units.zarr", layout="units")
    assert report.changed == ()
    units = labelstore.open(tmp_path / "units.zarr")
    assert units.manifest.label_layout == "units"
    assert units.manifest.format_version == VERSION_2
    assert units.bytes_by_part()["labels/units"] > 0
    recode(units, tmp_path / "same.zarr")
    assert files_of(tmp_path / "same.zarr") == files_of(units.path)
    recode(units, tmp_path / "back.zarr", layout="chunks")
    assert files_of(tmp_path / "back.zarr") == files_of(chunks.path)


def test_written_so_from_arrays(tmp_path):
    arrays = np.arange(90).reshape(10, 3, 3), np.full((10, 3, 3), 0.3), 90
    options = {"block_images": 4, "group_views": 2}
    units = labelstore.write(tmp_path / "u.zarr", *arrays, **options, layout="units")
    chunks = labelstore.write(tmp_path / "c.zarr", *arrays, **options)
    recode(chunks, tmp_path / "same.zarr", layout="units")
    assert files_of(tmp_path / "same.zarr") == files_of(units.path)
    labelstore.write(tmp_path / "u.zarr", *arrays, **options, layout="units")
    with pytest.raises(MismatchError, match=r"layout\.unit_images"):
        labelstore.write(tmp_path / "u.zarr", *arrays, **options)
    with pytest.raises(UsageError, match=r"\.parquet"):
        labelstore.write(tmp_path / "p.parquet", *arrays, layout="units")
    recode(chunks, tmp_path / "c.parquet")
    recode(tmp_path / "c.parquet", tmp_path / "again.zarr", layout="units", group_views=2)
    assert files_of(tmp_path / "again.zarr") == files_of(units.path)


def test_without_the_compiled_parts(chunks, tmp_path, monkeypatch):
    units = in_units(chunks, tmp_path / "units.zarr", 3)
    monkeypatch.setattr(unit_code, "_compiled", lambda: None)
    monkeypatch.setattr(unit_digests, "_compiled", lambda: None)
    assert said_of_labels(units) == said_of_labels(chunks)
    same = in_units(chunks, tmp_path / "same.zarr", 3)
    assert files_of(same.path) == files_of(units.path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same labels in chunks and in units."""
    folder = tmp_path_factory.mktemp("pair")
    store, _, _ = written(folder / "c.zarr", images=50, views=11, group_views=4, block_images=20)
    return store, {u: in_units(store, folder / f"{u}.zarr", u).path for u in (1, 7, 64)}


@examples(10)
@given(st.data())
def test_random_reads_with_any_cache(pair, data):
    chunks, paths = pair
    path = paths[data.draw(st.sampled_from(sorted(paths)))]
    units = labelstore.open(path, cache_bytes=data.draw(st.sampled_from([0, 3000, 2**20])))
    for _ in range(3):
        count = data.draw(st.integers(0, 40))
        seed = data.draw(st.integers(0, 2**32 - 1))
        rng = np.random.default_rng(seed)
        images, views = rng.integers(0, 50, (2, count))
        views %= 11
        ours, theirs = units.read(images, views), chunks.read(images, views)
        assert np.array_equal(ours.indices, theirs.indices)
        assert np.array_equal(ours.probs, theirs.probs)
    assert units.reader.cached_bytes <= max(2**20, 3000)


def test_what_is_kept_is_not_read_again(pair):
    _, paths = pair
    units = labelstore.open(paths[7])
    asked = []
    read = units._backend.units.read

    def counted(wanted, *rest):
        asked.extend(wanted.numbers.tolist())
        return read(wanted, *rest)

    units._backend.units.read = counted
    for view in (0, 1, 2, 3, 0):
        units.read([3, 4, 30], view)
    # Images 3 and 4 are in one unit, 30 in another; all views are of one group.
    assert len(asked) == 2
    units.refresh()
    units.read(3, 0)
    assert len(asked) == 3


@pytest.fixture(scope="module")
def many_blocks(tmp_path_factory):
    """The same labels in chunks and in units, in more blocks than are open at a time."""
    folder = tmp_path_factory.mktemp("many")
    labels = np.arange(300 * 8).reshape(300, 4, 2), np.full((300, 4, 2), 0.4), 2400
    options = {"block_images": 1, "group_views": 2}
    chunks = labelstore.write(folder / "c.zarr", *labels, **options)
    return chunks, labelstore.write(folder / "u.zarr", *labels, **options, layout="units").path


@pytest.mark.parametrize("images", [range(300), range(3, 300, 7), [299, 0, 150]])
def test_a_batch_of_many_blocks(many_blocks, images):
    chunks, path = many_blocks
    rows, views = np.array(images)[:, None], np.array([1, 2])
    units = labelstore.open(path)
    assert np.array_equal(units.read(rows, views).indices, chunks.read(rows, views).indices)
    assert units.complete


def test_a_link_that_leaves_the_store_is_refused(many_blocks, tmp_path):
    _, path = many_blocks
    store = tmp_path / "u.zarr"
    for name in ("labels/units/c/7", "images/status/c/7", "commits/c/7/0", "commits/c/7"):
        shutil.copytree(path, store)
        moved = (store / name).rename(tmp_path / "moved")
        (store / name).symlink_to(moved)
        rows = np.arange(0, 100, 7)
        with pytest.raises(CorruptError, match="outside the store"):
            labelstore.open(store).read(rows, 0)
        # A link to what is in the store is followed.
        (store / name).unlink()
        (store / name).symlink_to(moved.rename(store / "moved"))
        assert labelstore.open(store).read(rows, 0).indices.shape == (15, 2)
        shutil.rmtree(store)


def test_damage_among_many_blocks_is_named(many_blocks, tmp_path):
    _, path = many_blocks
    store = tmp_path / "u.zarr"
    shutil.copytree(path, store)
    whole = (store / "labels/units/c/200").read_bytes()
    for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], whole[:-9] + whole[-8:]):
        (store / "labels/units/c/200").write_bytes(damaged)
        with pytest.raises(CorruptError, match=r"images 200 to 200"):
            labelstore.open(store).read(np.arange(300), 0)


def test_a_slab_is_that_of_chunks(pair):
    chunks, paths = pair
    with_slab = labelstore.open(paths[7], slab_bytes=2**20)
    slab = with_slab.slab(2)
    try:
        images, views = np.arange(50)[:, None], np.arange(8, 11)
        ours, theirs = with_slab.read(images, views), chunks.read(images, views)
        assert np.array_equal(ours.indices, theirs.indices)
    finally:
        slab.close()


def test_blocks_that_are_missing(tmp_path):
    units, _ = make_planned(tmp_path / "u.zarr", blocks=[0, 2], unit_images=3)
    assert units.missing_blocks() == [1]
    units.read([0, 19], 0)
    with pytest.raises(LabelStoreError, match="block 1"):
        units.read([0, 9], 0)


def test_images_that_could_not_be_read(tmp_path):
    manifest, keys, targets, data, _ = planned(unit_images=3)
    with StoreWriter(tmp_path / "u.zarr", manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            readable = np.arange(manifest.num_images)[manifest.block_slice(block)] % 5 != 1
            writer.write_block(block, dataclasses.replace(data(block), readable=readable))
    store = labelstore.open(tmp_path / "u.zarr")
    assert verify(store).unreadable_images == 4
    store.read([0, 2], 0)
    with pytest.raises(LabelStoreError, match="could not be decoded"):
        store.read([0, 1], 0)


def test_codes_that_are_no_labels_are_an_error_that_names_the_block(tmp_path):
    store, _, _ = written(tmp_path / "c.zarr", views=6, group_views=4, quantizer="u8")
    manifest = dataclasses.replace(store.manifest, unit_images=3)
    with StoreWriter(tmp_path / "u.zarr", manifest, store.keys, store.targets) as writer:
        for block in writer.pending_blocks():
            images, priors, views = store.block_codes(block)
            if block == 1:
                # Image 13, view 5: the same class twice.
                views["labels/classes"] = views["labels/classes"].copy()
                views["labels/classes"][5, 5] = 3
            writer.write_codes(block, BlockCodes(images, priors, views))
    units = labelstore.open(tmp_path / "u.zarr")
    units.read(13, 3)
    with pytest.raises(CorruptError, match=r"block 1 .*no label"):
        units.read([0, 13, 19], 5)
    assert [problem.block for problem in verify(units).problems] == [1]


def test_what_is_made_of_such_a_store(tmp_path):
    chunks, _ = make_planned(tmp_path / "c.zarr", images=12, views=6, block_images=5)
    units = in_units(chunks, tmp_path / "u.zarr", 2)
    wanted = [0, 3, 4, 9]
    made = {}
    for name, store in (("c", chunks), ("u", units)):
        folder = tmp_path / f"of-{name}"
        copy(store, folder / "copy.zarr")
        assert files_of(folder / "copy.zarr") == files_of(store.path)
        copy(store, folder / "pull.zarr", views=range(3))
        subset(store, folder / "subset.zarr", images=wanted)
        merge([store, store], folder / "merge.zarr")
        recode(store, folder / "k.zarr", k=2)
        recode(store, folder / "groups.zarr", group_views=2)
        recode(store, folder / "recode.parquet")
        materialize(store, folder / "copy")
        paths = sorted(folder.iterdir())
        assert {left.kind for left in gc([store.path]).leftovers} <= {"lock"}
        made[name] = {path.name: said_of_labels(labelstore.open(path)) for path in paths}
        assert all(verify(path).whole for path in paths)
    assert made["c"] == made["u"]
    layouts = {p.name: labelstore.open(p).manifest.label_layout for p in paths}
    assert layouts.pop("recode.parquet") == layouts.pop("copy") == "chunks"
    assert set(layouts.values()) == {"units"}


def test_under_another_manifest(pair):
    """As it is published: what its index holds is not taken over unseen."""
    _, paths = pair
    store = labelstore.open(paths[7])
    manifest = dataclasses.replace(store.manifest, producer={"made by": "another"})
    with reissued(store, manifest) as again:
        assert again.id != store.id
        assert said_of_labels(again) == said_of_labels(store)
        assert verify(again).whole


def test_chunks_of_units_behind_a_url_are_kept_in_a_folder(pair, tmp_path, monkeypatch):
    chunks, paths = pair
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    pytest.importorskip("obstore")
    with FileServer(paths[7].parent) as server:
        for _ in range(2):
            read = labelstore.open(f"{server.address}/{paths[7].name}").read([3, 40], [0, 10])
            assert np.array_equal(read.indices, chunks.read([3, 40], [0, 10]).indices)
    assert any((tmp_path / "cache").rglob("*"))


def test_manifests_with_units():
    store, *_ = planned(unit_images=3)
    document = json.loads(json.dumps(store.to_json()))
    assert document["layout"]["unit_images"] == 3
    assert Manifest.from_json(document, "here") == store
    chunks, *_ = planned()
    assert "unit_images" not in chunks.to_json()["layout"]
    assert chunks.format_version == 1
    for change in ({"unit_images": 0}, {"encoding": "plain"}):
        with pytest.raises(UsageError, match="unit"):
            dataclasses.replace(store, **change)
    # A manifest of version 1 has no units, and one of version 2 has something of that.
    for version, layout in ((1, document["layout"]), (VERSION_2, chunks.to_json()["layout"])):
        with pytest.raises(CorruptError, match="malformed"):
            Manifest.from_json({**document, "format_version": version, "layout": layout}, "here")


def test_units_are_not_for_parquet_nor_for_very_large_labels(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr")
    with pytest.raises(UsageError, match=r"\.parquet"):
        recode(store, tmp_path / "b.parquet", layout="units")
    classes = np.broadcast_to(np.arange(9000), (1, 1, 9000))
    large = labelstore.write(
        tmp_path / "l.zarr", classes, np.full(classes.shape, 1e-4), 9000, quantizer="fp32"
    )
    with pytest.raises(UsageError, match="too large for units"):
        recode(large, tmp_path / "u.zarr", layout="units")
    # No unit has more bytes than its entry has room for.
    wide, _, _ = written(
        tmp_path / "w.zarr", 2, 600, k=30, classes=1000, group_views=600, quantizer="fp32"
    )
    with pytest.raises(UsageError, match="bytes, expected at most 65,535"):
        recode(wide, tmp_path / "v.zarr", layout="units")
