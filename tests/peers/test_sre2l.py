"""SRe2L's and LPLD's batches of logits: which photo, crop and logits each label is."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from labelstore.errors import (
    CorruptError,
    FormatError,
    LabelError,
    LabelStoreError,
    MismatchError,
    NotFoundError,
    UsageError,
)
from labelstore.peers.sre2l.reader import Sre2lReader
from tests.peers import sre2l_files
from tests.peers.photo_folders import keys_of, make_photos, reader_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos") / "train")


@pytest.fixture
def reader(photos):
    return reader_of(Sre2lReader, photos)


@pytest.mark.parametrize("half", [False, True])
def test_each_label_is_of_its_photo_and_crop(tmp_path, photos, reader, half):
    written = sre2l_files.write(tmp_path / "fkd", photos, half=half)
    labels = reader(tmp_path / "fkd")
    assert labels.keys == keys_of(photos)
    assert labels.keys != sorted(labels.keys)
    assert (labels.num_views, labels.num_classes, labels.explicit) == (3, 5, True)
    for numbers in ([0], range(3, 11), range(20)):
        read = labels.images(numbers)
        for row, number in enumerate(numbers):
            for epoch in range(3):
                place = (epoch, labels.keys[number])
                assert tuple(read.boxes[row, epoch]) == written.box[place]
                assert read.flips[row, epoch] == written.flip[place]
                np.testing.assert_array_equal(
                    read.dense[row, epoch].astype(float), written.logits[place]
                )
    note = labels.notes[1]
    assert "for 100.0% of the labels looked at in epoch 0" in note
    assert "and 100.0% of the labels looked at in epoch 2" in note
    assert "hardly" not in note


def test_photos_in_another_order_are_noticed(tmp_path, photos, reader):
    sre2l_files.write(tmp_path / "fkd", photos, epochs=6)
    others = make_photos(tmp_path / "others")
    # One photo more in the first class and one less in the last moves all between.
    (others / "d" / "019.png").rename(others / "a" / "0000.png")
    (others / "d" / "014.png").rename(others / "a" / "0001.png")
    (others / "d" / "009.png").rename(others / "a" / "0002.png")
    assert "hardly" not in reader(tmp_path / "fkd").notes[1]
    assert "hardly apart" in reader(tmp_path / "fkd", others).notes[1]


def test_an_order_that_drifts_away_is_noticed(tmp_path, photos, reader):
    sre2l_files.write(tmp_path / "fkd", photos, epochs=6)
    # As of a torch whose sampler drew otherwise from the second epoch on.
    shutil.rmtree(tmp_path / "fkd" / "epoch_5")
    shutil.copytree(tmp_path / "fkd" / "epoch_1", tmp_path / "fkd" / "epoch_5")
    note = reader(tmp_path / "fkd").notes[1]
    assert "for 100.0% of the labels looked at in epoch 0" in note
    assert "hardly apart" in note


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_pixels_have_no_view(tmp_path, photos, reader, mix):
    written = sre2l_files.write(tmp_path / "fkd", photos, mix=mix)
    labels = reader(tmp_path / "fkd")
    read = labels.images([5])
    assert not labels.explicit
    assert read.boxes is None
    np.testing.assert_array_equal(read.dense[0, 2], written.logits[2, labels.keys[5]])
    assert any("views are unknown" in note for note in labels.notes)
    assert labels.extra["views"] == "mixed"


def test_cut_out_pixels_have_no_view(tmp_path, photos, reader):
    sre2l_files.write(tmp_path / "fkd", photos, cutout=True, order_file=True)
    labels = reader(tmp_path / "fkd")
    assert not labels.explicit
    assert labels.extra["views"] == "cut out"


def test_epochs_that_were_cut_short(tmp_path, photos, reader):
    # 20 photos in batches of 8: two of them an epoch, and one in the last.
    written = sre2l_files.write(
        tmp_path / "fkd", photos, drop_last=True, epochs=4, stop_after=7, order_file=True
    )
    labels = reader(tmp_path / "fkd")
    assert labels.extra["order"] == "sampler_indices_epoch.json"
    read = labels.images(range(len(labels.keys)))
    for row, key in enumerate(labels.keys):
        epochs = [epoch for epoch in range(4) if (epoch, key) in written.box]
        for view in range(labels.num_views):
            place = (epochs[view % len(epochs)], key)
            assert tuple(read.boxes[row, view]) == written.box[place]
            np.testing.assert_array_equal(read.dense[row, view], written.logits[place])
    absent = set(keys_of(photos)) - set(labels.keys)
    assert absent == set(keys_of(photos)) - {key for _, key in written.box}
    assert any("cut short" in note for note in labels.notes)
    # Without the file nothing tells these from the labels of other photos, in another order.
    (tmp_path / "fkd" / "sampler_indices_epoch.json").unlink()
    with pytest.raises(MismatchError, match=r"epoch_0 has 16 labels .* 20 photos"):
        reader(tmp_path / "fkd")


@pytest.mark.parametrize("order_file", [True, False])
@pytest.mark.parametrize("count", [15, 18, 25])
def test_a_photo_more_or_less_moves_all_labels(tmp_path, reader, order_file, count):
    labelled = make_photos(tmp_path / "train", 16)
    sre2l_files.write(tmp_path / "fkd", labelled, epochs=1, order_file=order_file)
    assert len(reader(tmp_path / "fkd", labelled).keys) == 16
    with pytest.raises(MismatchError, match=rf"16 .* {count}"):
        reader(tmp_path / "fkd", make_photos(tmp_path / "others", count))


def test_without_photos_the_order_must_be_stated(tmp_path, photos, reader):
    written = sre2l_files.write(tmp_path / "fkd", photos, order_file=True)
    with pytest.raises(UsageError, match="shares of each photo's sides"):
        reader(tmp_path / "fkd", None)
    labels = reader(tmp_path / "fkd", None, boxes=False)
    assert labels.keys == [str(number) for number in range(20)]
    assert not labels.explicit
    read = labels.images([4])
    np.testing.assert_array_equal(read.dense[0, 1], written.logits[1, keys_of(photos)[4]])
    (tmp_path / "fkd" / "sampler_indices_epoch.json").unlink()
    with pytest.raises(UsageError, match="give the photos"):
        reader(tmp_path / "fkd", None, boxes=False)


def resaved(change):
    """Damage of one file's values."""

    def spoil(folder):
        file = folder / "epoch_1" / "batch_1.tar"
        content = torch.load(file, weights_only=False)
        torch.save(change(content), file)

    return spoil


