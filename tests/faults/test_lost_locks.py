"""Writers that lost their lock, and full disks: nothing committed changes, no work in vain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr

import labelstore
from labelstore.errors import StoreError
from labelstore.producer.labeller import LabelledBlock
from labelstore.producer.run import StoreRun
from labelstore.storage import local_files
from labelstore.store.writer import Share, StoreWriter
from labelstore.testing.faults import trip
from tests.support import commands
from tests.support.stores import files_of, make_planned, planned

ROOT = Path(__file__).parents[2]
SETTINGS = {"images": 12, "views": 4, "block_images": 4}


def writer_of(path, share=None):
    manifest, keys, targets, data, _ = planned(**SETTINGS)
    return StoreWriter(path, manifest, keys, targets, share=share), data


def of_store(path):
    return {name: value for name, value in files_of(path).items() if not name.startswith(".")}


def test_a_lapsed_lock_is_noticed_before_anything_is_written(tmp_path, suffix):
    path = tmp_path / f"s.{suffix}"
    (one, data), (other, _) = writer_of(path, Share(0, 2)), writer_of(path, Share(1, 2))
    with one, other:
        assert one.claim(0)
        assert not other.claim(0)
        # As a file server does with a client that it has not heard of for long.
        one._claims[0]._file.close()
        assert other.claim(0)
        # While the other one is at it, and after it has committed.
        with pytest.raises(StoreError, match="lock of block 0 was lost"):
            one.write_block(0, data(1))
        other.write_block(0, data(0))
        before = of_store(path)
        with pytest.raises(StoreError, match="lock of block 0 was lost"):
            one.write_block(0, data(1))
        assert of_store(path) == before
        # Without any lock the commit itself is in the way.
        one._claims.clear()
        with pytest.raises(StoreError, match="block 0 is committed"):
            one.write_block(0, data(1))
        one._ready = lambda block: None
        assert not one._backend.write_commit(0, other._backend.read_commit(0) + 1)
        assert of_store(path) == before
        assert not [name for name in before if name.endswith(local_files.PARTIAL)]


def test_a_withdrawn_commit_makes_room_for_another(tmp_path, suffix):
    """A row of zeros is no commit (another producer may write one)."""
    path = tmp_path / f"s.{suffix}"
    make_planned(path, **SETTINGS)
    whole = of_store(path)
    writer, data = writer_of(path)
    with writer:
        zeros = np.zeros_like(writer._backend.read_commit(1))
        if suffix == "parquet":
            np.save(path / "commits" / "000001.npy", zeros)
        else:
            config = {"write_empty_chunks": True}
            zarr.open_array(path / "commits", mode="r+", config=config)[1] = zeros
        assert labelstore.open(path).missing_blocks() == [1]
        writer._committed[1] = False
        writer.write_block(1, data(1))
    assert of_store(path) == whole


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops processes")
def test_a_single_writer_whose_lock_file_was_replaced(tmp_path, suffix):
    """Stopped for long, its lock file gone: the store is another's by now."""
    path = tmp_path / f"s.{suffix}"
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.support.stores import planned
from labelstore.store.writer import StoreWriter
manifest, keys, targets, data, _ = planned(**{SETTINGS!r})
with StoreWriter({str(path)!r}, manifest, keys, targets) as writer:
    print("ready", flush=True)
    sys.stdin.readline()
    writer.write_block(0, data(1))
"""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    stopped = commands.start([sys.executable, "-c", code], **pipes)
    assert stopped.stdout.readline() == "ready\n"
    os.kill(stopped.pid, signal.SIGSTOP)
    (path / ".lock").unlink()
    make_planned(path, **SETTINGS)
    before = of_store(path)
    os.kill(stopped.pid, signal.SIGCONT)
    _, errors = stopped.communicate("\n")
    assert stopped.returncode == 1
    assert "the lock of block 0 was lost" in errors
    assert of_store(path) == before


class Nobody:
    def resumed(self, images):
        pass

    update = waited = lambda self, *_: None


class Labeller:
    """Makes blocks, batch by batch, each of which waits until the last block is written or not."""

    def __init__(self, data, written):
        self.data, self.written, self.batches = data, written, 0

    def blocks(self, todo, progress):
        for block, _ in todo:
            for _ in range(10):
                if block:
                    self.written.wait(10)
                self.batches += 1
                progress.update(0, 1)
            yield LabelledBlock(block, 0, self.data(block), 1)


def test_a_write_error_is_told_with_the_next_batch(tmp_path, suffix):
    writer, data = writer_of(tmp_path / f"s.{suffix}")
    with writer:
        written, write = threading.Event(), writer.write_block

        def tell(block, data):
            try:
                with trip(3, "no-space"):
                    write(block, data)
            finally:
                threading.Timer(0.05, written.set).start()

        writer.write_block = tell
        labeller = Labeller(data, written)
        with pytest.raises(StoreError, match="No space left"):
            StoreRun([writer], Nobody()).through(labeller, None)
    assert labeller.batches == 11


def test_waiting_reads_what_is_new_and_no_more(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"s.{suffix}"
    (one, data), (other, _) = writer_of(path, Share(0, 2)), writer_of(path, Share(1, 2))
    with one, other:
        read, looks = one._backend.read_commit, []
        monkeypatch.setattr(
            one._backend, "read_commit", lambda block: looks.append(block) or read(block)
        )
        monkeypatch.setattr(one._backend, "read_commits", None)
        one.refresh()
        assert looks == []
        assert other.claim(1)
        other.write_block(1, data(1))
        one.refresh()
        one.refresh()
        assert looks == [1]
        assert one.pending_blocks() == [0, 2]
