"""Reading stores behind URLs: the same labels, few requests, and errors with a name."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import obstore
import pytest

import labelstore
from labelstore.errors import (
    CorruptError,
    LabelStoreError,
    MissingPackageError,
    NotFoundError,
    StoreError,
    UsageError,
)
from labelstore.testing.network import FileServer, Proxy
from tests.support import commands
from tests.support.buckets import bucket_of, send
from tests.support.ranks import end_workers
from tests.support.stores import make_planned, read_everything, written


@pytest.fixture
def sent(s3, shared):
    """A local store, and the URL of its copy in a bucket that this process finds."""
    return shared


def test_s3_reads_as_the_local_store_does(sent):
    store, url = sent
    assert read_everything(url) == read_everything(store.path)
    remote = labelstore.open(url)
    assert remote.path == url
    assert remote.bytes_by_part() == store.bytes_by_part()
    assert [remote.check_block(block) for block in range(3)] == [[], [], []]
    assert labelstore.open(f"{url}/").manifest == store.manifest


def test_pickled(sent):
    store, url = sent
    again = pickle.loads(pickle.dumps(labelstore.open(url)))
    assert np.array_equal(again.read(3, 4).indices, store.read(3, 4).indices)


def test_explicit_boxes(s3, tmp_path):
    boxes = np.arange(20 * 7 * 4).reshape(20, 7, 4)
    flips = np.arange(140).reshape(20, 7) % 3 == 1
    store, _, _ = written(tmp_path / "a.zarr", views=7, law=None, boxes=boxes, flips=flips)
    send(store.path, bucket_of(s3, s3.bucket), "a.zarr")
    assert read_everything(f"s3://{s3.bucket}/a.zarr") == read_everything(store.path)


def shard_requests(proxy):
    return [r for r in proxy.requests if re.search(r"/labels/\w+/c/", r.path)]


def test_a_group_is_one_range_of_each_shard(sent, proxy):
    store, url = sent
    remote = labelstore.open(url)
    images, parts, blocks = np.arange(20)[:, None], 3, 3
    for group, expected in ((0, 2 * parts * blocks), (1, parts * blocks), (1, 0)):
        proxy.requests.clear()
        views = np.arange(4 * group, 4 * group + 4)
        found, truth = remote.read(images, views), store.read(images, views)
        assert np.array_equal(found.probs, truth.probs)
        assert len(shard_requests(proxy)) == expected
    ranges = [r.headers["Range"] for r in shard_requests(proxy)]
    assert all(text and text.startswith("bytes=") for text in ranges)


def test_a_slab_is_one_range_of_each_shard(sent, proxy):
    store, url = sent
    remote = labelstore.open(url, slab_bytes=2**24)
    assert remote.complete
    proxy.requests.clear()
    slab = remote.slab(1)
    found, truth = (
        slab.read(np.arange(20)[:, None], np.arange(4, 8)),
        store.read(np.arange(20)[:, None], np.arange(4, 8)),
    )
    assert np.array_equal(found.probs, truth.probs)
    assert len(shard_requests(proxy)) <= 2 * 3 * 3
    remote.slabs.close()


def test_scattered_views_are_read_together(sent, proxy):
    store, url = sent
    remote = labelstore.open(url)
    rng = np.random.default_rng(0)
    images, views = rng.integers(0, 20, 300), rng.integers(0, 10, 300)
    proxy.requests.clear()
    found, truth = remote.read(images, views), store.read(images, views)
    assert np.array_equal(found.indices, truth.indices)
    assert np.array_equal(found.probs, truth.probs)
    # All groups of each shard were asked for, so each was read whole.
    assert len(shard_requests(proxy)) == 3 * 3


def test_requests_are_under_way_together(s3, tmp_path, monkeypatch):
    store, _ = make_planned(tmp_path / "a.zarr", images=16, views=4, block_images=1)
    send(store.path, bucket_of(s3, s3.bucket), "a.zarr")
    with Proxy(s3.address, seconds=0.05) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        remote = labelstore.open(f"s3://{s3.bucket}/a.zarr")
        proxy.most_together = 0
        remote.read(np.arange(16)[:, None], np.arange(4))
        assert proxy.most_together > 10


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_connection_cut_once_is_mended(sent, s3, monkeypatch, share):
    store, url = sent
    cut = set()

    def once(request):
        """Break the first answer of each path."""
        if request.path in cut or request.method == "HEAD":
            return None
        cut.add(request.path)
        return int(request.body_bytes * share)

    with Proxy(s3.address, cut=once) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        assert read_everything(url) == read_everything(store.path)
        assert len(cut) > 20


def test_a_connection_that_always_breaks_is_an_error_with_a_name(sent, s3, monkeypatch):
    _, url = sent
    monkeypatch.setattr("labelstore.storage.remote.transfers.RETRY_SECONDS", 1)

    def always(request):
        return 0 if "/labels/classes/c/1/" in request.path else None

    with Proxy(s3.address, cut=always) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        remote = labelstore.open(url)
        remote.read(0, 0)
        with pytest.raises(StoreError, match=r"s3://.*a.zarr/labels/classes/c/1/0/0: the request"):
            remote.read(np.arange(20), 0)
        proxy.cut = lambda request: None
        assert remote.read(np.arange(20), 0).indices.shape == (20, 3)


def test_damage_is_an_error_and_never_a_label(s3, tmp_path):
    # Two blocks, the second of which is no whole one.
    store, _ = make_planned(tmp_path / "a.zarr", images=12, views=10)
    bucket, url = bucket_of(s3, s3.bucket), f"s3://{s3.bucket}/deep/a.zarr"
    send(store.path, bucket, "deep/a.zarr")
    truth = store.read(np.arange(12)[:, None], np.arange(10))
    names = sorted(
        file.relative_to(store.path).as_posix()
        for file in store.path.rglob("*")
        if file.is_file() and "/c/" in file.as_posix()
    )
    errors, faults = 0, 0
    for number, name in enumerate(names):
        whole = (store.path / name).read_bytes()
        broken = bytearray(whole)
        broken[(number * 37) % len(whole)] ^= 1
        fault = (bytes(broken), whole[: len(whole) // 2], None)[number % 3]
        if fault is None:
            obstore.delete(bucket, f"deep/a.zarr/{name}")
        else:
            obstore.put(bucket, f"deep/a.zarr/{name}", fault)
        faults += 1
        try:
            found = labelstore.open(url)
            topk = found.read(np.arange(12)[:, None], np.arange(10))
            found.labelled()
        except LabelStoreError as error:
            errors += url in str(error)
        else:
            assert np.array_equal(topk.probs, truth.probs), name
            assert np.array_equal(topk.indices, truth.indices), name
        obstore.put(bucket, f"deep/a.zarr/{name}", whole)
    # Only the table of keys and ground truth is not looked at by reading labels by position.
    assert errors >= faults - 2
    assert read_everything(url) == read_everything(store.path)


def test_what_is_not_there(s3, monkeypatch):
    with pytest.raises(NotFoundError, match=r"no store at s3://.*/none.zarr: check the URL"):
        labelstore.open(f"s3://{s3.bucket}/none.zarr")
    with pytest.raises(NotFoundError, match="no store at s3://no-such-bucket"):
        labelstore.open("s3://no-such-bucket/a.zarr")
    with pytest.raises(UsageError, match="expected hf://datasets/OWNER/REPO/PATH"):
        labelstore.open("hf://models/a/b/c.zarr")


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr("labelstore.storage.remote.transfers.RETRY_SECONDS", 1)
    with pytest.raises(StoreError, match=r"http://127.0.0.1:9/a.zarr/zarr.json: the request fail"):
        labelstore.open("http://127.0.0.1:9/a.zarr")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(
        MissingPackageError, match=r'pip install obstore, or pip install "\.\[remote'
    ):
        labelstore.open("s3://bucket/a.zarr")


def test_a_local_store_needs_no_extra(tmp_path):
    written(tmp_path / "a.zarr")
    code = (
        "import sys, labelstore; labelstore.open(sys.argv[1]).read(0, 0); "
        "assert 'obstore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.zarr")], check=True)


@pytest.mark.parametrize("kind", ["https", "hf"])
def test_plain_http(tmp_path, monkeypatch, kind):
    folder = tmp_path / ("datasets/me/labels/resolve/v1" if kind == "hf" else "")
    store, _ = make_planned(folder / "my store.zarr", images=20, views=10)
    with FileServer(tmp_path) as server, Proxy(server.address) as proxy:
        monkeypatch.setenv("HF_ENDPOINT", proxy.address)
        monkeypatch.setenv("HF_TOKEN", "secret")
        url = f"{proxy.address}/my%20store.zarr"
        if kind == "hf":
            url = "hf://datasets/me/labels@v1/my store.zarr"
        assert read_everything(url) == read_everything(store.path)
        assert labelstore.open(url).bytes_by_part() == {
            **store.bytes_by_part(),
            "manifest": (store.path / "zarr.json").stat().st_size,
        }
        tokens = {request.headers.get("Authorization") for request in proxy.requests}
        assert tokens == ({"Bearer secret"} if kind == "hf" else {None})


def test_a_server_without_ranges_is_an_error(tmp_path):
    make_planned(tmp_path / "a.zarr")
    with FileServer(tmp_path, ranges=False) as server:
        store = labelstore.open(f"{server.address}/a.zarr")
        with pytest.raises(StoreError, match=r"labels/.*: the request failed"):
            store.read(0, 0)


def test_a_denied_request_names_the_mend(s3, sent, monkeypatch):
    _, url = sent
    with Proxy(s3.address) as proxy:
        proxy.status = 403
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        with pytest.raises(NotFoundError, match=r"access is denied.*AWS_ACCESS_KEY_ID"):
            labelstore.open(url)


def test_missing_credentials_are_named(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("labelstore.storage.remote.transfers.RETRY_SECONDS", 1)
    with pytest.raises(NotFoundError, match=r"access is denied.*set AWS_ACCESS_KEY_ID"):
        labelstore.open(f"s3://{s3.bucket}/a.zarr")


def run(*arguments):
    return commands.run([sys.executable, "-m", "labelstore", *arguments])


def test_inspect_and_verify(sent):
    store, url = sent
    done = run("inspect", url, "--json")
    assert done.returncode == 0, done.stderr
    here = json.loads(run("inspect", str(store.path), "--json").stdout)
    there = json.loads(done.stdout)
    assert {**there, "path": ""} == {**here, "path": ""} or there.keys() == here.keys()
    assert run("verify", url).returncode == 0
    missing = run("inspect", f"{url}x")
    assert missing.returncode == 1
    assert missing.stderr.startswith("Error: there is no store at s3://")


class Labels:
    """A data set of a store's labels, for a data loader's workers."""

    def __init__(self, store):
        self.store = store

    def __len__(self):
        return self.store.num_images

    def __getitem__(self, image):
        return self.store.read(image, np.arange(10)).probs


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_a_data_loader(sent, method):
    from torch.utils.data import DataLoader

    store, url = sent
    remote = labelstore.open(url)
    remote.read(0, 0)
    loader = DataLoader(Labels(remote), batch_size=5, num_workers=2, multiprocessing_context=method)
    found = np.concatenate([batch.numpy() for batch in loader])
    assert np.array_equal(found, store.read(np.arange(20)[:, None], np.arange(10)).probs)


def test_errors_of_a_forked_worker_have_their_kind(sent, s3):
    from torch.utils.data import DataLoader

    store, _ = sent
    bucket = bucket_of(s3, s3.bucket)
    send(store.path, bucket, "deep/a.zarr")
    remote = labelstore.open(f"s3://{s3.bucket}/deep/a.zarr")
    obstore.delete(bucket, "deep/a.zarr/labels/classes/c/0/0/0")
    loader = DataLoader(Labels(remote), num_workers=1, multiprocessing_context="fork")
    batches = iter(loader)
    with pytest.raises(CorruptError, match=r"s3://.*labels/classes"):
        next(batches)
    end_workers(batches)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork(sent):
    store, url = sent
    remote = labelstore.open(url)
    expected = remote.read(0, 0).probs
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            found = np.array_equal(remote.read(0, 0).probs, expected)
            found &= np.array_equal(remote.read(19, 9).probs, store.read(19, 9).probs)
            os.write(writing, b"1" if found else b"0")
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert os.read(reading, 1000) == b"1"
