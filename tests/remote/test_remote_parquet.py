"""Parquet stores behind URLs: read, written and copied as those on a disk."""

from __future__ import annotations

import numpy as np
import obstore
import pytest

import labelstore
from labelstore.errors import LabelStoreError, MismatchError, NotFoundError, StoreError
from labelstore.operations.pull import pull
from labelstore.testing.network import FileServer, Proxy
from tests.support.buckets import bucket_of, objects_of, send
from tests.support.stores import files_of, make_planned, read_everything, written


@pytest.fixture
def sent(s3, tmp_path):
    store, _ = make_planned(tmp_path / "a.parquet", images=20, views=10, prior_size=8)
    send(store.path, bucket_of(s3, s3.bucket), "a.parquet")
    return store, f"s3://{s3.bucket}/a.parquet"


def test_reads_as_the_local_store_does(sent):
    store, url = sent
    assert read_everything(url) == read_everything(store.path)
    remote = labelstore.open(url)
    assert remote.bytes_by_part() == store.bytes_by_part()
    assert [remote.check_block(block) for block in range(3)] == [[], [], []]


def test_the_hub(tmp_path, monkeypatch):
    folder = tmp_path / "datasets/me/labels/resolve/main"
    store, _ = make_planned(folder / "a.parquet", images=20, views=10)
    with FileServer(tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        url = "hf://datasets/me/labels/a.parquet"
        assert read_everything(url) == read_everything(store.path)
        pull(labelstore.open(url), tmp_path / "b.parquet", views=range(3))
    views = np.arange(3)
    found = labelstore.open(tmp_path / "b.parquet").read(np.arange(20)[:, None], views)
    assert np.array_equal(found.probs, store.read(np.arange(20)[:, None], views).probs)


def test_footers_are_asked_for_once_and_groups_by_their_columns(s3, tmp_path, proxy):
    store, _, _ = written(tmp_path / "a.parquet", images=3000, views=40, block_images=1500)
    send(store.path, bucket_of(s3, s3.bucket), "a.parquet")
    remote = labelstore.open(f"s3://{s3.bucket}/a.parquet")
    remote.read(np.arange(3000), 0)
    proxy.requests.clear()
    truth = store.read(np.arange(3000)[:, None], np.arange(16, 32))
    found = remote.read(np.arange(3000)[:, None], np.arange(16, 32))
    assert np.array_equal(found.probs, truth.probs)
    sizes = [(store.path / "labels" / f"00000{block}.parquet").stat().st_size for block in (0, 1)]
    assert sum(request.body_bytes for request in proxy.requests) < 0.45 * sum(sizes)


def test_written_as_on_a_disk(s3, tmp_path):
    url = f"s3://{s3.bucket}/b.parquet"
    make_planned(url, blocks=[0, 2])
    assert labelstore.open(url).missing_blocks() == [1]
    make_planned(url)
    local, _ = make_planned(tmp_path / "b.parquet")
    found = objects_of(bucket_of(s3, s3.bucket), "b.parquet")
    assert found == {
        name: (local.path / name).read_bytes()
        for name in files_of(local.path)
        if not name.startswith(".")
    }
    with pytest.raises(MismatchError):
        make_planned(url, k=2)
    _, indices, _ = written(url, images=5, overwrite=True)
    assert np.array_equal(labelstore.open(url).read(np.arange(5), 0).indices, indices[:, 0])


def test_a_whole_copy(sent, tmp_path):
    store, url = sent
    pull(labelstore.open(url), tmp_path / "copy.parquet")
    assert read_everything(tmp_path / "copy.parquet") == read_everything(store.path)


def test_damage_is_an_error_and_never_a_label(sent, s3):
    store, url = sent
    bucket = bucket_of(s3, s3.bucket)
    truth = store.read(np.arange(20)[:, None], np.arange(10))
    errors = faults = 0
    for folder in ("labels", "measured", "commits"):
        suffix = "npy" if folder == "commits" else "parquet"
        name = f"{folder}/000001.{suffix}"
        whole = (store.path / name).read_bytes()
        for place in range(0, len(whole), max(len(whole) // 3, 1)):
            broken = bytearray(whole)
            broken[place] ^= 16
            obstore.put(bucket, f"a.parquet/{name}", bytes(broken))
            faults += 1
            try:
                topk = labelstore.open(url).read(np.arange(20)[:, None], np.arange(10))
            except LabelStoreError as error:
                errors += url in str(error)
            else:
                assert np.array_equal(topk.probs, truth.probs)
                assert np.array_equal(topk.indices, truth.indices)
        obstore.put(bucket, f"a.parquet/{name}", whole)
    assert errors > faults / 3


def test_a_connection_that_breaks(sent, s3, monkeypatch):
    store, url = sent
    monkeypatch.setattr("labelstore.storage.remote.transfers.RETRY_SECONDS", 1)
    broken = ["/labels/000001"]
    with Proxy(s3.address, cut=lambda r: 0 if broken[0] in r.path else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        remote = labelstore.open(url)
        with pytest.raises(StoreError, match=r"a.parquet/labels/000001.parquet: the request fail"):
            remote.read(np.arange(20), 0)
        broken[0] = "nothing"
        assert np.array_equal(
            remote.read(np.arange(20), 0).probs, store.read(np.arange(20), 0).probs
        )


def test_what_is_not_there(s3):
    with pytest.raises(NotFoundError, match="there is no store at"):
        labelstore.open(f"s3://{s3.bucket}/none.parquet")
