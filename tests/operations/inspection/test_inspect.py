"""``labelstore.operations.inspection.inspect.report`` against slow computations in plain Python."""

import json
import math
import tracemalloc
from importlib import resources

import jsonschema
import numpy as np
import pytest

import labelstore
from labelstore.errors import CorruptError, LabelError, UsageError
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.labels.actions import Action
from labelstore.labels.ferkd import FerKD
from labelstore.operations.inspection.inspect import report
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw
from tests.support.stores import once

IMAGES, VIEWS, K, CLASSES = 37, 7, 6, 23

# Every edge of the table, every threshold, and both ends stand in the data themselves.
EDGES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 0.85, 0.9, 0.95, 1.0)


def make_labels(seed, images=IMAGES, views=VIEWS, k=K, classes=CLASSES):
    """(images, views, k) class ids and float32 probabilities of a teacher of mixed confidence."""
    rng = np.random.default_rng(seed)
    sharpness = rng.choice([0.3, 1.5, 4.0, 9.0], size=(images, views, 1))
    logits = rng.normal(size=(images, views, classes)) * sharpness
    exact = np.exp(logits - logits.max(axis=-1, keepdims=True))
    exact /= exact.sum(axis=-1, keepdims=True)
    order = np.argsort(-exact, axis=-1)[..., :k]
    return order, np.take_along_axis(exact, order, axis=-1).astype(np.float32)


def make_arrays(seed=0):
    """Labels some of whose largest probabilities are exactly at an edge, and targets."""
    indices, probs = make_labels(seed)
    for place, edge in enumerate(EDGES):
        image, view = divmod(place * 5, VIEWS)
        probs[image, view] = 0.0
        probs[image, view, 0] = edge
    rng = np.random.default_rng(seed + 1)
    rank = rng.integers(0, K, IMAGES)
    targets = indices[np.arange(IMAGES), 0, rank].copy()
    targets[rng.random(IMAGES) < 0.3] = rng.integers(0, CLASSES)
    return indices, probs, targets


@once
def make_store(path, quantizer="fp32", unknown=(), **more):
    indices, probs, targets = make_arrays()
    targets[list(unknown)] = -1
    keys = [f"class {n % 3}/{n}.jpg" for n in range(IMAGES)]
    return labelstore.write(
        path,
        indices,
        probs,
        CLASSES,
        keys=keys,
        targets=targets,
        quantizer=quantizer,
        block_images=8,
        group_views=3,
        **more,
    )


def validate(document):
    text = resources.files("labelstore.schemas").joinpath("inspect.schema.json").read_text()
    jsonschema.Draft202012Validator(json.loads(text)).validate(document)
    json.dumps(document, allow_nan=False)


@pytest.fixture(params=["fp32", "u8"])
def store(request, tmp_path):
    return make_store(tmp_path / "made.zarr", request.param, unknown=(3, 30))


def every_crop(store):
    """(image, view, stored label) one by one."""
    for image in range(store.num_images):
        for view in range(store.num_views):
            yield image, view, store.read(image, view)


def test_the_report_fits_its_schema_and_the_manifest(store):
    found = report(store)
    validate(found)
    told = found["store"]
    assert told["path"] == str(store.path)
    assert told["id"] == store.manifest.id
    assert (told["images"], told["views"], told["crops"]) == (IMAGES, VIEWS, IMAGES * VIEWS)
    assert (told["labelled_images"], told["labelled_crops"]) == (IMAGES, IMAGES * VIEWS)
    assert (told["k"], told["classes"]) == (K, CLASSES)
    assert (told["blocks"], told["missing_blocks"], told["missing_images"]) == (5, 0, 0)
    assert told["complete"]
    assert told["unreadable_images"] == 0
    assert told["teachers"] == []
    assert told["operation"] is None
    assert told["law"] is None


def test_histogram_and_table_count_as_a_slow_loop_does(store):
    found = report(store)
    values = [float(topk.confidence) for _, _, topk in every_crop(store)]

    def is_in(value, row, last):
        # The edges as the stored values are: single precision.
        low, high = (float(np.float32(row[name])) for name in ("low", "high"))
        return low <= value < high or (last and value >= low)

    for name, length in (("histogram", 20), ("table", 12)):
        rows = found[name]
        assert len(rows) == length
        assert (rows[0]["low"], rows[-1]["high"]) == (0.0, 1.0)
        for number, row in enumerate(rows):
            count = sum(is_in(value, row, number == length - 1) for value in values)
            assert row["count"] == count
            assert row["ratio"] == pytest.approx(count / len(values))
        assert sum(row["count"] for row in rows) == len(values)
    reached = 0.0
    for row in found["table"]:
        reached += row["ratio"]
        assert row["aggregated_ratio"] == pytest.approx(reached)


