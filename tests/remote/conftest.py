"""An S3 server for all tests here, and an environment that points at it."""

from __future__ import annotations

import itertools

import pytest

from labelstore.testing.network import Proxy, S3Server
from tests.support.buckets import bucket_of, send
from tests.support.stores import make_planned

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


@pytest.fixture(scope="session")
def shared(server, tmp_path_factory):
    """A store of 20 images x 10 views, and the URL of its copy in a bucket; nothing may write to
    either."""
    store, _ = make_planned(tmp_path_factory.mktemp("shared") / "a.zarr", images=20, views=10)
    server.make_bucket("shared")
    send(store.path, bucket_of(server, "shared"), "deep/a.zarr")
    return store, "s3://shared/deep/a.zarr"


@pytest.fixture
def proxy(s3, monkeypatch):
    """A network before the server, which this process goes through."""
    with Proxy(s3.address) as network:
        network.bucket = s3.bucket
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.address)
        yield network
