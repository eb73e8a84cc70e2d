"""Recoding: what stays the same to the last bit, what changes by how much, what is refused."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest

import labelstore
from labelstore.errors import IncompleteError, LabelError, MismatchError, UsageError
from labelstore.operations.recode import recode
from labelstore.store.writer import StoreWriter
from tests.support import commands
from tests.support.stores import (
    distributions,
    files_of,
    make_planned,
    once,
    planned,
    top_of,
    written,
)

make_planned, written = once(make_planned), once(written)

OTHER = {"zarr": "parquet", "parquet": "zarr"}


def everything(store):
    """Labels, priors, boxes and tables."""
    images, views = np.flatnonzero(store.labelled()), np.arange(store.num_views)
    topk = store.read(images[:, None], views)
    parts = [topk.indices, topk.probs, store.confidence(), store.targets, store.labelled()]
    parts += [store.sizes(range(store.num_images)), store.image_digests(range(store.num_images))]
    if topk.prior is not None:
        parts += [topk.prior.classes, topk.prior.probs, topk.prior.power]
    if store.law is not None:
        found = store.views(images[:, None], views)
        parts += [found.box, found.flip]
    return [np.asarray(part).tobytes() for part in parts] + [store.keys]


@pytest.mark.parametrize(
    ("top_p", "quantizer"),
    [
        pytest.param(top_p, name, marks=() if top_p or name == "u8" else pytest.mark.slow)
        for top_p in (None, 0.7)
        for name in labelstore.format.codecs.QUANTIZERS
    ],
)
def test_there_and_back_is_the_same_to_the_last_bit(tmp_path, suffix, quantizer, top_p):
    path = tmp_path / f"a.{suffix}"
    store, _ = make_planned(path, k=5, quantizer=quantizer, top_p=top_p)
    report = recode(store, tmp_path / f"b.{OTHER[suffix]}")
    assert report.changed == ()
    assert report.distances is None
    other = labelstore.open(report.path)
    assert everything(other) == everything(store)
    recode(other, tmp_path / f"c.{suffix}", group_views=store.manifest.group_views)
    assert files_of(tmp_path / f"c.{suffix}") == files_of(path)


def test_explicit_boxes_and_unreadable_images_come_along(tmp_path, suffix):
    boxes = np.arange(20 * 6 * 4).reshape(20, 6, 4)
    flips = np.arange(120).reshape(20, 6) % 2 == 1
    store, _, _ = written(tmp_path / f"a.{suffix}", law=None, boxes=boxes, flips=flips)
    made = labelstore.open(recode(store, tmp_path / f"b.{OTHER[suffix]}").path)
    assert everything(made) == everything(store)
    assert np.array_equal(made.views(7, range(6)).flip, flips[7])
    manifest, keys, targets, data, _ = planned()
    with StoreWriter(tmp_path / f"c.{suffix}", manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            whole = data(block)
            readable = np.arange(len(whole.indices)) != 1
            writer.write_block(block, dataclasses.replace(whole, readable=readable))
    broken = labelstore.open(tmp_path / f"c.{suffix}")
    made = labelstore.open(recode(broken, tmp_path / f"d.{OTHER[suffix]}").path)
    assert made.unreadable() == broken.unreadable() == [keys[1], keys[9], keys[17]]
    assert everything(made) == everything(broken)


def test_a_smaller_k_puts_what_it_drops_into_the_list(tmp_path, suffix):
    store, p = make_planned(tmp_path / "a.zarr", k=10, prior_size=8, quantizer="fp32")
    report = recode(store, tmp_path / f"b.{suffix}", k=2)
    assert report.changed == ("k: 10 -> 2",)
    made = labelstore.open(report.path)
    assert made.manifest.origin["stores"] == [store.manifest.id]
    topk = made.read(np.arange(20)[:, None], np.arange(6))
    assert np.array_equal(topk.indices, top_of(p, 2)[0])

    def divergence(labels):
        return float((p * np.log(p / labels.dense())).sum(-1).mean())

    cut = store.read(np.arange(20)[:, None], np.arange(6)).truncate(2)
    uniform = divergence(cut.recover("uniform"))
    # As good as a list that was made of the full distributions, or nearly.
    planned_store, _ = make_planned(tmp_path / "c.zarr", k=2, prior_size=8, quantizer="fp32")
    full = divergence(planned_store.read(np.arange(20)[:, None], np.arange(6)).recover())
    assert divergence(topk.recover()) < full * 1.05 < 0.7 * uniform


def test_a_list_for_a_store_without_one(tmp_path, suffix):
    store, _, _ = written(tmp_path / "a.zarr", k=6, quantizer="u16")
    report = recode(store, tmp_path / f"b.{suffix}", k=2, prior_size=8)
    made = labelstore.open(report.path)
    views = np.arange(6)
    p = distributions(20, 6, 30)
    kl = [
        float((p * np.log(p / topk.recover().dense())).sum(-1).mean())
        for topk in (
            made.read(np.arange(20)[:, None], views),
            store.read(np.arange(20)[:, None], views).truncate(2),
        )
    ]
    assert kl[0] < 0.8 * kl[1]


def test_the_reported_distance_is_that_of_the_labels(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr", k=4)
    report = recode(store, tmp_path / "b.zarr", k=1)
    made = labelstore.open(tmp_path / "b.zarr")
    before, after = (
        one.read(np.arange(20)[:, None], np.arange(6)).recover().dense().astype(float)
        for one in (store, made)
    )
    assert report.distances.labels == 120
    assert report.distances.kl_nats == pytest.approx(
        float((before * np.log(before / after)).sum(-1).mean()), rel=1e-4
    )
    assert report.distances.total_variation == pytest.approx(
        float(np.abs(before - after).sum(-1).mean() / 2), rel=1e-4
    )


def test_what_is_refused(tmp_path, suffix):
    store, _ = make_planned(tmp_path / f"a.{suffix}")
    with pytest.raises(UsageError, match="expected at most 3"):
        recode(store, tmp_path / "b.zarr", k=4)
    with pytest.raises(UsageError, match="another name"):
        recode(store, tmp_path / f"a.{suffix}", k=1, overwrite=True)
    recode(store, tmp_path / "b.zarr", k=1)
    with pytest.raises(MismatchError, match=r"labels\.k"):
        recode(store, tmp_path / "b.zarr", k=2)
    part, _ = make_planned(tmp_path / f"p.{suffix}", blocks={0})
    with pytest.raises(IncompleteError, match="2 of 3 blocks"):
        recode(part, tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


def test_the_command(tmp_path):
    make_planned(tmp_path / "a.zarr")
    command = [sys.executable, "-m", "labelstore", "recode", str(tmp_path / "a.zarr")]
    done = commands.run(
        [*command, "-o", str(tmp_path / "b.parquet"), "--top-k", "1", "--json"],
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["changed"]) == (0, ["k: 3 -> 1"])
    assert labelstore.open(tmp_path / "b.parquet").k == 1
    done = commands.run([*command, "-o", str(tmp_path / "a.zarr")])
    assert (done.returncode, "another name" in done.stderr) == (2, True)


def test_write_makes_lists_of_the_means(tmp_path, suffix):
    p = distributions(20, 6, 30)
    indices, probs = top_of(p, 2)
    with_means = labelstore.write(
        tmp_path / f"a.{suffix}",
        *(indices, probs, 30),
        means=p.mean(1),
        prior_size=8,
        block_images=8,
        quantizer="ratio16",
    )
    made, _ = make_planned(tmp_path / f"b.{suffix}", k=2, prior_size=8)
    one, two = (
        store.read(np.arange(20)[:, None], np.arange(6)).recover() for store in (with_means, made)
    )
    np.testing.assert_array_equal(one.weights, two.weights)
    with pytest.raises(LabelError, match="means have shape"):
        labelstore.write(tmp_path / f"c.{suffix}", indices, probs, 30, means=p[:3].mean(1))


def test_a_block_of_repeated_classes_is_still_refused(tmp_path, suffix):
    manifest, keys, targets, data, _ = planned()
    whole = data(0)
    twice = np.repeat(whole.indices[..., :1], 3, axis=-1)
    with (
        StoreWriter(tmp_path / f"a.{suffix}", manifest, keys, targets) as writer,
        pytest.raises(LabelError, match="names a class twice"),
    ):
        writer.write_block(0, dataclasses.replace(whole, indices=twice))