def test_the_table_has_the_papers_ranges(store):
    ranges = [(row["low"], row["high"]) for row in report(store)["table"]]
    edges = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1]
    assert ranges == [(edges[n], edges[n + 1]) for n in range(12)]


def test_agreement_is_over_the_views_whose_ground_truth_is_known(store):
    top1 = top5 = crops = 0
    for image, _, topk in every_crop(store):
        target = int(store.targets[image])
        if target == -1:
            continue
        crops += 1
        top1 += int(topk.indices[0]) == target
        top5 += target in topk.indices[:5].tolist()
    assert 0 < top1 < top5 < crops, "the data tells nothing"
    found = report(store)["agreement"]
    assert (found["images"], found["crops"], found["n"]) == (IMAGES - 2, crops, 5)
    assert found["top1"] == pytest.approx(top1 / crops)
    assert found["top_n"] == pytest.approx(top5 / crops)


def test_agreement_is_none_without_ground_truth(tmp_path):
    found = report(make_store(tmp_path / "made.zarr", unknown=range(IMAGES)))
    validate(found)
    assert found["agreement"] is None


def test_agreement_says_over_how_many_classes_it_looks(tmp_path):
    indices, probs = make_labels(3, images=5, k=2)
    targets = indices[:, 0, 1]
    store = labelstore.write(tmp_path / "made.zarr", indices, probs, CLASSES, targets=targets)
    found = report(store)["agreement"]
    assert found["n"] == 2
    same = indices == targets[:, None, None]
    assert found["top_n"] == pytest.approx(same.any(axis=-1).mean())
    assert found["top1"] == pytest.approx(same[..., 0].mean())


def test_empty_places_of_a_label_agree_with_nothing(tmp_path):
    """They hold class 0, which is the ground truth of some."""
    indices = np.zeros((4, 3, 3), dtype=int)
    probs = np.zeros((4, 3, 3), dtype=np.float32)
    indices[..., 0], probs[..., 0] = [[2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1]], 0.9
    indices[1, :, 1], probs[1, :, 1] = 0, 0.05
    store = labelstore.write(tmp_path / "made.zarr", indices, probs, 3, targets=[0, 0, 0, 1])
    found = report(store)["agreement"]
    assert (found["top1"], found["top_n"]) == (0.5, 0.75)


@pytest.mark.parametrize(
    "rule", [FerKD(), FerKD(low=0.0, middle=0.5, top=1.0), FerKD(low=0.3, middle=0.3, top=0.3)]
)
def test_ferkd_counts_as_the_papers_rule_read_crop_by_crop(store, rule):
    counts = dict.fromkeys(("discarded_low", "discarded_high", "calibrated", "kept"), 0)
    left = [0] * IMAGES
    for image, _, topk in every_crop(store):
        value = np.float32(topk.confidence)
        if value <= np.float32(rule.low):
            counts["discarded_low"] += 1
        elif value > np.float32(rule.top):
            counts["discarded_high"] += 1
        else:
            counts["calibrated" if value <= np.float32(rule.middle) else "kept"] += 1
            left[image] += 1
    found = report(store, rule)["ferkd"]
    for name, count in counts.items():
        assert found[name]["count"] == count
        assert found[name]["share"] == pytest.approx(count / (IMAGES * VIEWS))
    assert found["images_without_views"] == left.count(0)
    assert (found["low"], found["middle"], found["top"]) == (rule.low, rule.middle, rule.top)


