"""Fixtures of many tests."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

# Before anything imports torch, and for every process that a test starts: networks here are tiny,
# and threads of as many workers as there are cores only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test asks for two all the same, they sleep while they wait; they would turn in circles.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Some hundred interpreters start here; each would compile this library and the tests anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

MEMORY = Path("/dev/shm")
"""A file system in memory. Stores are synced to disk file by file, which is most of what a test of
a small one waits for, and no test can take the power away. ``--basetemp`` and the variable
PYTEST_DEBUG_TEMPROOT name another place; the long sets, which have their time, stay on the disk."""

ROOM = 2**31
"""What must be free of it, in bytes; far more than the tests need."""


def pytest_configure(config):
    """Let the tests' folders lie in memory, where there is room; and files begin in our order."""
    if (
        "PYTEST_DEBUG_TEMPROOT" not in os.environ
        and config.option.markexpr == "not slow"
        and os.access(MEMORY, os.W_OK)
        and shutil.disk_usage(MEMORY).free >= ROOM
    ):
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)
    # A machine that has other things to do is no fault of an example's.
    hypothesis.settings.register_profile("labelstore", deadline=None, max_examples=40)
    hypothesis.settings.register_profile("many", deadline=None, max_examples=2000)
    if not config.getoption("--hypothesis-profile", None):
        hypothesis.settings.load_profile("labelstore")
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        from tests.support import commands

        commands.share()
    if hasattr(config.option, "loadscopereorder"):
        # pytest-xdist keeps the order of pytest_collection_modifyitems.
        config.option.loadscopereorder = False


LONG = (
    *("test_ray_engine.py", "test_page_in_browser.py", "test_pages.py", "test_distributed.py"),
    *("test_prune.py", "test_two_writers.py", "test_kills.py", "test_together.py"),
    "test_resize_kernels.py",
)
"""Files of few tests that take longest: a process that got one last would be waited for."""


def pytest_collection_modifyitems(items):
    """Files that take long first; with ``-n``, processes take the files in this order."""
    tests = Counter(item.path for item in items)
    # Else as pytest-xdist does it by itself.
    items.sort(key=lambda item: (item.path.name not in LONG, -tests[item.path]))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Nothing that imports make is garbage: to look for it takes a tenth of their time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish():
    """Collections, and forks that collect, leave alone what the imports of all tests made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def made_once(tmp_path_factory):
    """Where stores are kept of which tests take copies."""
    from tests.support.stores import MADE

    MADE[:] = [tmp_path_factory.mktemp("made")]


@pytest.fixture(scope="module", params=["zarr", "parquet"])
def suffix(request):
    """What stores are named by, and so the backend that they are made with."""
    return request.param
