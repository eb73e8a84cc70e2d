"""Growth that dies at any step, or meets a full disk, takes nothing away and goes on; and two
processes that grow one store at a time make each block once."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time

import numpy as np
import pytest

import labelstore
from labelstore.errors import BusyError, LabelStoreError
from labelstore.format.settings import StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.lifecycle.gc import gc
from labelstore.operations.lifecycle.grow import grow
from labelstore.operations.repair import repair
from labelstore.operations.verify import verify
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.store.writer import Share
from labelstore.testing.faults import trip
from tests.support.killed import die_at, in_child
from tests.support.stores import files_of
from tests.support.worlds import photo, teacher

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    # zarr leaves coroutines behind when one of several writes fails.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine.*never awaited:RuntimeWarning"),
]

SETTINGS = StoreSettings(k=3, quantizer="ratio16", prior_size=5, block_images=2, group_views=2)


EVERY = 10**6


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """Nobody else's labels in memory are counted, and what the dead leave is deleted."""
    monkeypatch.setenv("LABELSTORE_SLABS", str(tmp_path / "slabs"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def some_of(steps, count):
    """So many step numbers, spread over all from the second to the last but a few."""
    # Threads share the making of folders, so that the last steps may not be reached.
    return np.unique(np.linspace(2, max(steps - 3, 2), min(count, steps)).astype(int)).tolist()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five photos; the store that grows has three of them."""
    folders = [tmp_path_factory.mktemp(name) for name in ("all", "some")]
    for number in (0, 1, 2, 4, 5):
        (folders[0] / f"{number}.png").write_bytes(photo(number, 1))
        if number in (0, 2, 4):
            shutil.copy(folders[0] / f"{number}.png", folders[1])
    return folders


@pytest.fixture(scope="module")
def old(photos, tmp_path_factory, suffix):
    path = tmp_path_factory.mktemp("old") / f"old.{suffix}"
    settings = LabelSettings(2, SETTINGS)
    generate(FolderSource(photos[1]), np.full(3, -1, np.int32), teacher(0), path, settings)
    return path


def grown(old, photos, path, views=3, **options):
    return grow(
        old,
        FolderSource(photos[0]),
        teacher(0),
        path,
        num_views=views,
        options=RunOptions(**options),
    )


@pytest.fixture(scope="module")
def undisturbed(old, photos, tmp_path_factory):
    """The grown store's files, and how many steps making it takes."""
    folder = tmp_path_factory.mktemp("whole")
    # What is read from installed packages the first time is no step of the writer.
    grown(old, photos, folder / f"first{old.suffix}")
    path = folder / f"s{old.suffix}"
    with trip() as steps:
        grown(old, photos, path)
    return files_of(path), steps.taken


def refused_at(step, action):
    """What is said where the disk is full at a step; None where it goes through all the same."""
    with trip(step, "no-space"):
        try:
            action()
        except (LabelStoreError, OSError) as error:
            # The latter where the versions of installed packages are read.
            return str(error)
    return None


def check_goes_on(old, photos, path, before, expected, sweep):
    """The store that grows is as it was; what there is of the new one is right, and goes on."""
    assert files_of(old) == before
    if path.exists():
        if sweep:
            gc([path])
        try:
            store = labelstore.open(path)
        except LabelStoreError:
            pass
        else:
            assert {problem.kind for problem in verify(store).problems} <= {"incomplete"}
    grown(old, photos, path)
    assert files_of(path) == expected


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        ("die-before", 3),
        # It leaves what to die before the next step leaves.
        ("die-after", 2),
        pytest.param("die-before", EVERY, marks=pytest.mark.slow),
        pytest.param("die-after", EVERY, marks=pytest.mark.slow),
    ],
)
def test_killed_at_steps_of_growth(old, photos, undisturbed, tmp_path, fault, count):
    (expected, taken), before, deaths = undisturbed, files_of(old), 0
    steps = some_of(taken, count)
    for step in steps:
        path = tmp_path / f"{step}{old.suffix}"
        deaths += die_at(step, fault, lambda path=path: grown(old, photos, path))
        check_goes_on(old, photos, path, before, expected, sweep=step % 2)
        shutil.rmtree(path)
    assert deaths >= 0.8 * len(steps)


