"""Folders of temporary files: gone at the end, and those of killed processes with the next one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import pytest

from labelstore.operations.lifecycle.gc import gc
from labelstore.storage import local_files
from labelstore.storage.workspaces import abandoned, sweep, workspace
from tests.support.stores import written

AT_WORK = """
import time
from labelstore.storage.workspaces import workspace
with workspace() as folder:
    (folder / "half.bin").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder of temporary files of one's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def at_work(temporary):
    """A process that works in a folder."""
    process = subprocess.Popen([sys.executable, "-c", AT_WORK], stdout=subprocess.PIPE, text=True)
    with process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_folder_is_nobodys_to_sweep_while_its_own_process_deletes_it(temporary, monkeypatch):
    """Locks of one process are as those of two: a look is taken at the moment of deleting."""
    delete, looks = local_files.delete_tree, []

    def deleted(folder):
        looks.append(abandoned())
        sweep()
        delete(folder)

    monkeypatch.setattr(local_files, "delete_tree", deleted)
    with workspace() as own:
        (own / "half.bin").write_bytes(bytes(1000))
    assert looks == [[]]
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(at_work, temporary):
    (left,) = temporary.iterdir()
    with workspace() as own:
        # Somebody works there.
        assert set(temporary.iterdir()) == {left, own}
        assert abandoned() == []
    at_work.kill()
    at_work.wait()
    assert abandoned() == [left]
    with workspace() as own:
        assert set(temporary.iterdir()) == {own}
    assert list(temporary.iterdir()) == []


def told_by(report):
    """What was found among temporary files."""
    return [leftover for leftover in report.leftovers if leftover.kind == "work"]


def test_gc_tells_of_it_and_removes_it(at_work, temporary, tmp_path):
    (left,) = temporary.iterdir()
    written(tmp_path / "s.zarr")
    assert told_by(gc([tmp_path / "s.zarr"])) == []
    at_work.kill()
    at_work.wait()
    (told,) = told_by(gc([tmp_path / "s.zarr"], dry_run=True))
    assert (told.path, told.bytes) == (str(left), 1000)
    assert left.exists()
    assert told_by(gc([tmp_path / "s.zarr"])) == [told]
    assert not left.exists()


def test_a_folder_that_has_no_lock_yet_is_left_alone_while_it_is_new(temporary):
    folder = temporary / "labelstore-work-new"
    folder.mkdir()
    other = temporary / "labelstore-worksheet"
    other.mkdir()
    assert abandoned() == []
    earlier = time.time() - 7200
    os.utime(folder, (earlier, earlier))
    assert abandoned() == [folder]


def test_an_error_in_it_leaves_nothing(temporary):
    with pytest.raises(KeyError), workspace():
        raise KeyError
    assert list(temporary.iterdir()) == []
