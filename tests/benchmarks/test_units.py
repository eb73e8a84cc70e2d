"""The unit files that the benchmark of units reads: the store's labels, or an error."""

import numpy as np
import pytest

import labelstore
from benchmarks.support.measuring import synthetic_labels
from benchmarks.support.unit_files import UnitReader, write_unit_files

IMAGES, VIEWS = 41, 14


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Blocks, groups and units that do not come out even."""
    ids, probs = synthetic_labels(IMAGES, VIEWS, 3, 1000)
    path = tmp_path_factory.mktemp("units") / "store.zarr"
    return labelstore.write(path, ids, probs, num_classes=1000, block_images=18, group_views=4)


def test_labels_are_the_stores(store, tmp_path):
    commits = write_unit_files(tmp_path / "units", store, 4)
    reader = UnitReader(tmp_path / "units", store.manifest, 4, commits)
    rng = np.random.default_rng(0)
    images, views = rng.integers(0, IMAGES, 500), rng.integers(0, VIEWS, 500)
    codes = reader.gather(images, views)
    for name, values in store._reader.gather(images, views).items():
        np.testing.assert_array_equal(codes[name], values)
    places = [(block, group) for block in range(3) for group in range(4)]
    every, ends = reader.codes(places)
    for start, end, expected in zip(
        [0, *ends[:-1]], ends, store._reader.read_chunks(places), strict=True
    ):
        for name, values in expected.items():
            np.testing.assert_array_equal(
                every[name][start:end], values.reshape(end - start, *values.shape[2:])
            )
    reader.check_units(places, every)
    first, _ = reader.codes(places, "labels/top_prob")
    assert list(first) == ["labels/top_prob"]
    np.testing.assert_array_equal(first["labels/top_prob"], every["labels/top_prob"])
    reader.close()


def test_no_changed_byte_is_read_as_a_label(store, tmp_path):
    commits = write_unit_files(tmp_path / "units", store, 4)
    whole = (tmp_path / "units" / "0").read_bytes()
    images, views = (part.ravel() for part in np.indices((18, VIEWS)))
    expected = store._reader.gather(images, views)
    errors = 0
    for place in range(0, len(whole), len(whole) // 60):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        (tmp_path / "units" / "0").write_bytes(data)
        reader = UnitReader(tmp_path / "units", store.manifest, 4, commits)
        try:
            codes = reader.gather(images, views)
        except (SystemExit, ValueError):
            errors += 1
            continue
        finally:
            reader.close()
        # Bits that fill up a unit's last byte say nothing.
        for name, values in expected.items():
            np.testing.assert_array_equal(codes[name], values)
    assert errors > 50