def test_ferkd_by_the_ground_truth_counts_as_its_apply_does(tmp_path):
    store = make_store(tmp_path / "made.zarr")
    rule = FerKD(confidence="target", low=0.043, middle=0.21, top=0.88)
    topk = store.read(np.arange(IMAGES)[:, None], np.arange(VIEWS)[None])
    action = rule.apply(topk, store.targets[:, None]).action
    found = report(store, rule)
    validate(found)
    told = found["ferkd"]
    assert told["calibrated"]["count"] == (action == Action.CALIBRATED).sum() > 0
    assert told["kept"]["count"] == (action == Action.KEPT).sum() > 0
    low, high = told["discarded_low"]["count"], told["discarded_high"]["count"]
    assert low + high == (action == Action.DISCARDED).sum()
    truth = [
        next(
            (
                float(p)
                for c, p in zip(label.indices, label.probs, strict=True)
                if c == target and p > 0
            ),
            (1.0 - float(label.probs.sum())) / (CLASSES - int((label.probs > 0).sum())),
        )
        for image, _, label in every_crop(store)
        for target in [store.targets[image]]
    ]
    assert low == sum(value <= 0.043 for value in truth) > 0
    assert high == sum(value > 0.88 for value in truth) > 0
    dropped = [all(row) for row in (action == Action.DISCARDED)]
    assert told["images_without_views"] == sum(dropped)
    at_most = dict(zip(*found["thresholds"].values(), strict=True))
    assert at_most[0.2] == sum(value <= np.float32(0.2) for value in truth)
    assert at_most[1.0] == IMAGES * VIEWS


def test_ferkd_by_the_ground_truth_needs_all_of_it(tmp_path):
    store = make_store(tmp_path / "made.zarr", unknown=(20,))
    with pytest.raises(LabelError, match="needs the ground truth"):
        report(store, FerKD(confidence="target"))


@pytest.mark.parametrize("count", [0, 1, 5, IMAGES * VIEWS + 9])
def test_extremes_are_the_ends_of_the_sorted_crops(store, count):
    # Sorted by value, then by image and view: of equal ones the first is named.
    crops = [(float(topk.confidence), image, view) for image, view, topk in every_crop(store)]
    hardest = sorted(crops)[:count]
    easiest = sorted(crops, key=lambda crop: (-crop[0], *crop[1:]))[:count]
    found = report(store, extremes=count)["extremes"]
    for name, expected in (("hardest_views", hardest), ("easiest_views", easiest)):
        assert [
            (entry["confidence"], entry["image"], entry["view"]) for entry in found[name]
        ] == expected
        assert all(entry["key"] == store.keys[entry["image"]] for entry in found[name])
    means = [
        (math.fsum(value for value, image, _ in crops if image == wanted) / VIEWS, wanted)
        for wanted in range(IMAGES)
    ]
    for name, sign in (("hardest_images", 1), ("easiest_images", -1)):
        expected = sorted((sign * mean, image) for mean, image in means)[:count]
        assert [entry["image"] for entry in found[name]] == [image for _, image in expected]
        assert [entry["mean_confidence"] for entry in found[name]] == pytest.approx(
            [sign * mean for mean, _ in expected]
        )
        assert all(entry["key"] == store.keys[entry["image"]] for entry in found[name])


def test_of_equal_crops_the_first_is_named_across_blocks(tmp_path):
    indices = np.zeros((20, 3, 1), dtype=np.int64)
    probs = np.full((20, 3, 1), 0.5, dtype=np.float32)
    store = labelstore.write(tmp_path / "made.zarr", indices, probs, 2, block_images=4)
    found = report(store, extremes=4)["extremes"]
    first = [(0, 0), (0, 1), (0, 2), (1, 0)]
    for kind in ("hardest", "easiest"):
        assert [(e["image"], e["view"]) for e in found[f"{kind}_views"]] == first
        assert [e["image"] for e in found[f"{kind}_images"]] == [0, 1, 2, 3]


def test_a_negative_number_of_extremes_is_refused(store):
    with pytest.raises(UsageError, match="extremes is -1"):
        report(store, extremes=-1)


def test_bytes_are_those_on_the_disk(store):
    found = report(store)["bytes"]
    files = [file for file in store.path.rglob("*") if file.is_file()]
    assert found["total"] == sum(file.stat().st_size for file in files)
    assert found["total"] == sum(found["parts"].values())
    classes = [file for file in files if "labels/classes/" in file.as_posix()]
    assert found["parts"]["labels/classes"] == sum(file.stat().st_size for file in classes)
    assert found["per_crop"].keys() == found["parts"].keys()
    assert found["total_per_crop"] == pytest.approx(found["total"] / (IMAGES * VIEWS))
    assert sum(found["per_crop"].values()) == pytest.approx(found["total_per_crop"])


