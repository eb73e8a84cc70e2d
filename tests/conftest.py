"""Fixtures of many tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", params=["zarr", "parquet"])
def suffix(request):
    """What stores are named by, and so the backend that they are made with."""
    return request.param
