"""Arrays of one's own become stores: of all classes, or of the k largest."""

import json
import sys

import numpy as np
import pytest

import labelstore
from labelstore.errors import CorruptError, FormatError, LabelError, NotFoundError, UsageError
from labelstore.format.settings import StoreSettings
from labelstore.operations.convert import ConversionSettings, convert
from labelstore.peers.peer_labels import PeerOptions
from tests.support import commands
from tests.support.stores import distributions, top_of

IMAGES, VIEWS, CLASSES = 7, 5, 30
EXACT = ConversionSettings(store=StoreSettings(quantizer="fp32"))


def converted(tmp_path, settings=EXACT, num_classes=None):
    report = convert(
        tmp_path / "own.npz",
        tmp_path / "a.zarr",
        format="npz",
        options=PeerOptions(num_classes),
        settings=settings,
    )
    return labelstore.open(tmp_path / "a.zarr"), report


def all_of(store):
    return store.read(np.arange(store.num_images)[:, None], np.arange(store.num_views))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_full_probabilities_are_kept_whole_where_all_are_asked_for(tmp_path, save):
    p = distributions(IMAGES, VIEWS, CLASSES)
    save(tmp_path / "own.npz", probs=p)
    store, report = converted(tmp_path, ConversionSettings(store=StoreSettings(CLASSES, "fp32", 0)))
    assert store.num_classes == CLASSES
    np.testing.assert_allclose(all_of(store).recover().dense(), p, atol=2e-7)
    assert store.manifest.temperature is None
    assert not report.replayable


@pytest.mark.parametrize("temperature", [None, 4.0])
def test_logits_take_the_temperature_and_the_storage_of_generate(tmp_path, temperature):
    z = np.random.default_rng(0).normal(0, 3, (IMAGES, VIEWS, CLASSES)).astype(np.float32)
    np.savez(tmp_path / "own.npz", logits=z)
    store, _ = converted(tmp_path, ConversionSettings(temperature=temperature))
    p = np.exp(z.astype(np.float64) / (temperature or 1.0))
    p /= p.sum(-1, keepdims=True)
    manifest = store.manifest
    assert manifest.temperature == (temperature or 1.0)
    assert (manifest.k, manifest.prior_size) == (4, CLASSES)
    labels = all_of(store)
    np.testing.assert_array_equal(labels.indices[..., 0], p.argmax(-1))
    # Each image's list is that of the mean of its full distributions, coded in a byte.
    order = np.argsort(-p.mean(1), axis=-1)[:, 0]
    np.testing.assert_array_equal(labels.prior.classes[:, 0, 0], order)
    plain = np.abs(labels.recover("uniform").dense() - p).sum(-1).mean()
    assert np.abs(labels.recover().dense() - p).sum(-1).mean() < plain


def test_k_classes_with_all_that_may_stand_beside_them(tmp_path):
    p = distributions(IMAGES, VIEWS, CLASSES)
    indices, probs = top_of(p, 3)
    boxes = np.broadcast_to(np.array([1, 2, 10, 12]), (IMAGES, VIEWS, 4))
    flips = np.random.default_rng(0).random((IMAGES, VIEWS)) < 0.5
    np.savez(
        tmp_path / "own.npz",
        indices=indices.astype(np.uint16),
        probs=probs,
        boxes=boxes,
        flips=flips,
        widths=np.full(IMAGES, 20),
        heights=np.full(IMAGES, 30),
        keys=np.array([f"c/{number}.jpg" for number in range(IMAGES)]),
        targets=np.arange(IMAGES),
        num_classes=CLASSES,
        temperature=2.0,
    )
    store, report = converted(tmp_path)
    labels = all_of(store)
    np.testing.assert_array_equal(labels.indices, indices)
    np.testing.assert_array_equal(labels.probs, probs)
    crops = store.views(np.arange(IMAGES)[:, None], np.arange(VIEWS))
    np.testing.assert_array_equal(crops.box, boxes)
    np.testing.assert_array_equal(crops.flip, flips)
    assert store.targets.tolist() == list(range(IMAGES))
    assert store.keys[3] == "c/3.jpg"
    assert (store.manifest.temperature, store.num_classes) == (2.0, CLASSES)
    assert report.replayable


def test_one_label_an_image_is_one_view(tmp_path):
    p = distributions(IMAGES, 1, CLASSES)[:, 0]
    np.savez(tmp_path / "own.npz", probs=p.astype(np.float16))
    store, _ = converted(tmp_path)
    assert store.num_views == 1


