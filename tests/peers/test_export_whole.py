"""An export is whole or absent: kills, full disks, damaged stores, and what is there already."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
import tracemalloc

import pytest

import labelstore
from labelstore.errors import BusyError, CorruptError, IncompleteError, StoreError, UsageError
from labelstore.operations.lifecycle.export import export
from labelstore.peers.exports.fkd import Fkd
from labelstore.peers.exports.hugging_face import HuggingFace
from labelstore.peers.exports.npz import Npz
from labelstore.peers.exports.webdataset import WebDataset
from labelstore.storage import locks
from labelstore.testing.faults import trip
from tests.support import commands
from tests.support.killed import die_at
from tests.support.stores import files_of, make_planned, once, written

FORMATS = [
    pytest.param(Fkd(), "out", id="fkd"),
    pytest.param(WebDataset(shard_bytes=20_000), "out", id="webdataset"),
    pytest.param(Npz(), "out.npz", id="npz"),
    pytest.param(HuggingFace(shard_bytes=1), "out", id="hf"),
]

EXPORT = [sys.executable, "-m", "labelstore", *["export", "s.zarr", "--to", "fkd", "-o", "out"]]

forks = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores of other labels."""
    folder = tmp_path_factory.mktemp("stores")
    first, _, _ = written(folder / "a.zarr", k=5)
    second, _, _ = written(folder / "b.zarr", k=5, seed=9)
    return first, second


def state_of(place):
    """A file, or the files of a folder; None where nothing is."""
    if place.is_file():
        return place.read_bytes()
    return files_of(place) if place.exists() else None


def steps_of(store, place, to):
    """How many steps on the file system an export takes."""
    export(store, place, to, overwrite=True)
    with trip() as steps:
        export(store, place, to, overwrite=True)
    return steps.taken


