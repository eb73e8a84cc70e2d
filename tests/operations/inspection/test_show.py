"""``describe`` against answers worked out by hand, and against the library's own arithmetic."""

from __future__ import annotations

import json
import shutil
from importlib import resources

import jsonschema
import numpy as np
import pytest

import labelstore
from labelstore.errors import IncompleteError, LabelError, NotFoundError, UsageError
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.labels.ferkd import FerKD
from labelstore.operations.inspection.show import (
    chosen_views,
    describe,
    overview,
    position_of,
)
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw
from tests.support.stores import make_planned, once, written

make_planned, written = once(make_planned), once(written)

NAMES = ("n01440764", "n02012849", "n03126707", "n07753592", "mine", "n02012850")
CONFIDENCE = (0.05, 0.2, 0.6, 0.97)

SCHEMA = json.loads(resources.files("labelstore.schemas").joinpath("show.schema.json").read_text())


def validate(document):
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    json.dumps(document, allow_nan=False)
    return document


def make(path, **more):
    """Three images of four views: too hard, calibrated, kept and too easy."""
    indices = np.tile(np.array([3, 1]), (3, 4, 1))
    top = np.tile(np.array(CONFIDENCE), (3, 1))
    probs = np.stack([top, np.minimum(top, 1 - top) / 2], axis=-1)
    options = {
        "keys": ["banana/1.jpg", "banana/2.jpg", "7"],
        "targets": np.array([3, 0, -1]),
        "class_names": NAMES,
        "quantizer": "fp32",
        "law": ViewLaw(5),
        "widths": np.array([60, 50, 40]),
        "heights": np.array([40, 50, 60]),
        **more,
    }
    return labelstore.write(path, indices, probs, len(NAMES), **options)


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "s.zarr")


def test_known_answers(store):
    shown = validate(describe(store, "banana/1.jpg"))
    assert (shown["image"], shown["key"], shown["width"], shown["height"]) == (
        *(0, "banana/1.jpg", 60, 40),
    )
    assert (shown["target"], shown["target_name"]) == (3, "banana")
    assert [view["action"] for view in shown["views"]] == [
        *("discarded_low", "calibrated", "kept", "discarded_high"),
    ]
    assert [view["confidence"] for view in shown["views"]] == pytest.approx(CONFIDENCE)
    hard, uncertain, kept, _ = shown["views"]
    assert uncertain["classes"] == [3, 1]
    assert uncertain["names"] == ["banana", "crane (1)"]
    assert uncertain["probs"] == pytest.approx([0.2, 0.1])
    assert uncertain["residual"] == pytest.approx(0.7)
    assert uncertain["target_prob"] == pytest.approx(0.2)
    # Equation 4: the ground truth smoothed by 0.1.
    assert uncertain["calibrated"] == {
        "classes": [3],
        "names": ["banana"],
        "probs": pytest.approx([0.9]),
    }
    assert hard["calibrated"] is None
    assert kept["calibrated"] is None


def test_boxes_are_the_stores(store):
    views = store.views(1, [3, 0])
    shown = validate(describe(store, 1, [3, 0]))
    assert [view["view"] for view in shown["views"]] == [3, 0]
    assert [view["box"] for view in shown["views"]] == views.box.tolist()
    assert [view["flip"] for view in shown["views"]] == views.flip.tolist()
    assert shown["store"]["has_boxes"]
    both = labelstore.ensemble([store, store])
    for reader in (store, both):
        assert validate(describe(reader, 1, []))["views"] == []
    with pytest.raises(NotFoundError, match="view 4"):
        describe(store, 1, [0, 4])


def test_a_truth_that_is_not_stored_has_its_share_of_the_tail(store):
    (view,) = describe(store, 1, [2])["views"]
    # The uniform tail: four classes share what 0.6 and 0.2 leave.
    assert view["target_prob"] == pytest.approx(0.2 / 4)


def test_unknown_ground_truth(store):
    shown = validate(describe(store, 2))
    assert shown["target"] is None
    assert [view["target_prob"] for view in shown["views"]] == [None] * 4
    assert shown["views"][1]["action"] == "calibrated"
    assert shown["views"][1]["calibrated"] is None
    with pytest.raises(LabelError, match="ground truth"):
        describe(store, 2, ferkd=FerKD(confidence="target"))