def test_law_and_teacher_are_told(tmp_path):
    teacher = {
        "spec": "timm:resnet18",
        "checkpoint": "mine.safetensors",
        "untrained": False,
        "weights_digest": "0" * 32,
        "input_size": [160, 192],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "device": "cpu",
        "precision": "fp32",
    }
    law = ViewLaw(11, (0.2, 1.0), (0.75, 1.25), 0.0)
    sides = np.full(IMAGES, 64)
    store = make_store(
        tmp_path / "made.zarr", law=law, widths=sides, heights=sides, teacher=teacher
    )
    found = report(store)
    validate(found)
    assert found["store"]["law"] == law.to_json()
    assert found["store"]["teachers"] == [
        {
            "spec": "timm:resnet18",
            "checkpoint": "mine.safetensors",
            "input_size": [160, 192],
            "untrained": False,
        }
    ]


def make_partial_store(path, blocks):
    """A store of which only ``blocks`` are committed, with one unreadable image in each."""
    indices, probs, targets = make_arrays()
    keys = [f"{n}.jpg" for n in range(IMAGES)]
    targets = targets.astype(np.int32)
    manifest = Manifest(
        num_images=IMAGES,
        num_views=VIEWS,
        num_classes=CLASSES,
        k=K,
        fingerprint=fingerprint(keys, targets),
        law=None,
        block_images=8,
        group_views=3,
        quantizer="fp32",
    )
    with StoreWriter(path, manifest, keys, targets) as writer:
        for block in blocks:
            rows = manifest.block_slice(block)
            readable = np.ones(rows.stop - rows.start, dtype=bool)
            readable[1] = False
            data = BlockData(indices[rows], probs[rows], readable=readable)
            writer.write_block(block, data)
    return labelstore.open(path)


def test_an_incomplete_store_is_inspected_as_far_as_it_is_made(tmp_path):
    store = make_partial_store(tmp_path / "made.zarr", blocks=(1, 4))
    found = report(store)
    validate(found)
    told = found["store"]
    # Block 4 is the last and has 5 images; each of the two has one that could not be read.
    labelled = [image for image in [*range(8, 16), *range(32, 37)] if image not in (9, 33)]
    assert (told["missing_blocks"], told["missing_images"]) == (3, 24)
    assert not told["complete"]
    assert told["unreadable_images"] == 2
    assert told["labelled_images"] == len(labelled)
    assert told["labelled_crops"] == len(labelled) * VIEWS
    assert sum(row["count"] for row in found["histogram"]) == len(labelled) * VIEWS
    assert found["agreement"]["images"] == len(labelled)
    probs = make_arrays()[1][labelled, :, 0]
    assert found["ferkd"]["discarded_high"]["count"] == (probs > np.float32(0.95)).sum()
    everyone = report(store, extremes=1000)["extremes"]["hardest_images"]
    assert sorted(entry["image"] for entry in everyone) == labelled


def test_a_store_without_any_label_has_no_shares(tmp_path):
    store = make_partial_store(tmp_path / "made.zarr", blocks=())
    found = report(store)
    validate(found)
    assert found["store"]["labelled_crops"] == 0
    assert all(row["ratio"] is None for row in (*found["histogram"], *found["table"]))
    assert found["ferkd"]["kept"] == {"count": 0, "share": None, "error": 0.0}
    assert [alert["kind"] for alert in found["alerts"]] == ["incomplete"]
    assert found["agreement"] is None
    assert found["bytes"]["total"] > 0
    assert found["bytes"]["total_per_crop"] is None


def test_a_damaged_store_is_an_error_and_no_statistics(tmp_path):
    store = make_store(tmp_path / "made.zarr", "u8")
    shard = next(file for file in (store.path / "labels/top_prob/c").rglob("*") if file.is_file())
    data = bytearray(shard.read_bytes())
    data[3] ^= 16
    shard.write_bytes(data)
    with pytest.raises(CorruptError):
        report(labelstore.open(store.path))


def test_progress_is_told_block_by_block(store):
    told = []
    report(store, tell=lambda images, views: told.append((images, views)))
    assert told == [(8, 8 * VIEWS)] * 4 + [(5, 5 * VIEWS)]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    views, block = 400, 32

    def peak(blocks):
        shape = (blocks * block, views, 1)
        probs = np.random.default_rng(0).random(shape, dtype=np.float32)
        store = labelstore.write(
            tmp_path / f"{blocks}.zarr",
            np.zeros(shape, dtype=np.uint16),
            probs,
            10,
            # With few different values, which are counted one by one, up to a bound.
            quantizer="ratio16",
            block_images=block,
            group_views=views,
        )
        report(store)
        tracemalloc.start()
        report(store)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # A few blocks are in work at a time, however many there are.
    plane = 80 * block * views * 4
    assert peak(80) - peak(10) < plane / 3


