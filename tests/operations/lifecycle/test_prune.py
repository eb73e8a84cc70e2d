"""Stores made smaller in their place: the old one is there, or the new one, and nothing between."""

from __future__ import annotations

import itertools
import json
import os
import pty
import shutil
import subprocess
import sys

import numpy as np
import pytest

import labelstore
from labelstore.errors import (
    BusyError,
    CorruptError,
    IncompleteError,
    LabelStoreError,
    NotFoundError,
    StoreError,
    UsageError,
)
from labelstore.operations.lifecycle.prune import prune
from labelstore.operations.lifecycle.subset import ViewChoice, subset
from labelstore.operations.materialize import materialize
from labelstore.operations.verify import verify
from labelstore.storage import swaps
from labelstore.storage.locks import exclusive_lock
from labelstore.testing.faults import trip
from tests.support import commands
from tests.support.killed import die_at
from tests.support.stores import files_of, make_planned, once, read_everything

make_planned = once(make_planned)

SETTINGS = {"images": 6, "views": 3, "classes": 12, "k": 2, "prior_size": 4, "block_images": 3}

kills = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def run(*arguments, stdin=subprocess.DEVNULL):
    command = [sys.executable, "-m", "labelstore", "prune", *map(str, arguments)]
    return commands.run(command, stdin=stdin)


def test_what_is_kept_is_the_part(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    store, _ = make_planned(path)
    choice = ViewChoice(2, seed=4)
    part = labelstore.open(subset(store, tmp_path / f"b.{suffix}", views=choice).path)
    told = []
    report = prune(path, images=store.keys[3:], views=choice, agree=told.append)
    assert (report.num_images, report.num_views, report.changed) == (17, 2, True)
    (loss,) = told
    assert (loss.images, loss.images_kept, loss.views_kept, loss.views) == (3, 17, 34, 120 - 34)
    now = labelstore.open(path)
    rows = part.index_of(list(now.keys))
    assert np.array_equal(now.read(range(17), 1).probs, part.read(rows, 1).probs)
    assert verify(now).whole
    assert now.manifest.origin["stores"] == [store.id]
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / f"b.{suffix}"]
    again = prune(path, images=store.keys[3:], views=choice, agree=pytest.fail)
    assert (again.changed, again.id) == (False, report.id)


def test_the_same_range_again_is_nothing_to_do(tmp_path):
    make_planned(tmp_path / "a.zarr")
    assert prune(tmp_path / "a.zarr", views=range(2, 5)).explicit
    assert not prune(tmp_path / "a.zarr", views=range(2, 5)).changed
    assert not prune(tmp_path / "a.zarr", views=range(3)).changed
    assert not prune(tmp_path / "a.zarr").changed
    with pytest.raises(UsageError, match="views 1:5"):
        prune(tmp_path / "a.zarr", views=range(1, 5))


