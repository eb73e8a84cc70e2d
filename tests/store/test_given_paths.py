"""Paths where stores are expected, single keys, URLs of files, and stores that were exchanged."""

from __future__ import annotations

import os
import shutil
import warnings

import numpy as np
import pytest

import labelstore
from labelstore import Batches
from labelstore.errors import CorruptError, MismatchError, NotFoundError, UsageError
from labelstore.images.sources.choose import open_source
from labelstore.operations.inspection.inspect import report
from labelstore.operations.materialize import materialize
from labelstore.operations.merge import merge
from labelstore.operations.pull import pull
from labelstore.operations.recode import recode
from labelstore.operations.schedule import dry_run
from labelstore.operations.verify import verify
from labelstore.storage.location import place_of
from labelstore.torch import SoftLabelDataset, ViewSampler
from tests.support.stores import make_planned, once, written

make_planned, written = once(make_planned), once(written)


@pytest.fixture(params=["str", "Path", "URL"])
def given(request, tmp_path):
    """A store, and what names it."""
    store, _ = make_planned(tmp_path / "s.zarr")
    path = store.path
    return store, {"str": str(path), "Path": path, "URL": path.as_uri()}[request.param]


def test_a_path_is_opened_where_a_store_is_expected(given, tmp_path):
    store, path = given
    other, _, _ = written(tmp_path / "other.zarr", seed=2)
    both = labelstore.ensemble([path, other])
    direct = labelstore.ensemble([store, other])
    assert np.array_equal(both.read(3, 2).recover().dense(), direct.read(3, 2).recover().dense())
    assert merge([path, other], tmp_path / "m.zarr").stores == (str(store.path), str(other.path))
    batch = next(iter(Batches(path, 4).epoch(0)))
    assert np.array_equal(
        batch.labels.dense(), next(iter(Batches(store, 4).epoch(0))).labels.dense()
    )
    assert list(ViewSampler(path)) == list(ViewSampler(store))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = SoftLabelDataset(None, path, size=8, interpolation="bilinear", normalize=None)
    assert data.store.manifest.id == store.manifest.id
    assert verify(path).whole
    assert report(path)["store"]["id"] == store.manifest.id
    assert dry_run(path)["images"] == store.num_images
    assert pull(path, tmp_path / "pulled.zarr").num_images == store.num_images
    recode(path, tmp_path / "small.zarr", k=1)
    materialize(path, tmp_path / "copy")
    for made, k in (("pulled.zarr", 3), ("small.zarr", 1), ("copy", 3)):
        assert labelstore.open(tmp_path / made).k == k


@pytest.mark.parametrize("read", [labelstore.ensemble, lambda p: merge(p, "out.zarr")])
def test_one_path_is_no_list_of_stores(tmp_path, read):
    store, _ = make_planned(tmp_path / "s.zarr")
    with pytest.raises(UsageError, match="give a list"):
        read(str(store.path))


def test_a_merge_of_one_store_is_refused(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr")
    with pytest.raises(UsageError, match=r"two or more stores.*labelstore recode"):
        merge([store], tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_a_single_key(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr")
    both = labelstore.ensemble([store, store])
    for reader in (store, both):
        place = reader.index_of(store.keys[7])
        assert (place.shape, place.dtype, int(place)) == ((), np.int64, 7)
        assert reader.index_of([store.keys[7], store.keys[0]]).tolist() == [7, 0]
        with pytest.raises(NotFoundError, match="no/such"):
            reader.index_of("no/such")
    assert np.array_equal(store.read(store.keys[7], 0).probs, store.read(7, 0).probs)


@pytest.mark.parametrize("url", ["file://relative", "file://relative/s.zarr", "file://"])
def test_a_file_url_with_a_relative_path_is_refused(tmp_path, monkeypatch, url):
    """It names a machine; what lies in the working directory is not what it means."""
    monkeypatch.chdir(tmp_path)
    make_planned(tmp_path / "s.zarr")
    for use in (place_of, labelstore.open, open_source):
        with pytest.raises(UsageError, match="absolute path"):
            use(url)
    with pytest.raises(UsageError, match="absolute path"):
        pull(labelstore.open("s.zarr"), url)
    assert os.listdir(tmp_path) == ["s.zarr"]
    absolute = tmp_path / "s.zarr"
    assert labelstore.open(f"file://localhost{absolute}").path == absolute
    assert labelstore.open(f"file://{absolute}").path == absolute


def test_messages_have_numbers_and_words_and_no_python(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr")
    other, _, _ = written(tmp_path / "o.zarr", law=labelstore.ViewLaw(seed=5, scale=(0.2, 1)))
    few, _, _ = written(tmp_path / "few.zarr", images=3)
    warm, _, _ = written(tmp_path / "warm.zarr", temperature=2.0)
    cold, _, _ = written(tmp_path / "cold.zarr", temperature=0.5)
    wrong = [
        lambda: labelstore.ensemble([store, store], weights=np.array([1.0, -2.0])),
        lambda: labelstore.ensemble([store, other]),
        lambda: labelstore.ensemble([store, few]),
        lambda: merge([warm, cold], tmp_path / "out.zarr"),
    ]
    said = []
    for call in wrong:
        with pytest.raises((UsageError, MismatchError)) as caught:
            call()
        said.append(str(caught.value))
        assert not any(word in said[-1] for word in ("np.", "ViewLaw(", "array(", "float64", "["))
    assert "weights are 1, -2, expected 2" in said[0]
    assert (
        "(seed 1, scale 0.08 to 1, ratio 0.75 to 1.333, flip 0.5 and seed 5, scale 0.2" in said[1]
    )
    assert 'images="intersection"' in said[2]
    assert "are 2.0, 0.5" in said[3]


@pytest.mark.parametrize("settings", [{"k": 2}, {"images": 7}, {"views": 5}])
def test_after_a_store_was_replaced_a_refresh_says_so(tmp_path, suffix, settings):
    path = tmp_path / f"s.{suffix}"
    store, _ = make_planned(path)
    store.read(0, 0)
    shutil.rmtree(path)
    make_planned(path, **settings)
    with pytest.raises(MismatchError, match="replaced by another store"):
        store.refresh()
    assert labelstore.open(path).manifest.id != store.manifest.id


def test_a_refresh_of_a_store_that_grew_reads_what_came(tmp_path, suffix):
    path = tmp_path / f"s.{suffix}"
    store, _ = make_planned(path, blocks=[0])
    make_planned(path)
    store.refresh()
    assert store.complete
    assert store.read(19, 0).probs.shape == (3,)


@pytest.mark.parametrize("how", ["time set back", "mapped", "rights alone"])
def test_a_copy_that_was_written_to_is_compared_again(tmp_path, how):
    store, _ = make_planned(tmp_path / "s.zarr")
    materialize(store, tmp_path / "copy")
    copy = labelstore.open(tmp_path / "copy")
    expected = copy.read(np.arange(20)[:, None], np.arange(6))
    file = tmp_path / "copy/labels/classes.npy"
    state = file.stat()
    if how == "rights alone":
        file.chmod(0o400)
        again = copy.read(np.arange(20)[:, None], np.arange(6))
        assert np.array_equal(again.indices, expected.indices)
        return
    if how == "mapped":
        array = np.load(file, mmap_mode="r+")
        array[0, 0, 0] += 1
        array.flush()
        del array
    else:
        with file.open("r+b") as opened:
            opened.seek(-1, os.SEEK_END)
            opened.write(b"\x77")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_mtime_ns == state.st_mtime_ns
    with pytest.raises(CorruptError, match="not what was committed"):
        copy.read(np.arange(20)[:, None], np.arange(6))
