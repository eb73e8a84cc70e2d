"""The GPU command: its order and limits with rows that hang and raise, and every row on a CPU."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import GRACE_SECONDS, PACKAGES, ROWS, Row, measure
from tests.support import commands

ROOT = Path(__file__).parents[2]


def row(name, seconds=10.0, needs=()):
    return Row(name, f"tests.support.gpu_rows:{name}", seconds, needs, f"a row that {name}")


@pytest.fixture
def rows_can_be_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.chdir(ROOT)


@pytest.mark.slow
@pytest.mark.usefixtures("rows_can_be_found")
def test_rows_that_hang_raise_or_lack_something_leave_the_others_alone(tmp_path):
    out = tmp_path / "gpu.json"
    rows = [
        row("hangs", 5.0),  # It is waited for to the end.
        row("fails"),
        row("lacks", needs=("json", "no_such_package")),
        row("kills_itself"),
        row("works"),
    ]
    start = time.monotonic()
    document = measure(rows, 75, out, dry=True)
    assert time.monotonic() - start < 75
    assert json.loads(out.read_text()) == document
    assert document["machine"]["versions"]["torch"]
    results = {entry["row"]: entry for entry in document["rows"]}
    assert list(results) == [one.name for one in rows]
    assert {name: entry["status"] for name, entry in results.items()} == {
        "hangs": "cut",
        "fails": "failed",
        "lacks": "left out",
        "kills_itself": "failed",
        "works": "measured",
    }
    # What was written down before the end is kept, and a child that it left behind is dead.
    (kept,) = results["hangs"]["entries"]
    assert kept["before"] == "the hang"
    with pytest.raises(ProcessLookupError):
        os.kill(kept["child"], 0)
    assert "the reason" in results["fails"]["error"]
    assert results["fails"]["entries"][0] == {"measured": 1}
    assert "no_such_package" in results["lacks"]["error"]
    caught, good = results["works"]["entries"]
    assert caught == {"part": 1, "error": "ValueError: only this part"}
    assert good == {"part": 2}


@pytest.mark.slow
@pytest.mark.usefixtures("rows_can_be_found")
def test_the_file_is_there_after_each_row_and_time_that_is_left_goes_to_later_rows(tmp_path):
    out = tmp_path / "gpu.json"
    measure([row("works"), row("says_its_limit")], 40, out, dry=True)
    first, second = json.loads(out.read_text())["rows"]
    assert first["limit_s"] == pytest.approx(20, abs=0.5)
    assert second["limit_s"] > 25
    assert second["entries"][0]["left"] < second["limit_s"] - GRACE_SECONDS + 0.1
    # No time at all: nothing is begun, and that is written down.
    (late,) = measure([row("works")], 1, out, dry=True)["rows"]
    assert (late["status"], late["error"]) == ("left out", "no time was left")


def command(*arguments):
    return commands.run([sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT)


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = command()
    assert done.returncode == 2
    assert "nvidia-smi shows no NVIDIA GPU" in done.stderr


def test_help_names_what_it_needs():
    text = command("--help").stdout
    assert all(name in text for name in PACKAGES)


IN_ONE_PROCESS = """
import importlib, sys
from pathlib import Path
from benchmarks.support.gpu_place import Place, Record

for row in sys.argv[2:]:
    module, _, name = row.partition(":")
    file = Path(sys.argv[1], f"{name}.jsonl")
    getattr(importlib.import_module(module), name)(Place(True), Record(file, 300))
"""

SLOW_ROWS = ("tests", "two processes")
"""Those that start processes themselves."""


def check(results):
    """What the rows must have found, whatever ran them."""
    faults = [entry for entries in results.values() for entry in entries]
    assert [entry for entry in faults if "error" in entry or "not_measured" in entry] == []
    assert {entry["crops"]: entry["differing_values"] for entry in results["generate"][:4]} == {
        "bicubic": 0,
        "bilinear": 0,
        "box": 0,
        "lanczos": 0,
    }
    assert all(entry["plain"]["loss_error"] < 1e-5 for entry in results["loss"])
    assert all(len(entries) >= 1 for entries in results.values())


@pytest.mark.slow
def test_rows_run_on_a_cpu(tmp_path):
    """In tiny sizes, so that the command is there when a GPU is."""
    rows = {row.name: row.function for row in ROWS if row.name not in SLOW_ROWS}
    arguments = [sys.executable, "-c", IN_ONE_PROCESS, tmp_path, *rows.values()]
    commands.run(arguments, cwd=ROOT, check=True)
    files = {name: tmp_path / f"{function.split(':')[1]}.jsonl" for name, function in rows.items()}
    check({name: [*map(json.loads, file.read_text().splitlines())] for name, file in files.items()})


@pytest.mark.slow
def test_every_row_runs_on_a_cpu(tmp_path):
    """The whole command, each row in a process of its own."""
    out = tmp_path / "gpu.json"
    done = command("--dry-run", "--out", str(out))
    assert done.returncode == 0, done.stdout
    results = {row["row"]: row["entries"] for row in json.loads(out.read_text())["rows"]}
    assert list(results) == [row.name for row in ROWS]
    check(results)
    assert results["tests"][-1]["passed"] >= 1
