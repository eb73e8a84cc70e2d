"""Writing and reading stores."""

from __future__ import annotations

import pickle
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, strategies as st

import labelstore
from labelstore.errors import (
    BusyError,
    FormatError,
    IncompleteError,
    LabelError,
    LabelStoreError,
    MismatchError,
    NotFoundError,
    StoreError,
    UsageError,
)
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.labels.prior import decode_probs
from labelstore.storage import locks
from labelstore.store.writer import StoreWriter
from tests.support import commands
from tests.support.examples import examples
from tests.support.ranks import METHODS, context_of
from tests.support.stores import files_of, make_planned, planned, read_everything, top_of, written


@examples(10)
@given(
    images=st.integers(1, 9),
    views=st.integers(1, 9),
    k=st.integers(1, 4),
    group_views=st.integers(1, 5),
    block_images=st.integers(1, 10),
    quantizer=st.sampled_from(["ratio32", "u8", "u16", "fp16", "fp32"]),
    classes=st.sampled_from([4, 30, 70_000]),
)
def test_round_trip(
    tmp_path_factory, images, views, k, group_views, block_images, quantizer, classes, suffix
):
    path = tmp_path_factory.mktemp("round") / f"s.{suffix}"
    store, indices, probs = written(
        path,
        *(images, views, k, min(classes, 2000)),
        group_views=group_views,
        block_images=block_images,
        quantizer=quantizer,
        **({"class_names": None} if classes < 2000 else {}),
    )
    got = store.read(np.arange(images)[:, None], np.arange(views))
    stored = got.probs > 0
    assert np.array_equal(got.indices[stored], indices[stored])
    # Where all classes are stored, the last one also takes what the others' rounding is above 1.
    tolerance = {"ratio32": 0.03, "u8": 0.009, "u16": 4e-5, "fp16": 1e-3, "fp32": 3e-7}[quantizer]
    np.testing.assert_allclose(got.probs, probs, atol=tolerance)
    assert np.array_equal(store.confidence(), got.confidence)


def test_class_ids_beyond_16_bits(tmp_path, suffix):
    ids = np.array([[[70_000, 65_535, 0]]])
    store = labelstore.write(tmp_path / f"s.{suffix}", ids, [[[0.5, 0.3, 0.1]]], num_classes=70_001)
    assert store.read(0, 0).indices.tolist() == [70_000, 65_535, 0]


def test_a_prior_is_read_back_and_recovers_closer_to_the_teacher(tmp_path, suffix):
    store, p = make_planned(tmp_path / f"s.{suffix}")
    images, views = np.arange(20)[:, None], np.arange(6)
    topk = store.read(images, views)
    assert np.array_equal(topk.indices, top_of(p, 3)[0])
    _, _, _, data, _ = planned()
    block = data(1)
    assert np.array_equal(topk.prior.classes[8:16, 0], block.prior_classes)
    assert np.array_equal(topk.prior.probs[8:16, 3], decode_probs(block.prior_probs))
    np.testing.assert_allclose(topk.prior.power[8:16, 2], block.prior_power / 100)

    def divergence(tail):
        q = topk.recover(tail).dense().astype(float)
        np.testing.assert_allclose(q.sum(-1), 1, atol=1e-5)
        return (p * np.log(p / q)).sum(-1).mean()

    assert divergence("image") < 0.7 * divergence("uniform")
    assert np.array_equal(topk.recover().weights, topk.recover("image").weights)


def test_top_p_keeps_as_many_classes_as_the_mass_needs(tmp_path, suffix):
    store, p = make_planned(tmp_path / f"s.{suffix}", k=8, top_p=0.8)
    topk = store.read(np.arange(20)[:, None], np.arange(6))
    exact = top_of(p, 8)[1]
    needed = 1 + (np.cumsum(exact, -1)[..., :-1] < 0.8).sum(-1)
    assert np.array_equal((topk.probs > 0).sum(-1), needed)
    assert needed.min() < needed.max()
    np.testing.assert_allclose(topk.recover().total(), 1, atol=1e-5)


