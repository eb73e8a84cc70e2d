"""A store published in a bucket, with a card and a preview beside it."""

from __future__ import annotations

import io

import obstore
import pyarrow.parquet as pq
import pytest

from labelstore.errors import MismatchError
from labelstore.operations.lifecycle.publish import Publication, publish
from tests.support.buckets import bucket_of
from tests.support.stores import read_everything, written


def test_a_bucket_has_the_store_and_what_tells_of_it(s3, tmp_path):
    store, _, _ = written(tmp_path / "a.zarr")
    url = f"s3://{s3.bucket}/sub/a.zarr"
    report = publish(store, url)
    assert (report.url, report.commit, report.card) == (url, None, "written")
    assert read_everything(url) == read_everything(store.path)
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
    assert read_everything(url) == read_everything(other.path)