def test_another_rule(store):
    rule = FerKD(low=0.0, middle=0.7, top=1.0, smoothing=0.2, confidence="target")
    shown = validate(describe(store, 0, ferkd=rule))
    assert [view["action"] for view in shown["views"]] == [*["calibrated"] * 3, "kept"]
    assert shown["views"][0]["calibrated"]["probs"] == pytest.approx([0.8])
    assert shown["ferkd"]["smoothing"] == 0.2
    # Of image 1 the truth has its share of the tail.
    confidences = [view["confidence"] for view in describe(store, 1, ferkd=rule)["views"]]
    assert confidences == pytest.approx([(1 - 1.5 * 0.05) / 4, 0.7 / 4, 0.05, 0.015 / 4], abs=1e-6)


def test_places_without_a_class_are_left_out(tmp_path):
    indices, probs = np.array([[[2, 0, 0]]]), np.array([[[0.75, 0.0, 0.0]]])
    store = labelstore.write(tmp_path / "s.zarr", indices, probs, 4, quantizer="fp32")
    (view,) = validate(describe(store, 0))["views"]
    assert (view["classes"], view["probs"], view["names"]) == ([2], [0.75], None)
    assert view["residual"] == 0.25


def test_an_ensemble_tells_the_mean(tmp_path):
    one, _, _ = written(tmp_path / "a.zarr", seed=1, classes=12, targets=np.arange(20) % 12)
    other, _, _ = written(tmp_path / "b.zarr", seed=2, classes=12, targets=np.arange(20) % 12)
    both = labelstore.ensemble([one, other], weights=[3, 1])
    rule = FerKD(low=0.3, middle=0.5)
    shown = validate(describe(both, 4, ferkd=rule))
    assert shown["store"]["id"] == both.id
    views = np.arange(6)
    mean = 0.75 * one.read(4, views).recover().dense()
    mean = mean + 0.25 * other.read(4, views).recover().dense()
    done = rule.apply(both.read(4, views), np.full(6, 4))
    for place, view in enumerate(shown["views"]):
        order = np.argsort(-mean[place], kind="stable")[:3]
        assert view["probs"] == pytest.approx(mean[place][order].tolist(), abs=1e-6)
        assert view["target_prob"] == pytest.approx(float(mean[place][4]), abs=1e-6)
        assert view["action"].startswith(("kept", "calibrated", "discarded")[done.action[place]])
        label = done.labels[place : place + 1].dense()[0]
        if np.abs(label - mean[place]).max() > 1e-3:
            told = view["calibrated"]
            assert told["probs"] == pytest.approx(label[told["classes"]].tolist(), abs=1e-6)
        else:
            assert view["calibrated"] is None
    assert {view["action"] for view in shown["views"]} - {"kept"}


def test_an_ensemble_that_discards_for_different_reasons(tmp_path):
    stores = []
    for number, top in enumerate((0.1, 0.99)):
        probs = np.full((1, 1, 1), top)
        path = tmp_path / f"{number}.zarr"
        sides = {"widths": [9], "heights": [9], "law": ViewLaw(), "targets": [0], "keys": ["a"]}
        stores.append(labelstore.write(path, np.zeros((1, 1, 1), int), probs, 3, **sides))
    (view,) = validate(describe(labelstore.ensemble(stores), 0))["views"]
    assert view["action"] == "discarded"
    (view,) = describe(labelstore.ensemble(stores), 0, ferkd=FerKD(top=1.0))["views"]
    assert view["action"] == "kept"


def test_a_merged_store(tmp_path):
    from labelstore.operations.merge import merge

    for name, seed in (("a", 1), ("b", 2)):
        written(tmp_path / f"{name}.zarr", seed=seed, temperature=1.0)
    merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")
    shown = validate(describe(tmp_path / "m.zarr", 3))
    assert len(shown["views"]) == 6
    assert shown["store"]["has_boxes"]


def test_explicit_boxes(tmp_path):
    boxes = np.arange(3 * 4 * 4).reshape(3, 4, 4) % 7 + 1
    flips = np.arange(12).reshape(3, 4) % 2 == 1
    store = make(tmp_path / "s.zarr", law=None, boxes=boxes, flips=flips)
    shown = validate(describe(store, 2))
    assert [view["box"] for view in shown["views"]] == boxes[2].tolist()
    assert [view["flip"] for view in shown["views"]] == flips[2].tolist()