@pytest.mark.parametrize(
    ("to", "name", "fault"),
    [
        # A folder and a file are put in their place by other steps; two formats are each of them.
        pytest.param(
            *(*of.values, f"die-{when}"),
            id=f"{of.id}-{when}",
            marks=() if of.id in ("fkd", "npz") else pytest.mark.slow,
        )
        for when in ("before", "after")
        for of in FORMATS
    ],
)
def test_killed_at_steps_the_old_one_or_the_new_one_is_there(stores, tmp_path, to, name, fault):
    place, new = tmp_path / "place" / name, tmp_path / "new" / name
    taken = steps_of(stores[1], new, to)
    export(stores[0], place, to)
    old, fresh = state_of(place), state_of(new)
    assert old != fresh
    shutil.copytree(place.parent, tmp_path / "kept")
    deaths = 0
    # All of the last steps, in which the new one is put in its place. To die after a step leaves
    # what to die before the next one leaves.
    steps = [*range(1, taken - 10, max(taken // 4, 1)), *range(max(taken - 10, 1), taken + 1)]
    for step in steps if fault == "die-before" else steps[::4]:
        deaths += die_at(step, fault, export, stores[1], place, to, overwrite=True)
        there = state_of(place)
        if isinstance(there, dict):
            there.pop(locks.LOCK_NAME, None)
        assert there in (old, fresh)
        # The next one makes it, and leaves nothing of what was begun beside it.
        export(stores[1], place, to, overwrite=True)
        assert state_of(place) == fresh
        assert [entry.name for entry in place.parent.iterdir()] == [name]
        shutil.rmtree(place.parent)
        shutil.copytree(tmp_path / "kept", place.parent)
    assert deaths > (8 if fault == "die-before" else 1)


test_killed_at_steps_the_old_one_or_the_new_one_is_there.pytestmark += forks


@pytest.mark.parametrize(("to", "name"), FORMATS)
def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(stores, tmp_path, to, name):
    place = tmp_path / "place" / name
    taken = steps_of(stores[1], tmp_path / "new" / name, to)
    export(stores[0], place, to)
    old = state_of(place)
    refused = 0
    for step in range(2, taken - 12, max(taken // 10, 1)):
        with trip(step, "no-space"), contextlib.suppress(StoreError):
            export(stores[1], place, to, overwrite=True)
            continue
        refused += 1
        assert state_of(place) == old
        # Where not even a lock could be made, its folder may be left.
        left = [entry for entry in place.parent.rglob("*") if entry.is_file()]
        assert len(left) == (1 if place.is_file() else len(old)), left
    assert refused > 0


@pytest.mark.parametrize(("to", "name"), FORMATS)
def test_a_damaged_block_is_one_sentence_and_nothing_is_written(tmp_path, suffix, to, name):
    store, _ = make_planned(tmp_path / f"s.{suffix}", k=5)
    files = sorted(file for file in store.path.rglob("*") if file.is_file())
    # The last block's labels, so that most has been written when it is read.
    pattern = "labels/classes/c/2" if suffix == "zarr" else "labels/000002"
    damaged = next(file for file in files if pattern in file.as_posix())
    data = bytearray(damaged.read_bytes())
    data[len(data) // 3] ^= 0xFF
    damaged.write_bytes(data)
    with pytest.raises(CorruptError) as caught:
        export(labelstore.open(store.path), tmp_path / name, to)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [store.path.name]


def test_unfinished_stores_are_refused(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr", blocks=[0])
    with pytest.raises(IncompleteError):
        export(store, tmp_path / "out.npz", Npz())
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.parametrize(("to", "name"), FORMATS)
def test_only_an_export_of_its_format_is_replaced(stores, tmp_path, to, name):
    place = tmp_path / name
    if to.suffix:
        place.write_bytes(b"precious")
    else:
        (place / "mine").mkdir(parents=True)
        (place / "mine/file").write_text("precious")
    before = state_of(place)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is no export of the format"):
            export(stores[0], place, to, overwrite=overwrite)
    assert state_of(place) == before
    export(stores[0], tmp_path / f"new{to.suffix}", to)
    whole = state_of(tmp_path / f"new{to.suffix}")
    with pytest.raises(UsageError, match="is there already") as caught:
        export(stores[1], tmp_path / f"new{to.suffix}", to)
    assert caught.value.arguments == ("overwrite",)
    assert state_of(tmp_path / f"new{to.suffix}") == whole
    export(stores[1], tmp_path / f"new{to.suffix}", to, overwrite=True)
    assert state_of(tmp_path / f"new{to.suffix}") != whole


def test_places_where_nothing_can_be_written(stores, tmp_path):
    for place, to, words in (
        ("s3://bucket/out", Fkd(), "is a URL"),
        (tmp_path / "out", Npz(), r"does not end in \.npz"),
        (stores[0].path, Fkd(), "the store that is read"),
    ):
        with pytest.raises(UsageError, match=words):
            export(stores[0], place, to)
    assert labelstore.open(stores[0].path).complete


@pytest.mark.parametrize(("to", "name"), FORMATS)
def test_what_a_link_leads_to_is_replaced(stores, tmp_path, to, name):
    (tmp_path / "far").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "far" / name)
    export(stores[0], tmp_path / name, to)
    old = state_of(tmp_path / "far" / name)
    export(stores[1], tmp_path / name, to, overwrite=True)
    assert (tmp_path / name).is_symlink()
    assert state_of(tmp_path / "far" / name) not in (None, old)
    assert [entry.name for entry in (tmp_path / "far").iterdir()] == [name]


def test_two_at_once(stores, tmp_path):
    with locks.exclusive_lock(tmp_path / "out.partial"), pytest.raises(BusyError):
        export(stores[0], tmp_path / "out", Fkd())


@pytest.mark.parametrize(
    ("to", "name"),
    [
        pytest.param(*of.values, id=of.id, marks=pytest.mark.slow if of.id == "webdataset" else ())
        for of in FORMATS
    ],
)
def test_memory_does_not_grow_with_the_store(tmp_path, to, name):
    peaks = []
    for images in (64, 256):
        store, _, _ = written(
            tmp_path / f"{images}.zarr", images, 48, 5, block_images=8, group_views=48
        )
        # Not kept either: what reading has in memory is bounded already.
        store = labelstore.open(store.path, cache_bytes=0)
        if not peaks:
            export(store, tmp_path / f"warm{to.suffix}", to)
        peaks.append([])
        # A few blocks may be under way together, or not: of a few runs some are alike.
        for _ in range(3):
            tracemalloc.start()
            export(store, tmp_path / str(images) / name, to, overwrite=True)
            peaks[-1].append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    # Four times the labels: 0.5 MB more; keys and what is known of images grow.
    labels = 192 * 48 * (5 * 8 + 17)
    assert min(peaks[1]) - max(peaks[0]) < labels / 2, peaks


def test_what_a_killed_replacement_left_is_gone_or_back(stores, tmp_path):
    place, aside = tmp_path / "out", tmp_path / "out.replaced.partial"
    first = export(stores[0], place, Fkd())
    old = state_of(place)
    # Killed before it was deleted.
    shutil.copytree(place, aside)
    report = export(stores[1], place, Fkd(), overwrite=True)
    assert report.removed_files == first.files
    assert state_of(place) != old
    assert export(stores[1], place, Fkd(), overwrite=True).removed_files == 0
    # Killed before the new one had its place: the old one is all there is.
    place.rename(aside)
    old = state_of(aside)
    with pytest.raises(UsageError, match="overwrite"):
        export(stores[0], place, Fkd())
    assert state_of(place) == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@contextlib.contextmanager
def running(folder):
    """A command that exports to FKD's files, some of which are there."""
    once(written)(folder / "s.zarr", 4000, 20, 5, block_images=256)
    with (folder.parent / "log").open("w") as log:
        run = commands.start(EXPORT, cwd=folder, stderr=log.fileno())
        deadline = time.monotonic() + 60
        while not any((folder / "out.partial").rglob("*.tar")):
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.01)
        yield run


def test_a_killed_command_leaves_nothing_that_looks_whole(tmp_path):
    folder = tmp_path / "work"
    with running(folder) as run:
        run.kill()
        run.wait()
    assert not (folder / "out").exists()
    done = commands.run([*EXPORT, "--images", "c/00*"], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"removed \d+ files? that a killed export had left", done.stderr)
    assert sorted(entry.name for entry in folder.iterdir()) == ["out", "s.zarr"]
    assert len(list((folder / "out").rglob("*.tar"))) == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_cleans_up(tmp_path, number):
    folder = tmp_path / "work"
    with running(folder) as run:
        run.send_signal(number)
        assert run.wait() in (130, 143)
    assert [entry.name for entry in folder.iterdir()] == ["s.zarr"]