def replaced(place, value):
    def change(content):
        content = list(content)
        content[place] = value(content[place])
        return content

    return resaved(change)


def nan_logit(logits):
    logits[3, 2] = torch.nan
    return logits


class Hostile:
    def __reduce__(self):
        return (print, ("this was run",))


def cut(folder):
    file = folder / "epoch_1" / "batch_1.tar"
    file.write_bytes(file.read_bytes()[:-200])


def flipped(folder):
    file = folder / "epoch_1" / "batch_1.tar"
    data = bytearray(file.read_bytes())
    logits = torch.load(file, weights_only=True)[5]
    data[data.index(logits.numpy().tobytes()) + 10] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "cut": (cut, CorruptError),
    "flipped bit": (flipped, CorruptError),
    "hostile": (resaved(lambda content: [*content[:5], Hostile()]), CorruptError),
    "no list": (resaved(lambda content: {"coords": content[0]}), CorruptError),
    "five": (resaved(lambda content: content[:5]), CorruptError),
    "nan": (replaced(5, nan_logit), LabelError),
    "other classes": (replaced(5, lambda logits: logits[:, :4].clone()), MismatchError),
    "fewer rows": (
        resaved(lambda c: [*(v[:5].clone() for v in c[:2]), *c[2:5], c[5][:5].clone()]),
        MismatchError,
    ),
    "rows differ": (replaced(0, lambda coords: coords[:5].clone()), CorruptError),
    "flips are numbers": (replaced(1, lambda flips: flips.long()), CorruptError),
    "coords in pixels": (replaced(0, lambda coords: coords * 224), LabelError),
    "mixed among plain": (replaced(2, lambda _: torch.randperm(8)), MismatchError),
    "gone": (lambda folder: (folder / "epoch_1" / "batch_1.tar").unlink(), CorruptError),
    "empty epoch": (
        lambda folder: [f.unlink() for f in (folder / "epoch_1").iterdir()],
        CorruptError,
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_and_the_file_is_named(tmp_path, photos, reader, name, capfd):
    spoil, error = DAMAGE[name]
    sre2l_files.write(tmp_path / "fkd", photos)
    spoil(tmp_path / "fkd")
    with pytest.raises(error, match="epoch_1") as caught:
        reader(tmp_path / "fkd").images(range(20))
    assert "\n" not in str(caught.value)
    assert "this was run" not in capfd.readouterr().out


def test_other_photos_and_folders_are_refused(tmp_path, photos, reader):
    sre2l_files.write(tmp_path / "fkd", photos)
    with pytest.raises(MismatchError, match=r"20 labels .* 15 photos"):
        reader(tmp_path / "fkd", make_photos(tmp_path / "fewer", 15))
    with pytest.raises(MismatchError, match="logits of 5 classes"):
        reader(tmp_path / "fkd", num_classes=1000)
    with pytest.raises(FormatError, match="epoch_0"):
        reader(tmp_path)
    with pytest.raises(NotFoundError):
        reader(tmp_path / "nothing")
    shutil.rmtree(tmp_path / "fkd" / "epoch_1")
    with pytest.raises(CorruptError, match="no epoch_1"):
        reader(tmp_path / "fkd")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda orders: {**orders, "1": orders["1"][:-1]},
        lambda orders: {**orders, "1": [*orders["1"][:-1], 20]},
        lambda orders: {**orders, "1": [*orders["1"][:-1], orders["1"][0]]},
        lambda orders: {**orders, "1": "text"},
        lambda orders: {"0": orders["0"], "2": orders["2"]},
        lambda orders: [orders["0"]],
    ],
)
def test_an_order_that_does_not_fit_is_refused(tmp_path, photos, reader, spoil):
    sre2l_files.write(tmp_path / "fkd", photos, order_file=True)
    file = tmp_path / "fkd" / "sampler_indices_epoch.json"
    file.write_text(json.dumps(spoil(json.loads(file.read_text()))))
    with pytest.raises((CorruptError, MismatchError), match="sampler_indices_epoch"):
        reader(tmp_path / "fkd")