def test_reading_by_key_position_and_shape(tmp_path, suffix):
    store, indices, _ = written(tmp_path / f"s.{suffix}")
    assert np.array_equal(store.read(["c/004.jpg", "c/019.jpg"], 2).indices, indices[[4, 19], 2])
    assert store.read(3, 1).indices.shape == (3,)
    grid = store.read(np.array([[1], [17]]), np.array([[0, 5]]))
    assert np.array_equal(grid.indices, indices[np.ix_([1, 17], [0, 5])])
    assert store.index_of(["c/007.jpg"]).tolist() == [7]
    assert store.sizes([3])[0].tolist() == [43]


@pytest.mark.parametrize(
    ("images", "views", "kind"),
    [
        (20, 0, "not-found"),
        (-1, 0, "not-found"),
        (0, 6, "not-found"),
        (0, -1, "not-found"),
        (["nope"], 0, "not-found"),
        (0.5, 0, "usage"),
    ],
)
def test_what_is_not_there(tmp_path, images, views, kind, suffix):
    store, _, _ = written(tmp_path / f"s.{suffix}")
    with pytest.raises(LabelStoreError) as caught:
        store.read(images, views)
    assert caught.value.kind == kind


def test_an_unfinished_store_reads_what_is_committed_and_refuses_the_rest(tmp_path, suffix):
    store, p = make_planned(tmp_path / f"s.{suffix}", blocks={0, 2})
    assert store.missing_blocks() == [1]
    assert not store.complete
    assert np.array_equal(store.read(16, 0).indices, top_of(p, 3)[0][16, 0])
    with pytest.raises(IncompleteError, match=r"block 1 .images 8 to 15. has no labels yet"):
        store.read([0, 8], 0)
    with pytest.raises(IncompleteError):
        store.confidence()
    assert [rows.start for rows, _ in store.iter_confidence()] == [0, 16]
    assert store.labelled().sum() == 12
    make_planned(tmp_path / f"s.{suffix}")
    store.refresh()
    assert store.complete
    assert store.labelled().all()


def test_resuming_gives_the_same_files_and_never_touches_a_committed_block(tmp_path, suffix):
    make_planned(tmp_path / f"whole.{suffix}")
    make_planned(tmp_path / f"part.{suffix}", blocks={1})
    before = {
        file: file.stat().st_mtime_ns
        for file in (tmp_path / f"part.{suffix}").rglob("*")
        if file.is_file() and (file.match("c/1/*") or file.stem == "000001")
    }
    assert before
    make_planned(tmp_path / f"part.{suffix}")
    assert files_of(tmp_path / f"part.{suffix}") == files_of(tmp_path / f"whole.{suffix}")
    assert before == {file: file.stat().st_mtime_ns for file in before}
    manifest, keys, targets, data, _ = planned()
    with (
        StoreWriter(tmp_path / f"whole.{suffix}", manifest, keys, targets) as writer,
        pytest.raises(StoreError, match="never written again"),
    ):
        writer.write_block(0, data(0))


def test_other_settings_are_refused_by_name(tmp_path, suffix):
    make_planned(tmp_path / f"s.{suffix}", blocks={0})
    before = files_of(tmp_path / f"s.{suffix}")
    with pytest.raises(MismatchError, match=r"labels\.prior_size: stored 8, asked for 4"):
        make_planned(tmp_path / f"s.{suffix}", prior_size=4)
    with pytest.raises(MismatchError, match="another data set"):
        make_planned(tmp_path / f"s.{suffix}", images=21)
    with pytest.raises(MismatchError, match="allow the drift"):
        make_planned(tmp_path / f"s.{suffix}", producer={"torch": "9"})
    assert files_of(tmp_path / f"s.{suffix}") == before


