"""An S3 server for all tests here, and an environment that points at it."""

from __future__ import annotations

import itertools

import pytest

from labelstore.testing.network import Proxy, S3Server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server():
    with S3Server() as running:
        yield running


@pytest.fixture
def s3(server, monkeypatch):
    """The server, found by this process's environment; ``bucket`` is a new one."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    server.bucket = f"bucket{next(_numbers)}"
    server.make_bucket(server.bucket)
    return server


@pytest.fixture
def proxy(s3, monkeypatch):
    """A network before the server, which this process goes through."""
    with Proxy(s3.address) as network:
        network.bucket = s3.bucket
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.address)
        yield network