def test_without_a_law_there_are_no_boxes(tmp_path):
    store = make(tmp_path / "s.zarr", law=None, widths=None, heights=None)
    shown = validate(describe(store, 0))
    assert not shown["store"]["has_boxes"]
    assert (shown["width"], shown["height"]) == (None, None)
    assert {(view["box"], view["flip"]) for view in shown["views"]} == {(None, None)}


def test_images_without_labels_are_named_errors(tmp_path):
    keys, targets = ["a", "b", "c"], np.zeros(3, dtype=np.int32)
    manifest = Manifest(3, 2, 4, 1, fingerprint(keys, targets), None, 2, 2)
    with StoreWriter(tmp_path / "s.zarr", manifest, keys, targets) as writer:
        data = BlockData(
            np.zeros((2, 2, 1), int),
            np.full((2, 2, 1), 0.5, dtype=np.float32),
            readable=np.array([True, False]),
        )
        writer.write_block(0, data)
    store = labelstore.open(tmp_path / "s.zarr")
    assert describe(store, 0)["key"] == "a"
    for tell in (describe, overview, lambda *given: chosen_views(*given, ["hardest:1"])):
        with pytest.raises(NotFoundError, match=r"'b'.*could not be decoded"):
            tell(store, 1)
        with pytest.raises(IncompleteError):
            tell(store, 2)


def test_every_backend(tmp_path):
    make_planned(tmp_path / "s.zarr")
    zarr = validate(describe(tmp_path / "s.zarr", 5))
    make_planned(tmp_path / "s.parquet", encoding="plain")
    parquet = validate(describe(tmp_path / "s.parquet", 5))
    assert zarr["views"] == parquet["views"]


def test_an_image_by_position_and_by_key(store):
    assert position_of(store, 1) == position_of(store, "1") == position_of(store, "banana/2.jpg")
    # A key of digits comes before a position.
    assert position_of(store, "7") == 2
    with pytest.raises(NotFoundError, match=r"did you mean 'banana/1.jpg'"):
        position_of(store, "Banana/1.JPG")
    with pytest.raises(NotFoundError, match="3"):
        position_of(store, "3")
    with pytest.raises(NotFoundError, match=r"such as 'banana/1.jpg'"):
        position_of(store, "\N{SNOWMAN}")


def test_views_by_words(store):
    assert chosen_views(store, 0, ["2,0-1", "1"]) == [2, 0, 1]
    assert chosen_views(store, 0, ["hardest:2", "easiest:1"]) == [0, 1, 3]
    assert chosen_views(store, 0, ["easiest:9"]) == [3, 2, 1, 0]
    assert chosen_views(store, 0, ["all"]) == [0, 1, 2, 3]
    # What confidence is, the rule says: of image 1 the truth is in the tail.
    rule = FerKD(confidence="target")
    assert chosen_views(store, 1, ["easiest:1"], rule) == [0]
    for words in ("x", "", "1-", "3-2", "hardest:0", "hardest", "-1"):
        with pytest.raises(UsageError):
            chosen_views(store, 0, [words])
    for words in ("4", "0-4", "999999999"):
        with pytest.raises(NotFoundError, match="0 to 3"):
            chosen_views(store, 0, [words])


def test_all_views_in_few_numbers(store):
    told = overview(store, 0)
    assert told["mean_confidence"] == pytest.approx(np.mean(CONFIDENCE))
    assert told["histogram"] == [
        *[0, 1, 0, 0, 1, 0, 0, 0, 0, 0],
        *[0, 0, 1, 0, 0, 0, 0, 0, 0, 1],
    ]
    assert told["actions"] == dict.fromkeys(
        ("calibrated", "discarded_high", "discarded_low", "kept"), 1
    )
    shown = describe(store, 0)
    validate({**shown, "overview": told})


def test_damage_is_an_error(store):
    shutil.rmtree(store.path / "labels/classes/c")
    with pytest.raises(labelstore.LabelStoreError):
        describe(labelstore.open(store.path), 0)
