"""FKD's files, read as its loader and its recovery are described, in float64."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import labelstore
from labelstore.errors import LabelError, MismatchError, UsageError
from labelstore.operations.lifecycle.export import export
from labelstore.peers.exports.fkd import Fkd, fkd_labels, label_file, relative_boxes
from tests.support.stores import distributions, make_planned, once, top_of, written
from tests.support.training import make_photos

make_planned, written = once(make_planned), once(written)

PLACES = {"marginal_smoothing_k5": 5, "marginal_smoothing_k10": 10}


def loader_path(photo):
    """Where FKD's loader looks, below its softlabel_path, for the labels of a photo's path."""
    return "/".join(photo.split("/")[-3:]).split(".")[0] + ".tar"


def opened(folder, key, root="/data/imagenet/train", **how):
    """What FKD's loader unpacks for a photo, called as it calls torch."""
    coords, flip, output = torch.load(
        folder / loader_path(f"{root}/{key}"), map_location=torch.device("cpu"), **how
    )
    return coords, flip, output


def recovered(output, label_type, classes):
    """(V, classes) float64: FKD's Recover_soft_label."""
    output = np.asarray(output).astype(np.float64)
    if label_type == "hard":
        return np.eye(classes)[output.astype(int)]
    if label_type == "smoothing":
        index, value = output[:, :1].astype(int), output[:, 1:]
        minor = (1 - value) / (classes - 1)
    else:
        index, value = output[:, 0].astype(int), output[:, 1]
        minor = (1 - value.sum(1, keepdims=True)) / (classes - PLACES[label_type])
    dense = np.repeat(minor, classes, axis=1)
    np.put_along_axis(dense, index, value, axis=1)
    return dense


def cut_box(coords, width, height):
    """The box that FKD cuts: its products are floats, and Pillow rounds both corners."""
    top, left, high, wide = (c.item() * s for c, s in zip(coords, (height, width) * 2, strict=True))
    x0, y0, x1, y1 = (round(edge) for edge in (left, top, left + wide, top + high))
    return [y0, x0, y1 - y0, x1 - x0]


@pytest.mark.parametrize(
    ("k", "label_type"),
    [
        (5, None),
        (7, "marginal_smoothing_k5"),
        (12, None),
        (12, "smoothing"),
        (5, "hard"),
    ],
)
@pytest.mark.parametrize("quantizer", ["ratio16", "fp32"])
def test_its_loader_recovers_the_stores_labels_and_boxes(tmp_path, k, label_type, quantizer):
    store, _, _ = written(tmp_path / "s.zarr", k=k, quantizer=quantizer)
    report = export(store, tmp_path / "fkd", Fkd(label_type))
    assert (report.num_images, report.num_views, report.left_out) == (20, 6, {})
    label_type = label_type or f"marginal_smoothing_k{10 if k == 12 else 5}"
    for image, key in enumerate(store.keys):
        coords, flip, output = opened(tmp_path / "fkd", key)
        stored = store.read(image, np.arange(6))
        if label_type in PLACES:
            expected = stored.truncate(PLACES[label_type]).recover("uniform")
        else:
            expected = stored.as_type(label_type)
        difference = recovered(output, label_type, 30) - expected.dense()
        assert np.abs(difference).max() < 3e-8
        views = store.views(image, np.arange(6))
        size = (int(side) for side in store.sizes(image))
        width, height = size
        assert [cut_box(row, width, height) for row in coords] == views.box.tolist()
        assert [bool(mirrored) for mirrored in flip] == views.flip.tolist()


def test_values_are_the_stores_to_the_last_bit_and_of_fkds_types(tmp_path):
    store, _, _ = written(tmp_path / "s.zarr", k=5)
    export(store, tmp_path / "fkd", Fkd())
    coords, flip, output = opened(tmp_path / "fkd", store.keys[3])
    stored = store.read(3, np.arange(6))
    assert (coords.dtype, flip.dtype, output.dtype) == (torch.float32, torch.bool, torch.float32)
    assert (coords.shape, flip.shape, output.shape) == ((6, 4), (6,), (6, 2, 5))
    assert np.array_equal(output[:, 0].numpy(), stored.indices)
    assert np.array_equal(output[:, 1].numpy(), stored.probs)


