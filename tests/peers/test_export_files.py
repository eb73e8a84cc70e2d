"""WebDataset, NumPy and Hugging Face: what their own libraries read is what the store says."""

from __future__ import annotations

import gc
import json
import tarfile
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

import labelstore
from labelstore.errors import MismatchError, UsageError
from labelstore.operations.lifecycle.export import export
from labelstore.operations.lifecycle.subset import Part, ViewChoice, rows_of
from labelstore.peers.exports.hugging_face import HuggingFace
from labelstore.peers.exports.npz import Npz
from labelstore.peers.exports.webdataset import WebDataset, sample_key
from labelstore.store.writer import StoreWriter
from tests.support.stores import make_planned, once, planned, written
from tests.support.training import make_photos

make_planned, written = once(make_planned), once(written)

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

PLANE = ("views", "indices", "probs", "residual", "boxes", "flips")


@pytest.fixture(autouse=True)
def shards_that_webdataset_left_open():
    """Closed here, where nobody is told, not in whichever test comes next."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def store(tmp_path_factory, suffix):
    """With an image that has no labels."""
    manifest, keys, targets, data, _ = planned()
    path = tmp_path_factory.mktemp("made") / f"s.{suffix}"
    with StoreWriter(path, manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            fields = vars(data(block))
            readable = np.arange(len(fields["indices"])) != (3 if block == 1 else -1)
            writer.write_block(block, type(data(0))(**{**fields, "readable": readable}))
    return labelstore.open(path)


def expected_of(store, image, views):
    """What is to be read back of an image."""
    labels = store.read(image, views)
    crops = store.views(image, views)
    residual = np.maximum(1 - labels.probs.sum(1, dtype=np.float64), 0).astype(np.float32)
    parts = (np.asarray(views), labels.indices, labels.probs, residual, crops.box, crops.flip)
    return dict(zip(PLANE, parts, strict=True))


def samples_of(folder):
    """What WebDataset makes of shards."""
    shards = sorted(map(str, folder.glob("*.tar")))
    return list(webdataset.WebDataset(shards, shardshuffle=False).decode())


def parts_of(store):
    """A part of every kind, and the views of each of its images."""
    rows = rows_of(store, ["c/001.jpg", "c/009.jpg", "c/017.jpg", "c/018.jpg"], None)
    whole = Part.of(store, rows_of(store, None, None), None)
    later = Part.of(store, rows, range(3, 6))
    own = Part.of(store, rows, ViewChoice(2, seed=7))
    return [
        (whole, dict.fromkeys(range(20), range(6))),
        (later, dict.fromkeys(rows.tolist(), range(3, 6))),
        (own, dict(zip(rows.tolist(), np.asarray(own.views).tolist(), strict=True))),
    ]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_webdataset_reads_the_stores_labels(store, tmp_path, number):
    part, views = parts_of(store)[number]
    report = export(part, tmp_path / "shards", WebDataset(shard_bytes=40_000))
    views.pop(11, None)
    assert report.left_out == ({} if number else {"without labels": 1})
    samples = samples_of(tmp_path / "shards")
    assert [sample["json"]["key"] for sample in samples] == [store.keys[row] for row in views]
    assert len(list((tmp_path / "shards").glob("*.tar"))) == (4 if number == 0 else 1)
    for sample, row in zip(samples, views, strict=True):
        assert sample["__key__"] == store.keys[row].removesuffix(".jpg")
        assert sample["json"]["target"] == store.targets[row]
        assert (sample["json"]["width"], sample["json"]["height"]) == (row + 40, row + 30)
        for name, array in expected_of(store, row, list(views[row])).items():
            assert np.array_equal(sample[f"{name}.npy"], array), name


def test_photos_go_into_the_shards_and_join_the_labels(tmp_path):
    keys = make_photos(tmp_path / "photos", 8)
    source = labelstore.open_source(tmp_path / "photos")
    made, _, _ = written(tmp_path / "s.zarr", 8, keys=keys)
    export(made, tmp_path / "shards", WebDataset(source))
    samples = samples_of(tmp_path / "shards")
    for sample, key in zip(samples, keys, strict=True):
        assert sample["json"]["key"] == key
        assert sample["jpg"] == (tmp_path / "photos" / key).read_bytes()
    # What labelstore reads of shards has the same keys but for the suffix.
    again = labelstore.open_source(tmp_path / "shards", image_field="jpg")
    assert sorted(again.keys) == sorted(key.removesuffix(".jpg") for key in keys)
    # Labels alone have the keys that WebDataset gives the photos' samples.
    export(made, tmp_path / "labels", WebDataset())
    assert [s["__key__"] for s in samples_of(tmp_path / "labels")] == [
        s["__key__"] for s in samples
    ]
    # A store that was made from shards: its keys have no suffix, and the photo's says it.
    made, _, _ = written(tmp_path / "t.zarr", 8, keys=list(again.keys))
    export(made, tmp_path / "more", WebDataset(again))
    assert {frozenset(sample) for sample in samples_of(tmp_path / "more")} == {
        frozenset(samples[0])
    }
    other = labelstore.open_source(tmp_path / "photos")
    with pytest.raises(MismatchError, match="has no photo"):
        export(made, tmp_path / "no", WebDataset(other))
    assert not (tmp_path / "no").exists()


def test_photos_that_were_not_labelled_are_refused(tmp_path):
    made, _ = make_planned(tmp_path / "s.zarr")
    for key in made.keys:
        (tmp_path / "photos" / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "photos" / key)
    source = labelstore.open_source(tmp_path / "photos")
    with pytest.raises(MismatchError, match="another file than the one"):
        export(made, tmp_path / "shards", WebDataset(source))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["photos", "s.zarr"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["c/a.1.jpg", "c/a.2.jpg"], "would both be called 'c/a'"),
        (["c/.jpg", "c/b.jpg"], "begins with a dot"),
        (["c/../b.jpg", "c/b.jpg"], "no plain relative path"),
    ],
)
def test_keys_that_webdataset_cannot_tell_are_refused(tmp_path, keys, words):
    made, _, _ = written(tmp_path / "s.zarr", images=2, keys=keys)
    with pytest.raises(UsageError, match=words):
        export(made, tmp_path / "shards", WebDataset())


def test_a_samples_key_is_webdatasets():
    for key in ("a.jpg", "n.1/a.b.jpg", "x/y/a", "é/ü.jpeg"):
        assert sample_key(key) == (webdataset.tariterators.base_plus_ext(f"{key}.x")[0])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_numpy_reads_the_stores_labels(store, tmp_path, number):
    part, views = parts_of(store)[number]
    views.pop(11, None)
    report = export(part, tmp_path / "labels.npz", Npz())
    assert (report.num_images, report.files) == (len(views), 1)
    with np.load(tmp_path / "labels.npz") as arrays:
        assert arrays["keys"].tolist() == [store.keys[row] for row in views]
        assert np.array_equal(arrays["targets"], store.targets[list(views)])
        for name, sides in zip(("widths", "heights"), store.sizes(list(views)), strict=True):
            assert np.array_equal(arrays[name], sides)
        for place, row in enumerate(views):
            for name, array in expected_of(store, row, list(views[row])).items():
                assert np.array_equal(arrays[name][place], array), name
        about = json.loads(str(arrays["manifest"]))
        # And a store is made of it again.
        again = labelstore.write(
            tmp_path / "again.zarr",
            arrays["indices"],
            arrays["probs"],
            store.num_classes,
            keys=arrays["keys"].tolist(),
            boxes=arrays["boxes"],
            flips=arrays["flips"],
            quantizer="fp32",
        )
    assert about["manifest"] == store.manifest.to_json()
    for place, row in enumerate(views):
        same = again.read(place, np.arange(report.num_views))
        labels = store.read(row, list(views[row]))
        assert np.array_equal(same.indices, labels.indices)
        assert np.array_equal(same.probs, labels.probs)


def test_the_same_labels_are_the_same_file(store, tmp_path):
    for name in ("a", "b"):
        export(store, tmp_path / f"{name}.npz", Npz())
        export(store, tmp_path / name, WebDataset())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    shard = "labels-000000.tar"
    assert (tmp_path / "a" / shard).read_bytes() == (tmp_path / "b" / shard).read_bytes()
    with tarfile.open(tmp_path / "a" / shard) as whole:
        assert {(member.mtime, member.uid) for member in whole} == {(0, 0)}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_arrow_reads_the_stores_labels(store, tmp_path, number):
    part, views = parts_of(store)[number]
    views.pop(11, None)
    names = [f"name {number}" for number in range(30)]
    export(part, tmp_path / "set", HuggingFace(names, shard_bytes=1))
    files = sorted((tmp_path / "set/data").glob("train-*.parquet"))
    assert len(files) == (3 if number == 0 else len({row // 8 for row in views}))
    table = pa.concat_tables(
        [pq.read_table(file, page_checksum_verification=True) for file in files]
    )
    rows = iter(table.to_pylist())
    for image, numbers in views.items():
        expected = expected_of(store, image, list(numbers))
        for place, view in enumerate(numbers):
            row = next(rows)
            held = expected["probs"][place] > 0
            classes = expected["indices"][place][held].tolist()
            assert row == {
                "key": store.keys[image],
                "view": view,
                "target": store.targets[image],
                "target_name": names[store.targets[image]],
                "classes": classes,
                "names": [names[number] for number in classes],
                "probabilities": expected["probs"][place][held].tolist(),
                "box": expected["boxes"][place].tolist(),
                "flip": bool(expected["flips"][place]),
            }
    assert next(rows, None) is None


def test_datasets_loads_it_by_its_card(store, tmp_path):
    datasets = pytest.importorskip("datasets")
    export(store, tmp_path / "set", HuggingFace(), license_id="cc-by-4.0")
    loaded = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"].num_rows == 19 * 6
    row = loaded["train"][7]
    assert (row["key"], row["view"], row["names"]) == ("c/001.jpg", 1, None)
    labels = store.read(1, 1)
    assert np.array_equal(row["classes"], labels.indices)
    assert np.array_equal(np.float32(row["probabilities"]), labels.probs)
    card = (tmp_path / "set/README.md").read_text()
    assert 'license: "cc-by-4.0"' in card
    assert "19 of the images and 6 of the views" in card
    assert "load_dataset" in card
    assert "labelstore.open" not in card


def test_crops_that_are_unknown_are_left_out(tmp_path):
    made, _, _ = written(tmp_path / "s.zarr", law=None, targets=np.full(20, -1))
    export(made, tmp_path / "a.npz", Npz())
    with np.load(tmp_path / "a.npz") as arrays:
        assert not {"boxes", "flips"} & set(arrays)
    export(made, tmp_path / "a", WebDataset())
    assert not {"boxes.npy", "flips.npy"} & set(samples_of(tmp_path / "a")[0])
    export(made, tmp_path / "set", HuggingFace())
    row = pq.read_table(tmp_path / "set/data/train-00000.parquet").to_pylist()[0]
    assert {name for name, value in row.items() if value is None} == {
        *("target", "target_name", "names", "box", "flip")
    }


def test_labels_of_fewer_classes(tmp_path):
    made, _ = make_planned(tmp_path / "s.zarr", top_p=0.5, quantizer="fp32")
    labels = made.read(np.arange(20)[:, None], np.arange(6))
    assert (labels.probs == 0).any()
    export(made, tmp_path / "set", HuggingFace())
    table = pq.read_table(tmp_path / "set/data/train-00000.parquet")
    counts = [len(row) for row in table["classes"].to_pylist()]
    assert counts == (labels.probs > 0).sum(-1).reshape(-1).tolist()
