"""``labelstore.operations.inspection.compare.compare`` against slow sums over dense labels."""

import json
import math
import re
import tracemalloc
from dataclasses import replace
from importlib import resources

import jsonschema
import numpy as np
import pytest

import labelstore
from labelstore.errors import CorruptError, LabelError, MismatchError, UsageError
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.labels.distance import LEAST
from labelstore.labels.ferkd import FerKD
from labelstore.operations.inspection.compare import DECISIONS, compare
from labelstore.operations.lifecycle.subset import subset
from labelstore.operations.merge import merge
from labelstore.operations.recode import recode
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw
from tests.support.stores import distributions, make_planned, once, planned, top_of, written

make_planned, written = once(make_planned), once(written)

IMAGES, VIEWS, CLASSES = 20, 6, 30


def validate(document):
    text = resources.files("labelstore.schemas").joinpath("compare.schema.json").read_text()
    jsonschema.Draft202012Validator(json.loads(text)).validate(document)
    json.dumps(document, allow_nan=False)


def compared(*arguments, **more):
    """The report, which fits its schema."""
    report = compare(*arguments, **more)
    validate(report)
    return report


def dense_of(store, row, views):
    """(V, C) recovered labels of an image."""
    labels = store.read(row, views).as_type(store.members[0].manifest.label_type)
    return labels.dense().astype(np.float64)


def apart(p, q):
    """KL(p || q), KL(q || p) and total variation of two lists of probabilities."""
    pairs = list(zip(p, q, strict=True))
    return (
        sum(x * math.log(x / max(y, LEAST)) for x, y in pairs if x > 0),
        sum(y * math.log(y / max(x, LEAST)) for x, y in pairs if y > 0),
        sum(abs(x - y) for x, y in pairs) / 2,
    )


def slow(a, b, n, views):
    """Of every shared image and view: key, view, the distances, the n largest of both, targets."""
    rows = []
    for row_a, key in enumerate(a.keys):
        if key not in b.keys:
            continue
        row_b = b.keys.index(key)
        if not (a.labelled()[row_a] and b.labelled()[row_b]):
            continue
        ours, theirs = dense_of(a, row_a, views), dense_of(b, row_b, views)
        for view, p, q in zip(views.tolist(), ours.tolist(), theirs.tolist(), strict=True):
            tops = [sorted(range(len(x)), key=lambda c, x=x: -x[c])[:n] for x in (p, q)]
            best = max(p), max(q)
            rows.append((key, view, *apart(p, q), *tops, *best, int(a.targets[row_a])))
    return rows


def two(tmp_path, **options):
    """Stores of two teachers: other k, quantizers, lists, blocks, and another order of images."""
    a = make_planned(tmp_path / "a.zarr", k=5, quantizer="fp32")[0]
    order = np.random.default_rng(5).permutation(IMAGES)
    indices, probs = top_of(distributions(IMAGES, VIEWS, CLASSES, 3)[order], 3)
    b = labelstore.write(
        tmp_path / "b.zarr",
        indices,
        probs,
        CLASSES,
        keys=[f"c/{number:03}.jpg" for number in order],
        targets=order % CLASSES,
        widths=order + 40,
        heights=order + 30,
        **{
            "law": ViewLaw(seed=1),
            "temperature": 1.0,
            "quantizer": "fp32",
            "block_images": 6,
            "group_views": 3,
        }
        | options,
    )
    return a, b


