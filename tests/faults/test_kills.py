"""Kills and full disks: at every step of a writer, the store resumes to the same bytes."""

from __future__ import annotations

import os
import shutil

import pytest

from labelstore.errors import StoreError
from labelstore.testing.faults import trip
from tests.support.killed import check_resumes, die_at
from tests.support.stores import files_of, make_planned

SETTINGS = {"images": 6, "views": 3, "classes": 12, "k": 2, "prior_size": 4, "block_images": 3}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, suffix):
    """The finished store's files, and how many steps making it takes."""
    folder = tmp_path_factory.mktemp("whole")
    # What is read from installed packages the first time is no step of the writer.
    make_planned(folder / f"first.{suffix}", **SETTINGS)
    path = folder / f"s.{suffix}"
    with trip() as steps:
        make_planned(path, **SETTINGS)
    return files_of(path), steps.taken


def killed_at(steps, tmp_path, suffix, undisturbed, fault, **layout):
    """Die at each of some steps, and resume; how many deaths there were."""
    settings = SETTINGS | layout
    deaths = 0
    for step in steps:
        path = tmp_path / f"{step}.{suffix}"
        # Threads share the making of folders, so that the last steps may not be reached.
        deaths += die_at(step, fault, make_planned, path, **settings)
        check_resumes(path, undisturbed, **settings)
        shutil.rmtree(path)
    return deaths


@pytest.mark.parametrize("fault", ["die-before", "die-after"])
def test_killed_at_steps(undisturbed, tmp_path, suffix, fault):
    # Every step of the first objects, then one of a few. To die after a step leaves what to die
    # before the next one leaves, so that a third of them is enough the second time.
    steps = [*range(1, 12), *range(12, undisturbed[1] + 1, 61 if suffix == "zarr" else 9)]
    tried, least = (steps, 11) if fault == "die-before" else (steps[1::3], 3)
    assert killed_at(tried, tmp_path, suffix, undisturbed[0], fault) > least


def test_units_killed_at_steps(tmp_path):
    """Those of the second block's object, durable before its commit, among them."""
    layout = {"unit_images": 2, "group_views": 2}
    whole = tmp_path / "whole.zarr"
    with trip() as steps:
        make_planned(whole, **SETTINGS, **layout)
    tried = range(steps.taken // 2, steps.taken + 1, 7)
    deaths = killed_at(tried, tmp_path, "zarr", files_of(whole), "die-after", **layout)
    assert deaths > len(tried) / 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["die-before", "die-after"])
def test_killed_at_every_step(undisturbed, tmp_path, suffix, fault, capsys):
    expected, steps = undisturbed
    deaths = killed_at(range(1, steps + 1), tmp_path, suffix, expected, fault)
    with capsys.disabled():
        print(f"\n{deaths} deaths, {fault}")
    assert deaths > (250 if suffix == "zarr" else 30)


def test_killed_again_and_again(undisturbed, tmp_path, suffix):
    expected, _ = undisturbed
    path = tmp_path / f"s.{suffix}"
    deaths = 0
    while die_at(31, "die-before", make_planned, path, **SETTINGS):
        deaths += 1
        assert deaths < 50
        if deaths == 4:
            break
    assert deaths
    check_resumes(path, expected, **SETTINGS)


# zarr leaves coroutines behind when one of several writes fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine.*never awaited:RuntimeWarning")
@pytest.mark.parametrize("every", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_a_full_disk_at_steps(undisturbed, tmp_path, suffix, every):
    expected, steps = undisturbed
    refusals = []
    tried = range(1, steps + 1, every)
    for step in tried:
        path = tmp_path / f"{step}.{suffix}"
        with trip(step, "no-space"):
            try:
                make_planned(path, **SETTINGS)
            except StoreError as error:
                refusals.append(str(error))
        check_resumes(path, expected, **SETTINGS)
        shutil.rmtree(path)
    assert len(refusals) > len(tried) / 2
    assert all("No space left" in words for words in refusals)