@pytest.mark.parametrize("count", [3, pytest.param(EVERY, marks=pytest.mark.slow)])
def test_a_full_disk_at_steps_of_growth(old, photos, undisturbed, tmp_path, count):
    (expected, taken), before, refused = undisturbed, files_of(old), []
    steps = some_of(taken, count)
    for step in steps:
        path = tmp_path / f"{step}{old.suffix}"
        refused.append(refused_at(step, lambda path=path: grown(old, photos, path)))
        check_goes_on(old, photos, path, before, expected, sweep=step % 2)
        shutil.rmtree(path)
    refused = [words for words in refused if words is not None]
    assert len(refused) > len(steps) / 2
    assert all("No space left" in words for words in refused)


def test_growth_that_dies_again_and_again(old, photos, undisturbed, tmp_path):
    path, (expected, taken) = tmp_path / f"s{old.suffix}", undisturbed
    before = files_of(old)
    for _ in range(4):
        die_at(taken // 3, "die-before", lambda: grown(old, photos, path))
    check_goes_on(old, photos, path, before, expected, sweep=False)


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        ("die-before", 3),
        ("no-space", 2),
        pytest.param("die-before", EVERY, marks=pytest.mark.slow),
        pytest.param("die-after", EVERY, marks=pytest.mark.slow),
        pytest.param("no-space", EVERY, marks=pytest.mark.slow),
    ],
)
def test_a_repair_of_a_grown_store_takes_nothing_away(
    old, photos, undisturbed, tmp_path, fault, count
):
    expected, _ = undisturbed
    spoiled = tmp_path / f"spoiled{old.suffix}"
    grown(old, photos, spoiled)
    files = [f for f in (spoiled / "labels").rglob("*") if f.is_file() and f.suffix != ".json"]
    file = sorted(files)[1]
    file.write_bytes(file.read_bytes()[:-3] + b"???")
    before = files_of(spoiled)
    source = FolderSource(photos[0])

    def mend(path):
        return repair(path, source, teacher(0))

    with trip() as steps:
        mend(shutil.copytree(spoiled, tmp_path / f"counted{old.suffix}"))
    assert files_of(tmp_path / f"counted{old.suffix}") == expected
    for step in some_of(steps.taken, count):
        path = shutil.copytree(spoiled, tmp_path / f"{step}{old.suffix}")
        if fault == "no-space":
            words = refused_at(step, lambda path=path: mend(path))
            assert words is None or "No space left" in words
        else:
            die_at(step, fault, lambda path=path: mend(path))
        # Blocks that were right are there; the damaged one is as it was, missing, or mended.
        after = files_of(path)
        changed = {name for name in before if after.get(name) != before[name]}
        assert all(
            after.get(name, expected[name]) == expected[name] or "." in name for name in changed
        )
        assert {problem.block for problem in verify(path).problems} <= {0, 1}
        mend(path)
        assert files_of(path) == expected
        shutil.rmtree(path)


def test_a_second_process_is_told_that_one_writes(old, photos, tmp_path):
    path = tmp_path / f"s{old.suffix}"
    child = in_child(lambda: grown(old, photos, path, 60))
    started = time.monotonic()
    while not (path / ".lock").exists():
        assert time.monotonic() - started < 60
        time.sleep(0.001)
    with pytest.raises(BusyError):
        grown(old, photos, path, 60)
    os.waitpid(child, 0)
    assert labelstore.open(path).complete


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_grow_one_store(old, photos, tmp_path, killed):
    views = 80
    whole, path = (tmp_path / f"{name}{old.suffix}" for name in ("whole", "s"))
    grown(old, photos, whole, views)
    before = files_of(old)

    def begin(rank):
        options = {"share": Share(rank, 2), "batch_size": 4}
        return in_child(lambda: grown(old, photos, path, views, **options))

    children = [begin(rank) for rank in range(2)]
    if killed:
        started = time.monotonic()
        while not path.exists() or not list((path / ".claims").glob("*")):
            assert time.monotonic() - started < 60
            time.sleep(0.001)
        os.kill(children[1], signal.SIGKILL)
    assert os.waitpid(children[0], 0)[1] == 0
    os.waitpid(children[1], 0)
    assert files_of(path) == files_of(whole)
    assert files_of(old) == before
