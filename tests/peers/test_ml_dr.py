"""ml-dr's files: labels, crops where a view is one, and what else is refused or told."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from labelstore.errors import (
    CorruptError,
    FormatError,
    LabelError,
    LabelStoreError,
    MismatchError,
    NotFoundError,
    UsageError,
)
from labelstore.labels.top_k import TopK
from labelstore.peers.ml_dr import MlDrReader
from tests.peers import ml_dr_files
from tests.peers.photo_folders import keys_of, make_photos, reader_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos") / "training", 10)


@pytest.fixture
def reader(photos):
    return reader_of(MlDrReader, photos)


def require_labels(read, truth, numbers, classes):
    """Labels are ml-dr's own recovery of what was written."""
    recovered = TopK(read.indices, read.probs, classes).recover("uniform").dense()
    for row, number in enumerate(numbers):
        for view in range(read.indices.shape[1]):
            expected = ml_dr_files.smooth(truth[number, view][2], classes)
            np.testing.assert_allclose(recovered[row, view], expected, atol=1e-7)
            values = sorted(truth[number, view][2][0], reverse=True)
            assert read.probs[row, view].tolist() == values


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("with_photos", [True, False])
def test_crops_flips_and_labels(tmp_path, photos, reader, compress, with_photos):
    truth = ml_dr_files.write(tmp_path / "data", photos, compress=compress)
    labels = reader(tmp_path / "data", photos if with_photos else None)
    assert (labels.num_views, labels.num_classes, labels.k, labels.explicit) == (4, 30, 5, True)
    assert labels.keys == (keys_of(photos) if with_photos else [str(n) for n in range(10)])
    for numbers in ([7], range(10)):
        read = labels.images(numbers)
        require_labels(read, truth, numbers, 30)
        for row, number in enumerate(numbers):
            for view in range(4):
                box, flip, _ = truth[number, view]
                assert tuple(read.boxes[row, view]) == box
                assert read.flips[row, view] == flip
        assert (read.widths is None) != with_photos
    assert labels.extra["teacher"] == "one,another"


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    ("more", "word"),
    [(ml_dr_files.RAND_AUGMENT, "RandAugment"), (ml_dr_files.MIXING, "mixed")],
)
def test_what_no_store_can_replay_has_no_view(tmp_path, photos, reader, more, word, compress):
    augment = {**ml_dr_files.CROP_FLIP, **more}
    truth = ml_dr_files.write(tmp_path / "data", photos, augment=augment, compress=compress)
    labels = reader(tmp_path / "data")
    read = labels.images(range(10))
    assert not labels.explicit
    assert read.boxes is None
    assert read.flips is None
    require_labels(read, truth, range(10), 30)
    assert word in labels.notes[0]
    assert "views are unknown" in labels.notes[0]


def test_an_augmentation_that_was_off_changes_nothing(tmp_path, photos, reader):
    off = {"mixup": {"enable": False}, "rand_augment": {"enable": False}}
    truth = ml_dr_files.write(tmp_path / "data", photos, augment={**off, **ml_dr_files.CROP_FLIP})
    labels = reader(tmp_path / "data")
    assert labels.explicit
    assert tuple(labels.images([3]).boxes[0, 2]) == truth[3, 2][0]


def test_crops_of_a_resized_photo_are_no_boxes_of_it(tmp_path, photos, reader):
    augment = {"resize": {"size": 224}, "random_crop": {"size": 224}, **ml_dr_files.CROP_FLIP}
    ml_dr_files.write(tmp_path / "data", photos, augment=augment)
    assert not reader(tmp_path / "data").explicit


class Hostile:
    def __reduce__(self):
        return (print, ("this was run",))


def changed(change, name="3.pth.tar"):
    def spoil(folder):
        content = torch.load(folder / name, weights_only=False)
        torch.save(change(content), folder / name, pickle_protocol=4)

    return spoil


def sample(number, **values):
    """Change one sample of the file."""

    def change(content):
        content[1][number].update(values)
        return content

    return changed(change)


def cut(folder):
    file = folder / "3.pth.tar"
    file.write_bytes(file.read_bytes()[:-100])


def exchanged(folder):
    shutil.copy(folder / "4.pth.tar", folder / "3.pth.tar")


