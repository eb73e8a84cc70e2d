"""From another project's folder, by the real command, to a student's labels and crops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torchvision.transforms import functional as F

import labelstore
from labelstore.cli.main import main
from labelstore.errors import MismatchError
from labelstore.images import cut
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys
from tests.peers import ml_dr_files, relabel_files, sre2l_files
from tests.peers.photo_folders import keys_of, make_photos, sizes_of
from tests.support.stores import written


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos") / "train")


def convert(folder, kind, output, *more):
    command = ["convert", str(folder), "--from", kind, "-o", str(output), "--json"]
    return CliRunner().invoke(main, [*command, *map(str, more)])


def converted(folder, kind, output, *more):
    """The store, and what the command said."""
    run = convert(folder, kind, output, *more)
    assert run.exit_code == 0, run.output
    return labelstore.open(output), json.loads(run.stdout)


def labels_of(store, key):
    """(V, C) what each view of an image is recovered to."""
    row = store.positions([key])[0]
    views = np.arange(store.num_views)
    return store.read(np.full(store.num_views, row), views).recover("uniform").dense()


def softmax(logits):
    p = np.exp(logits - logits.max())
    return p / p.sum()


def test_sre2l_crops_and_labels_at_a_temperature(tmp_path, photos):
    written = sre2l_files.write(tmp_path / "fkd", photos, half=True)
    exact = ("--top-k", 5, "--prior-size", 0, "--quantizer", "fp32")
    store, report = converted(
        *(tmp_path / "fkd", "sre2l", tmp_path / "a.zarr"),
        *("--photos", photos, "--temperature", 4, "--targets", "folders", *exact),
    )
    assert report["replayable"]
    assert store.manifest.temperature == 4
    assert list(store.keys) == keys_of(photos)
    assert CliRunner().invoke(main, ["verify", str(tmp_path / "a.zarr")]).exit_code == 0
    for key in store.keys:
        row = store.positions([key])[0]
        geometry = store.views(np.full(3, row), np.arange(3))
        with Image.open(photos / key) as photo:
            photo = photo.convert("RGB")
        for epoch, label in enumerate(labels_of(store, key)):
            expected = softmax(written.logits[epoch, key] / 4)
            np.testing.assert_allclose(label, expected, atol=2e-7)
            # What the project's own loader does with the shares in its files.
            i, j, h, w = written.box[epoch, key]
            height, width = photo.size[::-1]
            i, h = (np.float32(v / height).item() * height for v in (i, h))
            j, w = (np.float32(v / width).item() * width for v in (j, w))
            crop = F.resized_crop(photo, i, j, h, w, [64, 64])
            crop = F.hflip(crop) if written.flip[epoch, key] else crop
            box, flip = geometry.box[epoch], bool(geometry.flip[epoch])
            own = cut(photo, box, flip, (64, 64), "bilinear")
            np.testing.assert_array_equal(own, np.asarray(crop))


def test_full_logits_are_cut_as_a_teachers_are(tmp_path, photos):
    written = sre2l_files.write(tmp_path / "fkd", photos)
    store, _ = converted(
        *(tmp_path / "fkd", "sre2l", tmp_path / "a.zarr", "--photos", photos, "--top-k", 2)
    )
    assert store.manifest.k == 2
    assert store.manifest.prior_size > 0
    for key in store.keys:
        row = store.positions([key])[0]
        read = store.read(np.full(3, row), np.arange(3)).recover().dense()
        for epoch in range(3):
            expected = softmax(written.logits[epoch, key])
            np.testing.assert_allclose(read[epoch], expected, atol=0.02)


def test_ml_dr_crops_and_labels(tmp_path, photos):
    truth = ml_dr_files.write(tmp_path / "data", photos)
    store, report = converted(
        *(tmp_path / "data", "ml-dr", tmp_path / "a.parquet"),
        *("--photos", photos, "--quantizer", "fp32"),
    )
    assert report["replayable"]
    assert store.manifest.temperature == 1
    for image, key in enumerate(keys_of(photos)):
        geometry = store.views(np.full(4, store.positions([key])[0]), np.arange(4))
        for view, label in enumerate(labels_of(store, key)):
            box, flip, pair = truth[image, view]
            assert tuple(geometry.box[view]) == box
            assert geometry.flip[view] == flip
            np.testing.assert_allclose(label, ml_dr_files.smooth(pair, 30), atol=2e-7)


def test_labels_of_mixed_pixels_can_be_read_and_not_shown(tmp_path, photos):
    augment = {**ml_dr_files.CROP_FLIP, **ml_dr_files.MIXING}
    truth = ml_dr_files.write(tmp_path / "data", photos, augment=augment)
    store, report = converted(
        tmp_path / "data", "ml-dr", tmp_path / "a.zarr", "--photos", photos, "--quantizer", "fp32"
    )
    assert not report["replayable"]
    assert any("views are unknown" in note for note in report["notes"])
    assert "mixup" in store.manifest.producer["views"]
    key = keys_of(photos)[7]
    expected = ml_dr_files.smooth(truth[7, 2][2], 30)
    np.testing.assert_allclose(labels_of(store, key)[2], expected, atol=2e-7)
    with pytest.raises(MismatchError):
        store.views([0], [0])


def test_relabel_has_the_views_of_any_other_store(tmp_path, photos):
    maps = relabel_files.write(tmp_path / "maps", photos)
    classes = relabel_files.CLASSES
    exact = ("--top-k", classes, "--prior-size", 0, "--quantizer", "fp32")
    store, report = converted(
        *(tmp_path / "maps", "relabel", tmp_path / "a.zarr", "--photos", photos),
        *("--views", 6, "--seed", 11, "--classes", classes, *exact),
    )
    assert report["replayable"]
    assert store.manifest.law == ViewLaw(seed=11)
    for key, (height, width) in zip(
        keys_of(photos), sizes_of(photos, keys_of(photos)), strict=True
    ):
        boxes = ViewLaw(seed=11)(hash_keys([key])[0], np.arange(6), width, height).box
        own = relabel_files.reference(maps[key], boxes.tolist(), height, width, torch.float32)
        np.testing.assert_allclose(labels_of(store, key), own, atol=2e-5)
    # Another teacher's labels of the very same views.
    written(
        *(tmp_path / "t.zarr", len(store.keys), 6, 3, classes),
        law=ViewLaw(seed=11),
        keys=list(store.keys),
        targets=None,
        **dict(zip(("heights", "widths"), sizes_of(photos, store.keys).T, strict=True)),
    )
    both = labelstore.ensemble([store, labelstore.open(tmp_path / "t.zarr")])
    mean = both.read([0], [5]).recover("uniform").dense()[0]
    own = labels_of(store, store.keys[0])[5]
    other = labels_of(labelstore.open(tmp_path / "t.zarr"), store.keys[0])[5]
    np.testing.assert_allclose(mean, (own + other) / 2, atol=1e-6)
    run = convert(
        *(tmp_path / "maps", "sre2l", tmp_path / "b.zarr", "--photos", photos, "--views", 6)
    )
    assert run.exit_code == 2
    assert "--views" in run.stderr


class Hostile:
    def __reduce__(self):
        return (print, ("this was run",))


@pytest.mark.parametrize("kind", ["sre2l", "ml-dr", "relabel"])
def test_what_cannot_be_converted_is_told_in_a_sentence(tmp_path, photos, kind):
    sre2l_files.write(tmp_path / "sre2l", photos)
    ml_dr_files.write(tmp_path / "ml-dr", photos)
    relabel_files.write(tmp_path / "relabel", photos)
    spoilt = {
        "sre2l": "sre2l/epoch_2/batch_1.tar",
        "ml-dr": "ml-dr/7.pth.tar",
        "relabel": "relabel/b/007.pt",
    }
    options = ["--photos", photos]
    if kind == "relabel":
        options += ["--views", 3, "--classes", relabel_files.CLASSES]
    for other in {"sre2l", "ml-dr", "relabel"} - {kind}:
        run = convert(tmp_path / other, kind, tmp_path / "out.zarr", *options)
        assert run.exit_code == 1
        assert str(tmp_path / other) in json.loads(run.stdout or run.stderr)["error"]["message"]
    torch.save(Hostile(), tmp_path / spoilt[kind])
    run = convert(tmp_path / kind, kind, tmp_path / "out.zarr", *options)
    assert run.exit_code == 1
    assert "this was run" not in run.stdout
    assert "Traceback" not in run.stderr
    assert spoilt[kind] in json.loads(run.stdout or run.stderr)["error"]["message"]
