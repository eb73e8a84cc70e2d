"""Photos behind URLs: the keys, classes and bytes of the same photos on a disk."""

from __future__ import annotations

import io
import json
import pickle
import tarfile

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelstore.errors import NotFoundError, SourceError
from labelstore.format.settings import StoreSettings
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.images.sources.choose import open_source
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.demo import place_photos
from labelstore.operations.inspection.check import check
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings
from labelstore.teachers.load import load_teacher
from labelstore.testing.network import FileServer
from tests.support.buckets import bucket_of, send


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    place_photos(folder)
    for file in sorted(folder.glob("*/*"))[5:]:
        file.unlink()
    for child in list(folder.iterdir()):
        if not list(child.iterdir()):
            child.rmdir()
    return folder


def tar_of(photos, path):
    with tarfile.open(path, "w") as archive:
        for number, file in enumerate(sorted(photos.glob("*/*"))):
            for name, data in (("jpg", file.read_bytes()), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"{number:04}.{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def parquet_of(photos, path):
    files = sorted(photos.glob("*/*"))
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    table = pa.table({"image": rows, "label": [number % 2 for number in range(len(files))]})
    pq.write_table(table, path, row_group_size=2)


def same(remote, local):
    assert remote.keys == local.keys
    assert remote.classes == local.classes
    assert [remote.class_name(row) for row in range(len(local))] == [
        local.class_name(row) for row in range(len(local))
    ]
    again = pickle.loads(pickle.dumps(remote))
    for row in range(len(local)):
        assert remote.read(row) == local.read(row) == again.read(row)


def test_a_folder_of_a_bucket(s3, photos):
    send(photos, bucket_of(s3, s3.bucket), "photos")
    source = open_source(f"s3://{s3.bucket}/photos")
    same(source, FolderSource(photos))
    assert source.path_of(0).startswith(f"s3://{s3.bucket}/photos/n0")
    obstore.delete(bucket_of(s3, s3.bucket), f"photos/{source.keys[2]}")
    with pytest.raises(SourceError, match=source.keys[2]):
        source.read(2)


@pytest.mark.parametrize(("suffix", "write"), [("tar", tar_of), ("parquet", parquet_of)])
def test_shards_of_a_bucket(s3, photos, tmp_path, suffix, write):
    (tmp_path / "shards").mkdir()
    write(photos, tmp_path / "shards" / f"0.{suffix}")
    send(tmp_path / "shards", bucket_of(s3, s3.bucket), "shards")
    local = open_source(tmp_path / "shards")
    same(open_source(f"s3://{s3.bucket}/shards"), local)
    same(open_source(f"s3://{s3.bucket}/shards/0.{suffix}"), local)


def test_a_network_that_breaks_gives_the_same_photos(s3, proxy, photos, tmp_path):
    (tmp_path / "shards").mkdir()
    tar_of(photos, tmp_path / "shards" / "0.tar")
    send(tmp_path / "shards", bucket_of(s3, s3.bucket), "shards")
    seen = []

    def once(request):
        """Break every third answer with bytes of the shard."""
        if request.method != "GET" or ".tar" not in request.path:
            return None
        seen.append(request.path)
        return 100 if len(seen) % 3 == 1 else None

    proxy.cut = once
    same(open_source(f"s3://{s3.bucket}/shards"), open_source(tmp_path / "shards"))
    assert len(seen) > 10


def test_the_index_of_a_shard_asks_for_headers(s3, proxy, tmp_path, monkeypatch):
    """Not for the photos, for several shards at a time, and once for all processes."""
    monkeypatch.setenv("LABELSTORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shards").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (3, 10, 300_000), dtype=np.uint8)
    for number, photos in enumerate(noise):
        with tarfile.open(tmp_path / "shards" / f"{number}.tar", "w") as archive:
            for row, data in enumerate(photos):
                for name, content in (("jpg", data.tobytes()), ("cls", b"%d" % row)):
                    member = tarfile.TarInfo(f"{number}{row}.{name}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    send(tmp_path / "shards", bucket_of(s3, s3.bucket), "shards")
    proxy.seconds = 0.02
    source = open_source(f"s3://{s3.bucket}/shards")
    asked = sum(request.body_bytes for request in proxy.requests)
    assert asked < noise.size / 10
    # Of each shard its headers, and its tag before and after.
    assert len(proxy.requests) < 3 * (10 + 2) + 10
    assert proxy.most_together >= 3
    assert source.numbers.tolist() == [*range(10)] * 3
    assert source.read(12) == noise[1, 2].tobytes()
    del proxy.requests[:]
    again = open_source(f"s3://{s3.bucket}/shards")
    assert again.keys == source.keys
    # The listing, and the tag of each shard.
    assert len(proxy.requests) <= 5
    # An object that was replaced has another tag.
    with tarfile.open(tmp_path / "shards" / "1.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("other.jpg"))
    send(tmp_path / "shards", bucket_of(s3, s3.bucket), "shards")
    assert "other" in open_source(f"s3://{s3.bucket}/shards").keys


def test_patterns_of_urls(s3, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split, number in (("train", 0), ("train", 1), ("val", 0)):
        rows = [{"bytes": b"x", "path": f"{split}{number}.png"}]
        pq.write_table(pa.table({"image": rows}), folder / f"{split}-{number:02}.parquet")
    send(folder, bucket_of(s3, s3.bucket), "hub/data")
    for place in ("hub/data/train-*.parquet", "hub/data/train-{00..01}.parquet"):
        source = open_source(f"s3://{s3.bucket}/{place}")
        assert source.keys == ("train0.png", "train1.png")
    with pytest.raises(SourceError, match="2 splits"):
        open_source(f"s3://{s3.bucket}/hub")
    for name in ("train-{00..02}.parquet", "test-*.parquet"):
        with pytest.raises(NotFoundError, match="nothing at"):
            open_source(f"s3://{s3.bucket}/hub/data/{name}")
    with FileServer(folder) as server:
        source = open_source(f"{server.address}/{{train-00,val-00}}.parquet")
        assert source.keys == ("train0.png", "val0.png")


def test_labels_of_photos_in_a_bucket(s3, photos, tmp_path):
    send(photos, bucket_of(s3, s3.bucket), "photos")
    teacher = load_teacher("timm:test_vit", checkpoint="none", device="cpu", size=64)
    reports = []
    for place, path in ((photos, "here.zarr"), (f"s3://{s3.bucket}/photos", "there.zarr")):
        source = open_source(place)
        targets = resolve_targets(source, num_classes=1000, class_names=None, targets="none")
        recipe = LabelSettings(3, StoreSettings(k=2))
        reports.append(generate(source, targets, teacher, tmp_path / path, recipe))
    assert reports[0].views_made == reports[1].views_made == 15
    one, other = (
        json.loads((tmp_path / path / "zarr.json").read_text())["attributes"]["labelstore"]["id"]
        for path in ("here.zarr", "there.zarr")
    )
    assert one == other


def test_what_is_not_there_or_cannot_be_listed(s3):
    with pytest.raises(NotFoundError, match="nothing at s3"):
        open_source(f"s3://{s3.bucket}/none")
    with pytest.raises(NotFoundError, match=r"none\.tar"):
        open_source(f"s3://{s3.bucket}/none.tar")
    with pytest.raises(SourceError, match="cannot be listed"):
        open_source("https://example.org/photos")


def test_photos_of_a_bucket_are_checked_as_those_here(s3, photos):
    send(photos, bucket_of(s3, s3.bucket), "photos")
    here, there = (check(open_source(p)) for p in (photos, f"s3://{s3.bucket}/photos"))
    for name in ("count", "decoded", "bytes", "formats", "classes", "findings", "fit"):
        assert here[name] == there[name], name
    assert there["decoded"] == 5


def test_of_photos_that_a_server_no_longer_has_nothing_is_known(photos, tmp_path):
    tar_of(photos, tmp_path / "shard.tar")
    with FileServer(tmp_path) as server:
        source = open_source(f"{server.address}/shard.tar")
        (tmp_path / "shard.tar").unlink()
        report = check(source, workers=2)
    assert report["stops"] == ["unreadable"]
    assert (report["findings"][0]["count"], report["decoded"]) == (5, 0)


@pytest.mark.parametrize("above", ["", "data/train/"])
def test_folders_are_listed_together(s3, proxy, tmp_path, above):
    """As a data set of a thousand folders needs more answers than can be waited for in turn."""
    names = [
        f"{above}{letter}/{row}/{n}.jpg" for letter in "abcdefgh" for row in "xy" for n in "12"
    ]
    bucket = bucket_of(s3, s3.bucket)
    for name in [*names, f"{above}LICENSE"]:
        obstore.put(bucket, f"photos/{name}", b"\xff")
    proxy.seconds = 0.1
    source = open_source(f"s3://{s3.bucket}/photos")
    assert source.keys == tuple(names)
    assert source.ignored == 1
    assert proxy.most_together >= 4
    assert len(proxy.requests) <= 8 + 1 + above.count("/")
    assert source.read(3) == b"\xff"