def test_large_arrays_are_read_where_they_lie_and_damage_is_seen(tmp_path):
    p = distributions(60, 40, 200).astype(np.float32)
    np.savez(tmp_path / "own.npz", probs=p)
    assert (tmp_path / "own.npz").stat().st_size > 1 << 20
    store, _ = converted(tmp_path, ConversionSettings(store=StoreSettings(200, "fp32", 0)))
    np.testing.assert_allclose(all_of(store).recover().dense(), p, atol=2e-7)
    data = bytearray((tmp_path / "own.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "own.npz").write_bytes(data)
    with pytest.raises(CorruptError, match=r"own\.npz cannot be read .*CRC"):
        converted(tmp_path)
    (tmp_path / "own.npz").write_bytes(data[:-100])
    with pytest.raises(CorruptError, match=r"own\.npz cannot be read"):
        converted(tmp_path)


P = distributions(IMAGES, VIEWS, CLASSES)
TOP = top_of(P, 3)
WRONG = {
    "nothing of labels": ({"a": P}, FormatError, "holds the arrays a, expected"),
    "both": ({"probs": P, "logits": P}, FormatError, "expected probs or logits"),
    "logits as probs": ({"probs": P * 9 - 3}, LabelError, "no probabilities"),
    "no number": ({"logits": np.full((2, 3, 4), np.nan)}, LabelError, "not finite"),
    "integers": ({"probs": np.ones((2, 3, 4), dtype=int)}, FormatError, "shape them so"),
    "four axes": ({"probs": P[None]}, FormatError, "shape them so"),
    "no images": ({"probs": P[:0]}, FormatError, "shape them so"),
    "other shapes": ({"indices": TOP[0][:2], "probs": TOP[1]}, FormatError, "two equal shapes"),
    "objects": ({"probs": P, "keys": np.array([object()] * 7)}, CorruptError, "allow_pickle"),
    "too few keys": ({"probs": P, "keys": np.array(["a"])}, FormatError, "has keys"),
    "boxes alone": (
        {"probs": P, "boxes": np.ones((IMAGES, VIEWS, 4), dtype=int)},
        FormatError,
        "boxes or flips alone",
    ),
    "other classes": ({"probs": P, "num_classes": 31}, FormatError, "31"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_label_is_refused_with_the_file_named(tmp_path, name):
    arrays, kind, words = WRONG[name]
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(kind, match=words) as caught:
        converted(tmp_path)
    assert "own.npz" in str(caught.value)


def test_what_is_missing_is_asked_for(tmp_path):
    with pytest.raises(NotFoundError, match="no file"):
        converted(tmp_path)
    np.savez(tmp_path / "own.npz", indices=TOP[0], probs=TOP[1])
    with pytest.raises(UsageError, match="number of classes"):
        converted(tmp_path)
    np.savez(tmp_path / "own.npz", probs=P)
    with pytest.raises(LabelError, match="labels of 30 classes, and 31 were asked for"):
        converted(tmp_path, num_classes=31)
    (tmp_path / "own.npz").write_bytes(b"PK no zip")
    with pytest.raises(CorruptError, match=r"own\.npz cannot be read"):
        converted(tmp_path)


def test_names_of_classes_go_with_an_export(tmp_path):
    """By them folders are told, which stand in another order; a class map has them, too."""
    p = distributions(2, VIEWS, 3)
    names = ("owl", "cat", "dog")
    indices, probs = top_of(p, 2)
    keys = ["cat/1.png", "dog/1.png"]
    labelstore.write(tmp_path / "s.zarr", indices, probs, 3, keys, class_names=names)
    command = [sys.executable, "-m", "labelstore"]
    commands.run([*command, "export", "s.zarr", "--to", "npz", "-o", "own.npz"], cwd=tmp_path)
    how = ["--from", "npz", "--targets", "folders", "-o", "a.zarr", "-q"]
    done = commands.run([*command, "convert", "own.npz", *how], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    store = labelstore.open(tmp_path / "a.zarr")
    assert store.manifest.class_names == names
    assert store.targets.tolist() == [1, 2]
    with np.load(tmp_path / "own.npz") as arrays:
        parts = dict(arrays)
    for wrong in (names[:2], (1, 2, 3), "cat"):
        about = json.loads(str(parts["manifest"]))
        about["manifest"]["labels"]["class_names"] = wrong
        np.savez(tmp_path / "own.npz", **{**parts, "manifest": np.array(json.dumps(about))})
        with pytest.raises(FormatError, match="not the names of 3 classes"):
            converted(tmp_path)
