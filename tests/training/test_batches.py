"""Batches in plain NumPy: those of the sampler, without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import labelstore
from labelstore import Batches, FerKD
from labelstore.errors import UsageError
from labelstore.images.pixels import cut
from labelstore.operations.inspection.comparison.paired_labels import recovered
from labelstore.torch import (
    HuggingFaceViews,
    Show,
    SoftLabelDataset,
    StreamingViews,
    ViewJoin,
    ViewSampler,
    WebDatasetViews,
    collate_views,
)
from labelstore.training import EpochOrder, Recovery
from tests.support.training import SIZE, make_store, replay, upright

FERKD = FerKD(low=0.3, middle=0.5, top=0.9)


def shown(batches):
    return [
        (image, view)
        for batch in batches
        for image, view in zip(batch.images.tolist(), batch.views.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 4, "budget": 0.5},
        {"shuffle": False, "images": [1, 4, 5, 9]},
        {"ferkd": FERKD},
        {"ferkd": FERKD, "budget": 0.4, "images": [0, 1, 4, 5, 9, 12]},
        {"ferkd": FERKD, "schedule": "easy-to-hard", "epochs": 4},
    ],
)
def test_numpy_and_torch_loops_see_the_same_views_in_the_same_order(store, options):
    batches = Batches(store, 3, views_per_image=2, **options)
    sampler = ViewSampler(store, views_per_image=2, **options)
    for epoch in (0, 3):
        sampler.set_epoch(epoch)
        expected = [(show.image, view) for show in sampler for view in show.views]
        assert shown(batches.epoch(epoch)) == expected
        assert batches.count(epoch) == -(-len(expected) // 6)


def test_a_batch_has_the_crops_and_labels_of_its_views(store, work):
    for batch in Batches(store, 5, views_per_image=3).epoch(1):
        direct = store.read(batch.images, batch.views).recover()
        assert (batch.labels.dense() == direct.dense()).all()
        assert (batch.targets == store.targets[batch.images]).all()
        assert batch.weight is None
        assert batch.action is None
        for row in range(0, len(batch), 3):
            image, view = int(batch.images[row]), int(batch.views[row])
            photo = upright(work.photos / store.keys[image])
            geometry = store.views(image, view)
            pixels = cut(photo, batch.box[row], bool(batch.flip[row]), SIZE, "bicubic")
            assert (pixels == replay(photo, geometry.box, geometry.flip)).all()


@pytest.mark.parametrize("discard", ["replace", "mask"])
def test_calibrated_labels_are_those_of_the_data_set(store, photos, discard):
    rule = FerKD(low=0.3, middle=0.5, top=0.9, discard=discard)
    batches = Batches(store, 4, views_per_image=2, ferkd=rule)
    data = SoftLabelDataset(photos, store, ferkd=rule)
    for batch in batches.epoch(2):
        pairs = zip(batch.images[::2], batch.views.reshape(-1, 2), strict=True)
        _, theirs = collate_views([data[Show(int(image), tuple(row))] for image, row in pairs])
        assert (batch.labels.weights == theirs.weights.numpy()).all()
        assert (batch.labels.base == theirs.base.numpy()).all()
        assert (batch.action == theirs.action.numpy()).all()
        if discard == "mask":
            assert (batch.weight == theirs.weight.numpy()).all()
        else:
            assert batch.weight is None


def test_several_teachers(store, tmp_path, work):
    other = make_store(tmp_path / "b.zarr", work.photos, sorted(store.keys, key=_number), seed=9)
    both = labelstore.ensemble([store, other])
    (batch,) = Batches(both, 14).epoch(0)
    mean = (
        store.read(batch.images, batch.views).recover().dense()
        + other.read(both_rows(other, store, batch.images), batch.views).recover().dense()
    ) / 2
    np.testing.assert_allclose(batch.labels.dense(), mean, atol=1e-6)


def test_teachers_of_other_label_types_need_a_type(tmp_path):
    """A hard label is none whose residual mass is spread, nor the other way round."""
    rng = np.random.default_rng(0)
    probs = np.full((4, 2, 1), 0.6, dtype=np.float32)
    stores = [
        labelstore.write(
            tmp_path / f"{kind}.zarr",
            rng.integers(0, 5, (4, 2, 1)),
            probs,
            5,
            boxes=np.full((4, 2, 4), 8),
            flips=np.zeros((4, 2), dtype=bool),
            label_type=kind,
        )
        for kind in ("top-k", "hard")
    ]
    for members in (stores, stores[::-1]):
        both = labelstore.ensemble(members)
        with pytest.raises(UsageError, match=r"types .* and .*, expected") as caught:
            Batches(both, 4)
        assert "\n" not in str(caught.value)
        with pytest.raises(UsageError, match="give stores of one type"):
            recovered(both, both.read([0], [1]))  # of compare
        (batch,) = Batches(both, 4, label_type="hard").epoch(0)
        ones = np.zeros((4, 5))
        for store in stores:
            ones[range(4), store.read(batch.images, batch.views).indices[:, 0]] += 0.5
        np.testing.assert_allclose(batch.labels.dense(), ones, atol=1e-6)


def _number(key):
    return int(key.split()[1].split(".")[0])


def both_rows(other, store, images):
    return other.index_of([store.keys[image] for image in images])


def test_going_on_in_the_middle_and_sharing_between_ranks(store):
    batches = Batches(store, 3, views_per_image=2)
    whole = list(batches.epoch(5))
    assert shown(batches.epoch(5, first=2)) == shown(whole[2:])
    assert shown(batches.epoch(5, first=5)) == []
    with pytest.raises(UsageError, match="the first batch is 6, expected 0 to 5"):
        batches.epoch(5, first=6)
    ranks = [Batches(store, 14, num_replicas=3, rank=rank) for rank in range(3)]
    parts = [shown(part.epoch(5)) for part in ranks]
    alone = shown(Batches(store, 14).epoch(5))
    assert [pair for row in zip(*parts, strict=True) for pair in row] == alone + alone[:1]


def test_batches_of_one_shape(store):
    batches = Batches(store, 4, views_per_image=2, num_replicas=3, rank=1, drop_last=True)
    assert [len(batch) for batch in batches.epoch(0)] == [8] * batches.count(0) == [8]
    uneven = Batches(store, 4, views_per_image=2)
    assert [len(batch) for batch in uneven.epoch(0)] == [8, 8, 8, 4]


def test_wrong_numbers_are_refused(store):
    with pytest.raises(UsageError, match="batch size is 0"):
        Batches(store, 0)
    with pytest.raises(UsageError, match="rank is 2 of 2"):
        Batches(store, 4, num_replicas=2, rank=2)
    with pytest.raises(UsageError, match="epoch is -1"):
        Batches(store, 4).epoch(-1)


@pytest.mark.parametrize(
    "make",
    [
        lambda store, **options: Batches(store, 4, **options),
        ViewSampler,
        EpochOrder,
        Recovery.of,
        lambda store, **options: SoftLabelDataset(None, store, **options),
        ViewJoin,
        WebDatasetViews,
        HuggingFaceViews,
        StreamingViews,
    ],
)
def test_an_unknown_keyword_is_named(store, make):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'sede', expected .*ferkd"):
        make(store, sede=1)


def test_an_epoch_is_read_ahead(work, tmp_path, monkeypatch):
    monkeypatch.setenv("LABELSTORE_SLABS", str(tmp_path / "slabs"))
    for slab_bytes in (0, 2**26):
        store = labelstore.open(work.store)
        batches = Batches(store, 4, 2, slab_bytes=slab_bytes)
        for epoch in range(3):
            for batch in batches.epoch(epoch):
                direct = labelstore.open(work.store).read(batch.images, batch.views).recover()
                assert (batch.labels.dense() == direct.dense()).all()
            assert any((tmp_path / "slabs").glob("*.slab")) == bool(slab_bytes)
        store.slabs.close()


JAX = """
import sys, jax, jax.numpy as jnp, numpy as np, labelstore

