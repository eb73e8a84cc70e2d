"""Files that views were mixed with before they were labelled, of a store in a bucket."""

from __future__ import annotations

import pytest

import labelstore
from labelstore.errors import CorruptError, MismatchError
from labelstore.storage.partner_records import PARTNERS_NAME
from tests.support.buckets import bucket_of
from tests.support.mixing_run import mixing_run


def test_an_exchanged_photo_is_noticed(s3, suffix):
    url, bucket = f"s3://{s3.bucket}/a.{suffix}", bucket_of(s3, s3.bucket)
    with pytest.raises(InterruptedError):
        mixing_run(url, blocks=1)
    assert labelstore.open(url).missing_blocks() == [1]

    def records():
        listed = bucket.list(f"a.{suffix}/{PARTNERS_NAME}/").collect()
        return [entry["path"] for entry in listed]

    (record,) = records()
    with pytest.raises(MismatchError, match=r"c/003\.jpg' is another file here"):
        mixing_run(url, exchanged=3)
    assert labelstore.open(url).missing_blocks() == [1]
    kept = bytes(bucket.get(record).bytes())
    bucket.put(record, kept[:-1])
    with pytest.raises(CorruptError, match="is damaged"):
        mixing_run(url)
    bucket.put(record, kept)
    mixing_run(url)
    assert labelstore.open(url).missing_blocks() == []
    assert records() == []
    mixing_run(url)