def test_write_again_with_other_labels_is_refused(tmp_path, suffix):
    written(tmp_path / f"s.{suffix}")
    before = files_of(tmp_path / f"s.{suffix}")
    written(tmp_path / f"s.{suffix}")
    assert files_of(tmp_path / f"s.{suffix}") == before
    with pytest.raises(MismatchError, match="other labels"):
        written(tmp_path / f"s.{suffix}", seed=1)
    assert files_of(tmp_path / f"s.{suffix}") == before
    _, indices, _ = written(tmp_path / f"s.{suffix}", seed=1, overwrite=True)
    assert np.array_equal(
        labelstore.open(tmp_path / f"s.{suffix}").read(5, 0).indices, indices[5, 0]
    )


def test_what_is_no_store_is_never_touched(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(FormatError, match="nothing in it was touched"):
            written(tmp_path / "photos", overwrite=overwrite)
    assert (tmp_path / "photos" / "mine.txt").read_text() == "x"
    (tmp_path / "file").write_text("x")
    with pytest.raises(LabelStoreError):
        written(tmp_path / "file")
    with pytest.raises(NotFoundError, match="no store"):
        labelstore.open(tmp_path / "nowhere.zarr")
    with pytest.raises(FormatError):
        labelstore.open(tmp_path / "photos")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(FormatError, match="not a labelstore store"):
        labelstore.open(tmp_path / "other.zarr")


def test_a_second_writer_is_refused(tmp_path, suffix):
    make_planned(tmp_path / f"s.{suffix}", blocks={0})
    manifest, keys, targets, _, _ = planned()
    with locks.exclusive_lock(tmp_path / f"s.{suffix}"):
        code = (
            "import sys; sys.path.insert(0, sys.argv[2])\n"
            "from tests.support.stores import make_planned\n"
            "from pathlib import Path; from labelstore.errors import BusyError\n"
            "try: make_planned(Path(sys.argv[1]))\n"
            "except BusyError: sys.exit(7)"
        )
        here = str(Path(__file__).parents[2])
        done = commands.run([sys.executable, "-c", code, tmp_path / f"s.{suffix}", here])
        assert done.returncode == 7
        with (
            pytest.raises(BusyError),
            StoreWriter(tmp_path / f"s.{suffix}", manifest, keys, targets),
        ):
            pass


def read_in_child(store, queue):
    queue.put(store.read(np.arange(20), 3).indices.tolist())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes(tmp_path, method, suffix):
    store, _ = make_planned(tmp_path / f"s.{suffix}")
    expected = store.read(np.arange(20), 3).indices.tolist()
    context = context_of(method)
    queue = context.Queue()
    process = context.Process(target=read_in_child, args=(store, queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()


def test_pickles_and_threads(tmp_path, suffix):
    store, indices, _ = written(tmp_path / f"s.{suffix}")
    other = pickle.loads(pickle.dumps(store))
    assert np.array_equal(other.read(4, 4).indices, indices[4, 4])
    with ThreadPoolExecutor(8) as pool:
        rows = np.random.default_rng(0).integers(0, 20, (200, 5))
        for chosen, got in zip(rows, pool.map(lambda r: store.read(r, 2).indices, rows)):  # noqa: B905
            assert np.array_equal(got, indices[chosen, 2])
    state = pickle.dumps(store)
    written(tmp_path / f"s.{suffix}", seed=3, k=2, overwrite=True)
    with pytest.raises(MismatchError, match="replaced"):
        pickle.loads(state)


def test_the_cache_is_bounded(tmp_path, suffix):
    _, indices, _ = written(tmp_path / f"s.{suffix}", images=64, views=16, group_views=4)
    store = labelstore.open(tmp_path / f"s.{suffix}", cache_bytes=2000)
    for view in range(16):
        assert np.array_equal(store.read(np.arange(64), view).indices, indices[:, view])
        assert store._reader.cached_bytes <= 2000


def test_explicit_boxes_and_no_views_at_all(tmp_path, suffix):
    rng = np.random.default_rng(0)
    boxes, flips = rng.integers(1, 30, (20, 6, 4)), rng.random((20, 6)) < 0.5
    store, _, _ = written(tmp_path / f"a.{suffix}", law=None, boxes=boxes, flips=flips)
    views = store.views(np.arange(20)[:, None], np.arange(6))
    assert np.array_equal(views.box, boxes)
    assert np.array_equal(views.flip, flips)
    bare, _, _ = written(tmp_path / f"b.{suffix}", law=None)
    with pytest.raises(MismatchError, match="does not say which crops"):
        bare.views(0, 0)
    with pytest.raises(UsageError, match="both a law and boxes"):
        written(tmp_path / f"c.{suffix}", boxes=boxes, flips=flips)


def test_plain_zarr_reads_the_codes_without_a_warning(tmp_path):
    _, p = make_planned(tmp_path / "s.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(tmp_path / "s.zarr", mode="r")
        assert group.attrs["labelstore"]["format_version"] == 1
        assert group["labels/classes"].shape == (20, 6, 3)
        assert list(group["images/key"][:2]) == ["c/000.jpg", "c/001.jpg"]
        lists, codes = group["images/prior_classes"][0], group["labels/classes"][0, :, 0]
    listed = codes < 8
    first = top_of(p, 3)[0][0, :, 0]
    assert np.array_equal(lists[codes[listed]], first[listed])
    assert np.array_equal(codes[~listed] - 8, first[~listed])


GOOD = {"indices": np.array([[[1, 2]]]), "probs": np.array([[[0.5, 0.25]]])}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probs": np.array([[[0.25, 0.5]]])}, "rise"),
        ({"probs": np.array([[[5.0, 0.1]]])}, "not logits"),
        ({"probs": np.array([[[0.9, 0.5]]])}, "sums to 1.4"),
        ({"probs": np.array([[[np.nan, 0.5]]])}, "probabilities run"),
        ({"probs": np.array([[[0.5, -0.1]]])}, "probabilities run"),
        ({"indices": np.array([[[1, 1]]])}, "twice"),
        ({"indices": np.array([[[1, 5]]])}, "num_classes"),
        ({"indices": np.array([[[1.0, 2.0]]])}, "integers"),
        ({"indices": np.array([[1, 2]])}, "shape"),
    ],
)
def test_arrays_that_are_no_labels(tmp_path, change, words, suffix):
    with pytest.raises(LabelError, match=words):
        labelstore.write(tmp_path / f"s.{suffix}", **{**GOOD, **change}, num_classes=5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keys": ["a", "a"]}, "unique"),
        ({"keys": ["a"]}, "1 keys"),
        ({"targets": [5, 0]}, "targets run"),
        ({"targets": [0.5, 0]}, "targets run"),
        ({"quantizer": "u7"}, "quantizer"),
        ({"class_names": ["a"]}, "class names"),
        ({"temperature": 0.0}, "temperature"),
        ({"law": labelstore.ViewLaw()}, "widths and heights"),
        ({"teacher": {"spec": "mine"}}, "cannot be described"),
    ],
)
def test_wrong_arguments_of_write(tmp_path, options, words, suffix):
    indices, probs = (np.repeat(array, 2, axis=0) for array in GOOD.values())
    with pytest.raises(UsageError, match=words):
        labelstore.write(tmp_path / f"s.{suffix}", indices, probs, 5, **options)
    assert not (tmp_path / f"s.{suffix}").exists()


def test_memory_maps_are_read_block_by_block(tmp_path, suffix):
    indices, probs = np.zeros((40, 4, 1), np.int32), np.full((40, 4, 1), 0.5, np.float32)
    indices[:, :, 0] = np.arange(40)[:, None] % 7
    np.save(tmp_path / "i.npy", indices)
    np.save(tmp_path / "p.npy", probs)
    maps = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ip")
    store = labelstore.write(tmp_path / f"s.{suffix}", *maps, num_classes=7, block_images=8)
    assert np.array_equal(store.read(np.arange(40), 3).indices, indices[:, 3])


def test_unreadable_images_keep_their_place(tmp_path, suffix):
    manifest, keys, targets, data, p = planned()
    broken = np.zeros(8, dtype=bool)
    broken[3] = True
    with StoreWriter(tmp_path / f"s.{suffix}", manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            given = data(block)
            if block == 1:
                fields = {name: getattr(given, name) for name in BlockData.__dataclass_fields__}
                given = BlockData(**{**fields, "readable": ~broken})
            writer.write_block(block, given)
    store = labelstore.open(tmp_path / f"s.{suffix}")
    assert store.unreadable() == ["c/011.jpg"]
    assert np.isnan(store.confidence()[11]).all()
    assert np.array_equal(store.read([10, 12], 0).indices, top_of(p, 3)[0][[10, 12], 0])
    with pytest.raises(NotFoundError, match=r"c/011\.jpg.*could not be decoded"):
        store.read([10, 11], 0)


def test_everything_read_twice_is_the_same(tmp_path, suffix):
    make_planned(tmp_path / f"s.{suffix}")
    assert read_everything(tmp_path / f"s.{suffix}") == read_everything(tmp_path / f"s.{suffix}")


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    import errno
    import fcntl

    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match="without locks"), locks.exclusive_lock(tmp_path):
        pass


def test_requests_of_nothing_and_of_what_is_no_request(tmp_path):
    store, _, _ = written(tmp_path / "s.zarr")
    assert store.read([], []).indices.shape == (0, 3)
    assert store.read(np.zeros((3, 0), dtype=int), np.arange(3)[:, None]).probs.shape == (3, 0, 3)
    assert np.array_equal(store.confidence(slice(3, 9)), store.confidence()[3:9])
    for images in (slice(0, 10, 2), slice(None, None, -1)):
        with pytest.raises(UsageError, match="without a step"):
            store.confidence(images)
    for images in (np.array([1, 2, 3]), np.zeros((2, 3), dtype=int)):
        for ask in (store.read, store.views):
            with pytest.raises(UsageError, match="do not broadcast"):
                ask(images, [1, 2])
    with pytest.raises(UsageError, match="unequal length"):
        store.read([[1], [1, 2]], 0)


@pytest.mark.parametrize(
    ("images", "views", "block"),
    [(3, 4, 3), (600, 4, 600), (1025, 16, 1024), (1025, 4, 1025), (20_000, 1, 16_384)],
)
def test_arrays_are_written_in_large_blocks(tmp_path, images, views, block):
    """Blocks of 16 images, as a teacher's run of 600 has them, are slow to read at random."""
    probs = np.full((images, views, 1), 0.5, np.float32)
    store = labelstore.write(tmp_path / "made.zarr", np.zeros(probs.shape, int), probs, 3)
    assert store.manifest.block_images == block


def test_an_empty_store_of_many_images_is_begun_at_once(tmp_path):
    keys = [f"n{n // 1300:08}/n{n // 1300:08}_{n * 7919 % 10**6}_{n}.JPEG" for n in range(65_536)]
    targets = np.full(len(keys), -1, np.int32)
    manifest = Manifest(
        num_images=len(keys),
        num_views=2,
        num_classes=10,
        k=2,
        fingerprint=fingerprint(keys, targets),
        law=None,
        block_images=1024,
        group_views=2,
    )
    begun = time.process_time()
    with StoreWriter(tmp_path / "s.zarr", manifest, keys, targets):
        # The lock is held meanwhile: 3.5 s with the slowest compression, for 1 byte an image.
        assert time.process_time() - begun < 1.5
    assert labelstore.open(tmp_path / "s.zarr").keys == tuple(keys)
