"""A fuzzer of all that is read from files: stores of both backends, copies, and photo sources.

Every input is a number, its seed: what is changed, and how, follows from it and from small stores
that are made here. An input is one file that was changed, and what reading says of it; the right
answers are an error of the library or, where no digest was made to fit, the very labels that were
written. Where digests were made to fit, so that values of a stranger come through, what is read
must still be labels.

Inputs are read in child processes, thousands in each, within a bound of memory. A child that dies,
or stands still, is followed by another one that goes on behind the input that it died of.

    python -m tests.faults.fuzzing --inputs 100000 --seed 0 --children 2
    python -m tests.faults.fuzzing --only 4711      # one input again

``--subjects tar,photo_table`` takes some subjects only; what a seed changes depends on them.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from labelstore.errors import LabelStoreError, UsageError
from tests.faults.fuzz_subjects import make_files, subjects_of

MEMORY_BYTES = 2**30
"""What reading one input may take beside what the process has when it starts."""

HANG_SECONDS = 10.0
"""After which an input is taken for one that never ends."""

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
"""Of a child."""

start = subprocess.Popen

KINDS = ("crash", "hang", "memory", "traceback", "advice", "silent", "no-label")
"""What an input may show: the process died; it stood still; MemoryError; another error than the
library's; an error that blames the request; other labels than were written, or fewer
photos; values that are no labels."""


def try_one(subjects, seed):
    """Change a file by a seed, read, put it back: None where all is right, else kind and words."""
    rng = random.Random(seed)
    subject = rng.choices(subjects, [subject.weight for subject in subjects])[0]
    change = subject.change(rng)
    try:
        change.apply()
        return _outcome(subject, change)
    finally:
        change.restore()


def _outcome(subject, change):
    where = f"{subject.name} {change.name} ({change.how})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = subject.read(change)
            problem = subject.problem(read) if change.signed else None
    except UsageError as error:
        return "advice", f"{where}: {error}"
    except LabelStoreError:
        return None
    except MemoryError:
        return "memory", where
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {str(error)[:150]}"
        return "traceback", f"{where}: {words} at {Path(last.filename).name}:{last.lineno}"
    if change.signed:
        return problem and ("no-label", f"{where}: {problem}")
    if subject.same(read, change):
        return None
    return "silent", where


def child(folder, first, stop, names=()):
    """Try the inputs first..stop-1, telling where it is; failures are lines of JSON on stdout."""
    subjects = subjects_of(folder / "files", names)
    for subject in subjects:
        subject.warm()
    parent = os.getppid()
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (folder / "place").open("r+b") as file:
        place = mmap.mmap(file.fileno(), 8)
    for seed in range(first, stop):
        place[:8] = struct.pack("<q", seed)
        if seed % 100 == 0 and os.getppid() != parent:
            return
        failure = try_one(subjects, seed)
        if failure is not None:
            print(json.dumps([seed, *failure]), flush=True)
    place[:8] = struct.pack("<q", stop)


class Lane:
    """One child after the other, over a range of inputs."""

    def __init__(self, root, first, stop, names=()):
        self._names = ",".join(names)
        self._whole = root / "whole"
        self._folder = root / str(first)
        self._folder.mkdir()
        self._stop = stop
        self.failures = []
        self._lines = self._folder / "lines"
        self._start(first)

    def _start(self, first):
        # What a child that died has left is not what the next one begins with.
        shutil.rmtree(self._folder / "files", ignore_errors=True)
        shutil.copytree(self._whole, self._folder / "files")
        (self._folder / "place").write_bytes(struct.pack("<q", first))
        self._seed, self._since = first, time.monotonic()
        command = [sys.executable, __file__, "--child", str(self._folder), str(first)]
        command += [str(self._stop), "--subjects", self._names]
        with self._lines.open("ab") as lines, (self._folder / "errors").open("wb") as errors:
            self._process = start(command, stdout=lines, stderr=errors, env=ENVIRONMENT)
        # Its imports take seconds.
        self._grace = 60.0

    def step(self):
        """Look after the child; False once all inputs are done."""
        (seed,) = struct.unpack("<q", (self._folder / "place").read_bytes())
        now = time.monotonic()
        if seed != self._seed:
            self._seed, self._since, self._grace = seed, now, 0.0
        code = self._process.poll()
        if code is None:
            # The last input is done; ending takes a while, too.
            if seed == self._stop or now - self._since < HANG_SECONDS + self._grace:
                return True
            self._process.kill()
            self._process.wait()
            return self._next("hang", f"longer than {HANG_SECONDS:g} s")
        if code == 0:
            lines = self._lines.read_text().splitlines()
            self.failures += [tuple(json.loads(line)) for line in lines]
            return False
        words = (self._folder / "errors").read_text()[-300:]
        if self._grace and code == 1:
            raise RuntimeError(f"the child could not begin: {words}")
        return self._next("crash", f"exit code {code} {words}")

    def _next(self, kind, words):
        self.failures.append((self._seed, kind, words))
        if self._seed + 1 >= self._stop:
            return self._done_lines()
        self._start(self._seed + 1)
        return True

    def _done_lines(self):
        lines = self._lines.read_text().splitlines()
        self.failures += [tuple(json.loads(line)) for line in lines]
        return False

    def end(self):
        """Stop the child, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def fuzz(inputs, seed=0, children=1, names=()):
    """Try inputs in children; failures as (seed, kind, words), and inputs a second."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    size = -(-inputs // children)
    lanes, started = [], time.monotonic()
    try:
        (root / "whole").mkdir()
        make_files(root / "whole")
        stop = seed + inputs
        lanes += [
            Lane(root, first, min(first + size, stop), names) for first in range(seed, stop, size)
        ]
        running = list(lanes)
        while running:
            running = [lane for lane in running if lane.step()]
            time.sleep(0.02)
    finally:
        for lane in lanes:
            lane.end()
        shutil.rmtree(root)
    seconds = time.monotonic() - started
    failures = sorted(failure for lane in lanes for failure in lane.failures)
    return failures, inputs / seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=3)
    parser.add_argument("--only", type=int)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--children", type=int, default=1)
    parser.add_argument("--subjects", default="")
    asked = parser.parse_args()
    names = tuple(filter(None, asked.subjects.split(",")))
    if asked.child:
        folder, first, stop = asked.child
        child(Path(folder), int(first), int(stop), names)
        return
    if asked.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            make_files(Path(folder))
            subjects = subjects_of(Path(folder), names)
            for subject in subjects:
                subject.warm()
            print(try_one(subjects, asked.only))
        return
    failures, rate = fuzz(asked.inputs, asked.seed, asked.children, names)
    for failure in failures:
        print(*failure)
    counts = Counter(kind for _, kind, _ in failures)
    print(f"{asked.inputs} inputs from seed {asked.seed}, {rate:.0f} a second: {dict(counts)}")


if __name__ == "__main__":
    main()
