"""One label a call: from chunks in memory it takes another way, and says the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import labelstore
from labelstore.compiled import compiled_part
from labelstore.errors import NotFoundError
from labelstore.operations.materialize import materialize
from labelstore.store.writer import StoreWriter
from tests.support.stores import make_planned, once, planned, top_of, written

make_planned, written = once(make_planned), once(written)

QUANTIZERS = ["ratio16", "ratio32", "u8", "u16", "fp16", "fp32"]


def alternating(one, other, *rare):
    """Quantizers with one or the other value in turn; what neighbours lack, and rare ones, slow."""
    for number, quantizer in enumerate(QUANTIZERS):
        for value in (one, other, *rare):
            # Neighbours are decoded by one piece, of other numbers.
            usual = value == (one, other)[number % 2]
            yield pytest.param(quantizer, value, marks=() if usual else pytest.mark.slow)


IMAGES, VIEWS = 20, 6


def compiled_one_label(*given):
    """The compiled part's answer."""
    part = compiled_part("labelstore.format.codecs._one_label")
    if part is None:
        pytest.skip("it was not built here")
    return part.one_label(*given)


def same(label, batch, place, *, leading=()):
    """Whether a label is a batch's at a place, to the bit and in type and shape."""
    pairs = [(label.indices, batch.indices[place]), (label.probs, batch.probs[place])]
    if batch.prior is not None:
        of = batch.prior[place]
        pairs += [(label.prior.classes, of.classes), (label.prior.probs, of.probs)]
        pairs.append((label.prior.power, of.power))
    assert (label.prior is None) == (batch.prior is None)
    for got, expected in pairs:
        assert type(got) is type(expected) or leading
        assert got.dtype == expected.dtype
        assert got.shape == (*leading, *expected.shape)
        assert np.array_equal(np.asarray(got).reshape(expected.shape), expected)


def check_all(store):
    """Every second label by itself, before and after its chunk is there, is that of a batch;
    also where the compiled part is not there."""
    fresh, by_numpy = labelstore.open(store.path), labelstore.open(store.path)
    by_numpy._decoder._one_label = None
    by_numpy.read(np.arange(store.num_images)[:, None], np.arange(store.num_views))
    batch = store.read(np.arange(store.num_images)[:, None], np.arange(store.num_views))
    whole = batch.recover()
    for image in range(store.num_images):
        for view in range(image % 2, store.num_views, 2):
            same(fresh.read(image, view), batch, (image, view))
            label = store.read(image, view)
            same(label, batch, (image, view))
            same(by_numpy.read(image, view), batch, (image, view))
            same(store.read(np.int32(image), view), batch, (image, view))
            same(store.read([image], [[view]]), batch, (image, view), leading=(1, 1))
            same(store.read(np.array([image]), view), batch, (image, view), leading=(1,))
            soft = label.recover()
            assert np.array_equal(soft.weights, whole.weights[image, view])
            assert np.array_equal(soft.base, whole.base[image, view])


@pytest.mark.parametrize(("quantizer", "k"), [*alternating(1, 4)])
def test_a_label_alone_is_that_of_a_batch(tmp_path, suffix, quantizer, k):
    store, _, _ = written(tmp_path / f"s.{suffix}", images=4, k=k, quantizer=quantizer)
    check_all(store)


@pytest.mark.parametrize(("quantizer", "prior_size"), [*alternating(1, 40, 8)])
def test_with_a_list_of_likely_classes(tmp_path, suffix, quantizer, prior_size):
    k = 2 if prior_size == 1 else 5
    options = {"images": 5, "classes": 40, "k": k, "quantizer": quantizer, "prior_size": prior_size}
    store, _ = make_planned(tmp_path / f"s.{suffix}", top_p=0.7, **options)
    check_all(store)


def test_of_more_classes_than_two_bytes_name(tmp_path, suffix):
    store, _, _ = written(tmp_path / f"s.{suffix}", images=5, classes=70_000)
    check_all(store)


def arrays_of_a_label(**changes):
    """Arguments of the compiled part: the second of three labels, of five classes."""
    given = {
        "place": 1,
        "image": 1,
        "top": np.full(3, 200, np.uint16),
        "rest": np.array([[9] * 4, [8, 7, 0, 0], [9] * 4], np.uint8),
        "classes": np.array([[0] * 5, [1, 0, 6, 0, 0], [0] * 5], np.uint16),
        "top_values": np.linspace(0, 1, 201, dtype=np.float32),
        "rest_values": np.linspace(0, 0.5, 10, dtype=np.float32),
        "ids": np.full(5, 77, np.int32),
        "probs": np.full(5, 77, np.float32),
        "lists": np.array([[9, 9, 9], [40, 50, 65535]], np.uint16),
        "list_probs": np.array([[9, 9, 9], [3, 2, 0]], np.uint8),
        "powers": np.linspace(0, 1, 256, dtype=np.float32),
        "listed": np.empty(3, np.int32),
        "listed_probs": np.empty(3, np.float32),
    }
    return given | changes


