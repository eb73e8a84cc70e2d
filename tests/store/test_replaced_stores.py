"""Stores of the same settings and other labels are told apart wherever labels might be mixed."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest

import labelstore
from labelstore.errors import MismatchError
from labelstore.operations.pull import pull
from labelstore.store.writer import StoreWriter
from labelstore.torch import ViewSampler
from tests.support.stores import files_of, make_planned, planned, written


def remade(path, factor=0.5, blocks=None):
    """The planned store's settings and id, with other labels."""
    manifest, keys, targets, data, _ = planned()
    with StoreWriter(path, manifest, keys, targets) as writer:
        for block in writer.pending_blocks() if blocks is None else blocks:
            given = vars(data(block))
            writer.write_block(
                block, type(data(block))(**{**given, "probs": given["probs"] * factor})
            )
    return labelstore.open(path)


@pytest.fixture
def two(tmp_path):
    one, _ = make_planned(tmp_path / "one.zarr")
    other = remade(tmp_path / "other.zarr")
    assert one.manifest.id == other.manifest.id
    return one, other


def test_given_labels_decide_the_id(tmp_path):
    one, _, _ = written(tmp_path / "one.zarr")
    same, _, _ = written(tmp_path / "same.zarr")
    ids = {written(tmp_path / f"{seed}.zarr", seed=seed)[0].manifest.id for seed in range(1, 4)}
    ids.add(written(tmp_path / "w.zarr", widths=np.arange(20) + 41)[0].manifest.id)
    assert one.manifest.id == same.manifest.id
    assert len(ids | {one.manifest.id}) == 5
    with pytest.raises(MismatchError, match="other labels than those given"):
        written(tmp_path / "one.zarr", seed=1)
    assert files_of(one.path) == files_of(same.path)


@pytest.mark.parametrize("views", [None, range(4)], ids=["whole", "views"])
@pytest.mark.parametrize("begun", [[0], [0, 1, 2]], ids=["begun", "finished"])
def test_a_copy_is_never_of_two_stores(two, tmp_path, views, begun):
    one, other = two
    if views is None:
        remade(tmp_path / "copy.zarr", blocks=begun)
    else:
        pull(other, tmp_path / "copy.zarr", views=views)
    before = files_of(tmp_path / "copy.zarr")
    with pytest.raises(MismatchError, match=r"other labels|labels: stored"):
        pull(one, tmp_path / "copy.zarr", views=views)
    assert files_of(tmp_path / "copy.zarr") == before
    pull(one, tmp_path / "copy.zarr", views=views, overwrite=True)
    columns = np.arange(6 if views is None else 4)
    found = labelstore.open(tmp_path / "copy.zarr").read(np.arange(20)[:, None], columns)
    assert np.array_equal(found.probs, one.read(np.arange(20)[:, None], columns).probs)


def test_a_new_worker_does_not_read_another_store(two):
    one, other = two
    # What a data loader hands to a worker that it spawns.
    kept = pickle.dumps(one)
    assert np.array_equal(pickle.loads(kept).read(0, 0).probs, one.read(0, 0).probs)
    shutil.rmtree(one.path)
    shutil.copytree(other.path, one.path)
    with pytest.raises(MismatchError, match="other labels with the same settings"):
        pickle.loads(kept)


def test_a_store_that_grows_may_be_handed_to_workers(tmp_path):
    part, _ = make_planned(tmp_path / "s.zarr", blocks=[0])
    kept = pickle.dumps(part)
    make_planned(tmp_path / "s.zarr")
    assert pickle.loads(kept).read(19, 0).probs.shape == (3,)


def test_a_samplers_state_is_of_its_labels(two):
    one, other = two
    state = ViewSampler(one, 2).state_dict(seen=3)
    with pytest.raises(MismatchError, match="labels"):
        ViewSampler(other, 2).load_state_dict(state)


def test_the_working_directory_may_change(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = written(tmp_path / "a/s.zarr")[0].read(np.arange(20), 0).probs
    written(tmp_path / "b/s.zarr", seed=1)
    monkeypatch.chdir(tmp_path / "a")
    store = labelstore.open("s.zarr")
    store.read(0, 0)
    monkeypatch.chdir(tmp_path / "b")
    assert np.array_equal(store.read(np.arange(20), 0).probs, expected)
    assert np.array_equal(pickle.loads(pickle.dumps(store)).read(np.arange(20), 0).probs, expected)
