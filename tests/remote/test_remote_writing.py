"""Writing stores to an object store: the same bytes as on a disk, and as safe when it stops."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import labelstore
from labelstore.errors import FormatError, MismatchError, NotFoundError, UsageError
from labelstore.storage.remote import leases
from labelstore.testing.network import Proxy
from tests.support import commands
from tests.support.buckets import bucket_of, count_of, objects_of, send
from tests.support.stores import files_of, make_planned, read_everything, written

ROOT = Path(__file__).parents[2]


def test_written_as_on_a_disk(s3, tmp_path):
    url = f"s3://{s3.bucket}/a.zarr"
    make_planned(url, images=20, views=6)
    make_planned(tmp_path / "a.zarr", images=20, views=6)
    assert read_everything(url) == read_everything(tmp_path / "a.zarr")
    found = objects_of(bucket_of(s3, s3.bucket), "a.zarr")
    expected = {
        name: (tmp_path / "a.zarr" / name).read_bytes() for name in files_of(tmp_path / "a.zarr")
    }
    assert found == {name: data for name, data in expected.items() if not name.startswith(".")}


def test_written_through_a_network_that_breaks(s3, tmp_path, monkeypatch):
    url, seen = f"s3://{s3.bucket}/a.zarr", set()

    def once(request):
        """Break the answer to the first request of each kind for each path."""
        kind = (request.method, request.path)
        first = kind not in seen
        seen.add(kind)
        return 0 if first and request.method == "PUT" else None

    with Proxy(s3.address, cut=once) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        make_planned(url)
        assert len([kind for kind, _ in seen if kind == "PUT"]) > 20
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    make_planned(tmp_path / "a.zarr")
    assert read_everything(url) == read_everything(tmp_path / "a.zarr")


def test_unfinished_then_finished(s3):
    url = f"s3://{s3.bucket}/b.zarr"
    store, _ = make_planned(url, blocks=[1])
    assert store.missing_blocks() == [0, 2]
    make_planned(url)
    store.refresh()
    assert store.complete
    with pytest.raises(MismatchError, match=r"s3://.*k: stored 3, asked for 2"):
        make_planned(url, k=2)


def test_overwritten(s3):
    url = f"s3://{s3.bucket}/c.zarr"
    written(url, images=40)
    _, indices, _ = written(url, images=10, seed=3, overwrite=True)
    assert np.array_equal(
        labelstore.open(url).read(np.arange(10)[:, None], np.arange(6)).indices, indices
    )
    names = objects_of(bucket_of(s3, s3.bucket), "c.zarr")
    assert not [name for name in names if name.startswith("labels/classes/c/2")]


def test_places_that_are_refused(s3, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    send(tmp_path, bucket_of(s3, s3.bucket), "full")
    with pytest.raises(FormatError, match=r"full exists and is not a labelstore store"):
        written(f"s3://{s3.bucket}/full")
    with pytest.raises(NotFoundError, match=r"s3://no-such-bucket/.*make the bucket|access"):
        written("s3://no-such-bucket/a.zarr")
    for url in ("https://example.com/a.zarr", "hf://datasets/a/b/c.zarr"):
        with pytest.raises(UsageError, match="can be read and not written"):
            written(url)
    with pytest.raises(UsageError, match="ftp://, expected one of s3://"):
        written("ftp://host/a.zarr")


def test_a_file_url_is_a_path(tmp_path):
    store, indices, _ = written(f"file://{tmp_path}/d%20e.zarr")
    assert store.path == tmp_path / "d e.zarr"
    assert np.array_equal(labelstore.open(store.path).read(0, 0).indices, indices[0, 0])


@pytest.mark.slow
def test_generate_to_a_bucket(s3, tmp_path):
    for number, name in enumerate(["cat/a.jpg", "dog/b.jpg"]):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True)
        Image.linear_gradient("L").rotate(40 * number).convert("RGB").resize((60, 50)).save(file)
    command = [sys.executable, "-m", "labelstore", "generate", str(tmp_path / "photos")]
    command += ["--teacher", "timm:test_resnet", "--checkpoint", "none", "--device", "cpu"]
    command += ["--targets", "none", "--views", "5", "--top-k", "3", "-o"]
    url = f"s3://{s3.bucket}/made/t.zarr"
    for place in (url, str(tmp_path / "t.zarr")):
        done = commands.run([*command, place])
        assert done.returncode == 0, done.stderr
    assert read_everything(url) == read_everything(tmp_path / "t.zarr")
    again = commands.run([*command, url])
    assert "nothing was done" in again.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills")
def test_killed_writers_resume_to_the_same_bytes(s3, tmp_path, monkeypatch):
    # A dead writer's lease has to stand still first.
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    url, settings = f"s3://{s3.bucket}/k.zarr", "images=24, views=6, block_images=2"
    code = "from labelstore.storage.remote import leases; leases.LEASE_SECONDS = 1.0; "
    code += f"from tests.support.stores import make_planned; make_planned({url!r}, {settings})"
    bucket, environment = bucket_of(s3, s3.bucket), {**os.environ, "PYTHONPATH": str(ROOT)}
    seen, opened = set(), []
    for count in (1, 12, 50):
        writer = commands.start([sys.executable, "-c", code], env=environment)
        while count_of(bucket, "k.zarr") < count and writer.poll() is None:
            time.sleep(0.002)
        writer.kill()
        seen.add(writer.wait())
        try:
            store = labelstore.open(url)
        except FormatError as error:
            opened.append(str(error))
        except NotFoundError:
            opened.append("nothing")
        else:
            for block in set(range(12)) - set(store.missing_blocks()):
                assert store.check_block(block) == []
    assert -signal.SIGKILL in seen
    assert all("interrupted" in text or text == "nothing" for text in opened)
    make_planned(url, images=24, views=6, block_images=2)
    whole, _ = make_planned(tmp_path / "k.zarr", images=24, views=6, block_images=2)
    found = objects_of(bucket, "k.zarr")
    assert found == {
        name: (whole.path / name).read_bytes()
        for name in files_of(whole.path)
        if not name.startswith(".")
    }
