"""Two writers of one store on an object store: one of them is refused, whoever begins when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import labelstore
from labelstore.errors import BusyError, LaunchWarning, StoreError
from labelstore.producer.run import StoreRun
from labelstore.storage.remote import leases
from labelstore.store.writer import Share, StoreWriter
from labelstore.testing.network import Proxy
from tests.support import commands
from tests.support.buckets import bucket_of, objects_of
from tests.support.stores import make_planned, planned, read_everything

ROOT = Path(__file__).parents[2]
SETTINGS = {"images": 12, "views": 4, "block_images": 4}
BACK_ENDS = ["zarr", pytest.param("parquet", marks=pytest.mark.slow)]
"""Of what leases do, which is the same for both."""


@pytest.fixture(autouse=True)
def short_leases(monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(leases, "SETTLING_SECONDS", 0.5)


def writer_of(url, share=None, **changes):
    manifest, keys, targets, data, _ = planned(**{**SETTINGS, **changes})
    return StoreWriter(url, manifest, keys, targets, share=share), data


def check_whole(url, tmp_path):
    make_planned(tmp_path / f"own.{url.rpartition('.')[2]}", **SETTINGS)
    assert read_everything(url) == read_everything(tmp_path / f"own.{url.rpartition('.')[2]}")


@pytest.mark.parametrize("suffix", BACK_ENDS)
def test_who_begins_while_another_one_writes_is_refused(s3, tmp_path, suffix):
    url = f"s3://{s3.bucket}/a.{suffix}"
    first, data = writer_of(url)
    with first:
        first.write_block(0, data(0))
        with pytest.raises(BusyError, match="is being written by another process"):
            writer_of(url)[0].__enter__()
        # Several processes are refused, too, and a store with other settings.
        with pytest.raises(BusyError):
            writer_of(url, Share(0, 2))[0].__enter__()
        for block in (1, 2):
            first.write_block(block, data(block))
    check_whole(url, tmp_path)
    assert not [name for name in objects_of(bucket_of(s3, s3.bucket), "a") if "writers" in name]


@pytest.mark.parametrize("suffix", BACK_ENDS)
def test_two_that_begin_together_make_one_store(s3, tmp_path, suffix):
    url, told = f"s3://{s3.bucket}/b.{suffix}", []

    def make():
        writer, data = writer_of(url)
        try:
            with writer:
                told.append(len(writer.pending_blocks()))
                for block in writer.pending_blocks():
                    writer.write_block(block, data(block))
                # Longer than the other one watches.
                time.sleep(1.0)
        except BusyError as error:
            told.append(error)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 3 in told
    assert any(isinstance(one, BusyError) for one in told)
    check_whole(url, tmp_path)


@pytest.mark.parametrize("suffix", BACK_ENDS)
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops processes")
def test_a_writer_that_was_stopped_does_not_write_what_another_one_has_made(s3, tmp_path, suffix):
    url = f"s3://{s3.bucket}/c.{suffix}"
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from labelstore.storage.remote import leases
leases.LEASE_SECONDS = 1.5
from tests.support.stores import planned
from labelstore.store.writer import StoreWriter
manifest, keys, targets, data, _ = planned(**{SETTINGS!r})
with StoreWriter({url!r}, manifest, keys, targets) as writer:
    print("ready", flush=True)
    sys.stdin.readline()
    writer.write_block(0, data(1))  # what another teacher would say
"""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    stopped = commands.start([sys.executable, "-c", code], **pipes)
    assert stopped.stdout.readline() == "ready\n"
    os.kill(stopped.pid, signal.SIGSTOP)
    stopped.stdin.write("\n")
    writer, data = writer_of(url)
    with writer:
        for block in writer.pending_blocks():
            writer.write_block(block, data(block))
    os.kill(stopped.pid, signal.SIGCONT)
    _, errors = stopped.communicate()
    assert stopped.returncode == 1
    assert "was stopped, or cut off" in errors
    check_whole(url, tmp_path)


