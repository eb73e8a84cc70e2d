"""TinyViT's records become stores of the labels that its own code takes from them."""

import numpy as np
import pytest

import labelstore
from labelstore.errors import (
    CorruptError,
    FormatError,
    LabelError,
    MismatchError,
    NotFoundError,
    UsageError,
)
from labelstore.format.settings import StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.convert import ConversionSettings, convert
from labelstore.peers.peer_labels import PeerOptions
from labelstore.peers.tinyvit import TinyViTReader
from tests.peers.own_files import CLASSES, photos, save_tinyvit

EPOCHS = 4
EXACT = ConversionSettings(store=StoreSettings(quantizer="fp32"))


def converted(tmp_path, num_classes=CLASSES, source=None, settings=EXACT):
    report = convert(
        tmp_path / "tiny",
        tmp_path / "a.zarr",
        format="tinyvit",
        options=PeerOptions(num_classes, source),
        settings=settings,
    )
    return labelstore.open(tmp_path / "a.zarr"), report


@pytest.mark.parametrize(("k", "spread"), [(10, 4.0), (100, 9.0)])
def test_labels_and_seeds_are_those_of_tinyvits_own_code(tmp_path, k, spread):
    keys = [f"n{number % 3}/x_{number}" for number in range(11)]
    truth = save_tinyvit(tmp_path / "tiny", keys, EPOCHS, k, spread=spread)
    store, report = converted(tmp_path)
    assert list(store.keys) == sorted(keys)
    assert (store.manifest.k, store.num_views, store.manifest.temperature) == (k, EPOCHS, 1.0)
    assert store.law is None
    assert not report.replayable
    assert any("views cannot be replayed" in note for note in report.notes)
    for image, key in enumerate(store.keys):
        dense = store.read([image] * EPOCHS, range(EPOCHS)).recover().dense()
        full = np.stack([label for _, label in truth[key]])
        np.testing.assert_allclose(dense, full, rtol=0, atol=4e-7)
    reader = TinyViTReader(tmp_path / "tiny", PeerOptions(CLASSES))
    drawn = [[seed for seed, _ in truth[key]] for key in store.keys]
    np.testing.assert_array_equal(reader.seeds(range(len(keys))), drawn)


def test_images_numbered_by_torchvision_are_named_by_their_photos(tmp_path):
    # As text, "a-b/..." comes before "a/...": ImageFolder goes by the folders' names.
    shapes = photos(tmp_path / "photos", 6)
    (tmp_path / "photos" / "n0001").rename(tmp_path / "photos" / "n0000-x")
    source = FolderSource(tmp_path / "photos")
    names = [f"n0000/im_{number}.JPEG" for number in (0, 3)]
    names += [f"n0000-x/im_{number}.JPEG" for number in (1, 4)]
    names += [f"n0002/im_{number}.JPEG" for number in (2, 5)]
    truth = save_tinyvit(tmp_path / "tiny", [str(number) for number in range(6)], EPOCHS)
    store, _ = converted(tmp_path, source=source)
    assert list(store.keys) == sorted(names)
    for image, key in enumerate(store.keys):
        dense = store.read([image] * EPOCHS, range(EPOCHS)).recover().dense()
        full = np.stack([label for _, label in truth[str(names.index(key))]])
        np.testing.assert_allclose(dense, full, rtol=0, atol=4e-7)
    image = list(store.keys).index("n0000/im_0.JPEG")
    assert store.sizes([image])[0] == [shapes["n0000/im_0.JPEG"][1]]
    (tmp_path / "photos" / "n0002" / "im_5.JPEG").unlink()
    with pytest.raises(MismatchError, match=r"6 images, numbered up to 5, and .* holds 5 photos"):
        converted(tmp_path, source=FolderSource(tmp_path / "photos"))


def spoil(tmp_path, change):
    keys = [str(number) for number in range(5)]
    save_tinyvit(tmp_path / "tiny", keys, 3)
    change(tmp_path / "tiny")


def cut(folder):
    file = folder / "logits_top10_epoch1" / "rank1-values.bin"
    file.write_bytes(file.read_bytes()[:-1])


def lose_a_process(folder):
    (folder / "logits_top10_epoch2" / "rank1-values.bin").unlink()


def lose_keys(folder):
    (folder / "logits_top10_epoch2" / "rank1-keys.txt").unlink()


def other_k(folder):
    (folder / "logits_top10_epoch1").rename(folder / "logits_top5_epoch1")


def exchange_k(folder):
    for number in range(3):
        (folder / f"logits_top10_epoch{number}").rename(folder / f"logits_top5_epoch{number}")


def negative(folder):
    file = folder / "logits_top10_epoch1" / "rank0-values.bin"
    data = bytearray(file.read_bytes())
    data[4:6] = np.int16(-7).tobytes()
    file.write_bytes(data)


def shift(folder):
    file = folder / "logits_top10_epoch0" / "rank0-values.bin"
    data = file.read_bytes()
    file.write_bytes(data[2:] + data[:2])


def empty(folder):
    for file in (folder / "logits_top10_epoch1").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (cut, CorruptError, r"epoch1/rank1-values\.bin has .* bytes, expected"),
        (lose_a_process, MismatchError, "epoch2 and .*epoch0 hold labels of other images"),
        (lose_keys, CorruptError, r"epoch2/rank1-keys\.txt cannot be read"),
        (other_k, FormatError, "holds epochs of top 5 and 10"),
        (exchange_k, CorruptError, r"epoch0/rank0-values\.bin has .* of another k"),
        (negative, LabelError, "epoch1 has for .* class ids from -7"),
        (shift, LabelError, "epoch0 has for"),
        (empty, FormatError, "epoch1 holds no file"),
    ],
)
def test_what_is_cut_off_lost_or_mixed_up_is_named(tmp_path, change, kind, words):
    spoil(tmp_path, change)
    with pytest.raises(kind, match=words):
        converted(tmp_path)


def test_numbers_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(NotFoundError, match="no folder"):
        converted(tmp_path)
    save_tinyvit(tmp_path / "tiny", ["0", "1"], 2)
    with pytest.raises(LabelError, match="16 bits"):
        converted(tmp_path, num_classes=40_000)
    with pytest.raises(LabelError, match="expected 0 to 11"):
        converted(tmp_path, num_classes=12)
    with pytest.raises(UsageError, match="number of classes"):
        converted(tmp_path, num_classes=None)
    with pytest.raises(UsageError, match="temperature is 2"):
        converted(tmp_path, settings=ConversionSettings(temperature=2.0))
    (tmp_path / "other").mkdir()
    with pytest.raises(FormatError, match="no folders called"):
        convert(
            tmp_path / "other", tmp_path / "b.zarr", format="tinyvit", options=PeerOptions(CLASSES)
        )
