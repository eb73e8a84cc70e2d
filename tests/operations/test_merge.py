"""Merging: the stored means against slow dense ones, what is refused, what resumes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import labelstore
from labelstore.errors import IncompleteError, LabelError, MismatchError, UsageError
from labelstore.labels.distribution import largest
from labelstore.labels.ferkd import FerKD
from labelstore.labels.soft_labels import mix
from labelstore.operations.merge import merge
from labelstore.operations.recode import recode
from tests.support import commands
from tests.support.stores import (
    distributions,
    files_of,
    make_planned,
    once,
    said_of_labels,
    top_of,
    written,
)

make_planned, written = once(make_planned), once(written)

IMAGES, VIEWS, CLASSES = 20, 6, 30


def dense_of(store):
    """(N, V, C) float64 recovered labels."""
    labels = store.read(np.arange(store.num_images)[:, None], np.arange(store.num_views)).recover()
    return labels.dense().astype(np.float64)


def three(tmp_path, suffix="zarr"):
    """Stores of three teachers with different k, quantizers and lists."""
    a = make_planned(tmp_path / f"a.{suffix}", k=5, quantizer="ratio16")[0]
    b = written(tmp_path / f"b.{suffix}", k=2, seed=7, quantizer="u16")[0]
    c = written(tmp_path / f"c.{suffix}", k=4, seed=8, quantizer="fp16")[0]
    return [a, b, c]


def test_the_labels_are_the_weighted_mean(tmp_path, suffix):
    stores = three(tmp_path)
    weights = np.array([2.0, 1.0, 1.0])
    mean = sum(w / 4 * dense_of(s) for w, s in zip(weights, stores, strict=True))
    out = tmp_path / f"out.{suffix}"
    report = merge(stores, out, weights=weights, k=30, quantizer="fp32", prior_size=0)
    made = labelstore.open(out)
    # Every class that stands out from the even tail is kept, and what they leave is even again.
    np.testing.assert_allclose(dense_of(made), mean, atol=2e-7)
    assert report.distances.kl_nats < 1e-6
    assert report.weights == (0.5, 0.25, 0.25)
    origin = made.manifest.origin
    assert origin["operation"] == "merge"
    assert origin["stores"] == [store.manifest.id for store in stores]


def test_what_cutting_and_quantizing_lose_is_told(tmp_path, suffix):
    stores = three(tmp_path)
    report = merge(stores, tmp_path / f"out.{suffix}")
    assert (report.k, report.quantizer, report.prior_size) == (5, "ratio16", 8)
    made = labelstore.open(report.path)
    mean, found = sum(dense_of(store) for store in stores) / 3, dense_of(made)
    kl = (mean * np.log(mean / np.maximum(found, 1e-12))).sum(-1).mean()
    assert report.distances.kl_nats == pytest.approx(kl, rel=1e-3)
    assert report.distances.labels == IMAGES * VIEWS
    assert (found.argmax(-1) == mean.argmax(-1)).mean() == report.distances.top1_kept
    assert kl < 0.2


@pytest.mark.parametrize("by", ["all", "any", "mean"])
def test_calibrated_labels_are_those_of_the_reader(tmp_path, by):
    """Equation 4 at merge time and at read time say the same."""
    stores = three(tmp_path)
    rule = labelstore.FerKD(low=0.2, middle=0.5, top=0.75, ensemble=by)
    report = merge(stores, tmp_path / "out.zarr", ferkd=rule, k=30, prior_size=0, quantizer="fp32")
    both = labelstore.ensemble(stores)
    images, views = np.arange(IMAGES)[:, None], np.arange(VIEWS)
    targets = np.broadcast_to(both.targets[:, None], (IMAGES, VIEWS))
    done = rule.apply(both.read(images, views), targets)
    made = labelstore.open(report.path)
    np.testing.assert_allclose(dense_of(made), done.labels.dense(), atol=3e-7)
    for name, value in zip(("kept", "calibrated", "discarded"), range(3), strict=True):
        assert report.actions[name] == pytest.approx((done.action == value).mean())
    assert report.actions["calibrated"] > 0.1
    again = rule.decide(made.confidence()) == labelstore.Action.DISCARDED
    expected = (again == (done.action == labelstore.Action.DISCARDED)).mean()
    assert report.same_decision == pytest.approx(expected)


def test_what_smoothed_labels_leave_stays_even(tmp_path):
    p = distributions(IMAGES, VIEWS, CLASSES)
    stores = [
        written(tmp_path / f"{seed}.zarr", seed=seed, label_type="smoothing", means=p.mean(1))[0]
        for seed in (0, 7)
    ]
    assert stores[0].manifest.prior_size
    report = merge(stores, tmp_path / "out.zarr", k=2, quantizer="fp32")
    assert report.prior_size == 0
    rows, views = np.arange(IMAGES)[:, None], np.arange(VIEWS)
    mean = sum(store.read(rows, views).smoothing().dense() for store in stores) / 2
    np.testing.assert_allclose(dense_of(labelstore.open(report.path)), mean, atol=2e-7)
    with pytest.raises(UsageError, match="prior_size is 8, expected 0: 2 classes hold"):
        merge(stores, tmp_path / "other.zarr", k=2, prior_size=8)
    # Of a class alone the other teacher's is in what is left.
    assert merge(stores, tmp_path / "one.zarr", k=1).prior_size == stores[0].manifest.prior_size


def test_shared_images_alone(tmp_path):
    store = make_planned(tmp_path / "a.zarr", k=5)[0]
    keys = [f"c/{number:03}.jpg" for number in range(5, 30)]
    rng = np.random.default_rng(0).permutation(25)
    other, _, _ = written(
        tmp_path / "b.zarr",
        images=25,
        keys=[keys[place] for place in rng],
        targets=(np.arange(5, 30) % 30)[rng],
        widths=(np.arange(5, 30) + 40)[rng],
        heights=(np.arange(5, 30) + 30)[rng],
    )
    with pytest.raises(MismatchError, match="c/00"):
        merge([store, other], tmp_path / "out.zarr")
    merge([store, other], tmp_path / "out.zarr", images="intersection", quantizer="fp32", k=30)
    made = labelstore.open(tmp_path / "out.zarr")
    assert made.keys == tuple(keys[:15])
    assert made.targets.tolist() == list(range(5, 20))
    rows = other.index_of(keys[:15])
    mean = (dense_of(store)[5:] + dense_of(other)[rows]) / 2
    np.testing.assert_allclose(dense_of(made).argmax(-1), mean.argmax(-1))


def test_fewer_views_boxes_and_unreadable_images(tmp_path, suffix):
    boxes = np.arange(20 * 8 * 4).reshape(20, 8, 4)
    flips = np.arange(160).reshape(20, 8) % 2 == 1
    a, _, _ = written(tmp_path / "a.zarr", views=8, law=None, boxes=boxes, flips=flips)
    b, _, _ = written(
        tmp_path / "b.zarr", views=6, law=None, boxes=boxes[:, :6], flips=flips[:, :6]
    )
    made = labelstore.open(merge([a, b], tmp_path / f"out.{suffix}").path)
    assert made.num_views == 6
    found = made.views(np.arange(20)[:, None], np.arange(6))
    assert np.array_equal(found.box, boxes[:, :6])
    assert np.array_equal(found.flip, flips[:, :6])


def test_what_does_not_fit_is_refused(tmp_path):
    a, b, c = three(tmp_path)
    unfinished = make_planned(tmp_path / "part.zarr", blocks=[0])[0]
    with pytest.raises(IncompleteError, match=r"part.zarr lacks 2 of 3"):
        merge([a, unfinished], tmp_path / "out.zarr")
    with pytest.raises(UsageError, match="choose another name"):
        merge([a, b], tmp_path / "b.zarr")
    softer = make_planned(tmp_path / "soft.zarr", temperature=2.0)[0]
    with pytest.raises(MismatchError, match=r"temperatures are 1.0, 2.0"):
        merge([a, softer], tmp_path / "out.zarr")
    unknown = written(tmp_path / "unknown.zarr", targets=np.full(IMAGES, -1))[0]
    with pytest.raises(LabelError, match="needs the ground truth"):
        merge([unknown, unknown], tmp_path / "out.zarr", ferkd=labelstore.FerKD(middle=0.9))
    merge([a, b], tmp_path / "done.zarr")
    with pytest.raises(MismatchError, match="origin"):
        merge([a, c], tmp_path / "done.zarr")


def test_an_interrupted_merge_goes_on(tmp_path, suffix):
    stores = three(tmp_path)

    def stop(_images, _views):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(stores, tmp_path / f"out.{suffix}", tell=stop)
    assert labelstore.open(tmp_path / f"out.{suffix}").missing_blocks() == [1, 2]
    merge(stores, tmp_path / f"out.{suffix}")
    merge(stores, tmp_path / f"whole.{suffix}")
    assert files_of(tmp_path / f"out.{suffix}") == files_of(tmp_path / f"whole.{suffix}")


@pytest.mark.parametrize("first", ["chunks.zarr", "units.zarr", "first.parquet"])
def test_labels_lie_as_is_asked_or_as_in_the_first_store(tmp_path, first):
    chunks, other, _ = three(tmp_path)
    chunks.path.rename(tmp_path / "chunks.zarr")
    recode(tmp_path / "chunks.zarr", tmp_path / "units.zarr", layout="units")
    recode(tmp_path / "chunks.zarr", tmp_path / "first.parquet")
    stores = [tmp_path / first, other]
    for layout in ("chunks", "units"):
        merge(stores, tmp_path / layout, layout=layout)
        assert labelstore.open(tmp_path / layout).manifest.label_layout == layout
    # The same labels, to the last byte.
    recode(tmp_path / "chunks", tmp_path / "recoded", layout="units")
    assert said_of_labels(labelstore.open(tmp_path / "units")) == said_of_labels(
        labelstore.open(tmp_path / "chunks")
    )
    assert files_of(tmp_path / "units") == files_of(tmp_path / "recoded")
    usual = "units" if first == "units.zarr" else "chunks"
    merge(stores, tmp_path / "usual")
    assert files_of(tmp_path / "usual") == files_of(tmp_path / usual)
    merge(stores, tmp_path / "usual.parquet")
    assert labelstore.open(tmp_path / "usual.parquet").manifest.label_layout == "chunks"
    with pytest.raises(UsageError, match=r"\.parquet"):
        merge(stores, tmp_path / "no.parquet", layout="units")
    # Other groups have units of as many labels.
    merge(stores, tmp_path / "groups", layout="units", group_views=2)
    assert labelstore.open(tmp_path / "groups").manifest.unit_images == 32


def test_merged_stores_can_be_merged(tmp_path):
    """(a + b) / 2 and c with weights 2 and 1 are the mean of three."""
    a, b, c = three(tmp_path)
    exact = {"k": 30, "quantizer": "fp32", "prior_size": 0}
    merge([a, b], tmp_path / "ab.zarr", **exact)
    pair = labelstore.open(tmp_path / "ab.zarr")
    merge([pair, c], tmp_path / "abc.zarr", weights=[2, 1], **exact)
    mean = (dense_of(a) + dense_of(b) + dense_of(c)) / 3
    np.testing.assert_allclose(dense_of(labelstore.open(tmp_path / "abc.zarr")), mean, atol=5e-7)


def test_the_command(tmp_path):
    three(tmp_path)

    def run(*arguments):
        return commands.run(
            [sys.executable, "-m", "labelstore", "merge", *arguments],
            cwd=tmp_path,
        )

    done = run("a.zarr", "b.zarr", "c.zarr", "--weights", "2,1,1", "-o", "out.zarr", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["weights"] == [0.5, 0.25, 0.25]
    assert told["distances"]["kl_nats"] > 0
    done = run("a.zarr", "b.zarr", "--calibrate", "--low", "0.2", "-o", "cal.parquet")
    assert done.returncode == 0, done.stderr
    assert "against the unquantized mean" in done.stderr
    assert "calibrated" in done.stderr
    done = run("a.zarr", "b.zarr", "--weights", "2,x", "-o", "no.zarr")
    assert done.returncode == 2
    assert "2,x" in done.stderr
    done = run("a.zarr", "b.zarr", "--layout", "units", "-o", "no.parquet")
    assert (done.returncode, "--layout" in done.stderr) == (2, True)
    done = run("a.zarr", "b.zarr", "--layout", "units", "--parts", "-o", "no.zarr")
    assert (done.returncode, "--layout" in done.stderr) == (2, True)
    done = run("a.zarr", "b.zarr", "--weights", "2", "-o", "no.zarr")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "no.zarr").exists()


def test_the_largest_classes_of_mixed_labels():
    """Against a plain sort of the dense distribution."""
    rng = np.random.default_rng(3)
    indices, probs = top_of(distributions(4, 5, CLASSES, 1), 6)
    first = labelstore.TopK(indices, probs, CLASSES).recover()
    indices, probs = top_of(distributions(4, 5, CLASSES, 2), 6)
    second = labelstore.TopK(indices, probs, CLASSES).recover()
    for k in (1, 4, 8, 25):
        labels = mix([first, second], rng.dirichlet([1, 1]))
        found, dense = largest(labels, k), labels.dense().astype(np.float64)
        expected = -np.sort(-dense, axis=-1)[..., :k]
        held = found.probs > 0
        np.testing.assert_allclose(found.probs[held], expected[held], atol=1e-7)
        np.testing.assert_allclose(
            np.take_along_axis(dense, found.indices, -1)[held], found.probs[held], atol=1e-7
        )
        # Where fewer are held, what is left is the even tail.
        left = np.where(held, 0.0, expected)
        assert (left <= labels.base[..., None] + 1e-7).all()


def test_lists_fitted_together_are_those_of_each_image_alone(tmp_path, monkeypatch):
    stores = three(tmp_path)
    merge(stores, tmp_path / "together.zarr", prior_size=8)
    monkeypatch.setattr("labelstore.operations.merge.TOGETHER", 1)
    merge(stores, tmp_path / "alone.zarr", prior_size=8)
    assert files_of(tmp_path / "together.zarr") == files_of(tmp_path / "alone.zarr")


@pytest.mark.parametrize("source", ["zarr", "parquet"])
def test_several_processes_write_the_same_store(tmp_path, suffix, source):
    stores = three(tmp_path, source)
    how = {"block_images": 3, "weights": [2, 1, 1], "ferkd": FerKD()}
    # What the stores have read and opened is there in the forks, too.
    merge(stores, tmp_path / f"one.{suffix}", **how)
    merge(stores, tmp_path / f"several.{suffix}", workers=3, **how)
    assert files_of(tmp_path / f"several.{suffix}") == files_of(tmp_path / f"one.{suffix}")