def test_a_commit_is_never_written_over(s3, suffix):
    """Even by a writer that believes it still may: the server refuses."""
    url = f"s3://{s3.bucket}/d.{suffix}"
    store, _ = make_planned(url, **SETTINGS)
    writer, data = writer_of(url)
    with writer:
        before = objects_of(bucket_of(s3, s3.bucket), f"d.{suffix}")
        writer._committed[:] = False
        with pytest.raises(StoreError, match="block 0 is committed"):
            writer.write_block(0, data(1))
        # And between the last look and the commit.
        writer._ready = lambda block: None
        row = store._backend.read_commit(1)
        assert not writer._backend.write_commit(0, row)
    assert {
        name: value
        for name, value in objects_of(bucket_of(s3, s3.bucket), f"d.{suffix}").items()
        if "writers" not in name
    } == {name: value for name, value in before.items() if "writers" not in name}


def test_a_writer_without_its_lease_changes_nothing(s3, suffix):
    """Whatever it is at: also while it clears a place or makes an empty store."""
    url = f"s3://{s3.bucket}/h.{suffix}"
    make_planned(url, **SETTINGS)
    before = objects_of(bucket_of(s3, s3.bucket), f"h.{suffix}")
    writer, _ = writer_of(url)
    with writer:
        writer._lease._lost = True
        for change in (
            writer._backend.clear,
            lambda: writer._backend._objects.put("zarr.json", b"{}"),
            lambda: writer._backend.withdraw_commit(0),
            lambda: writer._backend.write_commit(0, writer._backend.read_commit(0)),
        ):
            with pytest.raises(StoreError, match="was stopped, or cut off"):
                change()
        writer._lease._lost = False
    assert objects_of(bucket_of(s3, s3.bucket), f"h.{suffix}") == before


def test_servers_that_know_no_conditions(s3, tmp_path, monkeypatch):
    with Proxy(s3.address, without=("If-None-Match", "If-Match")) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.address)
        url = f"s3://{s3.bucket}/e.zarr"
        first, data = writer_of(url)
        with first:
            assert not first._backend._objects.conditional
            with pytest.raises(BusyError):
                writer_of(url)[0].__enter__()
            for block in range(3):
                first.write_block(block, data(block))
        check_whole(url, tmp_path)


class Nobody:
    """Makes no block, and hears of the work."""

    def resumed(self, images):
        pass

    update = waited = lambda self, *_: None


class LabelledBlock:
    """A labeller that has what it is asked for."""

    def __init__(self, data):
        self.data = data

    def blocks(self, todo, progress):
        from labelstore.producer.labeller import LabelledBlock

        for block, _ in todo:
            yield LabelledBlock(block, 0, self.data(block), 1)


def run_share(url, share):
    writer, data = writer_of(url, share)
    with writer:
        run = StoreRun([writer], Nobody())
        run.through(LabelledBlock(data), share)
        return run.blocks[0], len(writer.pending_blocks())


def test_each_process_waits_for_the_others(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("labelstore.producer.run.WAIT_SECONDS", 0.1)
    url, told = f"s3://{s3.bucket}/f.zarr", []
    threads = [
        threading.Thread(target=lambda r: told.append(run_share(url, Share(r, 3))), args=(rank,))
        for rank in range(3)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert told == [(1, 0)] * 3
    check_whole(url, tmp_path)


def test_who_has_left_may_have_made_the_last_block(s3, tmp_path, monkeypatch):
    """Between the look for blocks and the look for processes another one commits and ends."""
    url, others = f"s3://{s3.bucket}/h.zarr", []
    is_coming = StoreRun._is_coming

    def late(run, missing, waited):
        if not others:
            run._seen.add(1)
            others.append(run_share(url, Share(1, 2)))
        return is_coming(run, missing, waited)

    monkeypatch.setattr(StoreRun, "_is_coming", late)
    made, missing = run_share(url, Share(0, 2))
    assert (made + others[0][0], missing) == (3, 0)
    check_whole(url, tmp_path)


def test_a_share_of_nobody_is_not_finished(s3, monkeypatch):
    monkeypatch.setattr("labelstore.producer.run.PATIENCE_SECONDS", 1.5)
    monkeypatch.setattr("labelstore.producer.run.NOTICE_SECONDS", 0.5)
    monkeypatch.setattr("labelstore.producer.run.WAIT_SECONDS", 0.2)
    monkeypatch.setattr("labelstore.producer.run.LONGEST_WAIT_SECONDS", 0.5)
    with pytest.warns(LaunchWarning, match=r"processes 1, 2 have not begun.*unset WORLD_SIZE"):
        made = run_share(f"s3://{s3.bucket}/g.zarr", Share(0, 3))
    assert made == (1, 2)
    assert labelstore.open(f"s3://{s3.bucket}/g.zarr").missing_blocks() == [1, 2]