def test_arrays_are_what_its_own_script_saves(tmp_path):
    store, _, _ = written(tmp_path / "s.zarr", k=5)
    export(store, tmp_path / "fkd", Fkd(arrays="numpy"))
    file = tmp_path / "fkd" / loader_path(f"x/train/{store.keys[0]}")
    with pytest.raises(pickle.UnpicklingError):
        # As FKD calls it, and as torch has refused since 2.6.
        torch.load(file)
    arrays = opened(tmp_path / "fkd", store.keys[0], weights_only=False)
    assert [array.dtype for array in arrays] == [np.float32, np.bool_, np.float32]
    # The same three arrays, saved by the calls of its script.
    again = tmp_path / "again.tar"
    torch.save(list(arrays), again)
    with zipfile.ZipFile(file) as ours, zipfile.ZipFile(again) as theirs:
        pickles = [
            next(whole.read(name) for name in whole.namelist() if name.endswith("data.pkl"))
            for whole in (ours, theirs)
        ]
    assert pickles[0] == pickles[1]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 70), (501, 333), (4000, 3000)])
def test_pillow_cuts_the_very_pixels(width, height):
    rng = np.random.default_rng(width)
    ends = np.sort(rng.integers(0, [[height + 1], [width + 1]], (200, 2, 2)), axis=2)
    top, left = ends[:, 0, 0].clip(max=height - 1), ends[:, 1, 0].clip(max=width - 1)
    high, wide = (ends[..., 1] - np.stack([top, left], 1)).clip(1).T
    box = np.stack([top, left, high, wide], 1).astype(np.int32)
    box[0] = 0, 0, height, width
    y, x = np.mgrid[:height, :width]
    # A pixel says where it is.
    pixels = np.stack([x % 256, y % 256, x // 256 * 16 + y // 256], axis=2).astype(np.uint8)
    photo = Image.fromarray(pixels)
    coords = relative_boxes(box, width, height, "c/1.jpg")
    for row, (t, le, h, w) in zip(coords[:40], box[:40].tolist(), strict=True):
        a, b, c, d = (v.item() * s for v, s in zip(row, (height, width) * 2, strict=True))
        cut = np.asarray(photo.crop((b, a, b + d, a + c)))
        assert np.array_equal(cut, pixels[t : t + h, le : le + w])
    assert [cut_box(row, width, height) for row in coords] == box.tolist()


def test_a_photo_that_float32_cannot_tell_is_refused():
    with pytest.raises(LabelError, match=r"c/1\.jpg"):
        relative_boxes(np.array([[0, 2**27 - 3, 1, 1]], dtype=np.int32), 2**27, 10, "c/1.jpg")


@pytest.mark.parametrize("k", [1, 3])
def test_of_fewer_classes_the_likeliest_others_follow(tmp_path, k):
    store, p = make_planned(tmp_path / "s.zarr", k=k)
    export(store, tmp_path / "fkd", Fkd())
    nearer = []
    for image, key in enumerate(store.keys):
        _, _, output = opened(tmp_path / "fkd", key)
        stored = store.read(image, np.arange(6))
        assert np.array_equal(output[:, 0, :k].numpy(), stored.indices)
        assert np.array_equal(output[:, 1, :k].numpy(), stored.probs)
        dense = stored.recover().dense()
        classes = output[:, 0].numpy().astype(int)
        assert all(len(set(row)) == 5 for row in classes.tolist())
        assert np.allclose(
            np.take_along_axis(dense, classes, 1)[:, k:], output[:, 1, k:], atol=1e-7
        )
        # No class that is left out has more than one that was taken in.
        others = dense.copy()
        np.put_along_axis(others, classes, -1.0, 1)
        assert (others.max(1) <= output[:, 1, k:].min(1).values.numpy() + 1e-7).all()
        theirs = recovered(output, "marginal_smoothing_k5", 30)
        assert theirs.min() > -1e-8
        kl = [
            (p[image] * np.log(p[image] / np.maximum(labels, 1e-12))).sum(1).mean()
            for labels in (theirs, stored.recover("uniform").dense())
        ]
        nearer.append(kl[0] < kl[1])
    assert np.mean(nearer) > 0.9


def test_labels_that_hold_fewer_than_k_are_filled_without_a_list(tmp_path):
    indices, probs = top_of(distributions(4, 3, 12), 6)
    labels = labelstore.TopK(indices, np.where(np.arange(6) < 2, probs, 0), 12)
    classes, values = fkd_labels(labels, 10)
    assert np.array_equal(classes[..., :2], indices[..., :2])
    assert np.array_equal(values[..., :2], labels.probs[..., :2])
    assert all(len(set(row)) == 10 for row in classes.reshape(-1, 10).tolist())
    # Each with its share of what is left.
    shares = (1 - labels.probs.sum(-1, dtype=np.float64)) / 10
    assert np.allclose(values[..., 2:], shares[..., None], atol=1e-7)


def test_labels_fall_where_others_recover_to_more_than_was_stored():
    """A stored probability is rounded down; what is left, spread over the others, may be more."""
    labels = labelstore.TopK(np.array([[[43]]], np.int32), np.full((1, 1, 1), 0.0025, "f4"), 300)
    classes, values = fkd_labels(labels, 5)
    assert classes.tolist() == [[[0, 1, 2, 3, 43]]]
    assert values[0, 0].tolist() == pytest.approx([0.9975 / 299] * 4 + [0.0025])
    assert values[0, 0, 4] == labels.probs[0, 0, 0]


def test_every_class_can_be_among_them(tmp_path):
    store, _ = make_planned(tmp_path / "s.zarr", k=2, classes=5, prior_size=3)
    export(store, tmp_path / "fkd", Fkd())
    for image, key in enumerate(store.keys):
        _, _, output = opened(tmp_path / "fkd", key)
        dense = store.read(image, np.arange(6)).recover().dense()
        own = np.zeros((6, 5))
        np.put_along_axis(own, output[:, 0].numpy().astype(int), output[:, 1].numpy(), 1)
        assert np.abs(own - dense).max() < 1e-6


@pytest.mark.parametrize(
    ("key", "folder", "path"),
    [
        ("n01/a.JPEG", "train", "train/n01/a.tar"),
        ("n01/a", "train", "train/n01/a.tar"),
        ("n01/a.b.JPEG", "photos", "photos/n01/a.tar"),
        ("x/n01/a.jpg", "train", "x/n01/a.tar"),
        ("y/x/n01/a.jpg", "train", "x/n01/a.tar"),
        ("n01.v2/a.jpg", "train", "train/n01.tar"),
    ],
)
def test_where_the_loader_looks(key, folder, path):
    assert label_file(key, folder) == path == loader_path(f"/home/{folder}/{key}")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["c/a.1.jpg", "c/a.2.jpg"], "'c/a.2.jpg' and of 'c/a.1.jpg' would both be called"),
        (["a.jpg", "c/b.jpg"], "'a.jpg' lies in no class folder"),
        (["../../a.jpg", "c/b.jpg"], "no plain relative path"),
        (["/etc/a.jpg", "c/b.jpg"], "no plain relative path"),
    ],
)
def test_keys_that_its_loader_cannot_tell_are_refused(tmp_path, keys, words):
    store, _, _ = written(tmp_path / "s.zarr", images=2, k=5, keys=keys)
    with pytest.raises(UsageError, match=words):
        export(store, tmp_path / "out" / "fkd", Fkd())
    assert not (tmp_path / "out").exists()


