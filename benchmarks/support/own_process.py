"""What a task takes in a process of its own: seconds of the processor and the clock, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["measured"]

_MEASURED = """
import importlib, json, os, resource, sys, tempfile, time
from pathlib import Path
module, name, times, *arguments = sys.argv[1:]
tasks = importlib.import_module(module)
def used():
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    spent = [resource.getrusage(each) for each in whose]
    return sum(each.ru_utime + each.ru_stime for each in spent)
rows = []
for _ in range(int(times)):
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LABELSTORE_CACHE"] = folder
        begun, before, here = time.perf_counter(), used(), time.thread_time()
        row = getattr(tasks, name)(*arguments)
        took = {"seconds": time.perf_counter() - begun, "cpu_seconds": used() - before}
        rows.append({**took, "main_thread_cpu_seconds": time.thread_time() - here, **row})
status = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
least = min(rows, key=lambda row: row["cpu_seconds"])
print(json.dumps({**least, "most_memory_bytes": peak}))
"""


def measured(module: str, task: str, *arguments: str, times: int = 1, limit: int) -> dict[str, Any]:
    """What a task takes in a process of its own.

    Args:
        module: has the task. task: a function of strings that returns more of the row.
        times: how often; the least of the processor's seconds counts, so that no import does.
        limit: seconds after which it is given up.

    Returns:
        ``seconds``, ``cpu_seconds`` (children included), ``main_thread_cpu_seconds``,
        ``most_memory_bytes`` of the process alone, and what the task returns. (A child's maximum
        is what its parent had when it was forked: torch's import, which asks ldconfig, would count
        twice.)
    """
    command = [sys.executable, "-c", _MEASURED, module, task, str(times), *arguments]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=environment,
        timeout=limit,
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row
