"""FKD's files become stores of the labels and the crops that FKD's own code takes from them."""

import numpy as np
import pytest
import torch
from PIL import Image

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
from labelstore.peers.labelled_photos import matched_photos
from labelstore.peers.peer_labels import PeerOptions
from tests.peers.own_files import CLASSES, photos, save_fkd

VIEWS = 12
EXACT = ConversionSettings(store=StoreSettings(quantizer="fp32"))


def converted(tmp_path, settings=EXACT, num_classes=CLASSES, boxes=True, **how):
    source = FolderSource(tmp_path / "photos") if boxes else None
    options = PeerOptions(num_classes, source, boxes)
    report = convert(
        tmp_path / "fkd",
        tmp_path / "a.zarr",
        format="fkd",
        options=options,
        settings=settings,
        **how,
    )
    return labelstore.open(tmp_path / "a.zarr"), report


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize(
    "label_type", ["hard", "smoothing", "marginal_smoothing_k5", "marginal_smoothing_k10"]
)
def test_labels_and_crops_are_those_of_fkds_own_code(tmp_path, label_type, fp16):
    shapes = photos(tmp_path / "photos", 9)
    truth = save_fkd(tmp_path / "fkd", shapes, VIEWS, label_type, fp16)
    store, report = converted(tmp_path)
    assert list(store.keys) == list(shapes)
    assert report.replayable
    views = np.arange(VIEWS)
    for image, key in enumerate(store.keys):
        boxes, flips, full = truth[key]
        crops = store.views(np.full(VIEWS, image), views)
        np.testing.assert_array_equal(crops.box, boxes)
        np.testing.assert_array_equal(crops.flip, flips)
        label = store.read(np.full(VIEWS, image), views)
        dense = label.as_type(store.manifest.label_type).dense()
        np.testing.assert_allclose(dense, full, rtol=0, atol=2e-7)
        np.testing.assert_allclose(dense.sum(-1), 1, atol=1e-6)
        height, width = shapes[key]
        assert [side.tolist() for side in store.sizes([image])] == [[width], [height]]


def test_a_confident_teacher_in_half_precision_makes_no_negative_label(tmp_path):
    shapes = photos(tmp_path / "photos", 4)
    truth = save_fkd(tmp_path / "fkd", shapes, VIEWS, fp16=True, spread=12.0)
    store, _ = converted(tmp_path)
    for image, key in enumerate(store.keys):
        dense = store.read(np.full(VIEWS, image), np.arange(VIEWS)).recover().dense()
        assert dense.min() >= 0
        np.testing.assert_allclose(dense, truth[key][2], rtol=0, atol=4e-7)


def test_boxes_are_those_that_pillow_cuts_for_floats(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    photo = Image.effect_noise((401, 307), 90).convert("RGB")
    photo.save(tmp_path / "photos" / "a" / "x.png")
    rng = np.random.default_rng(0)
    start = rng.random((200, 2)) * 0.6
    coords = np.concatenate([start, 0.05 + rng.random((200, 2)) * 0.3], 1).astype(np.float32)
    labels = torch.stack([torch.zeros(200, 5) + torch.arange(5), torch.full((200, 5), 0.1)], 1)
    (tmp_path / "fkd" / "a").mkdir(parents=True)
    torch.save([coords, rng.random(200) < 0.5, labels], tmp_path / "fkd" / "a" / "x.tar")
    store, _ = converted(tmp_path)
    boxes = store.views(np.zeros(200, dtype=int), np.arange(200)).box
    for (top, left, height, width), box in zip(coords, boxes, strict=True):
        y, x = top.item() * 307, left.item() * 401
        cut = photo.crop((x, y, x + width.item() * 401, y + height.item() * 307))
        row, column, tall, wide = box.tolist()
        assert cut.tobytes() == photo.crop((column, row, column + wide, row + tall)).tobytes()


def test_the_manifest_says_what_is_known_and_no_more(tmp_path):
    save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 3), VIEWS)
    store, report = converted(tmp_path, ConversionSettings())
    manifest = store.manifest
    assert (manifest.temperature, manifest.teacher, manifest.class_names) == (None, None, None)
    assert manifest.producer["converted from"] == "fkd"
    assert "teacher" not in manifest.producer
    assert (manifest.k, manifest.prior_size, manifest.quantizer) == (5, 0, "u8")
    assert (store.targets == -1).all()
    assert any("no teacher" in note for note in report.notes)
    convert(
        tmp_path / "fkd",
        tmp_path / "b.parquet",
        format="fkd",
        options=PeerOptions(CLASSES, FolderSource(tmp_path / "photos")),
        settings=ConversionSettings(
            "efficientnet-l2 475",
            2.0,
            store=StoreSettings(k=2),
            targets=lambda reader: np.arange(len(reader.keys), dtype=np.int32),
        ),
    )
    told = labelstore.open(tmp_path / "b.parquet")
    assert (told.manifest.temperature, told.manifest.k) == (2.0, 2)
    assert told.manifest.producer["teacher"] == "efficientnet-l2 475"
    assert told.targets.tolist() == [0, 1, 2]


