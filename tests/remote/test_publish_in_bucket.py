"""A store published in a bucket, with a card and a preview beside it."""

from __future__ import annotations

import io

import numpy as np
import obstore
import pyarrow.parquet as pq
import pytest

import labelstore
from labelstore.errors import MismatchError
from labelstore.operations.lifecycle.publish import Publication, publish
from labelstore.operations.verify import verify
from labelstore.store.lineage import lineage
from tests.support.buckets import bucket_of
from tests.support.stores import written


def assert_labels_of(url, store):
    """What is there are the store's labels, and that they were published."""
    there = labelstore.open(url)
    assert verify(there).whole
    (step,) = lineage(there.manifest)
    assert (step["operation"], step["stores"], step["result"]) == ("publish", [store.id], there.id)
    assert "url" not in step["settings"]
    ours, theirs = (
        s.read(np.arange(s.num_images)[:, None], np.arange(s.num_views)) for s in (store, there)
    )
    assert np.array_equal(ours.indices, theirs.indices)
    assert np.array_equal(ours.probs, theirs.probs)


def test_a_bucket_has_the_store_and_what_tells_of_it(s3, tmp_path):
    store, _, _ = written(tmp_path / "a.zarr")
    url = f"s3://{s3.bucket}/sub/a.zarr"
    report = publish(store, url)
    assert (report.url, report.commit, report.card) == (url, None, "written")
    assert_labels_of(url, store)
    bucket = bucket_of(s3, s3.bucket)

    def of(name):
        return bytes(obstore.get(bucket, f"sub/a.zarr.{name}").bytes())

    assert f'labelstore.open("{url}")' in of("README.md").decode()
    assert pq.read_table(io.BytesIO(of("preview.parquet"))).num_rows == 80
    assert publish(store, url).card == "unchanged"
    obstore.put(bucket, "sub/a.zarr.README.md", b"mine")
    assert publish(store, url).card == "kept"
    assert of("README.md") == b"mine"
    other, _, _ = written(tmp_path / "b.zarr", seed=1, images=9)
    with pytest.raises(MismatchError):
        publish(other, url)
    assert publish(other, url, Publication(overwrite=True)).card == "written"
    assert_labels_of(url, other)