def test_classes_are_those_of_a_slow_loop(store):
    rows = {row["class"]: row for row in report(store)["classes"]}
    rule, crops = FerKD(), list(every_crop(store))
    predicted = [int(topk.indices[0]) for _, _, topk in crops if topk.probs[0] > 0]
    known = {int(target) for target in store.targets if target >= 0}
    assert set(rows) == known | set(predicted)
    for number, row in rows.items():
        images = [image for image in range(IMAGES) if store.targets[image] == number]
        own = [(image, topk) for image, _, topk in crops if image in images]
        assert (row["images"], row["crops"]) == (len(images), len(own))
        assert row["predicted"] == predicted.count(number)
        if not own:
            assert row["confidence"] is row["agreement"] is row["drift"] is row["kept"] is None
            continue
        values = [float(topk.confidence) for _, topk in own]
        assert row["confidence"] == pytest.approx(np.mean(values))
        right = [int(topk.indices[0]) == number and topk.probs[0] > 0 for _, topk in own]
        assert row["agreement"] == pytest.approx(np.mean(right))
        actions = rule.decide([topk.confidence for _, topk in own])
        for action in Action:
            assert row[action.name.lower()] == pytest.approx((actions == action).mean())
        assert row["images_without_views"] == sum(
            (actions[[image == other for other, _ in own]] == Action.DISCARDED).all()
            for image in images
        )
        entropy = [dense_entropy(topk) for _, topk in own]
        assert row["entropy"] == pytest.approx(np.mean(entropy), abs=1e-5)
        assert row["drift"] == pytest.approx(np.mean([drift(store, i) for i in images]), abs=1e-5)


def dense_entropy(topk):
    label = topk.recover().dense().astype(np.float64)
    return -sum(p * math.log(p) for p in label if p > 0)


def drift(store, image):
    labels = store.read(image, np.arange(VIEWS)).recover().dense().astype(np.float64)
    return np.trace(np.cov(labels, rowvar=False, bias=True))


