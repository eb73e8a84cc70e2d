"""Servers that stand still or send a byte a second are given up; slow ones are waited for."""

from __future__ import annotations

import io
import pickle
import tarfile
import threading
import time

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import labelstore
from labelstore.errors import LabelStoreError, SourceError, StoreError, UsageError
from labelstore.images.sources.choose import open_source
from labelstore.storage.remote.objects import RemoteObjects
from labelstore.testing.network import FileServer
from tests.support.buckets import bucket_of, send
from tests.support.stores import make_planned, once, read_everything

make_planned = once(make_planned)

KINDS = {
    "drips": {"pace": (1, 0.1)},
    "stops": {"pace": (1, 30.0)},
    "says nothing": {"seconds": 30.0},
}


PATIENCE = 0.4
"""Seconds instead of eight, so that tests end soon; while a server is well, it has its eight."""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("LABELSTORE_REMOTE_TIMEOUT", str(PATIENCE))


@pytest.fixture
def files(tmp_path):
    """A server of the files of a folder, ``tmp_path``."""
    with FileServer(tmp_path) as server:
        yield server


@pytest.fixture
def behave(monkeypatch):
    """Makes a server slow, and this process impatient."""

    def change(server, kind):
        for name, value in KINDS[kind].items():
            setattr(server, name, value)
        monkeypatch.setenv("LABELSTORE_REMOTE_TIMEOUT", str(PATIENCE))

    return change


def refused(call, seconds):
    """What a call raises, in less than so many seconds."""
    started = time.monotonic()
    with pytest.raises(LabelStoreError) as caught:
        call()
    assert time.monotonic() - started < seconds
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_opening(tmp_path, files, kind, suffix, behave):
    make_planned(tmp_path / f"a.{suffix}")
    behave(files, kind)
    told = refused(lambda: labelstore.open(f"{files.address}/a.{suffix}"), 3)
    assert f"a.{suffix}/" in told
    assert "stands still" in told
    assert "LABELSTORE_REMOTE_TIMEOUT" in told


@pytest.mark.parametrize("kind", KINDS)
def test_reading(tmp_path, files, kind, suffix, behave):
    make_planned(tmp_path / f"a.{suffix}")
    store = labelstore.open(f"{files.address}/a.{suffix}")
    behave(files, kind)
    assert "stands still" in refused(lambda: store.read(3, 4), 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_opening_without_settings(tmp_path, files, kind):
    make_planned(tmp_path / "a.zarr")
    for name, value in KINDS[kind].items():
        setattr(files, name, value)
    assert "stands still" in refused(lambda: labelstore.open(f"{files.address}/a.zarr"), 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shard", ["a.tar", "a.parquet"])
def test_photos(tmp_path, files, kind, shard, behave):
    photos = {f"n/{number}.jpg": bytes([number]) * 3000 for number in range(4)}
    if shard == "a.tar":
        with tarfile.open(tmp_path / shard, "w") as archive:
            for name, data in photos.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        images = [{"bytes": data, "path": name} for name, data in photos.items()]
        # Photos lie before what is asked for of the file's end.
        images.append({"bytes": bytes(range(256)) * 512, "path": "n/4.jpg"})
        pq.write_table(pa.table({"image": images}), tmp_path / shard, compression="none")
    url = f"{files.address}/{shard}"
    source = open_source(url)
    assert source.read(1) == photos["n/1.jpg"]
    again = pickle.loads(pickle.dumps(source))
    behave(files, kind)
    assert "stands still" in refused(lambda: open_source(url), 4)
    with pytest.raises(SourceError, match="stands still"):
        again.read(2)


@pytest.mark.usefixtures("impatient")
def test_a_listing(s3, proxy):
    proxy.seconds = 30
    assert "stands still" in refused(lambda: open_source(f"s3://{s3.bucket}/photos"), 3)


@pytest.mark.usefixtures("impatient")
def test_a_slow_link_is_waited_for(tmp_path, files):
    """Seven times as long as nothing may come, and each second twice what must."""
    data = bytes(range(256)) * 24
    (tmp_path / "a").write_bytes(data)
    files.pace = (256, 0.125)
    started = time.monotonic()
    assert RemoteObjects(files.address).get("a") == data
    assert time.monotonic() - started > 7 * PATIENCE


@pytest.mark.usefixtures("impatient")
def test_what_came_before_a_break_is_kept(s3, proxy):
    data = bytes(range(256)) * 64
    objects = RemoteObjects(f"s3://{s3.bucket}")
    objects.put("a", data)
    proxy.cut = lambda request: 5000 if request.number in (1, 2) else None
    assert objects.get_range("a", 100, 16_000) == data[100:16_100]
    asked = [request.headers["Range"] for request in proxy.requests[1:]]
    assert asked[0] == "bytes=100-16099"
    first = [int(part.removeprefix("bytes=").split("-")[0]) for part in asked]
    assert len(first) == 3
    assert 100 < first[1] <= 5100
    assert first[1] < first[2] <= 10_100


@pytest.mark.usefixtures("impatient")
def test_an_object_that_is_replaced_while_it_comes(s3, proxy):
    objects = RemoteObjects(f"s3://{s3.bucket}")
    objects.put("a", b"one" * 4000)

    def cut(request):
        if request.number != 1:
            return None
        bucket = bucket_of(s3, s3.bucket)
        obstore.put(bucket, "a", b"two" * 4000)
        return 5000

    proxy.cut = cut
    assert objects.get("a") == b"two" * 4000


@pytest.mark.usefixtures("impatient")
def test_a_service_that_says_it_is_busy_is_asked_again(s3, proxy, tmp_path):
    """It answers, so that waiting for it is no waiting for progress."""
    store, _ = make_planned(tmp_path / "a.zarr")
    send(store.path, bucket_of(s3, s3.bucket), "a.zarr")
    proxy.status = 503
    threading.Timer(3 * PATIENCE, lambda: setattr(proxy, "status", None)).start()
    started = time.monotonic()
    assert read_everything(f"s3://{s3.bucket}/a.zarr") == read_everything(store.path)
    assert time.monotonic() - started > 3 * PATIENCE


@pytest.mark.usefixtures("impatient")
def test_one_that_waits_and_breaks_gains_no_time(s3, proxy):
    RemoteObjects(f"s3://{s3.bucket}").put("a", bytes(100))
    proxy.seconds, proxy.cut = 0.7 * PATIENCE, lambda request: 0
    objects = RemoteObjects(f"s3://{s3.bucket}")
    assert "stands still" in refused(lambda: objects.get("a"), 3)


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan", "inf"])
def test_a_setting_that_is_none(tmp_path, files, monkeypatch, text):
    monkeypatch.setenv("LABELSTORE_REMOTE_TIMEOUT", text)
    with pytest.raises(UsageError, match=f"LABELSTORE_REMOTE_TIMEOUT is '{text}', expected"):
        RemoteObjects(files.address).get("a")


def test_from_a_forked_worker(tmp_path, files, behave, monkeypatch):
    """The process that asks for one that was forked has the same patience, and says the same."""
    from labelstore.storage.parallel.fork_helper import Helper

    # It is told when it starts, and the server is well then.
    monkeypatch.setenv("LABELSTORE_REMOTE_TIMEOUT", "1")
    (tmp_path / "a").write_bytes(bytes(5000))
    helper = Helper(files.address)
    assert len(helper.ask("get", "a", None)) == 5000
    behave(files, "drips")
    with pytest.raises(StoreError, match="stands still"):
        helper.ask("get", "a", None)