def test_the_compiled_part_decodes_a_label_and_its_list():
    given = arrays_of_a_label()
    assert compiled_one_label(*given.values())
    assert given["ids"].tolist() == [50, 40, 3, 0, 0]
    expected = [1, *np.float32(0.5) * np.linspace(0, 1, 10)[[8, 7, 0, 0]]]
    np.testing.assert_allclose(given["probs"], expected, rtol=1e-6)
    assert given["listed"].tolist() == [40, 50, -1]
    np.testing.assert_allclose(given["listed_probs"], np.array([3, 2, 0]) / 255, rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"place": 3},
        {"place": -1},
        {"image": 2},
        {"image": -1},
        {"place": 2**62},
        {"top": np.full(3, 201, np.uint16)},
        {"top": np.zeros(3)},
        {"rest": np.full((3, 4), 10, np.uint8)},
        {"rest": np.zeros((1, 4), np.uint8)},
        {"classes": np.full((3, 5), 65535, np.uint16)},
        {"classes": np.full((3, 5), 2, np.uint16)},
        {"classes": np.full((3, 5), 1, np.uint16)},
        {"classes": np.zeros((3, 5))},
        {"ids": np.empty(0, np.int32)},
        {"ids": np.empty(5, np.int64)},
        {"probs": np.empty(4, np.float32)},
        {"powers": np.zeros(3, np.float32)},
        {"listed": np.empty(4, np.int32)},
        {"listed": np.empty(0, np.int32), "listed_probs": np.empty(0, np.float32)},
    ],
)
def test_the_compiled_part_says_nothing_of_what_is_no_label(changes):
    assert compiled_one_label(*arrays_of_a_label(**changes).values()) is False


def test_the_compiled_part_refuses_other_arguments():
    *given, _ = arrays_of_a_label().values()
    with pytest.raises(TypeError, match="number of arguments"):
        compiled_one_label(*given)
    frozen = np.empty(5, np.int32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        compiled_one_label(*arrays_of_a_label(ids=frozen).values())


def test_of_explicit_views_and_of_a_materialized_copy(tmp_path):
    boxes, flips = np.ones((IMAGES, VIEWS, 4), int), np.zeros((IMAGES, VIEWS), bool)
    store, _, _ = written(tmp_path / "s.zarr", law=None, boxes=boxes, flips=flips)
    check_all(store)
    store, _ = make_planned(tmp_path / "p.zarr")
    materialize(store, tmp_path / "copy")
    check_all(labelstore.open(tmp_path / "copy"))


def test_what_an_image_without_labels_says(tmp_path, suffix):
    manifest, keys, targets, data, p = planned()
    with StoreWriter(tmp_path / f"s.{suffix}", manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            arrays = data(block)
            readable = np.arange(len(arrays.indices)) != 3
            object.__setattr__(arrays, "readable", readable)
            writer.write_block(block, arrays)
    store = labelstore.open(tmp_path / f"s.{suffix}")
    assert np.array_equal(store.read(4, 1).indices, top_of(p, 3)[0][4, 1])
    for _ in range(2):
        with pytest.raises(NotFoundError, match=r"c/003\.jpg.*could not be decoded"):
            store.read(3, 1)


@pytest.mark.parametrize(("image", "view"), [(IMAGES, 0), (-1, 0), (0, VIEWS), (0, -1)])
def test_a_number_out_of_range_is_refused_after_the_chunk_was_read(tmp_path, image, view):
    store, _ = make_planned(tmp_path / "s.zarr")
    store.read(0, 0)
    with pytest.raises(NotFoundError, match="was asked for"):
        store.read(image, view)


def test_a_store_that_was_refreshed_reads_from_the_disk(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr")
    store.read(0, 0)
    for file in (tmp_path / "s.zarr/labels/classes/c/0").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\0" * file.stat().st_size)
    store.refresh()
    with pytest.raises(labelstore.errors.CorruptError):
        store.read(0, 0)


def test_threads_that_read_more_chunks_than_are_kept(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr")
    batch = store.read(np.arange(IMAGES)[:, None], np.arange(VIEWS))
    narrow = labelstore.open(tmp_path / "s.zarr", cache_bytes=1)

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(150):
            image, view = int(rng.integers(IMAGES)), int(rng.integers(VIEWS))
            same(narrow.read(image, view), batch, (image, view))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