def test_the_numbers_are_those_of_a_slow_loop(tmp_path):
    a, b = two(tmp_path)
    found = compared(a, b, extremes=7)
    rows = slow(a, b, 3, np.arange(VIEWS))
    assert found["crops"] == len(rows) == IMAGES * VIEWS
    assert found["by"] == "views"
    assert found["reason"] is None
    assert found["alerts"] == []
    for place, name in ((2, "kl_ab"), (3, "kl_ba"), (4, "total_variation")):
        values = [row[place] for row in rows]
        assert found[name]["mean"] == pytest.approx(np.mean(values), rel=1e-5)
        assert found[name]["error"] == 0
        for quantile in found[name]["quantiles"]:
            rank = math.ceil(quantile["share"] * len(values)) - 1
            assert quantile["value"] == pytest.approx(sorted(values)[rank], rel=1e-3)
    same = [row[5][0] == row[6][0] for row in rows]
    shared = [len(set(row[5]) & set(row[6])) / 3 for row in rows]
    agreement = found["agreement"]
    assert agreement["n"] == 3
    assert agreement["top1"]["mean"] == pytest.approx(np.mean(same))
    assert agreement["top_n"]["mean"] == pytest.approx(np.mean(shared))
    assert agreement["same_set"]["mean"] == pytest.approx(np.mean(np.array(shared) == 1))
    assert 0 < agreement["top1"]["mean"] < 0.5
    for place, name in ((7, "a"), (8, "b")):
        assert found["confidence"][name]["mean"] == pytest.approx(np.mean([r[place] for r in rows]))
    scatter = np.zeros((20, 20), dtype=int)
    for row in rows:
        scatter[min(int(row[7] * 20), 19), min(int(row[8] * 20), 19)] += 1
    assert found["confidence"]["counts"] == scatter.tolist()
    histogram = np.bincount([min(int(row[4] * 20), 19) for row in rows], minlength=20)
    assert [entry["count"] for entry in found["total_variation"]["histogram"]] == histogram.tolist()