def test_a_list_of_likely_classes_is_made_where_it_is_asked_for(tmp_path):
    save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 3), VIEWS)
    store, _ = converted(tmp_path, ConversionSettings(fidelity="balanced"))
    assert (store.manifest.k, store.manifest.prior_size) == (4, 64)
    assert store.read([0], [0]).prior is not None


def test_a_part_of_the_photos_and_other_folders_above(tmp_path):
    shapes = photos(tmp_path / "photos" / "deep" / "down", 6)
    keys = list(shapes)
    truth = save_fkd(tmp_path / "fkd", {key: shapes[key] for key in keys[:4]}, VIEWS)
    store, report = converted(tmp_path)
    assert list(store.keys) == [f"deep/down/{key}" for key in keys[:4]]
    assert "2 of 6 photos have no label file." in report.notes
    np.testing.assert_array_equal(store.views([0] * VIEWS, range(VIEWS)).box, truth[keys[0]][0])


def test_label_files_that_fit_the_photos_of_several_folders_are_nobody_s(tmp_path):
    def found(stems, keys):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for key in keys:
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_bytes(b"")
        source = FolderSource(root)
        return [source.keys[place] for place in matched_photos(stems, source, "labels")]

    # The folder of one class's labels, and the photos of all.
    classes = [f"{name}/{number}.png" for name in "ab" for number in (1, 2)]
    with pytest.raises(MismatchError, match="fit the photos in 'a/' and in 'b/' of"):
        found(["1", "2"], classes)
    assert found(["1", "2"], classes[1:]) == ["b/1.png", "b/2.png"]
    for stem in ("b/1", "train/b/1"):
        assert found([stem], classes) == ["b/1.png"]
        assert found([stem], [f"x/{key}" for key in classes]) == ["x/b/1.png"]
    # A folder that holds most of them is not yet the one.
    splits = [
        f"{split}/c/{number}.png"
        for split, numbers in (("p", "12"), ("q", "123"))
        for number in numbers
    ]
    assert found(["c/1", "c/2", "c/3"], splits) == splits[2:]


def test_without_boxes_no_photos_are_needed_and_no_view_is_replayed(tmp_path):
    save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 3), VIEWS)
    with pytest.raises(UsageError, match="shares of each photo's sides"):
        convert(tmp_path / "fkd", tmp_path / "a.zarr", format="fkd", options=PeerOptions(CLASSES))
    store, report = converted(tmp_path, boxes=False)
    assert store.law is None
    assert not report.replayable
    assert store.keys[0] == "imagenet/train/n0000/im_0"


@pytest.mark.parametrize("tensors", [False, True])
def test_damage_to_crops_that_are_left_out_is_found_by_its_checksum(tmp_path, tensors):
    for number in range(3):
        only(tmp_path, state(views=40), f"{number}.tar")
        coords = np.full((40, 4), 0.37, dtype=np.float32)
        whole = [torch.from_numpy(coords) if tensors else coords, *state(views=40)[1:]]
        torch.save(whole, tmp_path / "fkd" / "a" / f"{number}.tar")
    file = tmp_path / "fkd" / "a" / "2.tar"
    data = bytearray(file.read_bytes())
    data[data.index(coords.tobytes()[2:4]) + 1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptError, match=r"2\.tar"):
        converted(tmp_path, boxes=False)


def test_files_of_two_precisions_are_not_of_one_run(tmp_path):
    shapes = photos(tmp_path / "photos", 3)
    save_fkd(tmp_path / "fkd", shapes, VIEWS)
    # The last one: stacked with single precision nobody saw that its class ids are halves.
    save_fkd(tmp_path / "fkd", dict([[*shapes.items()][-1]]), VIEWS, fp16=True)
    with pytest.raises(FormatError, match=r"float16 and labels float16, expected float32"):
        converted(tmp_path)


def only(tmp_path, state, name="x.tar"):
    """A folder of one photo with one label file."""
    (tmp_path / "photos" / "a").mkdir(parents=True, exist_ok=True)
    (tmp_path / "fkd" / "a").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 40)).save(tmp_path / "photos" / "a" / name.replace("tar", "png"))
    torch.save(state, tmp_path / "fkd" / "a" / name)


def state(ids=(1, 2, 3), probs=(0.5, 0.3, 0.1), views=4, kind=np.float32, coords=(0, 0, 1, 1)):
    labels = np.array([[ids, probs]] * views, dtype=kind)
    return [np.array([coords] * views, dtype=kind), np.ones(views, dtype=bool), labels]


