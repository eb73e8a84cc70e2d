"""Labels in units behind URLs: a label at random is a range of an index and one of a unit."""

from __future__ import annotations

import re

import numpy as np
import pytest

import labelstore
from labelstore.errors import CorruptError
from labelstore.operations.lifecycle.copy import copy
from labelstore.store.backends.zarr import remote as remote_backend
from labelstore.testing.network import FileServer
from tests.support.buckets import bucket_of, objects_of, send
from tests.support.stores import files_of, in_units, make_planned, once, read_everything, written


def made(path):
    """A store with units of 2 images x 2 views."""
    chunks = path.with_name("chunks.zarr")
    options = {"block_images": 100, "group_views": 2, "quantizer": "u8"}
    return in_units(written(chunks, 200, 40, 5, 1000, **options)[0], path, 2)


@pytest.fixture
def sent(s3, tmp_path):
    """A local store with units of 2 images x 2 views, and the URL of its copy in the bucket."""
    store = once(made)(tmp_path / "u.zarr")
    send(store.path, bucket_of(s3, s3.bucket), "u.zarr")
    return store, f"s3://{s3.bucket}/u.zarr"


def asked(proxy):
    """First byte and length of each range of an object of units; (None, None) for the whole."""
    texts = [r.headers["Range"] for r in proxy.requests if re.search("/labels/units/c/", r.path)]
    return [tuple(map(int, re.findall(r"\d+", text or ""))) for text in texts]


def test_reads_as_the_local_store_does(sent):
    store, url = sent
    assert read_everything(url) == read_everything(store.path)
    remote = labelstore.open(url)
    assert remote.bytes_by_part() == store.bytes_by_part()
    assert [remote.check_block(block) for block in range(2)] == [[], []]


@pytest.mark.parametrize("tail", [2**18, 64])
def test_a_label_is_two_ranges(sent, proxy, monkeypatch, tail):
    """The end of a block's object, which is kept, and the unit; of a large index a row alone."""
    monkeypatch.setattr(remote_backend, "_TAIL", tail)
    store, url = sent
    remote = labelstore.open(url)
    size = (store.path / "labels/units/c/0").stat().st_size
    remote.read([3], [0])
    first = asked(proxy)
    # Behind a large index: its end, the tables, a row, the unit.
    assert len(first) == (2 if tail > 64 else 4)
    proxy.requests.clear()
    found = remote.read([90, 3], [21, 38])
    assert np.array_equal(found.indices, store.read([90, 3], [21, 38]).indices)
    # Two units, far from each other; of the large index, whose tables are kept, two rows.
    assert len(asked(proxy)) == (2 if tail > 64 else 4)
    assert sum(stop - start + 1 for start, stop in asked(proxy)) < size / 10
    proxy.requests.clear()
    remote.read([90, 3, 2], [21, 39, 38])
    assert asked(proxy) == []


def test_a_slab_is_a_range_of_each_block(sent, proxy):
    store, url = sent
    remote = labelstore.open(url, slab_bytes=2**24)
    slab = remote.slab(1)
    found = slab.read(np.arange(200)[:, None], np.arange(2, 4))
    truth = store.read(np.arange(200)[:, None], np.arange(2, 4))
    assert np.array_equal(found.probs, truth.probs)
    assert len(asked(proxy)) == 2 * 2
    remote.slabs.close()


def test_over_http(sent, tmp_path):
    store, _ = sent
    with FileServer(tmp_path) as server:
        url = f"{server.address}/u.zarr"
        assert read_everything(url) == read_everything(store.path)
        copy(url, tmp_path / "copy.zarr")
    assert files_of(tmp_path / "copy.zarr") == files_of(store.path)


def test_written_to_a_bucket(s3, tmp_path):
    url = f"s3://{s3.bucket}/w.zarr"
    options = {"images": 6, "views": 3, "block_images": 3, "unit_images": 2}
    make_planned(url, **options)
    local, _ = make_planned(tmp_path / "w.zarr", **options)
    objects = objects_of(bucket_of(s3, s3.bucket), "w.zarr")
    for file in local.path.rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            assert objects[file.relative_to(local.path).as_posix()] == file.read_bytes()
    assert read_everything(url) == read_everything(local.path)


def test_damage(sent, tmp_path):
    store, _ = sent
    file = store.path / "labels/units/c/1"
    whole = file.read_bytes()
    images, views = np.arange(100, 200)[:, None], np.arange(40)
    with FileServer(tmp_path) as server:
        url = f"{server.address}/u.zarr"
        changes = [whole[:-1], whole[1:], whole[:3], whole[:100] + b"\0" + whole[101:]]
        for data in changes:
            file.write_bytes(data)
            with pytest.raises(CorruptError, match="labels/units"):
                labelstore.open(url).read(images, views)
            assert labelstore.open(url).check_block(1)
            labelstore.open(url).read(0, 0)
        file.unlink()
        with pytest.raises(CorruptError, match="labels/units"):
            labelstore.open(url).read(images, views)