def test_entropy_residual_and_drift_are_those_of_a_slow_loop(store):
    told = report(store, extremes=3)
    crops = [topk for _, _, topk in every_crop(store)]
    assert told["entropy"]["mean"] == pytest.approx(
        np.mean([dense_entropy(topk) for topk in crops]), abs=1e-5
    )
    for row in told["residual"]:
        mass = [max(1 - float(topk.probs[: row["rank"]].sum()), 0) for topk in crops]
        assert row["mean"] == pytest.approx(np.mean(mass), abs=1e-5)
    assert [row["rank"] for row in told["residual"]] == list(range(1, K + 1))
    drifts = sorted((drift(store, image), image) for image in range(IMAGES))
    assert told["drift"]["mean"] == pytest.approx(np.mean([d for d, _ in drifts]), abs=1e-5)
    assert [e["image"] for e in told["drift"]["smallest"]] == [i for _, i in drifts[:3]]
    assert [e["image"] for e in told["drift"]["largest"]] == [i for _, i in drifts[::-1][:3]]
    assert sum(row["count"] for row in told["drift"]["histogram"]) == IMAGES
    assert sum(row["count"] for row in told["entropy"]["histogram"]) == IMAGES * VIEWS
    assert told["epochs"] == [
        {"views_per_image": 1, "epochs": VIEWS},
        {"views_per_image": 4, "epochs": VIEWS // 4},
    ]


def test_reliability_is_over_the_views_whose_ground_truth_is_known(store):
    told = report(store)["reliability"]
    known = [(i, topk) for i, _, topk in every_crop(store) if store.targets[i] >= 0]
    assert sum(row["count"] for row in told["bins"]) == len(known)
    right = sum(int(topk.indices[0]) == store.targets[i] for i, topk in known)
    assert sum((row["accuracy"] or 0) * row["count"] for row in told["bins"]) == pytest.approx(
        right
    )


def test_a_sample_is_whole_groups_of_views_and_says_how_far_off_it_may_be(store):
    told = report(store, sample=2)
    validate(told)
    # The middle one of the three groups: views 3, 4 and 5.
    assert told["sample"] == {"views": 3, "label_views": 3, "of": VIEWS}
    part = np.stack([store.read(i, np.arange(3, 6)).probs[:, 0] for i in range(IMAGES)])
    assert sum(row["count"] for row in told["histogram"]) == part.size
    assert told["ferkd"]["kept"]["count"] == FerKD().count(part).kept
    assert 0 < told["ferkd"]["kept"]["error"] < 0.15
    assert told["agreement"]["crops"] == 3 * (IMAGES - 2)
    assert told["agreement"]["top1_error"] > 0
    assert told["entropy"]["error"] > 0
    assert {entry["view"] for entry in told["extremes"]["hardest_views"]} <= {3, 4, 5}
    assert told["extremes"]["hardest_views"][0]["confidence"] == part.min()


def test_a_sample_of_all_views_is_all_of_it(store):
    whole = report(store)
    assert report(store, sample=VIEWS) == whole
    assert report(store, sample=VIEWS + 9) == whole
    assert whole["sample"] == {"views": VIEWS, "label_views": VIEWS, "of": VIEWS}
    with pytest.raises(UsageError, match="sample is 0"):
        report(store, sample=0)


def test_a_large_stores_labels_are_sampled_and_its_confidences_are_not(store, monkeypatch):
    monkeypatch.setattr("labelstore.operations.inspection.tally.LABEL_CROPS", IMAGES * 2)
    told = report(store)
    monkeypatch.undo()
    whole = report(store)
    assert told["sample"] == {"views": VIEWS, "label_views": 3, "of": VIEWS}
    for name in ("histogram", "table", "thresholds", "ferkd", "extremes", "bytes"):
        assert told[name] == whole[name]
    assert told["agreement"]["crops"] == 3 * (IMAGES - 2)
    for row, complete in zip(told["classes"], whole["classes"], strict=False):
        if row["class"] == complete["class"]:
            assert row["confidence"] == complete["confidence"]


def test_images_with_the_wrong_ground_truth_are_named(tmp_path):
    indices, probs = make_labels(5, images=40, k=3, classes=9)
    indices[...] = np.array([[(n % 3), (n + 1) % 3, 5] for n in range(40)])[:, None]
    probs[...] = [0.8, 0.1, 0.02]
    targets = np.arange(40) % 3
    targets[[4, 17]] = [2, 0]
    keys = [f"{n}.jpg" for n in range(40)]
    store = labelstore.write(tmp_path / "made.zarr", indices, probs, 9, keys=keys, targets=targets)
    told = report(store)
    validate(told)
    wrong = told["wrong_targets"]
    assert (wrong["images"], wrong["candidates"]) == (40, 2)
    assert {entry["key"] for entry in wrong["entries"][:2]} == {"4.jpg", "17.jpg"}
    first = next(entry for entry in wrong["entries"] if entry["image"] == 4)
    assert (first["target"], first["suggested"], first["views"]) == (2, 1, 1.0)
    assert first["suggested_probability"] == pytest.approx(0.8, abs=1e-4)
    pairs = {(pair["target"], pair["predicted"]): pair["images"] for pair in told["confusion"]}
    assert (pairs[2, 1][0]["image"], pairs[0, 2][0]["image"]) == (4, 17)


@pytest.mark.parametrize(
    ("values", "targets", "kinds"),
    [
        ([0.5, 0.6], [0, 0], ["classes_without_photos"]),
        ([0.99, 0.6], [0, 1], ["many_discarded", "images_without_views"]),
        ([0.5, 0.6], [1, 1], ["teacher_disagrees", "classes_without_photos"]),
        ([0.2, 0.3], [0, 1], ["not_distributions"]),
        ([0.6, 0.6], [-1, -1], []),
        ([0.6, 0.6], [0, 1], []),
    ],
)
def test_alerts_say_what_should_be_looked_at(tmp_path, values, targets, kinds):
    probs = np.array(values, np.float32)[:, None, None].repeat(4, axis=1)
    indices = np.zeros((2, 4, 1), int)
    indices[1] = max(targets[1], 0) if "teacher_disagrees" not in kinds else 0
    store = labelstore.write(tmp_path / "made.zarr", indices, probs, 2, targets=targets)
    told = report(store)
    validate(told)
    assert [alert["kind"] for alert in told["alerts"]] == kinds
