"""What the page of ``labelstore inspect --report`` is given, against the store and plain loops."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

import labelstore
from labelstore.errors import MismatchError
from labelstore.labels.ferkd import FerKD
from labelstore.operations.inspection.gallery import sampled_crops
from labelstore.operations.inspection.gallery.page_data import page_data
from labelstore.operations.inspection.inspect import report
from labelstore.views.law import ViewLaw
from tests.support.stores import make_planned, once, written

make_planned, written = once(make_planned), once(written)

RULE = FerKD(low=0.3, middle=0.5, top=0.8)


def place_photos(folder, store):
    """A photo of the right size for each image of a store, each of another colour."""
    rng = np.random.default_rng(0)
    for image, key in enumerate(store.keys):
        width, height = (int(side) for side in store.sizes(image))
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        place = folder / key
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place, comment=b"taken at home")
    return labelstore.open_source(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return written(tmp_path_factory.mktemp("gallery") / "made.zarr", images=20, views=8, k=6)[0]


def pictures(data):
    """All pictures that stand in the data, by whose they are."""
    for image in data["images"]:
        yield image["image"], None, image["picture"]
        for view in image["views"] or []:
            yield image["image"], view["view"], view["picture"]
    for example in data["examples"]:
        yield example["image"], example["view"], example["picture"]


def opened(picture):
    kind, _, text = picture.partition(";base64,")
    assert kind == "data:image/jpeg"
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_without_photos_there_is_all_that_needs_no_pixels(store):
    whole = report(store, RULE)
    data = page_data(store, whole)
    json.dumps(data, allow_nan=False)
    assert data["pictures"] is None
    assert {picture for *_, picture in pictures(data)} == {None}
    columns = data["report"]["classes"]
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    assert rows == whole["classes"]
    named = {entry["image"] for pair in whole["confusion"] for entry in pair["images"]}
    wrong = whole["wrong_targets"]["entries"]
    named |= {entry["image"] for entry in wrong if entry["candidate"] or entry["margin"] < 0}
    assert named <= {image["image"] for image in data["images"]}


def test_figure_1_shows_the_stores_boxes(store):
    crops = page_data(store, report(store))["crops"]
    expected = []
    for image in range(store.num_images):
        width, height = (int(side) for side in store.sizes(image))
        for view in range(store.num_views):
            top, left, tall, wide = store.views(image, view).box.tolist()
            centre = ((left + wide / 2) / width, (top + tall / 2) / height)
            area = tall * wide / (width * height)
            expected.append((*centre, area, float(store.read(image, view).confidence)))
    shown = list(zip(crops["x"], crops["y"], crops["area"], crops["confidence"], strict=True))
    np.testing.assert_allclose(shown, expected, atol=5.1e-5)


def test_a_large_store_is_sampled_evenly_and_the_same_each_time(tmp_path, monkeypatch):
    store, _, _ = written(tmp_path / "large.zarr", images=60, views=20, group_views=5)
    monkeypatch.setattr(sampled_crops, "SAMPLE_CROPS", 100)
    rows, views = sampled_crops.sampled_crops(store)
    again = sampled_crops.sampled_crops(store)
    np.testing.assert_array_equal(rows, again[0])
    np.testing.assert_array_equal(views, again[1])
    assert len(set(zip(rows.tolist(), views.tolist(), strict=True))) == len(rows) == 100
    # From all blocks, and from all groups of views.
    assert set(rows // store.manifest.block_images) == set(range(store.manifest.num_blocks))
    assert set(views // 5) == {0, 1, 2, 3}
    assert len(page_data(store, report(store))["crops"]["x"]) == 100


def test_examples_rise_and_lie_near_any_threshold(store):
    examples = page_data(store, report(store))["examples"]
    values = [example["confidence"] for example in examples]
    assert values == sorted(values)
    everything = np.sort(store.confidence(), axis=None)
    for example in examples:
        topk = store.read(example["image"], example["view"])
        assert example["confidence"] == float(topk.confidence)
        assert example["class"] == int(topk.indices[0])
    for threshold in np.arange(201) / 200:
        below = everything[everything <= threshold]
        if below.size:
            assert max(v for v in values if v <= threshold) >= below[-1] - 0.026


def test_labels_of_the_gallery_are_what_a_student_trains_on(store):
    data = page_data(store, report(store, RULE))
    actions = set()
    for image in data["images"]:
        target = store.targets[image["image"]]
        assert image["target"] == target
        for view in image["views"] or []:
            topk = store.read([image["image"]], [view["view"]])
            done = RULE.apply(topk, [target])
            actions.add(view["action"])
            assert view["action"] == ("kept", "calibrated", "discarded")[done.action[0]]
            dense = done.labels.dense()[0]
            shown = view["calibrated"]
            for number, p in shown:
                assert p == pytest.approx(dense[number], abs=1e-6)
            largest = np.sort(dense)[::-1][: len(shown)]
            np.testing.assert_allclose([p for _, p in shown], largest, atol=1e-6)
            assert view["base"] == pytest.approx(dense.min(), abs=1e-6)
            stored = zip(topk.indices[0, :5].tolist(), topk.probs[0, :5].tolist(), strict=True)
            assert view["stored"] == [[number, p] for number, p in stored if p > 0]
    assert actions == {"kept", "calibrated", "discarded"}


def test_pictures_are_of_the_right_crops_and_hold_nothing_else(store, tmp_path):
    source = place_photos(tmp_path / "photos", store)
    data = page_data(store, report(store), source)
    told = data["pictures"]
    assert told["left_out"] == told["missing"] == told["different"] == told["unreadable"] == 0
    shown = list(pictures(data))
    assert told["shown"] == len(shown)
    assert told["bytes"] == sum(len(picture) for *_, picture in shown)
    for image, view, picture in shown:
        small = opened(picture)
        assert not small.getexif()
        assert "comment" not in small.info
        if view is None:
            continue
        assert small.size == (112, 112)
        views = store.views(image, view)
        with Image.open(source.path_of(image)) as photo:
            expected = labelstore.images.pixels.cut(
                photo, views.box.tolist(), bool(views.flip), (112, 112), "bilinear"
            )
        # JPEG loses some; another crop of noise would differ by about 80.
        assert np.abs(np.asarray(small, int) - expected).mean() < 25


def test_pictures_stop_where_their_bytes_are_used_up(store, tmp_path):
    source = place_photos(tmp_path / "photos", store)
    whole = page_data(store, report(store), source)["pictures"]
    done = []
    part = page_data(
        store, report(store), source, limit_bytes=100_000, tell=lambda *told: done.append(told)
    )
    told = part["pictures"]
    assert 50_000 < told["bytes"] <= told["limit_bytes"] == 100_000
    assert 0 < told["shown"] < whole["shown"]
    assert told["shown"] + told["left_out"] == whole["shown"]
    assert told["shown"] == sum(picture is not None for *_, picture in pictures(part))
    assert done[-1][0] == done[-1][1] == len(done)
    # What may be mislabelled is shown first.
    wrong = report(store)["wrong_targets"]["entries"][0]["image"]
    (first,) = [image for image in part["images"] if image["image"] == wrong]
    assert first["picture"] is not None


def test_photos_that_are_not_the_labelled_ones_are_not_shown(store, tmp_path):
    folder = tmp_path / "photos"
    place_photos(folder, store)
    Image.new("RGB", (7, 7)).save(folder / store.keys[0])
    (folder / store.keys[1]).write_bytes(b"no photo")
    (folder / store.keys[2]).unlink()
    data = page_data(store, report(store), labelstore.open_source(folder))
    told = data["pictures"]
    assert (told["different"], told["unreadable"], told["missing"]) == (1, 1, 1)
    for image, _, picture in pictures(data):
        assert (picture is None) == (image < 3), image


def test_a_photo_of_another_digest_is_not_shown(tmp_path):
    store, _ = make_planned(tmp_path / "made.zarr")
    source = place_photos(tmp_path / "photos", store)
    data = page_data(store, report(store), source)
    assert data["pictures"]["shown"] == 0
    assert data["pictures"]["different"] == len({image for image, *_ in pictures(data)})


def test_photos_of_another_data_set_are_refused(store, tmp_path):
    (tmp_path / "other").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "other" / "x.jpg")
    with pytest.raises(MismatchError, match="has none of the 20 labelled images"):
        page_data(store, report(store), labelstore.open_source(tmp_path / "other"))


@pytest.mark.parametrize(
    "options",
    [
        {"law": None},
        {"targets": None},
        {"targets": None, "law": None, "k": 1},
        {"label_type": "hard"},
        {"views": 1},
        {"images": 1},
    ],
    ids=str,
)
def test_stores_that_say_less(tmp_path, options):
    store, _, _ = written(tmp_path / "made.zarr", **options)
    data = page_data(store, report(store, RULE))
    json.dumps(data, allow_nan=False)
    assert (data["crops"] is None) == (store.law is None)
    views = [view for image in data["images"] for view in image["views"] or []]
    assert views
    for view in views:
        assert (view["box"] is None) == (store.law is None)
        unknown = "targets" in options and view["action"] == "calibrated"
        assert (view["calibrated"] is None) == unknown


def test_by_the_probability_of_the_ground_truth(tmp_path):
    targets = np.arange(20) % 30
    store, _, _ = written(tmp_path / "made.zarr", targets=targets)
    rule = FerKD(confidence="target")
    data = page_data(store, report(store, rule))
    for example in data["examples"]:
        topk = store.read(example["image"], example["view"])
        assert example["confidence"] == float(topk.probability(targets[example["image"]]))


def test_a_store_without_labels(tmp_path):
    store, _ = make_planned(tmp_path / "made.zarr", blocks=[])
    data = page_data(store, report(store))
    assert data["images"] == data["examples"] == []
    assert data["crops"] is None
    json.dumps(data, allow_nan=False)


def test_boxes_that_are_stored(tmp_path):
    boxes = np.tile(np.array([1, 2, 10, 20]), (4, 2, 1))
    store = labelstore.write(
        tmp_path / "made.zarr",
        np.zeros((4, 2, 1), int),
        np.full((4, 2, 1), 0.5),
        3,
        boxes=boxes,
        flips=np.zeros((4, 2), bool),
        widths=np.full(4, 40),
        heights=np.full(4, 20),
    )
    crops = page_data(store, report(store))["crops"]
    assert crops["x"] == [0.3] * 8
    assert crops["y"] == [0.3] * 8
    assert crops["area"] == [0.25] * 8


@pytest.mark.slow
def test_a_page_of_a_thousand_classes_is_below_ten_megabytes(tmp_path):
    from labelstore.pictures.page import render

    images, views, classes = 50_000, 4, 1000
    rng = np.random.default_rng(0)
    targets = np.arange(images) % classes
    strides = rng.integers(1, 300, (images, 1, 1))
    indices = (
        targets[:, None, None] * (rng.random((images, 1, 1)) > 0.05) + np.arange(3) * strides
    ) % classes
    top = rng.beta(3, 1, (images, views))
    probs = -np.sort(-np.stack([top, (1 - top) * 0.4, (1 - top) * 0.2], -1), -1)
    store = labelstore.write(
        tmp_path / "made.zarr",
        np.broadcast_to(indices, (images, views, 3)),
        probs,
        classes,
        keys=[f"n{target:08}/image_{image:08}.jpg" for image, target in enumerate(targets)],
        targets=targets,
        law=ViewLaw(0),
        widths=np.full(images, 320),
        heights=np.full(images, 240),
    )
    told = report(store)
    needed = page_data(store, told)
    for entry in [*needed["images"], *needed["examples"]]:
        place = tmp_path / "photos" / entry["key"]
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)).save(place)
    data = page_data(store, told, labelstore.open_source(tmp_path / "photos"))
    assert data["pictures"]["left_out"] > 0
    assert len(render("report", "large", data).encode()) < 10e6
