"""What interrupted runs left is removed; what is committed stays, and the run goes on."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest

import labelstore
from labelstore.errors import BusyError, NotFoundError
from labelstore.operations.lifecycle.export import export
from labelstore.operations.lifecycle.gc import gc
from labelstore.operations.lifecycle.prune import prune
from labelstore.operations.materialize import materialize
from labelstore.operations.verify import verify
from labelstore.peers.exports.npz import Npz
from labelstore.peers.exports.webdataset import WebDataset
from labelstore.storage import swaps
from labelstore.storage.locks import exclusive_lock, shared_lock
from labelstore.testing.faults import trip
from tests.support import commands, stores
from tests.support.killed import die_at
from tests.support.stores import files_of, once

make_planned = once(stores.make_planned)

SETTINGS = {"images": 6, "views": 3, "classes": 12, "k": 2, "prior_size": 4, "block_images": 3}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def own_slabs(tmp_path, monkeypatch):
    """Nobody else's labels in memory are counted."""
    monkeypatch.setenv("LABELSTORE_SLABS", str(tmp_path / "slabs"))


def kinds_of(report):
    return {leftover.kind: leftover.files for leftover in report.leftovers}


@pytest.mark.parametrize("fault", ["die-before", "die-after"])
@pytest.mark.slow
def test_a_killed_run_is_cleared_and_goes_on_to_the_same_bytes(tmp_path, suffix, fault):
    write = stores.make_planned  # each time anew
    whole = tmp_path / f"whole.{suffix}"
    # What is read from installed packages the first time is no step of the writer.
    write(tmp_path / f"first.{suffix}", **SETTINGS)
    with trip() as steps:
        write(whole, **SETTINGS)
    expected = files_of(whole)
    kinds, committed, deaths = set(), set(), 0
    path = tmp_path / f"a.{suffix}"
    for step in np.unique(np.linspace(1, steps.taken - 2, 30).astype(int)).tolist():
        deaths += die_at(step, fault, write, path, **SETTINGS)
        if not path.exists():
            continue
        before = files_of(path)
        told = gc([path], dry_run=True)
        assert files_of(path) == before
        assert gc([path]).leftovers == told.leftovers
        kinds |= kinds_of(told).keys()
        left = files_of(path)
        assert left.items() <= before.items()
        assert not [name for name in left if ".partial" in name or name.startswith(".")]
        assert gc([path]).leftovers == ()
        document = left.get("zarr.json") or left.get("manifest.json")
        if document == expected.get("zarr.json", expected.get("manifest.json")):
            # Nothing is wrong but what is not there yet, and of that nothing is left.
            problems = verify(path).problems
            assert {problem.kind for problem in problems} <= {"incomplete"}
            committed.add(2 - len(problems))
            assert left.items() <= expected.items()
        write(path, **SETTINGS)
        assert files_of(path) == expected
        shutil.rmtree(path)
    assert deaths > 7
    assert {"partial", "block", "lock"} <= kinds
    assert {0, 1} <= committed


def test_what_prune_was_making(tmp_path):
    path = tmp_path / "a.zarr"
    store, _ = make_planned(path, **SETTINGS)
    assert die_at(60, "die-before", prune, path, views=range(2))
    assert swaps.beside(path, "prune").is_dir()
    report = gc([tmp_path])
    assert kinds_of(report)["sibling"] > 1
    assert report.bytes > 1000
    assert list(tmp_path.iterdir()) == [path]
    assert labelstore.open(path).id == store.id


def test_a_store_that_is_on_its_way(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    make_planned(path, **SETTINGS)
    monkeypatch.setattr(swaps, "exchange", lambda *_: False)
    with trip() as steps:
        shutil.copytree(path, tmp_path / "b.zarr")
        prune(tmp_path / "b.zarr", views=range(2))
    for step in range(steps.taken, 0, -1):
        shutil.rmtree(path)
        make_planned(path, **SETTINGS)
        die_at(step, "die-before", prune, path, views=range(2))
        if not path.exists():
            break
    with pytest.raises(NotFoundError, match="without the dry run"):
        gc([path], dry_run=True)
    gc([tmp_path])
    assert labelstore.open(path).num_views == 2
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "b.zarr"]


def test_who_writes_is_left_alone(tmp_path):
    for name in "ab":
        make_planned(tmp_path / f"{name}.zarr", blocks=[0])
        (tmp_path / f"{name}.zarr/zarr.json.1.partial").touch()
    for lock in (exclusive_lock, shared_lock):
        (tmp_path / "a.zarr/zarr.json.1.partial").touch()
        with lock(tmp_path / "a.zarr"):
            with pytest.raises(BusyError):
                gc([tmp_path / "a.zarr"])
            report = gc([tmp_path])
            assert report.busy == (str(tmp_path / "a.zarr"),)
            assert (tmp_path / "a.zarr/zarr.json.1.partial").exists()
        assert not (tmp_path / "b.zarr/zarr.json.1.partial").exists()


