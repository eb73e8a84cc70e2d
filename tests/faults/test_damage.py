"""Damage: whatever happens to a store's bytes, reading gives what was committed, or an error."""

from __future__ import annotations

import itertools
import shutil
import warnings

import numpy as np
import pytest

from labelstore.errors import LabelStoreError
from tests.support.stores import make_planned, once, read_everything, written

make_planned, written = once(make_planned), once(written)

SETTINGS = {"images": 6, "views": 5, "classes": 12, "k": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory, suffix):
    """A small store with everything that a store may have."""
    path = tmp_path_factory.mktemp("whole") / f"s.{suffix}"
    make_planned(path, **SETTINGS, prior_size=4, block_images=3, group_views=2)
    return path


def outcome(path, expected):
    """``error``, ``same`` or ``silent``."""
    try:
        with warnings.catch_warnings():
            # A flipped byte may make zarr warn before it fails; what counts is what is read.
            warnings.simplefilter("ignore")
            found = read_everything(path)
    except LabelStoreError:
        return "error"
    return "same" if found == expected else "silent"


def data_files(path):
    return [file for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock"]


def flips(path, step):
    """Flip one bit in every ``step``-th byte of all files, in turn; how each turned out."""
    expected = read_everything(path)
    counts = {"error": 0, "same": 0, "silent": 0}
    number = 0
    for file in data_files(path):
        whole = file.read_bytes()
        for place in range(len(whole)):
            number += 1
            if number % step:
                continue
            broken = bytearray(whole)
            broken[place] ^= 1 << (place % 8)
            file.write_bytes(broken)
            result = outcome(path, expected)
            assert result != "silent", f"{file.relative_to(path)} byte {place}"
            counts[result] += 1
        file.write_bytes(whole)
    assert read_everything(path) == expected
    return counts


def test_flipped_bits(store):
    counts = flips(store, step=83 if store.suffix == ".zarr" else 389)
    assert counts["error"] > 20


@pytest.mark.slow
def test_flipped_bits_in_every_byte(store, capsys):
    counts = flips(store, step=1)
    with capsys.disabled():
        print(f"\nflipped bits: {counts}")
    assert counts["silent"] == 0


def test_truncated_files(store):
    expected = read_everything(store)
    results = []
    for file in data_files(store):
        whole = file.read_bytes()
        for length in sorted({0, 1, len(whole) // 2, len(whole) - 1}):
            file.write_bytes(whole[:length])
            results.append(outcome(store, expected))
            assert results[-1] != "silent", f"{file.relative_to(store)} cut to {length}"
        file.write_bytes(whole)
    assert results.count("error") > 0.8 * len(results)


def test_deleted_files(store):
    expected = read_everything(store)
    for file in data_files(store):
        whole = file.read_bytes()
        file.unlink()
        result = outcome(store, expected)
        # The groups' own descriptions (images/zarr.json) hold nothing that is read.
        harmless = file.name == "zarr.json" and file.parent.name in ("images", "labels")
        assert result == ("same" if harmless else "error"), file.relative_to(store)
        file.write_bytes(whole)


def test_exchanged_blocks(store):
    expected = read_everything(store)
    arrays = {file.parent for file in store.rglob("zarr.json")} - {store}
    arrays |= {file.parent for file in store.rglob("000000.*")}
    exchanged = 0
    for array in arrays:
        chunks = [file for file in array.rglob("*") if file.is_file() and file.name != "zarr.json"]
        for one, two in itertools.combinations(sorted(chunks), 2):
            first, second = one.read_bytes(), two.read_bytes()
            one.write_bytes(second)
            two.write_bytes(first)
            result = outcome(store, expected)
            assert result == "error" or first == second, one.relative_to(store)
            one.write_bytes(first)
            two.write_bytes(second)
            exchanged += first != second
    assert exchanged >= (7 if store.suffix == ".zarr" else 3)


def test_blocks_of_another_store(store, tmp_path):
    expected = read_everything(store)
    other = tmp_path / f"other{store.suffix}"
    make_planned(
        other, **{**SETTINGS, "k": 2}, prior_size=4, block_images=3, group_views=2, temperature=2.0
    )
    for file in data_files(store):
        if file.name in ("zarr.json", "manifest.json"):
            continue
        whole = file.read_bytes()
        shutil.copy(other / file.relative_to(store), file)
        # The tables of keys and ground truth are the same in both stores; all else is of its own.
        wanted = "same" if file.read_bytes() == whole else "error"
        assert outcome(store, expected) == wanted, file.relative_to(store)
        file.write_bytes(whole)


def test_explicit_boxes_are_covered_too(tmp_path, suffix):
    boxes, flipped = np.arange(6 * 5 * 4).reshape(6, 5, 4), np.zeros((6, 5), dtype=bool)
    path = tmp_path / f"s.{suffix}"
    written(path, **SETTINGS, law=None, boxes=boxes, flips=flipped, block_images=3)
    expected = read_everything(path)
    folder = path / ("views" if suffix == "zarr" else "labels")
    chunks = [file for file in data_files(folder) if file.name != "zarr.json"]
    assert len(chunks) == (4 if suffix == "zarr" else 2)
    for chunk in chunks:
        whole = bytearray(chunk.read_bytes())
        whole[len(whole) // 3] ^= 4
        chunk.write_bytes(whole)
        assert outcome(path, expected) == "error"
        whole[len(whole) // 3] ^= 4
        chunk.write_bytes(whole)