def test_stores_that_say_too_little_are_refused(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr", law=None)
    with pytest.raises(MismatchError, match="does not say which crops"):
        export(store, tmp_path / "fkd", Fkd())
    boxes, flips = np.full((20, 6, 4), 3), np.zeros((20, 6), dtype=bool)
    store, _, _ = written(tmp_path / "b.zarr", law=None, boxes=boxes, flips=flips)
    with pytest.raises(UsageError, match=r"how large 'c/000.jpg' is, nor 19 more"):
        export(store, tmp_path / "fkd", Fkd())
    store, _, _ = written(tmp_path / "c.zarr", classes=4)
    with pytest.raises(UsageError, match="has 4 classes"):
        export(store, tmp_path / "fkd", Fkd())
    assert export(store, tmp_path / "fkd", Fkd("smoothing")).num_images == 20


def test_sizes_come_from_photos_and_turned_ones_are_left_out(tmp_path):
    keys = make_photos(tmp_path / "photos", 8)
    source = labelstore.open_source(tmp_path / "photos")
    boxes = np.tile(np.array([2, 3, 9, 11]), (len(keys), 6, 1))
    flips = np.zeros((len(keys), 6), dtype=bool)
    store, _, _ = written(
        tmp_path / "s.zarr", len(keys), k=5, keys=keys, law=None, boxes=boxes, flips=flips
    )
    turned = {keys[number] for number in (2, 3, 6)}
    report = export(store, tmp_path / "fkd", Fkd(photos=source))
    assert report.left_out == {"turned by EXIF": len(turned)}
    assert report.num_images == len(keys) - len(turned)
    for key in keys:
        if key in turned:
            assert not (tmp_path / "fkd" / loader_path(f"p/train/{key}")).exists()
            continue
        with Image.open(tmp_path / "photos" / key) as photo:
            size = photo.size
        coords, _, _ = opened(tmp_path / "fkd", key)
        assert [cut_box(row, *size) for row in coords] == [[2, 3, 9, 11]] * 6
    (tmp_path / "other" / "c").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "other" / "c" / "1.png")
    with pytest.raises(MismatchError, match="has no photo"):
        export(store, tmp_path / "f", Fkd(photos=labelstore.open_source(tmp_path / "other")))
