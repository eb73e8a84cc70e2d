"""ReLabel's maps: the label of any crop is what the project's own RoIAlign reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from labelstore.errors import CorruptError, FormatError, LabelError, MismatchError, UsageError
from labelstore.images import open_source
from labelstore.peers.peer_labels import PeerOptions
from labelstore.peers.relabel import RelabelReader, pooling_weights
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys
from tests.peers.photo_folders import keys_of, make_photos, sizes_of
from tests.peers.relabel_files import CLASSES, reference, write


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos") / "train", 10)


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.fixture
def reader(photos):
    def read(folder, photos=photos, views=30, **options):
        source = None if photos is None else open_source(photos)
        options.setdefault("num_classes", CLASSES)
        return RelabelReader(folder, PeerOptions(photos=source, views=views, **options))

    return read


@pytest.mark.parametrize("side", [1, 7, 15])
def test_labels_are_those_of_the_projects_own_pooling(tmp_path, photos, reader, side):
    maps = write(tmp_path / "maps", photos, side)
    law = ViewLaw(seed=5, scale=(0.01, 1.0), ratio=(0.3, 3.0))
    labels = reader(tmp_path / "maps", law=law)
    # Label files are in the order of their names, as text.
    assert labels.keys == sorted(keys_of(photos), key=lambda key: key.rpartition(".")[0])
    sizes = sizes_of(photos, labels.keys)
    read = labels.images(range(10))
    np.testing.assert_array_equal(read.heights, sizes[:, 0])
    np.testing.assert_array_equal(read.widths, sizes[:, 1])
    for row, key in enumerate(labels.keys):
        height, width = (int(length) for length in sizes[row])
        boxes = law(hash_keys([key])[0], np.arange(30), width, height).box.tolist()
        p = softmax(read.dense[row])
        own = reference(maps[key], boxes, height, width, torch.float32)
        np.testing.assert_allclose(p, own, atol=2e-5)
        # How many samples are taken of a crop that covers a whole number of places hangs on its
        # last bit: there float64 is another rule than the project's.
        covered = np.array(boxes)[:, 2:] / (height, width) * side
        clear = (np.abs(covered - np.rint(covered)) > 1e-4).all(axis=1)
        assert clear.sum() > 20
        exact = reference(maps[key], boxes, height, width)
        np.testing.assert_allclose(p[clear], exact[clear], atol=2e-6)


def test_weights_of_odd_crops():
    boxes = np.array([[0, 0, 500, 333], [0, 0, 1, 1], [499, 332, 1, 1], [7, 100, 493, 2]])
    weights = pooling_weights(boxes.astype(np.int32), 333, 500, 15)
    rng = np.random.default_rng(1)
    places = torch.tensor(rng.normal(size=(1, 3, 15, 15)))
    shares = boxes / np.array([500, 333, 500, 333])
    shares[:, 2:] += shares[:, :2]
    rois = torch.tensor(shares.astype(np.float32) * np.float32(15) - np.float32(0.5)).double()
    rois = torch.cat([torch.zeros(4, 1), rois], 1).double()
    expected = roi_align(places, rois, (1, 1))[:, :, 0, 0].numpy()
    np.testing.assert_allclose(weights @ places[0].reshape(3, 225).numpy().T, expected, atol=1e-9)


def resaved(change):
    def spoil(file):
        torch.save(change(torch.load(file, weights_only=False)), file)

    return spoil


def put(place, value):
    def change(scores):
        scores[place] = value
        return scores

    return resaved(change)


class Hostile:
    def __reduce__(self):
        return (print, ("this was run",))


SPOILT = {
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-100]), CorruptError),
    "hostile": (resaved(lambda _: Hostile()), CorruptError),
    "a list": (resaved(list), FormatError),
    "integers": (resaved(lambda scores: scores.long()), FormatError),
    "one plane": (resaved(lambda scores: scores[:1].clone()), FormatError),
    "a side less": (resaved(lambda scores: scores[..., :14].clone()), FormatError),
    "smaller": (resaved(lambda scores: scores[..., :14, :14].clone()), FormatError),
    "nan": (put((0, 2, 3, 4), float("nan")), LabelError),
    "class 40": (put((1, 2, 3, 4), 40), LabelError),
    "half a class": (put((1, 2, 3, 4), 1.5), LabelError),
    "a class twice": (put((1, slice(None), 3, 4), 7), LabelError),
}


@pytest.mark.parametrize("name", SPOILT)
def test_damage_is_told_and_the_file_is_named(tmp_path, photos, reader, name, capfd):
    spoil, error = SPOILT[name]
    write(tmp_path / "maps", photos)
    spoil(tmp_path / "maps" / "b" / "007.pt")
    with pytest.raises(error, match=r"b/007\.pt") as caught:
        reader(tmp_path / "maps").images(range(10))
    assert "\n" not in str(caught.value)
    assert "this was run" not in capfd.readouterr().out


def test_what_is_asked_for(tmp_path, photos, reader):
    write(tmp_path / "maps", photos)
    with pytest.raises(UsageError, match="give photos"):
        reader(tmp_path / "maps", None)
    with pytest.raises(UsageError, match="give the number of views"):
        reader(tmp_path / "maps", views=None)
    fewer = make_photos(tmp_path / "fewer", 5)
    with pytest.raises(MismatchError, match="has no photo"):
        reader(tmp_path / "maps", fewer)
    with pytest.raises(FormatError, match=r"holds no \.pt"):
        reader(photos)


@pytest.mark.parametrize("stage", ["jitter-0.4", "erase-0.25", "ra-n2-m9", "mixup-0.8"])
def test_maps_of_photos_as_they_are_have_no_augmentations(tmp_path, photos, reader, stage):
    write(tmp_path / "maps", photos)
    with pytest.raises(UsageError, match=r"photos as they are.*leave them out") as caught:
        reader(tmp_path / "maps", law=ViewLaw(stages=(stage,)))
    assert stage in str(caught.value)
    assert caught.value.arguments == ("augment",)