store = labelstore.open(sys.argv[1])
logits = np.random.default_rng(0).normal(size=(8, store.num_classes)).astype(np.float32)


@jax.jit
def loss_of(logits, p):
    logq = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(logq, p["indices"], axis=1)
    return -(p["base"] * logq.sum(1) + (p["weights"] * picked).sum(1)).mean()


batches = labelstore.Batches(store, 4, 2, ferkd=labelstore.FerKD(), drop_last=True)
for batch in batches.epoch(0):
    labels = batch.labels
    p = {name: getattr(labels, name) for name in ("base", "indices", "weights")}
    loss, slope = jax.value_and_grad(loss_of)(logits, p)
    dense = labels.dense().astype(np.float64)
    logq = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    np.testing.assert_allclose(loss, -(dense * logq).sum(1).mean(), rtol=1e-5)
    expected = (dense.sum(1, keepdims=True) * np.exp(logq) - dense) / len(dense)
    np.testing.assert_allclose(slope, expected, atol=1e-6)
print(batches.count(0), loss_of._cache_size(), "torch" in sys.modules)
"""


@pytest.mark.slow
def test_a_loop_in_jax(work):
    pytest.importorskip("jax", reason="jax is not installed")
    # In a process of its own: jax does not like to be forked, as other tests do.
    done = subprocess.run(
        [sys.executable, "-c", JAX, str(work.store)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # All batches are of one shape: compiled once (by the gradient, and not on its own).
    assert done.stdout.split() == ["3", "0", "False"]
