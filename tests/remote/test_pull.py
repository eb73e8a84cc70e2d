"""Copies of stores: the same labels to the last bit, whole or of the first views."""

from __future__ import annotations

import json
import sys

import numpy as np
import obstore
import pytest

import labelstore
from labelstore.errors import CorruptError, IncompleteError, NotFoundError, UsageError
from labelstore.operations.lifecycle.subset import subset
from labelstore.operations.pull import pull
from labelstore.operations.verify import verify
from tests.support import commands
from tests.support.buckets import bucket_of, send
from tests.support.shards import chunks_of, turned_round
from tests.support.stores import files_of, make_planned, read_everything, written


@pytest.fixture
def source(s3, shared):
    """A local store, and its copy in a bucket."""
    store, url = shared
    return store, labelstore.open(url)


def test_a_whole_copy_is_the_source(source, tmp_path):
    store, remote = source
    report = pull(remote, tmp_path / "copy.zarr")
    assert (report.blocks_copied, report.num_views) == (3, 10)
    assert labelstore.open(tmp_path / "copy.zarr").manifest.id == store.manifest.id
    assert read_everything(tmp_path / "copy.zarr") == read_everything(store.path)
    assert (
        files_of(tmp_path / "copy.zarr").items()
        >= {
            name: digest for name, digest in files_of(store.path).items() if name != ".lock"
        }.items()
    )


@pytest.mark.parametrize(
    "count", [1, 5, 10, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 9))]
)
def test_the_first_views(source, tmp_path, count):
    store, remote = source
    pull(remote, tmp_path / "copy.zarr", views=range(count))
    copy = labelstore.open(tmp_path / "copy.zarr")
    assert copy.num_views == count
    images, views = np.arange(20)[:, None], np.arange(count)
    found, truth = copy.read(images, views), store.read(images, views)
    assert np.array_equal(found.indices, truth.indices)
    assert np.array_equal(found.probs, truth.probs)
    assert np.array_equal(found.prior.probs, truth.prior.probs)
    assert np.array_equal(copy.views(images, views).box, store.views(images, views).box)
    assert copy.keys == store.keys
    assert [copy.check_block(block) for block in range(3)] == [[], [], []]
    if count < 10:
        assert copy.manifest.id != store.manifest.id
        assert copy.manifest.origin["stores"] == [store.manifest.id]


@pytest.mark.parametrize("count", [None, 3])
def test_some_images(source, tmp_path, count):
    store, remote = source
    wanted = [store.keys[row] for row in (17, 0, 9, 10, 3)]
    views = None if count is None else range(count)
    report = pull(remote, tmp_path / "copy.zarr", views=views, images=wanted)
    copy = labelstore.open(tmp_path / "copy.zarr")
    rows = np.array([0, 3, 9, 10, 17])
    assert copy.keys == tuple(store.keys[row] for row in rows)
    assert report.num_images == 5
    assert copy.targets.tolist() == store.targets[rows].tolist()
    assert copy.manifest.origin["settings"]["images"] == 5
    shown = np.arange(count or 10)
    one, other = copy.read(wanted_rows(copy, rows, store), shown), store.read(rows[:, None], shown)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.probs, other.probs)
    np.testing.assert_array_equal(one.prior.classes, other.prior.classes)
    box = copy.views(np.arange(5)[:, None], shown).box
    np.testing.assert_array_equal(box, store.views(rows[:, None], shown).box)
    assert verify(copy).whole
    again = pull(remote, tmp_path / "copy.zarr", views=views, images=wanted)
    assert again.blocks_copied == 0


def wanted_rows(copy, rows, store):
    """The same images in the copy."""
    return copy.index_of([store.keys[row] for row in rows])[:, None]


def test_images_that_are_not_there(source, tmp_path):
    with pytest.raises(NotFoundError, match="no-such"):
        pull(source[0], tmp_path / "copy.zarr", images=["no-such"])
    with pytest.raises(UsageError, match="at least one"):
        pull(source[0], tmp_path / "copy.zarr", images=np.array([], dtype=np.int64))
    for wanted, words in (("zz*", "no image's key matches"), ("@none.txt", "none.txt")):
        command = [sys.executable, "-m", "labelstore", "pull", str(source[0].path)]
        command += [str(tmp_path / "copy.zarr"), "--images", wanted]
        done = commands.run(command)
        assert done.returncode == 1
        assert words in done.stderr
    key = source[0].keys[4]
    (tmp_path / "keys.txt").write_text(f"{key}\n")
    command = [sys.executable, "-m", "labelstore", "pull", str(source[0].path)]
    command += [str(tmp_path / "copy.zarr"), "--images", f"@{tmp_path / 'keys.txt'}", "--json"]
    done = commands.run(command, check=True)
    assert json.loads(done.stdout)["num_images"] == 1
    assert labelstore.open(tmp_path / "copy.zarr").keys == (key,)


def test_only_what_covers_the_views_is_read(source, proxy, tmp_path):
    store, remote = source
    # Anew: by way of the proxy.
    remote = labelstore.open(remote.path)
    assert remote.complete
    proxy.requests.clear()
    pull(remote, tmp_path / "copy.zarr", views=range(4))
    labels = [r for r in proxy.requests if "/labels/" in r.path]
    whole = sum(
        file.stat().st_size
        for file in (store.path / "labels").rglob("*")
        if file.is_file() and file.name != "zarr.json"
    )
    assert len(labels) == 2 * 3 * 3
    assert sum(r.body_bytes for r in labels) < 0.6 * whole