def test_who_has_the_old_one_open_gets_no_wrong_label(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    store, _ = make_planned(path)
    assert store.complete
    prune(path, images=np.arange(10, 20))
    with pytest.raises(StoreError):
        store.read(np.arange(20), 0)
    with pytest.raises(LabelStoreError, match="was replaced by another store"):
        store.refresh()


WAYS = {"exchange": True, "renames": False}


def kinds_of_kills():
    """Back ends, ways, faults and steps. Folders change places the same whatever is in them."""
    for suffix, way in itertools.product(("zarr", "parquet"), WAYS):
        slow = [(), pytest.mark.slow]
        if (suffix == "zarr") != WAYS[way]:
            slow.reverse()
        # To die after a step leaves what to die before the next one leaves.
        for fault, every, marks in (
            ("die-before", 1, slow[0]),
            ("die-after", 3, slow[1]),
            ("die-after", 1, pytest.mark.slow),
        ):
            name = f"{suffix}-{way}-{fault}-{every}"
            yield pytest.param(suffix, WAYS[way], fault, every, id=name, marks=marks)


class TestKills:
    pytestmark = kills

    @pytest.mark.parametrize(("suffix", "exchanging", "fault", "every"), [*kinds_of_kills()])
    def test_killed_at_steps(self, tmp_path, suffix, fault, every, exchanging, monkeypatch):
        if not exchanging:
            monkeypatch.setattr(swaps, "exchange", lambda *_: False)
        path, whole = tmp_path / f"a.{suffix}", tmp_path / f"whole.{suffix}"
        store, _ = make_planned(whole, **SETTINGS)
        old = read_everything(whole)
        shutil.copytree(whole, path)
        with trip() as steps:
            prune(path, views=range(1, 3))
        new = read_everything(path)
        # A few of those that write the part, and all from the verified part on.
        tried = [3, steps.taken // 2, *range(steps.taken - 9, steps.taken + 1, every)]
        deaths, seen = 0, set()
        for step in tried:
            shutil.rmtree(path)
            shutil.copytree(whole, path)
            deaths += die_at(step, fault, prune, path, views=range(1, 3))
            if path.exists():
                held = read_everything(path)
                assert held in (old, new)
                seen.add(held)
            else:
                assert not exchanging
            assert prune(path, views=range(1, 3)).num_views == 2
            assert read_everything(path) == new
            assert sorted(tmp_path.iterdir()) == [path, whole]
        assert deaths > len(tried) / 2
        assert seen == {old, new}
        assert store.complete

    @pytest.mark.parametrize("exchanging", WAYS.values(), ids=WAYS)
    @pytest.mark.parametrize("fault", ["die-before", "die-after"])
    def test_killed_and_then_another_part(self, tmp_path, suffix, fault, exchanging, monkeypatch):
        if not exchanging:
            monkeypatch.setattr(swaps, "exchange", lambda *_: False)
        path = tmp_path / f"a.{suffix}"
        make_planned(path, **SETTINGS)
        assert die_at(60 if suffix == "zarr" else 12, fault, prune, path, views=range(1, 3))
        assert swaps.beside(path, "prune").is_dir()
        prune(path, images=[0, 5])
        assert labelstore.open(path).num_views == 3
        assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_store(tmp_path):
    path = tmp_path / "a.zarr"
    make_planned(path, **SETTINGS)
    old = read_everything(path)
    with trip(70, "no-space"), pytest.raises(StoreError, match="No space left"):
        prune(path, views=range(1, 3))
    assert read_everything(path) == old
    prune(path, views=range(1, 3))
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_that_reads_badly_takes_no_place(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    make_planned(path)
    old = files_of(path)
    blocks = iter(range(99))

    def spoil(_images, _views):
        if next(blocks) == 2:
            (shard,) = (tmp_path / ".a.prune.zarr/labels/classes/c/1/0").iterdir()
            data = bytearray(shard.read_bytes())
            data[20] ^= 1
            shard.write_bytes(data)

    with pytest.raises(CorruptError, match="is as it was"):
        prune(path, views=range(2), tell=spoil)
    assert files_of(path) == old
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_refused(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr")
    with pytest.raises(UsageError, match="labelstore subset"):
        prune("s3://bucket/a.zarr", views=range(2))
    with pytest.raises(NotFoundError):
        prune(tmp_path / "none.zarr", views=range(2))
    assert not (tmp_path / "none.zarr").exists()
    make_planned(tmp_path / "part.zarr", blocks=[0])
    with pytest.raises(IncompleteError):
        prune(tmp_path / "part.zarr", views=range(2))
    with exclusive_lock(tmp_path / "a.zarr"), pytest.raises(BusyError):
        prune(tmp_path / "a.zarr", views=range(2))
    materialize(store, tmp_path / "b")
    with pytest.raises(UsageError, match="materialized copy"):
        prune(tmp_path / "b", views=range(2))
    (tmp_path / "link.zarr").symlink_to(tmp_path / "a.zarr")
    prune(tmp_path / "link.zarr", views=range(2))
    assert (tmp_path / "link.zarr").is_symlink()
    assert labelstore.open(tmp_path / "a.zarr").num_views == 2


def test_the_command_asks(tmp_path):
    path = tmp_path / "a.zarr"
    store, _ = make_planned(path)
    done = run(path, "--views", "0:2")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    parent, child = pty.openpty()
    os.write(parent, b"n\n")
    done = run(path, "--views", "0:2", stdin=child)
    assert done.returncode == 1
    assert "loses 0 images of 20 and 80 labelled views of 120 for good (about" in done.stderr
    assert labelstore.open(path).id == store.id
    os.write(parent, b"y\n")
    done = run(path, "--views", "0:2", "--json", stdin=child)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changed"]
    done = run(path, "--images", store.keys[4], "--yes")
    assert done.returncode == 0, done.stderr
    assert "1 image x 2 views" in done.stderr
    os.close(parent)
    os.close(child)
