"""Values that are no labels are an error on a plain read, whatever the checksums say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import zarr

import labelstore
from labelstore.errors import CorruptError, NotFoundError, UsageError
from labelstore.format.validity import table_problem
from labelstore.operations.materialize import materialize
from tests.format.hostile import write
from tests.support.stores import make_planned, once, written

make_planned, written = once(make_planned), once(written)

FILL = {"labels/top_prob": 255, "labels/classes": 65535, "labels/rest_probs": 255}


def set_codes(name, place, value):
    def change(block, codes):
        if block == 0:
            codes[name][place] = value

    return change


def plain_read(path):
    store = labelstore.open(path)
    return store.read(np.arange(store.num_images)[:, None], np.arange(store.num_views))


def rises(block, codes):
    probs = codes["labels/rest_probs"]
    probs[0, 0] = probs[0, 0, ::-1]


def twice(block, codes):
    codes["labels/classes"][0, 0, 1] = codes["labels/classes"][0, 0, 0]


FLOATS = {
    "nan": set_codes("labels/rest_probs", (0, 0, 0), np.nan),
    "nan-top": set_codes("labels/top_prob", (0, 0), np.nan),
    "infinite": set_codes("labels/top_prob", (0, 0), np.inf),
    "negative": set_codes("labels/rest_probs", (0, 0, 1), -0.5),
    "above-1": set_codes("labels/top_prob", (0, 0), 1.5),
    "sum": set_codes("labels/rest_probs", (0, 0), 0.5),
    "rises": rises,
    "class": set_codes("labels/classes", (0, 0, 0), 12),
    "twice": twice,
}


@pytest.mark.parametrize("change", FLOATS.values(), ids=FLOATS)
def test_floats_in_zarr(tmp_path, change):
    path = write(tmp_path / "a.zarr", change, quantizer="fp32", prior_size=0)
    with pytest.raises(CorruptError, match=r"block 0 .* holds what is no label"):
        plain_read(path)


@pytest.mark.parametrize("change", FLOATS.values(), ids=FLOATS)
def test_floats_in_parquet(tmp_path, change):
    path = write(tmp_path / "a.parquet", change, quantizer="fp32", prior_size=0)
    with pytest.raises(CorruptError):
        plain_read(path)


CODES = {
    "u8": ("labels/rest_probs", (0, 0, 0), 255),
    "u16": ("labels/rest_probs", (0, 0, 0), 65535),
    "fp16": ("labels/rest_probs", (0, 0, 1), np.nan),
    "ratio16": ("labels/rest_probs", (0, 0, 0), 17),
    "ratio32": ("labels/rest_probs", (0, 0, 0), 33),
}


@pytest.mark.parametrize("quantizer", CODES)
def test_codes_of_no_value(tmp_path, quantizer):
    path = write(tmp_path / "a.zarr", set_codes(*CODES[quantizer]), quantizer=quantizer)
    with pytest.raises(CorruptError, match="probabilities are none, rise, or exceed 1 in sum"):
        plain_read(path)
    top = 255 if quantizer.startswith("ratio") else 65535
    path = write(
        tmp_path / "b.zarr", set_codes("labels/top_prob", (0, 0), top), quantizer=quantizer
    )
    with pytest.raises(CorruptError, match="a largest probability is none"):
        plain_read(path)
    with pytest.raises(CorruptError, match="a largest probability is none"):
        labelstore.open(path).confidence()


def beyond(block, codes):
    """A rank that no place of a shorter list has."""
    codes["images/prior_classes"][0, 2:] = 65535
    codes["images/prior_probs"][0, 2:] = 0
    codes["labels/classes"][0] = [0, 0, 0]
    codes["labels/rest_probs"][0] = 3


def named_twice(block, codes):
    """A class outside of the list that is the list's first."""
    codes["labels/classes"][0, 0] = [0, codes["images/prior_classes"][0, 0] + 4, 1]


def listed_twice(block, codes):
    codes["images/prior_classes"][0, 1] = codes["images/prior_classes"][0, 0]