@pytest.mark.parametrize("count", [8, 6])
def test_the_first_views_keep_their_groups(s3, tmp_path, count):
    store, _ = make_planned(tmp_path / "source.zarr", images=20, views=10, prior_size=8)
    # As no encoding here would lay them down.
    turned_round(store.path)
    bucket = bucket_of(s3, s3.bucket)
    send(store.path, bucket, "a.zarr")
    remote = labelstore.open(f"s3://{s3.bucket}/a.zarr")
    subset(store, tmp_path / "of_local.zarr", views=range(count))
    subset(remote, tmp_path / "of_remote.zarr", views=range(count))
    before, after = chunks_of(store.path), chunks_of(tmp_path / "of_remote.zarr")
    assert after == chunks_of(tmp_path / "of_local.zarr")
    whole = count // store.manifest.group_views
    assert whole
    assert all(chunks[:whole] == before[name][:whole] for name, chunks in after.items())
    assert verify(tmp_path / "of_remote.zarr").whole
    # What is kept of the first groups is gone then: others of the same block can be read.
    remote.read(np.arange(20)[:, None], np.arange(10))

    shard = "labels/classes/c/1/0/0"
    obstore.put(bucket, f"a.zarr/{shard}", (store.path / shard).read_bytes()[:-3])
    damaged = labelstore.open(f"s3://{s3.bucket}/a.zarr")
    with pytest.raises(CorruptError, match=r"labels/classes.* at images 8 to 15"):
        subset(damaged, tmp_path / "damaged.zarr", views=range(count))


def test_explicit_boxes_and_unreadable_images(tmp_path):
    boxes = np.arange(20 * 7 * 4).reshape(20, 7, 4)
    flips = np.arange(140).reshape(20, 7) % 3 == 1
    store, _, _ = written(tmp_path / "a.zarr", views=7, law=None, boxes=boxes, flips=flips)
    pull(store, tmp_path / "b.zarr", views=range(5))
    views = labelstore.open(tmp_path / "b.zarr").views(np.arange(20)[:, None], np.arange(5))
    assert np.array_equal(views.box, boxes[:, :5])
    assert np.array_equal(views.flip, flips[:, :5])


def test_parquet_to_parquet(tmp_path):
    store, _ = make_planned(tmp_path / "a.parquet", views=6)
    pull(store, tmp_path / "b.parquet")
    assert read_everything(tmp_path / "b.parquet") == read_everything(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="of another format"):
        pull(store, tmp_path / "b.zarr")


def test_a_copy_to_a_bucket(s3, tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr")
    pull(store, f"s3://{s3.bucket}/copy.zarr")
    assert read_everything(f"s3://{s3.bucket}/copy.zarr") == read_everything(store.path)


def test_gone_on_with_after_damage(source, s3, tmp_path):
    store, _ = source
    bucket, name = bucket_of(s3, s3.bucket), "a.zarr/labels/classes/c/1/0/0"
    send(store.path, bucket, "a.zarr")
    remote = labelstore.open(f"s3://{s3.bucket}/a.zarr")
    whole = obstore.get(bucket, name).bytes().to_bytes()
    obstore.put(bucket, name, whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    with pytest.raises(CorruptError, match=r"s3://.*labels/classes"):
        pull(remote, tmp_path / "copy.zarr")
    # Those that were under way beside it are kept.
    missing = labelstore.open(tmp_path / "copy.zarr").missing_blocks()
    assert missing in ([1], [1, 2])
    obstore.put(bucket, name, whole)
    remote = labelstore.open(str(remote.path))
    assert pull(remote, tmp_path / "copy.zarr").blocks_copied == len(missing)
    assert read_everything(tmp_path / "copy.zarr") == read_everything(store.path)


def test_what_is_refused(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr", views=6)
    with pytest.raises(UsageError, match="a view's number names its crop"):
        pull(store, tmp_path / "b.zarr", views=range(2, 4))
    with pytest.raises(UsageError, match=r"7 views were asked for, .* has 6"):
        pull(store, tmp_path / "b.zarr", views=range(7))
    with pytest.raises(UsageError, match="is the store that is read"):
        pull(store, tmp_path / "a.zarr")
    partly, _ = make_planned(tmp_path / "c.zarr", blocks=[0])
    with pytest.raises(IncompleteError, match="lacks 2 of 3 blocks"):
        pull(partly, tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_the_command(source, tmp_path):
    _, remote = source
    command = [sys.executable, "-m", "labelstore", "pull", str(remote.path)]
    done = commands.run(
        [*command, str(tmp_path / "b.zarr"), "--views", "0:4", "--json"],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_views"] == 4
    assert labelstore.open(tmp_path / "b.zarr").num_views == 4
    for views, code in (("2:4", 2), ("four", 2)):
        done = commands.run([*command, "x.zarr", "--views", views])
        assert done.returncode == code
        assert "Traceback" not in done.stderr
