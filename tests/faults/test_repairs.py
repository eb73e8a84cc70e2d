"""A repair takes nothing away before it has what it puts in its place."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import labelstore
from labelstore.errors import LabelStoreError, MismatchError, SourceError, StoreError
from labelstore.format.settings import StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.recode import recode
from labelstore.operations.repair import repair
from labelstore.producer import probe
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.store.writer import Remake, StoreWriter
from labelstore.teachers.load import load_teacher
from labelstore.testing.faults import trip
from tests.support.killed import die_at
from tests.support.stores import files_of, make_planned, planned

SETTINGS = {"images": 9, "views": 4, "classes": 12, "k": 2, "prior_size": 4, "block_images": 3}
SETTINGS["group_views"] = 2


def readable(path):
    """The (image, view) pairs whose labels can be read."""
    store = labelstore.open(path)
    pairs = set()
    for image in range(store.num_images):
        for view in range(store.num_views):
            try:
                store.read(image, view)
            except LabelStoreError:
                continue
            pairs.add((image, view))
    return pairs


def damage(path, block):
    """Spoil a byte of one group's probabilities."""
    if path.suffix == ".zarr":
        (file,) = (path / "labels" / "top_prob" / "c" / str(block)).rglob("0")
        place = 6
    else:
        file = path / "labels" / f"{block:06}.parquet"
        chunk = pq.read_metadata(file).row_group(0).column(3)
        assert chunk.path_in_schema == "top_prob"
        place = chunk.data_page_offset + chunk.total_compressed_size // 2
    data = bytearray(file.read_bytes())
    data[place] ^= 255
    file.write_bytes(data)


@pytest.fixture(scope="module")
def teacher():
    return load_teacher("timm:test_resnet", checkpoint="none", device="cpu", size=32)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 48)).save(folder / f"{number:02}.jpg")
    return folder


def run(folder, path, teacher, **options):
    source = FolderSource(folder)
    recipe = LabelSettings(4, StoreSettings(k=2, block_images=3, group_views=2))
    targets = np.full(len(source), -1, dtype=np.int32)
    return generate(
        source, targets, teacher, path, recipe, options=RunOptions(batch_size=5, **options)
    )


def test_a_repair_that_cannot_be_done_takes_nothing_away(photos, tmp_path, teacher, suffix):
    path = tmp_path / f"s.{suffix}"
    run(photos, path, teacher)
    whole = files_of(path)
    damage(path, 0)
    before, damaged = readable(path), files_of(path)
    assert 12 <= len(before) < 24
    gone = (photos / "01.jpg").rename(tmp_path / "01.jpg")
    source = FolderSource(photos)
    source.keys = tuple(sorted({*source.keys, "01.jpg"}))
    with pytest.raises(SourceError, match=r"01.jpg .No such file"):
        repair(labelstore.open(path), source, teacher)
    assert readable(path) == before
    assert files_of(path) == damaged
    gone.rename(photos / "01.jpg")
    repair(labelstore.open(path), FolderSource(photos), teacher)
    assert files_of(path) == whole


def test_a_store_with_units_is_repaired(photos, tmp_path, teacher):
    run(photos, tmp_path / "c.zarr", teacher)
    path = tmp_path / "u.zarr"
    recode(tmp_path / "c.zarr", path, layout="units")
    whole = files_of(path)
    file = path / "labels/units/c/1"
    file.write_bytes(file.read_bytes()[:-9] + b"other one")
    assert len(readable(path)) < 24
    repair(labelstore.open(path), FolderSource(photos), teacher)
    assert files_of(path) == whole


def remake(path):
    manifest, keys, targets, data, _ = planned(**SETTINGS)
    with StoreWriter(path, manifest, keys, targets, remake=Remake(frozenset({1}))) as writer:
        for block in writer.pending_blocks():
            writer.write_block(block, data(block))


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory, suffix):
    """A store with a damaged block, its files before the damage, and the steps of mending it."""
    path = tmp_path_factory.mktemp("spoiled") / f"s.{suffix}"
    make_planned(path, **SETTINGS)
    whole = files_of(path)
    damage(path, 1)
    mended = path.with_name(f"mended.{suffix}")
    shutil.copytree(path, mended)
    with trip() as steps:
        remake(mended)
    assert files_of(mended) == whole
    return path, whole, steps.taken