def test_a_file_that_is_written_over_meanwhile(tmp_path, photos, reader):
    sre2l_files.write(tmp_path / "fkd", photos)
    labels = reader(tmp_path / "fkd")
    labels.images(range(10))
    replaced(5, lambda logits: logits + 1)(tmp_path / "fkd")
    with pytest.raises(CorruptError, match=r"epoch_1/batch_1\.tar .*written over"):
        labels.images(range(20))


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits.bfloat16(),
        lambda logits: torch.cat([logits, logits], dim=1)[:, :5],
        lambda logits: logits.t().contiguous().t(),
    ],
)
def test_tensors_that_do_not_lie_in_the_file_row_by_row(tmp_path, photos, reader, change):
    sre2l_files.write(tmp_path / "fkd", photos)
    for file in sorted((tmp_path / "fkd").glob("*/*.tar")):
        content = torch.load(file, weights_only=False)
        content[5] = change(content[5])
        torch.save(content, file)
    labels = reader(tmp_path / "fkd")
    first = labels.images(range(20)).dense
    np.testing.assert_array_equal(labels.images(range(20)).dense, first)
    content = torch.load(tmp_path / "fkd" / "epoch_0" / "batch_0.tar", weights_only=False)
    number = sre2l_files.first_number(20)
    np.testing.assert_array_equal(first[number, 0], content[5][0].float().numpy())


def test_photos_that_exif_turns_are_refused(tmp_path, photos, reader):
    folder = shutil.copytree(photos, tmp_path / "train")
    sre2l_files.write(tmp_path / "fkd", folder)
    file = folder / "a-b" / "006.png"
    with Image.open(file) as photo:
        exif = photo.getexif()
        exif[0x0112] = 6
        photo.save(file, exif=exif)
    with pytest.raises(LabelError, match=r"006\.png is turned by its EXIF"):
        reader(tmp_path / "fkd", folder).images(range(20))


def test_a_pickle_in_place_of_a_folder_is_no_folder(tmp_path, reader):
    (tmp_path / "fkd").write_bytes(pickle.dumps([1]))
    with pytest.raises(LabelStoreError, match="fkd"):
        reader(tmp_path / "fkd")