SPOILT = {
    "cut": (cut, CorruptError),
    "exchanged": (exchanged, CorruptError),
    "hostile": (changed(lambda content: (3, [Hostile()])), CorruptError),
    "no samples": (changed(lambda content: (3, [])), CorruptError),
    "no pair": (changed(lambda content: content[1]), CorruptError),
    "fewer samples": (changed(lambda content: (3, content[1][:2])), CorruptError),
    "no label": (changed(lambda content: (3, [{"params": []}] * 4)), CorruptError),
    "fewer classes": (sample(1, prob=([0.5], [3])), CorruptError),
    "lengths differ": (sample(1, prob=([0.5, 0.1, 0.1, 0.1, 0.1], [3, 4])), CorruptError),
    "too much": (sample(1, prob=([0.5, 0.6, 0.1, 0.1, 0.1], [3, 4, 5, 6, 7])), LabelError),
    "negative": (sample(1, prob=([0.5, -0.1, 0.1, 0.1, 0.1], [3, 4, 5, 6, 7])), LabelError),
    "nan": (sample(1, prob=([0.5, float("nan"), 0.1, 0.1, 0.1], [3, 4, 5, 6, 7])), LabelError),
    "a class twice": (sample(1, prob=([0.5, 0.1, 0.1, 0.1, 0.1], [3, 4, 5, 6, 3])), LabelError),
    "class 30": (sample(1, prob=([0.5, 0.1, 0.1, 0.1, 0.1], [3, 4, 5, 6, 30])), LabelError),
    "huge class": (sample(1, prob=([0.5] + 4 * [0.1], [3, 4, 5, 6, 2**70])), CorruptError),
    "three params": (sample(1, params=[(0, 0, 9, 9), True, None]), CorruptError),
    "no crop": (sample(1, params=[None, True]), CorruptError),
    "shares": (sample(1, params=[(0.1, 0.1, 0.5, 0.5), True]), CorruptError),
    "flip is 1": (sample(1, params=[(0, 0, 9, 9), 1]), CorruptError),
}


@pytest.mark.parametrize("name", SPOILT)
def test_damage_is_told_and_the_file_is_named(tmp_path, photos, reader, name, capfd):
    spoil, error = SPOILT[name]
    ml_dr_files.write(tmp_path / "data", photos)
    spoil(tmp_path / "data")
    with pytest.raises(error, match=r"data/3\.pth\.tar") as caught:
        reader(tmp_path / "data").images(range(10))
    assert "\n" not in str(caught.value)
    assert "this was run" not in capfd.readouterr().out


def test_a_crop_outside_its_photo_tells_of_other_photos(tmp_path, photos, reader):
    ml_dr_files.write(tmp_path / "data", photos)
    sample(1, params=[(0, 0, 95, 9), True])(tmp_path / "data")
    with pytest.raises(LabelError, match="labels are of other photos"):
        reader(tmp_path / "data").images(range(10))
    others = make_photos(tmp_path / "others", 10, seed=8)
    with pytest.raises(LabelError, match="labels are of other photos"):
        reader(tmp_path / "data", others).images(range(10))


CONFIGS = {
    "other views": lambda config: config["reinforce"].update(num_samples=7),
    "hostile": lambda config: config.update(teacher=Hostile()),
    "no augmentations": lambda config: config.pop("reinforce"),
    "joblib": lambda config: config["reinforce"].update(joblib=True),
    "classes as text": lambda config: config.update(num_classes="30"),
    "own order": lambda config: config.update(dataset="Flowers102"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_does_not_fit(tmp_path, photos, reader, name, capfd):
    ml_dr_files.write(tmp_path / "data", photos)

    def change(config):
        CONFIGS[name](config)
        return config

    changed(change, "config.pth.tar")(tmp_path / "data")
    with pytest.raises(LabelStoreError, match=r"config\.pth\.tar"):
        reader(tmp_path / "data")
    assert "this was run" not in capfd.readouterr().out


def test_what_is_missing_or_of_another_data_set(tmp_path, photos, reader):
    ml_dr_files.write(tmp_path / "data", photos)
    fewer = make_photos(tmp_path / "fewer", 5)
    with pytest.raises(MismatchError, match=r"10 images, and .* 5 photos"):
        reader(tmp_path / "data", fewer)
    with pytest.raises(MismatchError, match="says 30 classes"):
        reader(tmp_path / "data", num_classes=1000)
    loose = make_photos(tmp_path / "loose", 10)
    (loose / "a" / "000.png").rename(loose / "000.png")
    with pytest.raises(UsageError, match=r"'000\.png' outside of class folders"):
        reader(tmp_path / "data", loose)
    (tmp_path / "data" / "4.pth.tar").unlink()
    with pytest.raises(CorruptError, match=r"no 4\.pth\.tar"):
        reader(tmp_path / "data")
    (tmp_path / "data" / "config.pth.tar").unlink()
    shutil.copy(tmp_path / "data" / "3.pth.tar", tmp_path / "data" / "4.pth.tar")
    with pytest.raises(FormatError, match=r"config\.pth\.tar is missing"):
        reader(tmp_path / "data")
    with pytest.raises(FormatError, match="reinforced_data"):
        reader(tmp_path)
    with pytest.raises(NotFoundError):
        reader(tmp_path / "nothing")