def check_after(path, before, whole):
    """Only labels of the damaged block may be missing, and then all of it; returns whether."""
    after = readable(path)
    lost = before - after
    missing = labelstore.open(path).missing_blocks()
    assert missing in ([], [1])
    assert {image // 3 for image, _ in lost} <= ({1} if missing else set())
    remake(path)
    assert files_of(path) == whole
    return bool(missing)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("fault", "every"),
    [
        ("die-before", 11),
        # It leaves what to die before the next step leaves.
        ("die-after", 33),
        pytest.param("die-before", 1, marks=pytest.mark.slow),
        pytest.param("die-after", 1, marks=pytest.mark.slow),
    ],
)
def test_killed_at_steps_of_a_repair(spoiled, tmp_path, every, fault):
    path, whole, steps = spoiled
    before, died, missing = readable(path), 0, 0
    for step in range(1, steps + 1, every):
        copy = tmp_path / f"{step}{path.suffix}"
        shutil.copytree(path, copy)
        died += die_at(step, fault, remake, copy)
        missing += check_after(copy, before, whole)
        shutil.rmtree(copy)
    assert died == len(range(1, steps + 1, every))
    # The block is missing during the exchange alone.
    assert missing < 0.6 * died


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_full_disk_at_steps_of_a_repair(spoiled, tmp_path, every):
    path, whole, steps = spoiled
    before, refused, missing = readable(path), 0, 0
    for step in range(1, steps + 1, every):
        copy = tmp_path / f"{step}{path.suffix}"
        shutil.copytree(path, copy)
        with trip(step, "no-space"):
            try:
                remake(copy)
            except StoreError:
                refused += 1
        missing += check_after(copy, before, whole)
        shutil.rmtree(copy)
    assert refused > 0
    assert missing < 0.6 * refused


def test_skipped_photos_are_labelled_later(photos, tmp_path, teacher, suffix):
    path, kept = tmp_path / f"s.{suffix}", {}
    for name in ("01.jpg", "04.jpg"):
        kept[name] = (photos / name).read_bytes()
        (photos / name).write_bytes(kept[name][:-200])
    assert list(run(photos, path, teacher, on_error="skip").unreadable) == ["01.jpg", "04.jpg"]
    old = labelstore.open(path)
    labels = old.read([[0], [2], [3], [5]], np.arange(4))
    before = files_of(path)
    # Nothing can be decoded that could not before: nothing is made.
    found, made = repair(old, FolderSource(photos), teacher, skipped=True)
    assert (found.whole, made, files_of(path)) == (True, None, before)
    (photos / "01.jpg").write_bytes(kept["01.jpg"])
    _, made = repair(labelstore.open(path), FolderSource(photos), teacher, skipped=True)
    assert (made.blocks_made, list(made.unreadable)) == (1, ["04.jpg"])
    (photos / "04.jpg").write_bytes(kept["04.jpg"])
    _, made = repair(labelstore.open(path), FolderSource(photos), teacher, skipped=True)
    assert (made.blocks_made, dict(made.unreadable)) == (1, {})
    store = labelstore.open(path)
    again = store.read([[0], [2], [3], [5]], np.arange(4))
    assert np.array_equal(again.indices, labels.indices)
    assert np.array_equal(again.probs, labels.probs)
    # What was skipped is what a run over whole photos says.
    run(photos, tmp_path / f"all.{suffix}", teacher)
    expected = labelstore.open(tmp_path / f"all.{suffix}").read([[1], [4]], np.arange(4))
    made_later = store.read([[1], [4]], np.arange(4))
    np.testing.assert_allclose(made_later.confidence, expected.confidence, atol=0.006)
    assert store.labelled().all()


def test_other_photos_or_labels_are_told_when_skipped_ones_are_made(
    photos, tmp_path, teacher, monkeypatch
):
    # Of so few photos all would be compared before anything is made.
    monkeypatch.setattr(probe, "CHECKED_PHOTOS", 1)
    path = tmp_path / "s.zarr"
    whole = (photos / "01.jpg").read_bytes()
    (photos / "01.jpg").write_bytes(whole[:-200])
    run(photos, path, teacher, on_error="skip")
    (photos / "01.jpg").write_bytes(whole)
    before = files_of(path)
    second = (photos / "02.jpg").read_bytes()
    # The same pixels, which no probe tells apart, in another file.
    (photos / "02.jpg").write_bytes(second + b"\0")
    with pytest.raises(MismatchError, match=r"02.jpg' is another file.*stays as it was"):
        repair(labelstore.open(path), FolderSource(photos), teacher, skipped=True)
    (photos / "02.jpg").write_bytes(second)
    assert files_of(path) == before
    repair(labelstore.open(path), FolderSource(photos), teacher, skipped=True)
    assert labelstore.open(path).labelled().all()
