"""A run that is told to end: what is finished, what is given up, and what is said."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from labelstore.producer.stopping import StopRequest, Terminated, deferred, obeying_sigterm
from tests.support import commands
from tests.support.stores import few_photos, files_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGTERM")


def test_work_goes_on_as_long_as_it_fits_the_grace():
    stop = StopRequest(5.0)
    stop.check(1e9)
    stop.ask()
    stop.check(4.0)
    with pytest.raises(Terminated):
        stop.check(6.0)
    over = StopRequest(0.0)
    over.ask()
    with pytest.raises(Terminated):
        over.check(0.0)


def test_a_second_signal_interrupts_at_once():
    stop = StopRequest(60.0)
    before = signal.getsignal(signal.SIGTERM)
    with obeying_sigterm(), deferred(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    with obeying_sigterm(), pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)


SLOW = """
import os
import pathlib
import signal
import time
import torch

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))
        self.watched = pathlib.Path(os.environ.get("WATCHED", "nothing"))
        # Only a run that is told to end needs a block that takes a while.
        self.seconds = 0.05 if "WATCHED" in os.environ else 0.0

    def forward(self, x):
        time.sleep(self.seconds)
        # Once a block is committed, the next one is at work: the process is told to end.
        if any((self.watched / "commits" / "c").glob("*")):
            self.watched = pathlib.Path("nothing")
            os.kill(os.getpid(), signal.SIGTERM)
        return 9 * x.mean((2, 3)) * self.scale

def make():
    half = (0.5, 0.5, 0.5)
    return Slow().eval(), {
        "input_size": (8, 8), "mean": half, "std": half, "interpolation": "bicubic",
    }
"""


def blocks_of(path):
    return len(list((path / "commits" / "c").glob("*")))


@pytest.mark.parametrize("grace", ["60", "0"])
def test_sigterm_finishes_the_block_or_gives_it_up(tmp_path, grace):
    photos = few_photos(tmp_path, 4)
    (tmp_path / "slow_one.py").write_text(SLOW)
    path, whole = tmp_path / "a.zarr", tmp_path / "whole.zarr"
    command = [
        *(sys.executable, "-m", "labelstore", "generate", str(photos), "--targets", "none"),
        *("--teacher", "python:slow_one:make", "--device", "cpu", "--views", "16", "--top-k", "1"),
        *("--block-images", "1", "--batch-size", "2", "--quiet", "--grace", grace),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    told = {**environment, "WATCHED": str(path)}
    run = commands.run([*command, "-o", str(path)], env=told)
    assert run.returncode == 143, run.stderr
    assert run.stderr.splitlines()[-1] == (
        "Terminated: what was committed is kept, and the same command goes on from there."
    )
    # The first block, and with a grace the one at work; a slow disk may be a block behind.
    assert blocks_of(path) in ((2, 3) if grace == "60" else (1, 2))
    for place in (path, whole):
        commands.run([*command, "-o", str(place)], env=environment, check=True)
    assert files_of(path) == files_of(whole)
