"""Which views pass a rule is looked at once a machine."""

import os
import pty
import sys
import threading
import time

import numpy as np
import pytest

import labelstore
from labelstore.training import decisions
from labelstore.training.planning.kept_arrays import kept_or_made
from tests.support import commands
from tests.support.stores import make_planned

RULES = [
    labelstore.FerKD(0.1, 0.3, 0.9, confidence="target"),
    labelstore.FerKD(0.1, 0.3, 0.8, confidence="target"),
    labelstore.FerKD(0.1, 0.3, 0.9),
]


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELSTORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decisions, "_FEWEST_KEPT", 0)
    return make_planned(tmp_path / "a.zarr")[0]


@pytest.fixture
def looks(monkeypatch):
    """A list with an entry for each time that a store is looked at."""
    entries, plain = [], decisions.decisions

    def look(*args, **options):
        entries.append(args)
        return plain(*args, **options)

    monkeypatch.setattr(decisions, "decisions", look)
    return entries


def assert_same(mask, other):
    for name in ("bits", "without_views", "most_confident"):
        assert np.array_equal(getattr(mask, name), getattr(other, name))
        assert getattr(mask, name).dtype == getattr(other, name).dtype
    assert (mask.pace, mask.num_views) == (other.pace, other.num_views)


def test_each_rule_and_each_store_has_its_own(planned, looks, tmp_path, monkeypatch):
    for rule in RULES:
        first = decisions.view_mask(planned, rule, 2)
        assert_same(decisions.view_mask(labelstore.open(planned.path), rule, 2), first)
    decisions.view_mask(planned, RULES[0], 1)
    assert len(looks) == 4
    both = labelstore.ensemble([planned, planned])
    weighed = labelstore.ensemble([planned, planned], weights=[1, 3])
    mean = labelstore.FerKD(0.1, 0.3, 0.9, ensemble="mean")
    for reader in (both, weighed, both):
        decisions.view_mask(reader, mean, 2)
    assert len(looks) == 6
    # A small store leaves no files behind.
    monkeypatch.setattr(decisions, "_FEWEST_KEPT", 2**22)
    monkeypatch.setenv("LABELSTORE_CACHE", str(tmp_path / "other"))
    decisions.view_mask(planned, RULES[0], 2)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("fault", ["flipped", "cut", "empty", "writable", "exchanged"])
def test_what_is_damaged_or_foreign_is_made_again(planned, looks, tmp_path, fault):
    first = decisions.view_mask(planned, RULES[0], 2)
    (path,) = (tmp_path / "cache").glob("*/*.plan")
    data = bytearray(path.read_bytes())
    if fault == "flipped":
        data[-9] ^= 1
    elif fault in ("cut", "empty"):
        del data[-5 if fault == "cut" else 0 :]
    elif fault == "exchanged":
        decisions.view_mask(planned, RULES[1], 2)
        (other,) = {*(tmp_path / "cache").glob("*/*.plan")} - {path}
        data = other.read_bytes()
        looks.pop()
    path.write_bytes(data)
    if fault == "writable":
        path.chmod(0o666)
    for _ in range(2):
        assert_same(decisions.view_mask(planned, RULES[0], 2), first)
    assert len(looks) == 2


def test_a_cache_folder_that_is_none_costs_the_look_alone(planned, looks, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LABELSTORE_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        decisions.view_mask(planned, RULES[0], 2)
    assert len(looks) == 2


def test_of_several_that_ask_at_once_one_makes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELSTORE_CACHE", str(tmp_path))
    made, got = [], []

    def make():
        made.append(1)
        time.sleep(0.3)
        return {"a": np.arange(5), "none": np.zeros((0, 2))}

    def ask():
        got.append(kept_or_made(["x"], make))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(arrays["a"].tolist() == [0, 1, 2, 3, 4] for arrays in got)
    assert all(arrays["none"].shape == (0, 2) for arrays in got)


def test_the_oldest_of_many_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELSTORE_CACHE", str(tmp_path))
    for number in range(20):
        kept_or_made([str(number)], lambda: {"a": np.arange(3)})
    assert len(list(tmp_path.glob("*/*.plan"))) == 16


PROGRAM = """
import time
from labelstore.training.planning import progress
progress._QUIET_SECONDS = progress._BETWEEN_SECONDS = 0.05
for _ in progress.watched(range(4), 4, "Looking"):
    time.sleep(0.1)
"""


def test_a_terminal_is_told_and_a_file_is_not():
    ours, theirs = pty.openpty()
    program = [sys.executable, "-c", PROGRAM]
    assert commands.start(program, stderr=theirs).wait() == 0
    os.close(theirs)
    text = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "Looking: 50%, 0 s left" in text
    # The line is wiped in the end.
    assert text.endswith(" \r")
    assert commands.run(program, check=True).stderr == ""
