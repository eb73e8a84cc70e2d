"""Rows for the tests of ``benchmarks.gpu``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time


def hangs(place, record):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    record.add(before="the hang", child=child.pid)
    time.sleep(600)


def fails(place, record):
    record.add(measured=1)
    raise RuntimeError("the reason")


def kills_itself(place, record):
    os.kill(os.getpid(), signal.SIGKILL)


def works(place, record):
    with record.attempt(part=1):
        raise ValueError("only this part")
    record.add(part=2)


def says_its_limit(place, record):
    record.add(left=record.left)
