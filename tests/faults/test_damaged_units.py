"""Damage of labels in units: whatever happens to their bytes, each way of reading gives what was
committed or an error, and what a killed writer left is gone on with."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

import labelstore
from labelstore.errors import CorruptError, LabelStoreError
from labelstore.testing.faults import trip
from tests.support.killed import check_resumes, die_at
from tests.support.stores import files_of, in_units, make_planned, once, said_of_labels, written

SETTINGS = {"images": 6, "views": 5, "classes": 12, "k": 2, "prior_size": 4}
OBJECT = "labels/units/c/0"


def store_of(path, **options):
    """A small store: blocks of 3 images, units of 2, groups of 2 views; the last ones smaller."""
    sizes = {"block_images": 3, "group_views": 2, "unit_images": 2}
    return once(make_planned)(path, **SETTINGS, **sizes, **options)[0]


def ways(store):
    """What each way of reading a store says; None where it is an error."""
    images, views = np.arange(store.num_images), np.arange(store.num_views)

    def at_random():
        read = store.read(images[:, None], views)
        return read.indices.tobytes() + read.probs.tobytes()

    def by_groups():
        chunks = store.reader.read_chunks([(b, g) for b in range(2) for g in range(3)])
        return b"".join(part.tobytes() for codes in chunks for part in codes.values())

    def by_blocks():
        blocks = [store.block_codes(block)[2] for block in range(2)]
        return b"".join(part.tobytes() for codes in blocks for part in codes.values())

    def whole():
        return b"".join(b"wrong" for block in range(2) if store.check_block(block))

    said = []
    for way in (at_random, by_groups, by_blocks, store.confidence, whole):
        try:
            said.append(np.asarray(way()).tobytes())
        except LabelStoreError:
            said.append(None)
    return said


def check_damage(path, places, changed):
    """Change bytes of a block's object in turn; nothing that is read may be another."""
    file = path / OBJECT
    expected = ways(labelstore.open(path))
    assert None not in expected
    whole = file.read_bytes()
    noticed = 0
    for place in places(len(whole)):
        file.write_bytes(changed(whole, place))
        # Manifest and commits are as they were: opened once a byte, a store takes most of the time.
        found = ways(labelstore.open(path))
        for said, right in zip(found[:-1], expected, strict=False):
            assert said in (None, right), f"byte {place}"
        # Who verifies a store learns of all that any reading would stumble over.
        assert found[-1] != expected[-1] or None not in found[:-1], f"byte {place}"
        noticed += found[-1] != expected[-1]
    file.write_bytes(whole)
    return noticed


def flipped(whole, place):
    broken = bytearray(whole)
    broken[place] ^= 1 << place % 8
    return bytes(broken)


def test_every_third_byte_flipped(tmp_path):
    store = store_of(tmp_path / "u.zarr")
    size = (tmp_path / "u.zarr" / OBJECT).stat().st_size
    assert check_damage(store.path, lambda size: range(0, size, 3), flipped) > size // 3 * 0.9


@pytest.mark.slow
@pytest.mark.parametrize("mask", [1, 0x80, 0xFF])
def test_every_byte_changed(tmp_path, mask):
    store = store_of(tmp_path / "u.zarr")

    def changed(whole, place):
        return whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]

    check_damage(store.path, range, changed)


def test_cut_and_lengthened(tmp_path):
    store = store_of(tmp_path / "u.zarr")
    places = check_damage(
        store.path, lambda size: range(0, size, 7), lambda whole, place: whole[:place]
    )
    assert places > 10
    assert check_damage(
        store.path, lambda size: (0, 1, size // 2), lambda whole, place: whole[place:] + whole[:1]
    )
    (store.path / OBJECT).unlink()
    said = ways(labelstore.open(store.path))
    assert said[:4] == [None] * 4
    assert said[4] == b"wrong"
    with pytest.raises(CorruptError, match=r"labels/units .*is not there"):
        labelstore.open(store.path).read(0, 0)


def test_exchanged(tmp_path):
    """Objects of another block, of another store, and units that changed places."""
    store = store_of(tmp_path / "u.zarr")
    file = store.path / OBJECT
    whole = file.read_bytes()
    expected = ways(store)
    other, _, _ = written(tmp_path / "c.zarr", 6, 5, 2, 12, block_images=3, group_views=2)
    in_units(other, tmp_path / "o.zarr", 2)
    for source in (store.path / "labels/units/c/1", tmp_path / "o.zarr" / OBJECT):
        shutil.copy(source, file)
        said = ways(labelstore.open(store.path))
        assert said[:4] == [None] * 4
        assert said[4] == b"wrong"
    # Rows of two groups, and entries of two units in a row: 2 units, so 3 numbers a row.
    index = np.frombuffer(whole[-3 * 3 * 8 :], "<u8").reshape(3, 3)
    for change in (index[[1, 0, 2]], index[:, [0, 2, 1]]):
        file.write_bytes(whole[: -index.nbytes] + np.ascontiguousarray(change).tobytes())
        said = ways(labelstore.open(store.path))
        assert said[0] is None
        assert said[4] == b"wrong"
        assert all(part in (None, right) for part, right in zip(said[:4], expected, strict=False))


def test_other_commit_rows(tmp_path):
    store = store_of(tmp_path / "u.zarr")
    file = store.path / "commits/c/0/0"
    whole = file.read_bytes()
    expected = ways(store)
    for place in range(0, len(whole), 5):
        file.write_bytes(flipped(whole, place))
        try:
            said = ways(labelstore.open(store.path))
        except LabelStoreError:
            continue
        assert all(part in (None, right) for part, right in zip(said[:4], expected, strict=False))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("fault", ["die-before", pytest.param("die-after", marks=pytest.mark.slow)])
def test_killed_while_writing(tmp_path, fault):
    options = {**SETTINGS, "block_images": 3, "group_views": 2, "unit_images": 2}
    with trip() as steps:
        make_planned(tmp_path / "whole.zarr", **options)
    expected = files_of(tmp_path / "whole.zarr")
    deaths = 0
    for step in range(steps.taken - 2, 1, -19):
        path = tmp_path / f"{step}.zarr"
        deaths += die_at(step, fault, make_planned, path, **options)
        check_resumes(path, expected, **options)
    assert deaths > 1


def test_said_is_what_is_compared(tmp_path):
    assert said_of_labels(store_of(tmp_path / "a.zarr")) == said_of_labels(
        once(make_planned)(tmp_path / "c.zarr", **SETTINGS, block_images=3, group_views=2)[0]
    )
