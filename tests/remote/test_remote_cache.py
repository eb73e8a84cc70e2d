"""Chunks of remote stores in a local folder: asked for once, and never wrong."""

from __future__ import annotations

import numpy as np
import pytest

import labelstore
from labelstore.store.chunks.disk_cache import VARIABLE
from tests.support.buckets import bucket_of, send
from tests.support.stores import make_planned


@pytest.fixture
def stores(s3, proxy, tmp_path, monkeypatch):
    """A store here, its URL, and a folder for what is kept."""
    store, _ = make_planned(tmp_path / "a.zarr", images=12, views=10, prior_size=8)
    send(store.path, bucket_of(s3, s3.bucket), "a.zarr")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    return store, f"s3://{s3.bucket}/a.zarr"


def same(url, store):
    """Whether a newly opened remote store gives the labels of the store here."""
    images, views = np.arange(12)[:, None], np.arange(10)
    one, other = labelstore.open(url).read(images, views), store.read(images, views)
    return (one.indices == other.indices).all() and (one.probs == other.probs).all()


def shard_requests(proxy):
    return sum("/labels/" in request.path and "/c/" in request.path for request in proxy.requests)


def test_chunks_are_asked_for_once(stores, proxy):
    store, url = stores
    assert same(url, store)
    first = shard_requests(proxy)
    assert first > 0
    assert same(url, store)
    assert shard_requests(proxy) == first


@pytest.mark.parametrize(
    "harm",
    [
        *("flip", "cut", "exchange"),
        *(pytest.param(harm, marks=pytest.mark.slow) for harm in ("empty", "delete")),
    ],
)
def test_what_is_wrong_in_the_folder_is_asked_for_again(stores, proxy, tmp_path, harm):
    store, url = stores
    assert same(url, store)
    first = shard_requests(proxy)
    kept = sorted(path for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert kept
    for path, other in zip(kept, [*kept[1:], kept[0]], strict=True):
        data = bytearray(path.read_bytes())
        if harm == "delete":
            path.unlink()
        elif harm == "exchange":
            path.write_bytes(other.read_bytes() if other.exists() else b"")
        elif harm == "flip":
            data[len(data) // 2] ^= 4
            path.write_bytes(data)
        else:
            path.write_bytes(data[: len(data) - 1] if harm == "cut" else b"")
    assert same(url, store)
    assert shard_requests(proxy) > first
    again = shard_requests(proxy)
    assert same(url, store)
    assert shard_requests(proxy) == again


def test_a_disk_that_refuses_does_not_matter(stores, tmp_path):
    store, url = stores
    (tmp_path / "kept").write_text("no folder")
    assert same(url, store)


def test_local_stores_keep_nothing(stores, tmp_path):
    store, _ = stores
    labelstore.open(store.path).read(np.arange(12)[:, None], np.arange(10))
    assert not (tmp_path / "kept").exists()
