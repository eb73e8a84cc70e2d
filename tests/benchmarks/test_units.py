"""The benchmark of units: the stores that it reads have the labels of the one in chunks, or say
that they are damaged; and it runs."""

import argparse

import numpy as np
import pytest

import labelstore
from benchmarks.support.measuring import synthetic_labels
from benchmarks.units import in_units, measure
from labelstore.errors import LabelStoreError

IMAGES, VIEWS = 41, 14


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Blocks, groups and units that do not come out even."""
    ids, probs = synthetic_labels(IMAGES, VIEWS, 3, 1000)
    path = tmp_path_factory.mktemp("units") / "store.zarr"
    return labelstore.write(path, ids, probs, num_classes=1000, block_images=18, group_views=4)


def test_labels_are_the_stores(store, tmp_path):
    units = in_units(store, tmp_path / "units.zarr", 4)
    rng = np.random.default_rng(0)
    images, views = rng.integers(0, IMAGES, 500), rng.integers(0, VIEWS, 500)
    codes = units._reader.gather(images, views)
    for name, values in store._reader.gather(images, views).items():
        np.testing.assert_array_equal(codes[name], values)
    places = [(block, group) for block in range(3) for group in range(4)]
    every = units._reader._verified_chunks(places, units=True)
    for codes, expected in zip(every, store._reader.read_chunks(places), strict=True):
        for name, values in expected.items():
            np.testing.assert_array_equal(codes[name], values)
    planes = units._reader.top_probs_of(range(3))
    for plane, expected in zip(planes, store._reader.top_probs_of(range(3)), strict=True):
        np.testing.assert_array_equal(plane, expected)


def test_no_changed_byte_is_read_as_a_label(store, tmp_path):
    path = in_units(store, tmp_path / "units.zarr", 4).path
    file = path / "labels/units/c/0"
    whole = file.read_bytes()
    images, views = (part.ravel() for part in np.indices((18, VIEWS)))
    expected = store._reader.gather(images, views)
    errors = 0
    for place in range(0, len(whole), len(whole) // 60):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        file.write_bytes(data)
        try:
            codes = labelstore.open(path)._reader.gather(images, views)
        except LabelStoreError:
            errors += 1
            continue
        for name, values in expected.items():
            np.testing.assert_array_equal(codes[name], values)
    assert errors > 50


@pytest.mark.parametrize("cost", [False, True])
def test_it_runs(store, tmp_path, monkeypatch, cost):
    # It has one thread, as the other readers have.
    monkeypatch.setattr(type(store._reader), "threads", 1)
    options = argparse.Namespace(units=[4, 16], rounds=1, cost=cost)
    result = measure(store.path, tmp_path / "units", options)
    kinds = {"cold", "warm", "slab", "verify", "plane"}
    named = {f"units of {images}: {kind}" for images in (4, 16) for kind in kinds}
    assert named == set(result["times_of_chunks"])
    assert named <= set(result["ms"])
    assert ("fkd" in result["ms"]) is not cost
