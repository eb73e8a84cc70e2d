"""Materialized copies: every label the same, whole or absent, checked when first read."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import labelstore
from labelstore.errors import (
    BusyError,
    CorruptError,
    IncompleteError,
    MismatchError,
    NotFoundError,
    StoreError,
    UsageError,
)
from labelstore.operations.materialize import materialize, materialized_bytes
from labelstore.storage import local_files, locks
from labelstore.store.writer import StoreWriter
from tests.operations.test_recode import everything
from tests.support import commands
from tests.support.stores import files_of, make_planned, once, planned, written

make_planned, written = once(make_planned), once(written)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("quantizer", ["u8", "ratio32", "fp16"])
def test_every_label_is_the_same(tmp_path, suffix, quantizer, k):
    store, _ = make_planned(tmp_path / f"s.{suffix}", quantizer=quantizer, k=k)
    report = materialize(store, tmp_path / "copy")
    copy = labelstore.open(tmp_path / "copy")
    assert everything(copy) == everything(store)
    assert copy.complete
    assert copy.manifest.group_views == store.manifest.group_views
    # What is foretold is what it takes, but for the headers, the keys and the description.
    size = sum(file.stat().st_size for file in (tmp_path / "copy").rglob("*") if file.is_file())
    assert report.bytes == size
    assert abs(size - materialized_bytes(store)) < 8000
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy", f"s.{suffix}"]
    assert all(copy.check_block(block) == [] for block in range(copy.manifest.num_blocks))


@pytest.mark.parametrize("classes", [30, 70_000])
def test_boxes_and_unreadable_images(tmp_path, suffix, classes):
    rng = np.random.default_rng(0)
    boxes, flips = rng.integers(1, 30, (20, 6, 4)), rng.random((20, 6)) < 0.5
    store, _, _ = written(tmp_path / f"a.{suffix}", law=None, boxes=boxes, flips=flips)
    materialize(store, tmp_path / "a")
    assert everything(labelstore.open(tmp_path / "a")) == everything(store)

    manifest, keys, targets, data, _ = planned()
    # Of many classes ids are wider, and so is the code of none.
    manifest = dataclasses.replace(manifest, num_classes=classes)
    with StoreWriter(tmp_path / f"b.{suffix}", manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            block_data = vars(data(block))
            readable = np.arange(len(block_data["indices"])) != 2
            writer.write_block(block, type(data(0))(**{**block_data, "readable": readable}))
    store = labelstore.open(tmp_path / f"b.{suffix}")
    materialize(store, tmp_path / "b")
    copy = labelstore.open(tmp_path / "b")
    assert everything(copy) == everything(store)
    assert copy.unreadable() == store.unreadable() == ["c/002.jpg", "c/010.jpg", "c/018.jpg"]
    with pytest.raises(NotFoundError, match="could not be decoded"):
        copy.read(10, 0)


def test_plain_numpy_reads_it(tmp_path):
    store, indices, _ = written(tmp_path / "s.zarr")
    materialize(store, tmp_path / "copy")
    classes = np.load(tmp_path / "copy/labels/classes.npy", mmap_mode="r")
    assert np.array_equal(classes, indices)
    assert np.array_equal(np.load(tmp_path / "copy/labels/top_prob.npy"), store.confidence())


def test_given_again_it_does_nothing_and_another_source_is_refused(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr")
    materialize(store, tmp_path / "copy")
    before = files_of(tmp_path / "copy")
    assert materialize(store, tmp_path / "copy").already_there
    other, _, _ = written(tmp_path / "other.zarr", seed=3)
    with pytest.raises(MismatchError, match="copy of another store"):
        materialize(other, tmp_path / "copy")
    # The same store, a block of it made again with other labels.
    manifest, keys, targets, data, _ = planned()
    store._backend.open_for_writing(manifest)
    store._backend.withdraw_commit(1)
    with pytest.raises(IncompleteError):
        materialize(labelstore.open(store.path), tmp_path / "copy")
    with StoreWriter(store.path, manifest, keys, targets) as writer:
        block = vars(data(1))
        writer.write_block(1, type(data(1))(**{**block, "probs": block["probs"] * 0.5}))
    changed = labelstore.open(store.path)
    with pytest.raises(MismatchError, match="labels that this store had before"):
        materialize(changed, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == before
    materialize(changed, tmp_path / "copy", overwrite=True)
    assert everything(labelstore.open(tmp_path / "copy")) == everything(changed)


def test_nothing_else_is_ever_replaced(tmp_path):
    store, _, _ = written(tmp_path / "s.zarr")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="no materialized copy"):
            materialize(store, tmp_path / "mine", overwrite=overwrite)
        with pytest.raises(UsageError, match="no materialized copy"):
            materialize(store, store.path, overwrite=overwrite)
    assert (tmp_path / "mine/file").read_text() == "precious"
    materialize(store, tmp_path / "copy")
    with pytest.raises(UsageError, match="read only"):
        written(tmp_path / "copy", overwrite=True)
    assert labelstore.open(tmp_path / "copy").complete


def test_any_flipped_byte_is_an_error_or_changes_nothing(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr")
    materialize(store, tmp_path / "copy")
    expected = everything(labelstore.open(tmp_path / "copy"))
    refused = 0
    for file in sorted((tmp_path / "copy").rglob("*")):
        if not file.is_file():
            continue
        whole = file.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 20)):
            broken = bytearray(whole)
            broken[place] ^= 1 << place % 8
            file.write_bytes(broken)
            try:
                assert everything(labelstore.open(tmp_path / "copy")) == expected, (file, place)
            except StoreError:
                refused += 1
        file.write_bytes(whole[:-1])
        with pytest.raises(StoreError):
            everything(labelstore.open(tmp_path / "copy"))
        file.unlink()
        with pytest.raises(StoreError):
            everything(labelstore.open(tmp_path / "copy"))
        file.write_bytes(whole)
    assert refused > 130


@pytest.mark.parametrize("change", ["changed", "shorter", "gone", "replaced"])
def test_a_copy_that_changes_while_it_is_open(tmp_path, change):
    """Also where its labels were compared with their digests before."""
    store, _ = make_planned(tmp_path / "s.zarr")
    materialize(store, tmp_path / "copy")
    copy = labelstore.open(tmp_path / "copy")
    copy.read(np.arange(20)[:, None], np.arange(6))
    file = tmp_path / "copy/labels/rest_probs.npy"
    content = file.read_bytes()
    if change == "changed":
        with file.open("r+b") as opened:
            opened.seek(-1, os.SEEK_END)
            opened.write(bytes([content[-1] ^ 1]))
    elif change == "shorter":
        os.truncate(file, 100)
    else:
        file.unlink()
        if change == "replaced":
            file.write_bytes(content)
    with pytest.raises(CorruptError, match="while it was open"):
        copy.read(19, 5)


def test_a_damaged_source_makes_no_copy(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr")
    file = store.path / "labels/classes/c/1/0/0"
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    with pytest.raises(CorruptError):
        materialize(labelstore.open(store.path), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_no_room(tmp_path, monkeypatch):
    store, _ = make_planned(tmp_path / "s.zarr")
    monkeypatch.setattr("labelstore.storage.local_files.free_bytes", lambda path: 1000)
    with pytest.raises(StoreError, match="1,000 are free"):
        materialize(store, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


KILLED = """
import sys, time, labelstore
from labelstore.operations import materialize
from labelstore.storage import local_files as files
stage = sys.argv[3]
def stop(*arguments):
    print("now", flush=True)
    time.sleep(60)
