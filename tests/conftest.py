"""Fixtures of many tests."""

from __future__ import annotations

import os

# Before anything imports torch, and for every process that a test starts: networks here are tiny,
# and threads of as many workers as there are cores only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="module", params=["zarr", "parquet"])
def suffix(request):
    """What stores are named by, and so the backend that they are made with."""
    return request.param