WRONG = {
    "class ids of half precision": (state((2050, 1, 2), kind=np.float16), LabelError, "2050.*half"),
    "class ids of other halves": (state((2050, 1, 2), kind=">f2"), LabelError, "2050.*half"),
    "a class too many": (state((1000, 1, 2)), LabelError, "expected 0 to 999"),
    "half a class": (state((1.5, 1, 2)), LabelError, "1.5, expected integers"),
    "a class of NaN": (state((float("nan"), 1, 2)), LabelError, "nan"),
    "a class twice": (state((1, 1, 2)), LabelError, "different classes"),
    "logits": (state(probs=(9, 5, 3)), LabelError, "no falling probabilities"),
    "rising": (state(probs=(0.1, 0.2, 0.3)), LabelError, "no falling probabilities"),
    "no numbers": (state(probs=(float("nan"), 0.2, 0.1)), LabelError, "no falling prob"),
    "too much": (state(probs=(0.7, 0.4, 0.3)), LabelError, "no falling probabilities"),
    "a box outside": (state(coords=(0.5, 0, 0.6, 1)), LabelError, "50 x 40"),
    "no box": (state(coords=(0, 0, 0, 1)), LabelError, "50 x 40"),
    "a box of NaN": (state(coords=(0, 0, float("nan"), 1)), LabelError, "x.tar"),
    "full labels": ([*state()[:2], np.ones((4, 10), dtype=np.float32)], FormatError, "expected"),
    "too few flips": ([state()[0], np.ones(3, dtype=bool), state()[2]], FormatError, "flips"),
    "a dict": ({"labels": state()}, FormatError, "no list of three arrays"),
    "a tensor": (torch.ones(2, 5, 15, 15), FormatError, "no list of three arrays"),
    "a view of nothing": (state(views=0), FormatError, "expected"),
    "objects": ([*state(), np.array([object()])], CorruptError, "expected numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_label_is_refused_with_the_file_named(tmp_path, name):
    saved, kind, words = WRONG[name]
    only(tmp_path, saved)
    with pytest.raises(kind, match=words) as caught:
        converted(tmp_path)
    assert "x.tar" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cut_files_and_files_of_another_run_are_named(tmp_path):
    shapes = photos(tmp_path / "photos", 4, classes=1)
    save_fkd(tmp_path / "fkd", shapes, VIEWS)
    file = tmp_path / "fkd" / "imagenet" / "train" / "n0000" / "im_2.tar"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptError, match=r"im_2\.tar cannot be read"):
        converted(tmp_path)
    torch.save(state(views=VIEWS - 1), file)
    with pytest.raises(FormatError, match=r"im_2\.tar has 11 views .* expected 12"):
        converted(tmp_path, overwrite=True)
    # Mended, the same command goes on.
    file.write_bytes(whole)
    store, _ = converted(tmp_path, overwrite=True)
    assert store.num_images == 4


def test_photos_that_do_not_fit_are_told(tmp_path):
    shapes = photos(tmp_path / "photos", 4, classes=1)
    save_fkd(tmp_path / "fkd", shapes, VIEWS)
    (tmp_path / "photos" / "n0000" / "im_1.JPEG").rename(tmp_path / "photos" / "n0000" / "b.JPEG")
    with pytest.raises(MismatchError, match=r"'imagenet/train/n0000/im_1' .* has no photo"):
        converted(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "n0000" / "im_1.JPEG")
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "n0000" / "im_1.other.JPEG")
    with pytest.raises(MismatchError, match="same label file"):
        converted(tmp_path)


def test_photos_that_exif_turns_are_refused(tmp_path):
    only(tmp_path, state(), "x.tar")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (50, 40)).save(tmp_path / "photos" / "a" / "x.png", exif=exif)
    with pytest.raises(LabelError, match="EXIF"):
        converted(tmp_path)


def test_what_is_missing_is_asked_for(tmp_path):
    with pytest.raises(NotFoundError, match="no folder"):
        converted(tmp_path, boxes=False)
    (tmp_path / "fkd").mkdir()
    with pytest.raises(FormatError, match=r"no \.tar files"):
        converted(tmp_path, boxes=False)
    only(tmp_path, state())
    with pytest.raises(UsageError, match="number of classes"):
        converted(tmp_path, num_classes=None)
    with pytest.raises(UsageError, match="at most 3"):
        converted(tmp_path, ConversionSettings(store=StoreSettings(k=4)))
    with pytest.raises(UsageError, match="choose another name"):
        convert(
            tmp_path / "fkd",
            tmp_path / "fkd",
            format="fkd",
            options=PeerOptions(CLASSES, boxes=False),
        )
    assert not (tmp_path / "a.zarr").exists()


def test_other_files_are_no_store_to_go_on_with(tmp_path):
    shapes = photos(tmp_path / "photos", 4)
    save_fkd(tmp_path / "fkd", shapes, VIEWS)
    converted(tmp_path)
    _, again = converted(tmp_path)
    assert again.blocks_made == 0
    save_fkd(tmp_path / "fkd", shapes, VIEWS + 1)
    with pytest.raises(MismatchError):
        converted(tmp_path)
