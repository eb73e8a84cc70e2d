"""Copies of several blocks at a time: the same bytes, the same errors, less waiting."""

from __future__ import annotations

import json
import sys
import threading

import numpy as np
import pytest

import labelstore
from labelstore.errors import CorruptError, StoreError, UsageError
from labelstore.format.settings import StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.lifecycle.copy import copy
from labelstore.operations.lifecycle.grow import grow
from labelstore.operations.pull import pull
from labelstore.operations.verify import verify
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings
from labelstore.testing.faults import trip
from labelstore.testing.network import FileServer
from tests.support import commands
from tests.support.buckets import bucket_of, objects_of, send
from tests.support.killed import die_at
from tests.support.stores import files_of, make_planned, read_everything
from tests.support.worlds import photo, teacher

SETTINGS = {"images": 24, "views": 4, "block_images": 2, "prior_size": 4}
FEWER = {**SETTINGS, "block_images": 4}
"""Six blocks in place of twelve, where a server stands between."""


@pytest.fixture
def source(tmp_path, suffix):
    return make_planned(tmp_path / f"source.{suffix}", **SETTINGS)[0]


def test_there_and_back(s3, tmp_path, suffix):
    source, _ = make_planned(tmp_path / f"source.{suffix}", **FEWER)
    url = f"s3://{s3.bucket}/a.{suffix}"
    told = []
    report = copy(source, url, workers=5, tell=lambda *done: told.append(done))
    assert report.blocks_copied == 6
    assert told == [(4, 16)] * 6
    assert read_everything(url) == read_everything(source.path)
    assert not [name for name in objects_of(bucket_of(s3, s3.bucket), "a") if "writers" in name]
    back = tmp_path / f"back.{suffix}"
    copy(url, back, workers=5)
    assert read_everything(back) == read_everything(source.path)
    assert copy(url, back).blocks_copied == 0


def test_blocks_wait_for_the_server_together(proxy, tmp_path):
    source, _ = make_planned(tmp_path / "a.zarr", **FEWER)
    url = f"s3://{proxy.bucket}/a.zarr"
    copy(source, url, workers=1)
    of_one, proxy.most_together = proxy.most_together, 0
    proxy.seconds = 0.02
    # The objects of a block have gone together by then.
    assert of_one > 3
    copy(source, f"s3://{proxy.bucket}/b.zarr", workers=6)
    assert proxy.most_together > of_one
    proxy.most_together = 0
    remote = labelstore.open(url)
    assert remote.complete
    proxy.requests.clear()
    copy(remote, tmp_path / "c.zarr", workers=6)
    assert proxy.most_together > 12
    # Each object is asked for once, whatever the threads.
    labels = [request.path for request in proxy.requests if "/c/" in request.path]
    assert len(labels) == len(set(labels))


def test_blocks_of_a_store_that_grows_wait_for_the_server_together(proxy, s3, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(7):
        (photos / f"{number}.png").write_bytes(photo(number, 1))
    source, path = FolderSource(photos), tmp_path / "old.zarr"
    settings = LabelSettings(2, StoreSettings(k=3, block_images=1, prior_size=4))
    generate(source, np.full(7, -1, np.int32), teacher(0), path, settings)
    send(path, bucket_of(s3, s3.bucket), "old.zarr")
    (photos / "7.png").write_bytes(photo(7, 1))
    proxy.seconds = 0.02
    old = labelstore.open(f"s3://{proxy.bucket}/old.zarr")
    # What a look at the store asks for, of all blocks together, is known then.
    assert old.complete
    assert old.image_digests(range(7)).all()
    # The objects of a block go together in any case.
    alone, proxy.most_together = len([name for name in files_of(path) if "/c/0" in name]), 0
    grow(old, FolderSource(photos), teacher(0), tmp_path / "new.zarr")
    assert proxy.most_together > alone
    new = labelstore.open(tmp_path / "new.zarr")
    assert new.complete
    assert new.keys == (*source.keys, "7.png")
    assert not {
        name: data
        for name, data in files_of(path).items()
        if name.startswith("labels/") and "/c/" in name and files_of(new.path)[name] != data
    }


def test_some_images_are_read_once_each(proxy, s3, tmp_path):
    source, _ = make_planned(tmp_path / "a.zarr", **{**SETTINGS, "block_images": 5})
    send(source.path, bucket_of(s3, s3.bucket), "a.zarr")
    remote = labelstore.open(f"s3://{proxy.bucket}/a.zarr")
    assert remote.complete
    # Blocks of the copy begin in the middle of the source's.
    copy(remote, tmp_path / "c.zarr", images=np.arange(3, 24), workers=4)
    shards = [r.path for r in proxy.requests if "/labels/" in r.path and "/c/" in r.path]
    assert len(shards) == len(set(shards)) == 3 * 5
    part = labelstore.open(tmp_path / "c.zarr")
    found, truth = part.read(range(21), 3), source.read(np.arange(3, 24), 3)
    assert np.array_equal(found.probs, truth.probs)
    assert verify(part).whole


def test_the_first_damaged_block_is_told_and_the_others_kept(source, tmp_path, suffix):
    for block in (7, 4):
        pattern = f"labels/classes/c/{block}/0/0" if suffix == "zarr" else f"labels/{block:06d}.*"
        (file,) = source.path.glob(pattern)
        data = bytearray(file.read_bytes())
        data[60] ^= 1
        file.write_bytes(data)
    damaged = labelstore.open(source.path)
    with pytest.raises(CorruptError) as caught:
        copy(damaged, tmp_path / f"b.{suffix}", workers=4)
    assert caught.value.block in (4, None)
    part = labelstore.open(tmp_path / f"b.{suffix}")
    assert {0, 1, 2, 3}.isdisjoint(part.missing_blocks())
    assert 4 in part.missing_blocks()
    assert [part.check_block(block) for block in part.reader.committed_blocks()] == [
        [] for _ in part.reader.committed_blocks()
    ]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("fault", ["no-space", "die-before"])
def test_a_full_disk_or_a_kill_and_on(source, tmp_path, suffix, fault):
    path, step = tmp_path / f"b.{suffix}", 450 if suffix == "zarr" else 90
    if fault == "no-space":
        with trip(step, fault), pytest.raises(StoreError, match="No space left"):
            copy(source, path, workers=4)
    else:
        assert die_at(step, fault, copy, source, path, workers=4)
    missing = len(labelstore.open(path).missing_blocks())
    assert 0 < missing < 12
    assert copy(source, path, workers=4).blocks_copied == missing
    assert read_everything(path) == read_everything(source.path)


def test_over_plain_http_from_threads_of_the_caller(source, tmp_path, suffix):
    with FileServer(tmp_path) as server:
        remote = labelstore.open(f"{server.address}/{source.path.name}")
        errors = []

        def run(number):
            try:
                copy(remote, tmp_path / f"{number}.{suffix}", workers=3)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    for number in range(2):
        assert read_everything(tmp_path / f"{number}.{suffix}") == read_everything(source.path)


def test_the_command(tmp_path):
    source, _ = make_planned(tmp_path / "a.zarr")
    command = [sys.executable, "-m", "labelstore", "copy", str(source.path)]
    done = commands.run([*command, str(tmp_path / "b.zarr"), "--workers", "2", "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["blocks_copied"] == 3
    assert read_everything(tmp_path / "b.zarr") == read_everything(source.path)
    assert commands.run([*command, "x.zarr", "--workers", "0"]).returncode == 2
    with pytest.raises(UsageError, match="0 workers"):
        pull(source, tmp_path / "x.zarr", workers=0)