def listed_after_empty(block, codes):
    codes["images/prior_classes"][0, 1] = 65535


def outside_twice(block, codes):
    codes["labels/classes"][0, 0] = [0, 9 + 4, 9 + 4]
    codes["images/prior_classes"][0] = [0, 1, 2, 3]


LISTS = {
    "rank": (beyond, "empty place of its image's list"),
    "named": (named_twice, "names a class twice"),
    "outside": (outside_twice, "names a class twice"),
    "listed": (listed_twice, "a list names a class twice"),
    "hole": (listed_after_empty, "an empty place before a class"),
    "class": (set_codes("images/prior_classes", (0, 0), 12), "above 11"),
    "label": (set_codes("labels/classes", (0, 0, 0), 16), "above 11"),
    "rising": (set_codes("images/prior_probs", (0, 3), 255), "probabilities rise"),
}


@pytest.mark.parametrize(("change", "told"), LISTS.values(), ids=LISTS)
def test_lists_of_likely_classes(tmp_path, change, told):
    path = write(tmp_path / "a.zarr", change)
    with pytest.raises(CorruptError, match=told):
        plain_read(path)


def test_the_last_rank_and_a_class_beside_the_list_are_labels(tmp_path):
    def change(block, codes):
        codes["images/prior_classes"][0] = [0, 1, 2, 3]
        codes["labels/classes"][0] = [3, 2, 1]
        codes["labels/classes"][0, 1] = [4 + 7, 4 + 8, 3]

    topk = plain_read(write(tmp_path / "a.zarr", change))
    assert topk.indices[0, 0].tolist() == [3, 2, 1]
    assert topk.indices[0, 1].tolist() == [7, 8, 3]


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.5])
def test_probabilities_of_lists_in_parquet(tmp_path, value):
    path = write(tmp_path / "a.parquet", set_codes("images/prior_probs", (0, 0), value))
    with pytest.raises(CorruptError, match="a probability that is none"):
        plain_read(path)


def test_status_against_labels(tmp_path, suffix):
    unreadable = write(tmp_path / f"a.{suffix}", set_codes("images/status", 1, 2))
    with pytest.raises(CorruptError, match="an image that could not be read has labels"):
        labelstore.open(unreadable).read(0, 0)
    with pytest.raises(CorruptError, match="an image that could not be read has labels"):
        labelstore.open(unreadable).confidence()
    strange = write(tmp_path / f"b.{suffix}", set_codes("images/status", 1, 3))
    with pytest.raises(CorruptError, match="neither 1 nor 2"):
        labelstore.open(strange).labelled()

    def emptied(block, codes):
        for name in FILL:
            array = codes[name]
            array[0] = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max

    filled = write(tmp_path / f"c.{suffix}", emptied)
    with pytest.raises(CorruptError, match="holds what is no label"):
        labelstore.open(filled).read(0, 0)


def test_a_status_that_was_exchanged(tmp_path):
    """What says which images have labels is read alone, and never lets through what is none."""

    def unreadable(block, codes):
        if block == 0:
            codes["images/status"][1] = 2
            for name, fill in FILL.items():
                codes[name][1] = fill

    path = write(tmp_path / "a.zarr", unreadable)
    assert labelstore.open(path).read(0, 0).probs.max() > 0
    status = zarr.open_array(path / "images/status", mode="r+")
    for values in ([1, 1], [1, 3], [2, 2], [2, 1]):
        status[:2] = values
        for read in (plain_read, lambda path: labelstore.open(path).confidence()):
            with pytest.raises(CorruptError, match=r"images: block 0 .* not what was committed"):
                read(path)


