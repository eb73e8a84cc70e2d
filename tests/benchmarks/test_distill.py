"""The distillation benchmark's small setting, run as a user runs it; fetches Fashion-MNIST."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.support.distill_rows import FASHION, SCENES
from tests.support import commands

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("tables", [FASHION, SCENES], ids=["fashion", "scenes"])
def test_rows_have_names_of_their_own(tables):
    rows = [row for group in tables.values() for row in group]
    # Results are found by name, and two rows of one content would be one measurement shown twice.
    assert len({row.name for row in rows}) == len(rows)
    contents = {dataclasses.replace(row, name="") for row in rows}
    assert len(contents) == len(rows)


def test_a_row_that_is_not_there_is_refused_before_anything_is_made(tmp_path):
    command = [sys.executable, "-m", "benchmarks.distill", "--data", "scenes"]
    command += ["--cache", str(tmp_path / "cache"), "--rows", "FKD", "FerKD fited"]
    refused = commands.run(command, cwd=ROOT)
    assert refused.returncode != 0
    assert "no row is called 'FerKD fited'" in refused.stderr
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").exists() and shutil.which("apt-get") is None,
    reason="needs Fashion-MNIST: Debian's package dataset-fashion-mnist, or apt-get to fetch it",
)
def test_the_small_setting_runs_and_resumes(tmp_path):
    command = [sys.executable, "-m", "benchmarks.distill", "--small"]
    command += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "distill.json")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1800)
    first = json.loads((tmp_path / "distill.json").read_text())
    rows = {row["name"]: row for rows in first["tables"].values() for row in rows}
    assert set(rows) == {
        "hard labels",
        "label smoothing",
        "FKD",
        "FerKD + SelfMix + 2 teachers",
        "easy to hard",
    }
    # Every student has learned something, in the same number of steps.
    assert all(row["mean"] > 0.4 for row in rows.values())
    assert len({row["steps"] for row in rows.values()}) == 1
    assert sum(first["ferkd_shares"]["plain"].values()) == pytest.approx(1, abs=1e-3)
    assert "| FKD |" in (tmp_path / "distill.md").read_text()
    assert (tmp_path / "distill.png").stat().st_size > 10_000
    runs = sorted((tmp_path / "cache" / "small" / "runs").glob("*.json"))
    made = [file.stat().st_mtime_ns for file in runs]
    # A run that is missing is made again, the others are not; its result is the same.
    runs[0].unlink()
    started = time.time_ns()
    subprocess.run(command, cwd=ROOT, check=True, timeout=1800)
    assert runs[0].stat().st_mtime_ns > started
    assert [file.stat().st_mtime_ns for file in runs[1:]] == made[1:]
    again = json.loads((tmp_path / "distill.json").read_text())
    assert again["tables"].keys() == first["tables"].keys()
    for table, entries in first["tables"].items():
        for before, after in zip(entries, again["tables"][table], strict=True):
            assert after["accuracies"] == before["accuracies"]
