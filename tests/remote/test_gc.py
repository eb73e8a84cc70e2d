"""What dead writers left in a bucket is removed, and nothing of one that lives."""

from __future__ import annotations

import pytest

import labelstore
from labelstore.errors import BusyError, UsageError
from labelstore.operations.lifecycle.gc import gc
from labelstore.storage.remote import leases
from labelstore.store.writer import StoreWriter
from tests.support.buckets import bucket_of, objects_of
from tests.support.stores import make_planned, planned, read_everything

SETTINGS = {"images": 12, "views": 4, "block_images": 4}
BACK_ENDS = ["zarr", pytest.param("parquet", marks=pytest.mark.slow)]
"""Of what leases do, which is the same for both."""


@pytest.fixture(autouse=True)
def short_leases(monkeypatch, tmp_path):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(leases, "SETTLING_SECONDS", 0.5)
    monkeypatch.setenv("LABELSTORE_SLABS", str(tmp_path / "slabs"))


@pytest.mark.parametrize("suffix", BACK_ENDS)
def test_a_dead_writers_lease_and_blocks(s3, tmp_path, suffix):
    url = f"s3://{s3.bucket}/a.{suffix}"
    manifest, keys, targets, data, _ = planned(**SETTINGS)
    bucket = bucket_of(s3, s3.bucket)
    with StoreWriter(url, manifest, keys, targets) as writer:
        writer.write_block(0, data(0))
        with pytest.raises(BusyError):
            gc([url])
        before = objects_of(bucket, f"a.{suffix}")
        lease = next(name for name in before if name.startswith(".writers/"))
        # It dies between a block's objects and its commit.
        writer._backend.write_commit = None
        with pytest.raises(TypeError):
            writer.write_block(1, data(1))
    writer._backend._objects.put(lease, b'{"writer": "gone", "renewed": 3}')
    left = objects_of(bucket, f"a.{suffix}")
    assert gc([url], dry_run=True).files > 1
    assert objects_of(bucket, f"a.{suffix}") == left
    kinds = {part.kind: part.files for part in gc([url]).leftovers}
    assert kinds == {"lease": 1, "block": len(left) - len(before)}
    assert objects_of(bucket, f"a.{suffix}").keys() == before.keys() - {lease}
    assert labelstore.open(url).missing_blocks() == [1, 2]
    make_planned(url, **SETTINGS)
    make_planned(tmp_path / f"own.{suffix}", **SETTINGS)
    assert read_everything(url) == read_everything(tmp_path / f"own.{suffix}")


def test_what_can_only_be_read(tmp_path):
    with pytest.raises(UsageError, match="can be read and not written"):
        gc(["https://localhost/a.zarr"])