def test_classes_pairs_and_truth_are_those_of_a_slow_loop(tmp_path):
    a, b = two(tmp_path)
    found = compared(a, b)
    rows = slow(a, b, 3, np.arange(VIEWS))
    by_class = {entry["class"]: entry for entry in found["classes"]}
    for number in range(CLASSES):
        own = [row for row in rows if row[9] == number]
        of_a = {(row[0], row[1]) for row in rows if row[5][0] == number}
        of_b = {(row[0], row[1]) for row in rows if row[6][0] == number}
        if not own and not of_a | of_b:
            assert number not in by_class
            continue
        entry = by_class[number]
        assert (entry["crops"], entry["images"]) == (len(own), len(own) // VIEWS)
        told = (entry["largest_a"], entry["largest_b"], entry["largest_both"])
        assert told == (len(of_a), len(of_b), len(of_a & of_b))
        if not own:
            assert entry["agreement"] is None
            continue
        assert entry["agreement"] == pytest.approx(np.mean([r[5][0] == r[6][0] for r in own]))
        assert entry["total_variation"] == pytest.approx(np.mean([r[4] for r in own]), rel=1e-5)
        assert entry["truth_a"] == pytest.approx(np.mean([r[5][0] == number for r in own]))
        assert entry["truth_b"] == pytest.approx(np.mean([r[6][0] == number for r in own]))
    counts = {}
    for row in rows:
        if row[5][0] != row[6][0]:
            pair = row[5][0], row[6][0]
            counts[pair] = counts.get(pair, 0) + 1
    told = [(entry["a"], entry["b"], entry["crops"]) for entry in found["pairs"]]
    assert [count for *_, count in told] == sorted(counts.values(), reverse=True)[:50]
    assert all(counts[x, y] == count for x, y, count in told)
    right = np.array([(row[5][0] == row[9], row[6][0] == row[9]) for row in rows])
    truth = found["truth"]
    assert truth["images"] == IMAGES
    assert truth["a"]["top1"]["mean"] == pytest.approx(right[:, 0].mean())
    assert truth["b"]["top1"]["mean"] == pytest.approx(right[:, 1].mean())
    holds = np.mean([row[9] in row[6] for row in rows])
    assert truth["b"]["top_n"]["mean"] == pytest.approx(holds)
    assert truth["both"]["mean"] == pytest.approx(right.all(axis=1).mean())
    assert truth["only_b"]["mean"] == pytest.approx((right[:, 1] & ~right[:, 0]).mean())
    parts = [truth[name]["mean"] for name in ("both", "only_a", "only_b", "neither")]
    assert sum(parts) == pytest.approx(1)


def test_what_differs_most_is_named_with_what_both_say(tmp_path):
    a, b = two(tmp_path)
    found = compared(a, b, extremes=7)
    rows = slow(a, b, 3, np.arange(VIEWS))
    worst = sorted(rows, key=lambda row: -row[4])[:7]
    assert [(e["key"], e["view"]) for e in found["largest_views"]] == [r[:2] for r in worst]
    for entry, row in zip(found["largest_views"], worst, strict=True):
        assert (a.keys[entry["image_a"]], b.keys[entry["image_b"]]) == (row[0], row[0])
        told = [entry[name] for name in ("kl_ab", "kl_ba", "total_variation")]
        assert told == pytest.approx(row[2:5], rel=1e-5)
        assert [top["class"] for top in entry["a"][:3]] == row[5]
        assert entry["b"][0]["probability"] == pytest.approx(row[8])
        assert entry["target"] == row[9]
    means = {key: np.mean([row[4] for row in rows if row[0] == key]) for key in a.keys}
    ranked = sorted(means, key=lambda key: -means[key])[:7]
    assert [entry["key"] for entry in found["largest_images"]] == ranked
    first = found["largest_images"][0]
    assert first["total_variation"] == pytest.approx(means[ranked[0]], rel=1e-5)
    own = [row[5][0] == row[6][0] for row in rows if row[0] == ranked[0]]
    assert first["agreement"] == pytest.approx(np.mean(own))
    assert compared(a, b, extremes=0)["largest_views"] == []


@pytest.mark.parametrize("by", ["max", "target"])
def test_ferkds_decisions_are_counted_beside_each_other(tmp_path, by):
    a, b = two(tmp_path)
    rule = FerKD(low=0.2, middle=0.4, top=0.7, confidence=by)
    found = compared(a, b, ferkd=rule)["ferkd"]
    counts = {}
    for row, key in enumerate(a.keys):
        place = b.index_of(key)
        for view in range(VIEWS):
            decided = []
            for store, image in ((a, row), (b, place)):
                stored = store.read(image, view)
                value = rule.confidence_of(None, stored, a.targets[row])
                low, calibrated, high = (bool(part) for part in rule.parts(value))
                names = ((low, 0), (calibrated, 1), (high, 3), (True, 2))
                decided.append(DECISIONS[next(n for holds, n in names if holds)])
            counts[tuple(decided)] = counts.get(tuple(decided), 0) + 1
    assert {(e["a"], e["b"]): e["count"] for e in found["decisions"] if e["count"]} == counts
    assert len(counts) > 4
    assert sum(entry["share"] for entry in found["decisions"]) == pytest.approx(1)
    assert (found["low"], found["top"], found["confidence"]) == (0.2, 0.7, by)


@pytest.mark.parametrize("suffix", ["zarr", "parquet"])
def test_a_store_is_no_way_from_itself(tmp_path, suffix):
    store = make_planned(tmp_path / f"a.{suffix}")[0]
    found = compared(store, store.path)
    for name in ("kl_ab", "kl_ba", "total_variation"):
        assert found[name]["mean"] == 0
        assert {quantile["value"] for quantile in found[name]["quantiles"]} == {0}
    agreement = found["agreement"]
    assert agreement["top1"]["mean"] == agreement["same_set"]["mean"] == 1
    assert found["pairs"] == []
    off = np.array(found["confidence"]["counts"])
    assert off.sum() == off.trace() == IMAGES * VIEWS


def mirrored(report):
    """A report as it would be if A were B."""

    def renamed(name):
        for a, b in (("_a", "_b"), ("kl_ab", "kl_ba")):
            if name.endswith((a, b)):
                return name.removesuffix(a) + b if name.endswith(a) else name.removesuffix(b) + a
        return {"a": "b", "b": "a"}.get(name, name)

    def turned(value):
        if isinstance(value, dict):
            return {renamed(name): turned(part) for name, part in value.items()}
        return [turned(part) for part in value] if isinstance(value, list) else value

    out = turned(report)
    out["confidence"]["counts"] = np.array(out["confidence"]["counts"]).T.tolist()
    out["pairs"] = sorted(out["pairs"], key=lambda pair: (-pair["crops"], pair["a"], pair["b"]))
    if out["ferkd"]:
        order = [(a, b) for a in DECISIONS for b in DECISIONS]
        out["ferkd"]["decisions"].sort(key=lambda e: order.index((e["a"], e["b"])))
    return out


def flat(value, path=""):
    """Every leaf of a report by its path."""
    if isinstance(value, dict):
        return {k: v for name in value for k, v in flat(value[name], f"{path}/{name}").items()}
    if isinstance(value, list):
        return {k: v for n, part in enumerate(value) for k, v in flat(part, f"{path}/{n}").items()}
    return {path: value}


@pytest.mark.parametrize(
    ("options", "sample"),
    [({}, None), ({}, 2), ({"law": ViewLaw(seed=2)}, 2), ({"law": None}, None)],
)
def test_the_other_way_round_everything_is_mirrored(tmp_path, options, sample):
    a, b = two(tmp_path, **options) if options.get("law", 1) else two_unknown(tmp_path)
    there, back = compared(a, b, sample=sample), compared(b, a, sample=sample)
    for report in (there, back):
        # Of pairs as frequent as the last that is told, others may be left out.
        least = report["pairs"][-1]["crops"] if len(report["pairs"]) == 50 else 0
        report["pairs"] = [pair for pair in report["pairs"] if pair["crops"] > least]
    wanted, found = flat(mirrored(there)), flat(back)
    for report in (wanted, found):
        report.pop("/reason")
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        if "/law" not in path and "/alerts" not in path:
            assert found[path] == (
                pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value
            ), path


def two_unknown(tmp_path):
    """Two stores that do not say which crops they are of."""
    a = written(tmp_path / "a.zarr", law=None, seed=1)[0]
    return a, written(tmp_path / "b.zarr", law=None, seed=2, k=4)[0]


def test_the_image_that_was_exchanged_comes_first(tmp_path):
    a, indices, probs = written(tmp_path / "a.zarr")
    indices, probs = indices.copy(), probs.copy()
    indices[[4, 13]], probs[[4, 13]] = indices[[13, 4]], probs[[13, 4]]
    sizes = np.arange(IMAGES)
    b = labelstore.write(
        tmp_path / "b.zarr",
        indices,
        probs,
        CLASSES,
        keys=a.keys,
        law=ViewLaw(seed=1),
        widths=sizes + 40,
        heights=sizes + 30,
    )
    found = compared(a, b, extremes=2)
    assert {entry["key"] for entry in found["largest_images"]} == {"c/004.jpg", "c/013.jpg"}
    assert {entry["key"] for entry in found["largest_views"]} <= {"c/004.jpg", "c/013.jpg"}
    assert found["agreement"]["top1"]["mean"] >= 0.9
    assert found["kl_ab"]["quantiles"][1]["value"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [({"law": ViewLaw(seed=2)}, "seed 1, .* and seed 2"), ({"law": ViewLaw(1, flip=0)}, "flip 0")],
)
def test_stores_of_other_views_are_compared_by_their_images(tmp_path, options, words):
    a, b = two(tmp_path, **options)
    found = compared(a, b, extremes=3)
    assert found["by"] == "images"
    assert "hold different views" in found["reason"]
    assert found["reason"].endswith("the means over each image's views are compared instead.")
    assert re.search(words, found["reason"])
    assert found["crops"] == IMAGES
    assert found["ferkd"] is found["law"] is None
    assert found["largest_views"] == []
    means = []
    for row, key in enumerate(a.keys):
        labels = [
            dense_of(store, image, np.arange(VIEWS)).mean(axis=0)
            for store, image in ((a, row), (b, int(b.index_of(key))))
        ]
        tops = [sorted(range(CLASSES), key=lambda c, x=x: -x[c])[:5] for x in labels]
        means.append((key, *apart(*(label.tolist() for label in labels)), *tops, max(labels[1])))
    for place, name in ((1, "kl_ab"), (2, "kl_ba"), (3, "total_variation")):
        expected = np.mean([mean[place] for mean in means])
        assert found[name]["mean"] == pytest.approx(expected, rel=1e-4)
    agreement = found["agreement"]
    assert agreement["n"] == 5
    assert agreement["top1"]["mean"] == np.mean([m[4][0] == m[5][0] for m in means])
    shared = [len(set(m[4]) & set(m[5])) / 5 for m in means]
    assert agreement["top_n"]["mean"] == pytest.approx(np.mean(shared))
    assert found["confidence"]["b"]["mean"] == pytest.approx(np.mean([m[6] for m in means]))
    worst = sorted(means, key=lambda mean: -mean[3])[:3]
    assert [entry["key"] for entry in found["largest_images"]] == [mean[0] for mean in worst]
    assert found["largest_images"][0]["agreement"] is None


def test_crops_that_no_store_describes_are_not_taken_for_the_same(tmp_path):
    a, b = two_unknown(tmp_path)
    found = compared(a, b)
    assert found["by"] == "images"
    assert "do not say which crops" in found["reason"]
    # But what was made from one of them view by view is.
    recode(a, tmp_path / "smaller.zarr", k=1)
    again = compared(a, tmp_path / "smaller.zarr")
    assert again["by"] == "views"
    assert again["agreement"]["top1"]["mean"] == 1
    assert again["kl_ab"]["mean"] > 0
    recode(a, tmp_path / "same.parquet")
    assert compared(a, tmp_path / "same.parquet")["by"] == "views"
    # The same labels in another order of the images are of one image's crops no more than others.
    turned = written(tmp_path / "turned.zarr", law=None, seed=1, keys=a.keys[::-1])[0]
    assert compared(a, turned)["by"] == "images"
    # Of other views than the first ones the first is another crop; the first ones stay what they
    # are, whatever is done to them view by view.
    subset(a, tmp_path / "last.zarr", views=range(2, VIEWS))
    recode(tmp_path / "last.zarr", tmp_path / "last.parquet")
    for name in ("last.zarr", "last.parquet"):
        assert compared(a, tmp_path / name)["by"] == "images"
    subset(a, tmp_path / "first.zarr", views=range(2))
    recode(tmp_path / "first.zarr", tmp_path / "first.parquet")
    found = compared(a, tmp_path / "first.parquet")
    assert (found["by"], found["agreement"]["top1"]["mean"]) == ("views", 1)


def test_stored_boxes_are_compared(tmp_path):
    rng = np.random.default_rng(0)
    boxes = np.stack([rng.integers(0, 5, (IMAGES, VIEWS)) for _ in range(4)], axis=-1) + 1
    flips = rng.random((IMAGES, VIEWS)) < 0.5
    settings = {"law": None, "boxes": boxes, "flips": flips}
    sizes = {"widths": np.full(IMAGES, 40), "heights": np.full(IMAGES, 40)}
    a = written(tmp_path / "a.zarr", **settings, **sizes)[0]
    same = written(tmp_path / "same.zarr", seed=3, **settings, **sizes)[0]
    found = compared(a, same)
    assert (found["by"], found["law"]) == ("views", "explicit")
    other = boxes.copy()
    other[7, 3, 0] += 1
    turned = flips.copy()
    turned[9, 0] ^= True
    moved = {**settings, "boxes": other, "flips": turned}
    b = written(tmp_path / "b.zarr", seed=3, **moved, **sizes)[0]
    found = compared(a, b)
    assert (found["images"]["compared"], found["images"]["other_crops"]) == (IMAGES - 2, 2)
    (alert,) = found["alerts"]
    assert alert["kind"] == "other_crops"
    assert "'c/007.jpg'" in alert["text"]
    moved["boxes"] = boxes + 1
    everywhere = compared(a, written(tmp_path / "c.zarr", seed=3, **moved, **sizes)[0])
    assert everywhere["by"] == "images"
    assert "other crops of every image" in everywhere["reason"]
    assert everywhere["images"]["compared"] == IMAGES


def test_photos_of_other_sizes_are_left_out(tmp_path):
    a = written(tmp_path / "a.zarr")[0]
    widths = np.arange(IMAGES) + 40
    widths[3] += 1
    b = written(tmp_path / "b.zarr", seed=1, widths=widths)[0]
    found = compared(a, b)
    assert found["images"]["other_crops"] == 1
    assert "'c/003.jpg'" in found["alerts"][0]["text"]
    everything = compared(a, written(tmp_path / "c.zarr", widths=np.arange(IMAGES) + 99)[0])
    assert everything["by"] == "images"


def test_only_shared_images_are_compared_and_the_others_counted(tmp_path):
    a = written(tmp_path / "a.zarr")[0]
    keys = [f"c/{number:03}.jpg" for number in range(5, 18)] + ["d/x.jpg", "d/y.jpg"]
    rows = np.array([*range(5, 18), 0, 1])
    options = {"widths": rows + 40, "heights": rows + 30, "targets": rows % CLASSES}
    b = written(tmp_path / "b.zarr", images=15, seed=1, keys=keys, **options)[0]
    found = compared(a, b)
    images = found["images"]
    assert (images["both"], images["only_a"], images["only_b"]) == (13, 7, 2)
    assert (images["first_only_a"], images["first_only_b"]) == ("c/000.jpg", "d/x.jpg")
    rows = slow(a, b, 3, np.arange(VIEWS))
    assert found["crops"] == len(rows) == 13 * VIEWS
    assert found["kl_ab"]["mean"] == pytest.approx(np.mean([row[2] for row in rows]), rel=1e-4)
    c = written(tmp_path / "c.zarr", images=2, keys=["x", "y"])[0]
    with pytest.raises(MismatchError, match="share no image"):
        compare(a, c)


def test_what_is_missing_or_unreadable_is_left_out(tmp_path):
    a = make_planned(tmp_path / "a.zarr", blocks=(0, 2))[0]
    keys, targets = a.keys, a.targets
    manifest = Manifest(
        IMAGES, VIEWS, CLASSES, 2, fingerprint(keys, targets), ViewLaw(1), 8, 4, quantizer="fp32"
    )
    indices, probs = top_of(distributions(IMAGES, VIEWS, CLASSES, 9), 2)
    with StoreWriter(tmp_path / "b.zarr", manifest, keys, targets) as writer:
        for block in (0, 1):
            rows = manifest.block_slice(block)
            readable = np.ones(8, dtype=bool)
            readable[3] = block == 1
            sizes = {
                "widths": np.arange(IMAGES)[rows] + 40,
                "heights": np.arange(IMAGES)[rows] + 30,
            }
            writer.write_block(
                block, BlockData(indices[rows], probs[rows], readable=readable, **sizes)
            )
    b = labelstore.open(tmp_path / "b.zarr")
    found = compared(a, b)
    assert found["images"]["compared"] == 7
    assert found["images"]["unlabelled"] == 13
    assert [alert["kind"] for alert in found["alerts"]] == ["incomplete", "incomplete"]
    rows = slow(a, b, 2, np.arange(VIEWS))
    assert found["crops"] == len(rows) == 7 * VIEWS
    assert found["kl_ba"]["mean"] == pytest.approx(np.mean([row[3] for row in rows]), rel=1e-4)
    empty = make_planned(tmp_path / "c.zarr", blocks=())[0]
    with pytest.raises(MismatchError, match="none of them has labels in both"):
        compare(a, empty)


def test_fewer_views_are_compared_with_the_first_of_many(tmp_path):
    a = written(tmp_path / "a.zarr")[0]
    b = written(tmp_path / "b.zarr", views=4, seed=1)[0]
    found = compared(a, b)
    views = found["views"]
    assert (views["a"], views["b"], views["compared"], views["looked_at_a"]) == (6, 4, 4, 4)
    assert "the first 4 are compared" in found["alerts"][0]["text"]
    assert found["crops"] == IMAGES * 4


def test_an_ensemble_is_compared_by_its_mean(tmp_path):
    a, b = two(tmp_path)
    both = labelstore.ensemble([a, b])
    merge([a, b], tmp_path / "merged.zarr", k=30, prior_size=0, quantizer="fp32")
    merged = labelstore.open(tmp_path / "merged.zarr")
    found = compared(both, merged)
    assert found["by"] == "views"
    assert found["kl_ab"]["mean"] < 1e-6
    assert found["agreement"]["top1"]["mean"] == 1
    assert [member["weight"] for member in found["a"]["members"]] == [0.5, 0.5]
    assert found["a"]["path"] == f"{a.path} + {b.path}"
    rows = slow(both, a, 5, np.arange(VIEWS))
    other = compared(both, a, ferkd=FerKD(confidence="target"))
    for place, name in ((2, "kl_ab"), (3, "kl_ba"), (4, "total_variation")):
        expected = np.mean([row[place] for row in rows])
        assert other[name]["mean"] == pytest.approx(expected, rel=1e-4)
    assert other["agreement"]["n"] == 3


def test_a_sample_estimates_the_whole_within_its_error(tmp_path):
    settings = {"images": 60, "views": 48, "group_views": 4, "block_images": 16}
    a = written(tmp_path / "a.zarr", **settings)[0]
    b = written(tmp_path / "b.zarr", **settings, seed=1)[0]
    whole, part = compared(a, b), compared(a, b, sample=6)
    assert part["views"]["looked_at_a"] == 8
    assert part["crops"] == 60 * 8
    inside = []
    for section in ("kl_ab", "kl_ba", "total_variation"):
        assert whole[section]["error"] == 0
        pairs = [(whole[section]["mean"], part[section])]
        pairs += [
            (exact["value"], estimate | {"mean": estimate["value"]})
            for exact, estimate in zip(
                whole[section]["quantiles"], part[section]["quantiles"], strict=True
            )
        ]
        for exact, estimate in pairs:
            assert estimate["error"] > 0
            inside.append(abs(estimate["mean"] - exact) <= estimate["error"] + 1e-3 * exact)
    for name in ("top1", "top_n"):
        estimate = part["agreement"][name]
        inside.append(abs(estimate["mean"] - whole["agreement"][name]["mean"]) <= estimate["error"])
    # Of 17 intervals of 95 %, more than two misses would be one in a hundred.
    assert inside.count(False) <= 2
    by_class = {entry["class"]: entry for entry in part["classes"]}
    assert by_class[0]["agreement_error"] > 0
    assert compared(a, b, sample=48)["kl_ab"] == whole["kl_ab"]
    other = written(tmp_path / "c.zarr", **settings, law=ViewLaw(9))[0]
    means = compared(a, other, sample=4)
    assert means["kl_ab"]["error"] is None
    assert "sampled_means" in [alert["kind"] for alert in means["alerts"]]


def test_classes_that_are_not_the_same_are_refused(tmp_path):
    a = written(tmp_path / "a.zarr", class_names=[f"n{c}" for c in range(CLASSES)])[0]
    with pytest.raises(MismatchError, match=r"30 classes and .* 40"):
        compare(a, written(tmp_path / "b.zarr", classes=40)[0])
    turned = [f"n{(c + 1) % CLASSES}" for c in range(CLASSES)]
    with pytest.raises(MismatchError, match=r"another order .class 0 is 'n0' in .* 'n1' in"):
        compare(a, written(tmp_path / "c.zarr", class_names=turned)[0])
    other = [f"the {c}th" for c in range(CLASSES)]
    found = compared(a, written(tmp_path / "d.zarr", class_names=other)[0])
    assert [alert["kind"] for alert in found["alerts"]] == ["class_names"]
    assert "30 of 30 classes have other names" in found["alerts"][0]["text"]
    ids = ["n01440764", "n01443537", *turned[2:]]
    words = ["tench", "goldfish", *turned[2:]]
    same = [written(tmp_path / f"{n[0]}.zarr", class_names=n)[0] for n in (ids, words)]
    assert compared(*same)["alerts"] == []
    turned[:2] = words[1::-1]
    with pytest.raises(MismatchError, match="another order"):
        compare(same[0], written(tmp_path / "f.zarr", class_names=turned)[0])
    nameless = compared(written(tmp_path / "e.zarr")[0], a)
    assert nameless["alerts"] == []
    assert nameless["class_names"][3] == "n3"


def test_what_makes_labels_differ_by_itself_is_told(tmp_path):
    a = written(tmp_path / "a.zarr", temperature=1.0)[0]
    b = written(tmp_path / "b.zarr", temperature=2.0, label_type="hard")[0]
    found = compared(a, b)
    assert [alert["kind"] for alert in found["alerts"]] == ["label_types", "temperatures"]
    assert "hard in B" in found["alerts"][0]["text"]
    assert "differ (1 in A, 2 in B)" in found["alerts"][1]["text"]
    # A hard label names one class, and rules all others out.
    assert found["agreement"]["n"] == 1
    rows = slow(a, b, 1, np.arange(VIEWS))
    assert found["kl_ab"]["mean"] == pytest.approx(np.mean([row[2] for row in rows]), rel=1e-4)


def test_ground_truth_that_differs_is_not_judged(tmp_path):
    targets = np.arange(IMAGES) % CLASSES
    a = written(tmp_path / "a.zarr", targets=targets)[0]
    other = targets.copy()
    other[[2, 5]] = 11
    other[7] = -1
    b = written(tmp_path / "b.zarr", targets=other, seed=1)[0]
    found = compared(a, b)
    assert found["truth"]["images"] == IMAGES - 2
    assert found["alerts"][0]["kind"] == "ground_truth"
    assert "2 images, first 'c/002.jpg'" in found["alerts"][0]["text"]
    with pytest.raises(LabelError, match="ground truth"):
        compare(a, b, ferkd=FerKD(confidence="target"))
    unknown = np.full(IMAGES, -1)
    stores = [written(tmp_path / f"{n}.zarr", targets=unknown)[0] for n in (3, 4)]
    assert compared(*stores)["truth"] is None


def test_other_photos_under_the_same_keys_are_told(tmp_path):
    a = make_planned(tmp_path / "a.zarr")[0]
    manifest, keys, targets, data, _ = planned()
    with StoreWriter(tmp_path / "b.zarr", manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            content = data(block)
            writer.write_block(block, replace(content, digests=content.digests + 100))
    (alert,) = compared(a, tmp_path / "b.zarr")["alerts"]
    assert alert["kind"] == "other_files"
    assert "20 of 20 images" in alert["text"]
    assert "'c/000.jpg'" in alert["text"]


def test_what_cannot_be_asked_for(tmp_path):
    a = written(tmp_path / "a.zarr")[0]
    with pytest.raises(UsageError, match="extremes is -1"):
        compare(a, a, extremes=-1)
    with pytest.raises(UsageError, match="sample is 0"):
        compare(a, a, sample=0)


def test_a_damaged_store_is_an_error_and_no_comparison(tmp_path):
    a = written(tmp_path / "a.zarr")[0]
    b = written(tmp_path / "b.zarr", seed=1)[0]
    chunk = next(file for file in (b.path / "labels/classes/c").rglob("*") if file.is_file())
    data = bytearray(chunk.read_bytes())
    data[3] ^= 16
    chunk.write_bytes(data)
    with pytest.raises(CorruptError):
        compare(a, labelstore.open(b.path))


def test_progress_counts_every_image_and_view_once(tmp_path):
    a, b = two(tmp_path)
    told = []
    compare(a, b, tell=lambda images, views: told.append((images, views)))
    assert len(told) > 1
    assert [sum(part) for part in zip(*told, strict=True)] == [IMAGES, IMAGES * VIEWS]


def test_a_part_at_a_time_says_the_same(tmp_path, monkeypatch):
    a, b = two(tmp_path)
    c = two(tmp_path / "more", law=ViewLaw(seed=3))[1]
    whole = [compare(a, b), compare(a, c)]
    monkeypatch.setattr("labelstore.operations.inspection.comparison.paired_labels._ENTRIES", 60)
    for before, other in zip(whole, (b, c), strict=True):
        found, wanted = flat(compare(a, other)), flat(before)
        assert found.keys() == wanted.keys()
        for path, value in wanted.items():
            assert found[path] == (pytest.approx(value) if isinstance(value, float) else value)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    def peak(blocks):
        stores = [
            written(
                tmp_path / f"{blocks}-{seed}.zarr",
                images=blocks * 16,
                views=40,
                k=2,
                block_images=16,
                seed=seed,
                keys=[str(number) for number in range(blocks * 16)],
            )[0]
            for seed in (1, 2)
        ]
        compare(*stores)
        again = [labelstore.open(store.path, cache_bytes=2**20) for store in stores]
        tracemalloc.start()
        compare(*again)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # The whole labels of 24 blocks more, dense: 24 x 16 x 40 x 30 classes x 8 bytes.
    assert peak(26) - peak(2) < 24 * 16 * 40 * 30 * 8 / 4
