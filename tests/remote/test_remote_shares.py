"""Several processes write one store on an object store: each its own blocks, by their number."""

from __future__ import annotations

import threading

import pytest

import labelstore
from labelstore.errors import StoreError
from labelstore.store import writer
from labelstore.store.writer import Share, StoreWriter
from tests.support.stores import make_planned, planned, read_everything

SETTINGS = {"images": 20, "views": 6, "block_images": 4}


def make_share(url, rank, world):
    manifest, keys, targets, data, _ = planned(**SETTINGS)
    with StoreWriter(url, manifest, keys, targets, share=Share(rank, world)) as store:
        assert not store.takes_over
        for block in store.pending_blocks():
            if store.claim(block):
                store.write_block(block, data(block))


def test_two_make_the_store_of_one(s3, tmp_path):
    url = f"s3://{s3.bucket}/a.zarr"
    # The second one begins first, and waits for the empty store.
    second = threading.Thread(target=make_share, args=(url, 1, 2))
    second.start()
    make_share(url, 0, 2)
    second.join()
    make_planned(tmp_path / "a.zarr", **SETTINGS)
    assert read_everything(url) == read_everything(tmp_path / "a.zarr")


def test_what_a_dead_one_left_is_made_by_running_again(s3):
    url = f"s3://{s3.bucket}/b.zarr"
    make_share(url, 0, 2)
    assert labelstore.open(url).missing_blocks() == [1, 3]
    make_share(url, 0, 1)
    assert labelstore.open(url).complete


def test_without_the_first_process_the_others_give_up(s3, monkeypatch):
    monkeypatch.setattr(writer, "CREATION_SECONDS", 0.2)
    monkeypatch.setattr(writer, "LOOK_SECONDS", 0.1)
    with pytest.raises(StoreError, match="process 0"):
        make_share(f"s3://{s3.bucket}/c.zarr", 1, 2)