def test_what_is_not_ours_stays(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr")
    (store.path / "notes.txt").write_text("mine")
    gc([store.path])
    assert (store.path / "notes.txt").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.partial").touch()
    with pytest.raises(NotFoundError, match="holds none"):
        gc([tmp_path / "photos"])
    assert (tmp_path / "photos/a.partial").exists()
    with pytest.raises(NotFoundError, match="nothing at"):
        gc([tmp_path / "none"])


def test_labels_in_memory_of_dead_processes(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr")
    mine = labelstore.open(store.path, slab_bytes=2**20)
    used = mine.slab(0)
    child = os.fork()
    if not child:
        other = labelstore.open(store.path, slab_bytes=2**20)
        other.slab(1)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    folder = tmp_path / "slabs"
    command = [sys.executable, "-m", "labelstore", "gc", str(tmp_path), "--json"]
    done = commands.run([*command, "--dry-run"])
    assert done.returncode == 0, done.stderr
    (slab,) = (part for part in json.loads(done.stdout)["leftovers"] if part["kind"] == "slab")
    assert slab["files"] == 1
    assert len(list(folder.iterdir())) == 2
    assert commands.run(command[:-1]).returncode == 0
    assert len(list(folder.iterdir())) == 1
    used.close()


def export_of(store, path):
    export(store, path, Npz() if path.suffix == ".npz" else WebDataset())


@pytest.mark.parametrize("name", ["out.npz", "shards"])
def test_what_an_export_was_making(tmp_path, name):
    store, _ = make_planned(tmp_path / "a.zarr", **SETTINGS)
    inside = store.path / name
    with trip() as steps:
        export_of(store, tmp_path / f"whole-{name}")
    for place in (tmp_path / name, inside):
        # Where this very path may not be exported to, what was left there is still known.
        assert die_at(steps.taken // 2, "die-before", export_of, store, place)
        assert place.with_name(f"{name}.partial").is_dir()
    before = files_of(tmp_path)
    told = gc([store.path], dry_run=True)
    assert files_of(tmp_path) == before
    outputs = [part for part in told.leftovers if part.kind == "output"]
    assert {part.path for part in outputs} == {f"{tmp_path / name}.partial", f"{inside}.partial"}
    assert all(part.files for part in outputs)
    assert gc([tmp_path]).leftovers == told.leftovers
    assert not list(tmp_path.rglob("*.partial"))
    assert labelstore.open(store.path).id == store.id
    assert (tmp_path / f"whole-{name}").exists()


def test_what_a_materialized_copy_was_made_in(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr", **SETTINGS)
    with trip() as steps:
        materialize(store, tmp_path / "whole")
    assert die_at(steps.taken // 2, "die-before", materialize, store, tmp_path / "copy")
    assert (tmp_path / "copy.partial").is_dir()
    assert kinds_of(gc([tmp_path]))["output"] > 1
    assert sorted(tmp_path.iterdir()) == [store.path, tmp_path / "whole"]


def test_what_an_export_has_replaced(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr", **SETTINGS)
    export_of(store, tmp_path / "out")
    old = shutil.copytree(tmp_path / "out", tmp_path / "out.replaced.partial")
    shutil.copytree(store.path, tmp_path / "mine.replaced.partial")
    assert kinds_of(gc([store.path]))["output"] == len(list(old.parent.glob("out/*")))
    assert not old.exists()
    assert (tmp_path / "mine.replaced.partial").exists()


def test_who_exports_is_left_alone_and_so_are_other_peoples_files(tmp_path):
    make_planned(tmp_path / "a.zarr", **SETTINGS)
    with exclusive_lock(tmp_path / "busy.partial"):
        (tmp_path / "mine.partial").mkdir()
        (tmp_path / "mine.partial/notes").write_text("mine")
        (tmp_path / "locked.partial").mkdir()
        (tmp_path / "locked.partial/.lock").write_text("of another program")
        # A store on its way here by other means has its lock.
        shutil.copytree(tmp_path / "a.zarr", tmp_path / "b.zarr.partial")
        (tmp_path / "b.zarr.partial/.lock").touch()
        (tmp_path / "download.partial").write_text("mine")
        old, new = (tmp_path / f"card.md.{digit * 32}.partial" for digit in "0a")
        for file in (old, new):
            file.write_text("half")
        os.utime(old, (0, 0))
        report = gc([tmp_path])
        assert kinds_of(report)["partial"] == 1
        assert "output" not in kinds_of(report)
        assert not old.exists()
        for name in ("busy.partial/.lock", "mine.partial/notes", "locked.partial/.lock", new.name):
            assert (tmp_path / name).exists()
        assert (tmp_path / "download.partial").exists()
        assert files_of(tmp_path / "b.zarr.partial").keys() >= files_of(tmp_path / "a.zarr").keys()
    assert kinds_of(gc([tmp_path]))["output"] == 1


def test_a_folder_that_exports_lie_in(tmp_path):
    with exclusive_lock(tmp_path / "out.partial"):
        pass
    assert kinds_of(gc([tmp_path])) == {"output": 1}
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(NotFoundError, match="no store"):
        gc([tmp_path])


def test_a_writer_goes_on_beside_a_folder_that_an_export_left_in_its_store(tmp_path):
    path = tmp_path / "a.zarr"
    make_planned(path, blocks=[0], **SETTINGS)
    with exclusive_lock(path / "out.partial"):
        pass
    store, _ = make_planned(path, **SETTINGS)
    assert store.complete
