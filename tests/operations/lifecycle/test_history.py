"""A store tells how it came to be, however many operations lie between it and its teachers."""

from __future__ import annotations

import json
import sys

import labelstore
from labelstore.operations.lifecycle.history import history
from labelstore.operations.lifecycle.parts import join_parts
from labelstore.operations.lifecycle.subset import ViewChoice, subset
from labelstore.operations.merge import merge
from labelstore.operations.pull import pull
from labelstore.store.lineage import lineage
from tests.support import commands
from tests.support.stores import make_planned, written


def test_every_step_names_what_it_read_and_what_it_made(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr")
    halves = [
        labelstore.open(subset(store, tmp_path / f"{n}.zarr", images=part).path)
        for n, part in enumerate((range(8), range(8, 20)))
    ]
    joined = labelstore.open(join_parts(halves, tmp_path / "j.zarr").path)
    other, _, _ = written(tmp_path / "b.zarr", seed=7)
    mean = labelstore.open(merge([joined, other], tmp_path / "m.zarr").path)
    last = labelstore.open(subset(mean, tmp_path / "s.zarr", views=ViewChoice(2)).path)
    steps = history(last)["steps"]
    assert [step["operation"] for step in steps] == ["subset", "subset", "parts", "merge", "subset"]
    assert steps[0]["stores"] == steps[1]["stores"] == [store.id]
    assert [step["result"] for step in steps] == [
        halves[0].id,
        halves[1].id,
        joined.id,
        mean.id,
        last.id,
    ]
    assert steps[2]["stores"] == [half.id for half in halves]
    assert steps[3]["stores"] == [joined.id, other.id]
    assert {step["release"] for step in steps} == {labelstore.__version__}
    assert history(store)["steps"] == []
    # A whole copy is the same store.
    assert history(pull(last, tmp_path / "copy.zarr").path)["steps"] == steps


def test_what_a_stranger_calls_history_is_left_out(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr")
    part = labelstore.open(subset(store, tmp_path / "b.zarr", images=range(3)).path)
    for planted in (7, ["x"], [{"operation": 1, "stores": [], "result": "", "settings": {}}]):
        part.manifest.origin["settings"]["history"] = planted
        assert [step["operation"] for step in lineage(part.manifest)] == ["subset"]


def test_the_command_tells_it(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr")
    part = labelstore.open(subset(store, tmp_path / "b.zarr", images=range(3)).path)
    command = [sys.executable, "-m", "labelstore", "inspect", str(part.path), "--history"]
    done = commands.run(command, check=True)
    assert f"1. subset (labelstore {labelstore.__version__}) of {store.id}" in done.stdout
    told = json.loads(commands.run([*command, "--json"], check=True).stdout)
    assert told == history(part)