if stage == "described":
    files.publish = stop
else:
    decode, calls = materialize.decode_labels, []
    def slow(*arguments):
        calls.append(1)
        return stop() if len(calls) == 3 else decode(*arguments)
    materialize.decode_labels = slow
materialize.materialize(labelstore.open(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("stage", ["written", "described"])
def test_killed_it_is_absent_and_the_next_run_makes_it(tmp_path, stage):
    store, _ = make_planned(tmp_path / "s.zarr")
    arguments = [str(store.path), str(tmp_path / "copy"), stage]
    command = [sys.executable, "-c", KILLED, *arguments]
    with commands.start(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "copy").exists()
    materialize(store, tmp_path / "copy")
    assert everything(labelstore.open(tmp_path / "copy")) == everything(store)
    assert sorted(os.listdir(tmp_path)) == ["copy", "s.zarr"]


def run(*arguments):
    return commands.run(
        [sys.executable, "-m", "labelstore", "materialize", *map(str, arguments)],
    )


def test_the_command(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr")
    done = run(store.path, tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert f"takes {materialized_bytes(store):,} bytes" in done.stderr
    assert "a label" in done.stderr
    again = run(store.path, tmp_path / "copy", "--json")
    assert json.loads(again.stdout)["already_there"] is True
    other, _, _ = written(tmp_path / "other.zarr", seed=3)
    refused = run(other.path, tmp_path / "copy", "--json")
    assert (refused.returncode, json.loads(refused.stdout)["error"]["kind"]) == (1, "mismatch")
    assert run(other.path, tmp_path / "copy", "--overwrite", "-q").returncode == 0
    assert everything(labelstore.open(tmp_path / "copy")) == everything(other)


def test_a_copy_that_lost_arrays_is_no_copy(tmp_path):
    store, _, _ = written(tmp_path / "s.zarr")
    materialize(store, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/labels")
    with pytest.raises(MismatchError, match="overwrite it"):
        materialize(store, tmp_path / "copy")
    assert not materialize(store, tmp_path / "copy", overwrite=True).already_there
    assert everything(labelstore.open(tmp_path / "copy")) == everything(store)


def test_a_url_is_no_place_for_a_copy(tmp_path, monkeypatch):
    store, _, _ = written(tmp_path / "s.zarr")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is a URL"):
        materialize(store, "s3://bucket/copy")
    materialize(store, f"file://{tmp_path}/copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "s.zarr"]


def test_one_that_is_about_to_be_named_is_left_alone(tmp_path, monkeypatch):
    store, _, _ = written(tmp_path / "s.zarr")
    publish, met = local_files.publish, []

    def another_comes(partial, path):
        # Two openings of a file exclude each other in one process as well.
        with pytest.raises(BusyError):
            materialize(store, tmp_path / "copy")
        met.append(path)
        publish(partial, path)

    monkeypatch.setattr(local_files, "publish", another_comes)
    materialize(store, tmp_path / "copy")
    assert met == [tmp_path / "copy"]
    assert everything(labelstore.open(tmp_path / "copy")) == everything(store)
    assert not (tmp_path / "copy" / locks.LOCK_NAME).exists()


def test_one_that_was_named_meanwhile_is_met(tmp_path, monkeypatch):
    store, _, _ = written(tmp_path / "s.zarr")
    flock, met = locks._flock, []

    def late(file, root, kind):
        # Between the opening of the lock's file and the lock, another process finishes.
        if not met:
            met.append(root)
            materialize(store, tmp_path / "copy")
        flock(file, root, kind)

    monkeypatch.setattr(locks, "_flock", late)
    assert materialize(store, tmp_path / "copy").already_there
    assert everything(labelstore.open(tmp_path / "copy")) == everything(store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "s.zarr"]
