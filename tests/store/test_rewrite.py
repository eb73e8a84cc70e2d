"""What merge, recode, pull and write have in common, apart from what each does with labels."""

from __future__ import annotations

import numpy as np
import pytest

import labelstore
from labelstore.errors import LabelError
from labelstore.format.blocks import BlockPriors, block_codes, empty_block
from labelstore.format.settings import StoreSettings
from labelstore.operations.merge import merge
from labelstore.operations.recode import recode
from labelstore.store.indexing import evenly_spaced
from labelstore.store.rewrite import SAMPLE, sample, write_blocks
from labelstore.store.writer import StoreWriter
from tests.support.lists import fit_one
from tests.support.stores import written


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 100, 127, 128, 5000])
def test_even_spacing_reaches_both_ends(count):
    places = evenly_spaced(count, 64)
    assert len(places) == min(count, 64)
    assert (np.diff(places) > 0).all()
    if count:
        assert (places[0], places[-1]) == (0, count - 1 if count > 1 else 0)
        assert np.diff(places).max(initial=0) <= np.ceil(max(count - 1, 1) / 63)


def test_a_sample_is_of_the_whole_store(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr", 100, 2, 1, 5)
    images, views = sample(store)
    assert (len(images), images[0], images[-1]) == (SAMPLE, 0, 99)
    assert views.tolist() == [0, 1]


@pytest.mark.parametrize("change", [{"top_k": 3}, {"block_image": 8}])
def test_a_misspelt_setting_is_refused(tmp_path, change):
    """Settings are passed on by name: one that nobody knows must not be ignored."""
    store, indices, probs = written(tmp_path / "a.zarr", 3, 2, 1, 5)
    (name,) = change
    with pytest.raises(TypeError, match=name):
        labelstore.write(tmp_path / "b.zarr", indices, probs, 5, **change)
    with pytest.raises(TypeError, match=name):
        recode(store, tmp_path / "b.zarr", **change)
    with pytest.raises(TypeError, match=name):
        merge([store, store], tmp_path / "b.zarr", **change)
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.parametrize("name", ["k", "top_p"])
def test_what_arrays_say_themselves_is_no_setting(tmp_path, name):
    with pytest.raises(TypeError, match=name):
        written(tmp_path / "b.zarr", 3, 2, 1, 5, **{name: 1})


def test_a_store_names_its_settings(tmp_path):
    options = {"block_images": 2, "group_views": 1, "quantizer": "u16"}
    store, _, _ = written(tmp_path / "a.zarr", 3, 2, 1, 5, **options)
    assert store.manifest.settings == StoreSettings(k=1, prior_size=0, **options)
    again = labelstore.open(recode(store, tmp_path / "b.zarr", block_images=3).path)
    assert again.manifest.settings == StoreSettings(
        k=1, prior_size=0, **{**options, "block_images": 3}
    )


def test_an_interrupted_write_goes_on_and_tells_of_all(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr", 7, 2, 1, 5, block_images=2)
    told = []

    def stop_after_two(rows):
        if rows.start == 4:
            raise KeyboardInterrupt
        return block(rows)

    def block(rows):
        data = empty_block(store.manifest, rows.stop - rows.start)
        data.indices[:], data.probs[:] = rows.start, 0.5
        return data

    def run(make):
        writer = StoreWriter(tmp_path / "b.zarr", store.manifest, store.keys, store.targets)
        with writer:
            return write_blocks(writer, make, lambda *done: told.append(done))

    def modulo(rows):
        data = block(rows)
        data.indices[:] %= 5
        return data

    with pytest.raises(KeyboardInterrupt):
        run(stop_after_two)
    assert told == [(2, 4)] * 2
    told.clear()
    assert run(modulo) == 2
    assert told == [(2, 4)] * 3 + [(1, 2)]
    made = labelstore.open(tmp_path / "b.zarr")
    assert made.read(np.arange(7), 0).indices[:, 0].tolist() == [0, 0, 2, 2, 4, 4, 1]


def test_lists_of_a_block_are_those_of_each_image(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.full(9, 0.4), (4, 3))
    indices = np.argsort(-truth, axis=-1)[..., :2]
    probs = np.take_along_axis(truth, indices, axis=-1)
    store = labelstore.write(
        tmp_path / "a.zarr", indices, probs, 9, means=truth.mean(1), prior_size=5
    )
    lists = BlockPriors(store.manifest, 4)
    for image in range(4):
        lists.fit([image], truth[[image]].mean(1), indices[[image]], probs[[image]])
        classes, codes, power, kept = fit_one(truth[image].mean(0), indices[image], probs[image], 5)
        assert lists.classes[image].tolist() == classes.tolist()
        assert lists.codes[image].tolist() == codes.tolist()
        assert (lists.powers[image], lists.kept[image]) == (power, kept)
    with pytest.raises(LabelError, match="class ids run from 0 to 9, expected 0 to 8"):
        lists.fit([0], truth[:1].mean(1), np.array([[[0, 9]] * 3]), probs[:1])
    data = empty_block(store.manifest, 4)
    assert data.boxes is None
    without = written(tmp_path / "b.zarr", 4, 3, 2, 9)[0].manifest
    assert BlockPriors(without, 4).arrays() == {}
    assert not block_codes(data, without, 0).priors