@pytest.mark.parametrize("prior_size", [0, 4])
def test_of_many_chunks_the_bad_one_is_told(tmp_path, prior_size):
    def change(block, codes):
        if block == 1:
            codes["labels/rest_probs"][1, 3] = [0, 1]

    path = write(tmp_path / "a.zarr", change, prior_size=prior_size, quantizer="u8")
    reader = labelstore.open(path).reader
    groups = range(reader.manifest.num_groups)
    places = [(block, group) for block in range(reader.manifest.num_blocks) for group in groups]
    bad = places.index((1, 3 // reader.manifest.group_views))
    chunks = reader.read_chunks(places)
    assert len(list(itertools.islice(chunks, bad))) == bad
    with pytest.raises(CorruptError, match=r"block 1 .*probabilities are none, rise"):
        next(chunks)
    others = [place for place in places if place != places[bad]]
    assert len(list(reader.read_chunks(others))) == len(places) - 1


def test_the_last_class_of_a_list_may_be_the_first_of_the_next(tmp_path):
    def change(block, codes):
        codes["images/prior_classes"][:] = [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
        codes["images/prior_probs"][:] = [[9, 8, 7, 6], [90, 80, 70, 60], [91, 80, 70, 60]]
        codes["labels/classes"][:] = [0, 0, 0]

    path = write(tmp_path / "a.zarr", change)
    assert plain_read(path).indices[:3, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


TABLES = {
    "duplicate": ({"keys": ["a", "b", "c", "a", "e", "f"]}, "two images have the same key"),
    "nul": ({"keys": ["a\0", "b", "c", "d", "e", "f"]}, "a key has a NUL"),
    "target": ({"targets": [0, 1, 2, 12, 0, 0]}, "targets run from 0 to 12, expected -1 to 11"),
    "below": ({"targets": [0, 1, 2, -2, 0, 0]}, "targets run from -2 to 2"),
}


@pytest.mark.parametrize(("table", "told"), TABLES.values(), ids=TABLES)
def test_the_table_of_images(tmp_path, suffix, table, told):
    store = labelstore.open(write(tmp_path / f"a.{suffix}", **table))
    with pytest.raises(CorruptError, match=told):
        _ = store.keys


def test_a_key_is_compared_to_its_last_character(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr")
    key = store.keys[3]
    assert store.positions([key]).tolist() == [3]
    assert store.positions([[key], [key]]).tolist() == [[3], [3]]
    for other in (key + "\0", key + "\0\0", "\0" + key, key + "\ud8a0", "\udc80"):
        with pytest.raises(NotFoundError, match="no image with key"):
            store.read([other], 0)
        with pytest.raises(NotFoundError, match="no image with key"):
            store.read(other, 0)


HALF = "b\ud8a0"
"""Text with half a character, which UTF-8 has not."""


def test_a_key_with_half_a_character_is_refused(tmp_path):
    probs = np.full((2, 1, 1), 0.5)
    with pytest.raises(UsageError, match="half a character"):
        labelstore.write(tmp_path / "a.zarr", np.zeros((2, 1, 1), int), probs, 2, keys=["a", HALF])


def test_a_copys_table_of_keys_may_hold_anything(tmp_path):
    """Its keys are UTF-32, in which half a character can stand."""
    store, _, _ = written(tmp_path / "a.zarr")
    copy = tmp_path / "copy"
    materialize(store, copy)
    keys = np.load(copy / "images/key.npy")
    keys[1] = HALF
    np.save(copy / "images/key.npy", keys)
    with pytest.raises(CorruptError, match="has digest"):
        _ = labelstore.open(copy).keys
    # Where the digest is right, too.
    assert "half a character" in str(table_problem(keys.tolist(), store.targets, 12))


def test_honest_stores_of_all_kinds_are_labels(tmp_path):
    for number, quantizer in enumerate(("ratio16", "ratio32", "u8", "u16", "fp16", "fp32")):
        for k in (1, 3, 20):
            options = {"classes": 40, "k": k, "quantizer": quantizer, "group_views": 4}
            store, _ = make_planned(tmp_path / f"{number}-{k}.zarr", **options, prior_size=5)
            plain, _, _ = written(tmp_path / f"{number}-{k}-plain.zarr", **options)
            for found in (store, plain):
                assert [found.check_block(block) for block in range(3)] == [[], [], []]
