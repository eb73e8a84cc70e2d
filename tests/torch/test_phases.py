"""HALD's labels, soft, hard and soft by epoch, through everything that shows views."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import labelstore
from labelstore import Batches, FerKD, LabelPhases
from labelstore.errors import LabelError, MismatchError, UsageError
from labelstore.torch import (
    HuggingFaceViews,
    Show,
    SoftLabelDataset,
    StreamingViews,
    ViewJoin,
    ViewSampler,
    WebDatasetViews,
    collate_views,
    recover,
)
from tests.support.stores import written
from tests.support.training import NUM_CLASSES

PHASES = LabelPhases(epochs=8, soft=0.25, hard=0.5, smoothing=0.8)
HARD = (2, 3, 4, 5)


def slow_label(store, image, view, epoch):
    """(C,) float64: the teacher's label, or what timm's Mixup makes of the class."""
    if epoch not in HARD:
        return store.read(image, view).recover().dense().astype(np.float64)
    out = np.full(NUM_CLASSES, 0.8 / NUM_CLASSES)
    out[store.targets[image]] += 1 - 0.8
    return out


def slow_kind(epoch, epochs, soft, hard):
    """As it is said: the phases one after the other, each to the nearest epoch."""
    before, until = (int(np.floor(epochs * part + 0.5)) for part in (soft, soft + hard))
    return before <= epoch < until


def dense(target):
    wide = target.base.double()[:, None].repeat(1, target.num_classes)
    return wide.scatter_add_(1, target.indices, target.weights.double()).numpy()


def compare(store, target, images, views, epoch):
    expected = [
        slow_label(store, image, view, epoch) for image, view in zip(images, views, strict=True)
    ]
    np.testing.assert_allclose(target, expected, atol=2e-6)


@pytest.mark.parametrize("epochs", [1, 2, 7, 300])
@pytest.mark.parametrize(("soft", "hard"), [(0.25, 0.5), (0, 1), (1, 0), (0.3, 0.3), (0.6, 0.4)])
def test_phases_share_the_epochs(epochs, soft, hard):
    phases = LabelPhases(epochs, soft, hard)
    kinds = [slow_kind(epoch, epochs, soft, hard) for epoch in range(epochs)]
    assert [phases.is_hard(epoch) for epoch in range(epochs)] == kinds
    assert phases.is_hard(np.arange(epochs)).tolist() == kinds
    assert phases.is_hard(torch.arange(epochs)).tolist() == kinds


def test_hald_s_own():
    assert LabelPhases().hard_epochs == range(75, 225)


@pytest.mark.parametrize("epoch", [0, 2, 5, 6])
def test_batches_data_sets_and_stored_labels_have_the_epoch_s_kind(store, photos, epoch):
    batches = Batches(store, 5, views_per_image=2, phases=PHASES)
    shown = list(batches.epoch(epoch))
    for batch in shown:
        compare(store, batch.labels.dense(), batch.images, batch.views, epoch)
    for labels in ("recovered", "stored"):
        data = SoftLabelDataset(photos, store, labels=labels, phases=PHASES, check_pixels=False)
        sampler = ViewSampler(data, views_per_image=2)
        sampler.set_epoch(epoch)
        loader = DataLoader(data, batch_size=5, sampler=sampler, collate_fn=collate_views)
        for batch, (_, target) in zip(shown, loader, strict=True):
            if labels == "stored":
                assert set(target.epoch.tolist()) == {epoch}
                target = recover(target, data.recovery)
            assert target.image.tolist() == batch.images.tolist()
            compare(store, dense(target), target.image.tolist(), target.view.tolist(), epoch)


def test_workers_that_stay_show_each_epoch_s_kind(store, photos):
    data = SoftLabelDataset(photos, store, phases=PHASES, check_pixels=False)
    sampler = ViewSampler(data)
    loader = DataLoader(
        *(data, 7),
        sampler=sampler,
        collate_fn=collate_views,
        num_workers=1,
        persistent_workers=True,
    )
    for epoch in (1, 2, 6):
        sampler.set_epoch(epoch)
        for _, target in loader:
            compare(store, dense(target), target.image.tolist(), target.view.tolist(), epoch)


def test_photos_of_other_pipelines_get_each_epoch_s_kind(store, work):
    def encoded(key):
        return (work.photos / key).read_bytes()

    def web(join, key):
        return join({"__key__": key.removesuffix(".jpg"), "jpg": encoded(key)})[1]

    def streaming(join, key):
        return join([{"key": key, "image": encoded(key)}])[1]

    def hub(join, key):
        return join({"image": [{"path": key, "bytes": encoded(key)}]})["labels"][0]

    joins = {WebDatasetViews: web, StreamingViews: streaming, HuggingFaceViews: hub}
    for kind, label in joins.items():
        for labels in ("recovered", "stored"):
            join = kind(store, 2, phases=PHASES, labels=labels, check_pixels=False)
            for epoch in range(8):
                join.set_epoch(epoch)
                target = label(join, store.keys[3])
                if labels == "stored":
                    target = recover(target, join.data.recovery)
                compare(store, dense(target), target.image.tolist(), target.view.tolist(), epoch)
            # All later labels would be soft, whatever the phases were planned for.
            with pytest.raises(UsageError, match="planned for 8 epochs"):
                join.set_epoch(8)
            assert join.epoch == 7


def test_views_and_kind_of_a_sample_are_of_one_epoch(store, work, monkeypatch):
    join = ViewJoin(store, 2, phases=PHASES, check_pixels=False)
    last = PHASES.hard_epochs.start - 1
    join.set_epoch(last)
    drawn = join.order.views

    def meanwhile(images, epoch):
        # A loop that goes on while a worker is at work.
        join.set_epoch(epoch + 1)
        return drawn(images, epoch)

    monkeypatch.setattr(join.order, "views", meanwhile)
    [(_, target)] = join.join([3], [(work.photos / store.keys[3]).read_bytes()])
    assert target.view.tolist() == drawn(np.array([3]), last)[0].tolist()
    compare(store, dense(target), target.image.tolist(), target.view.tolist(), last)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_goes_on_in_mid_epoch_with_the_same_labels(store, photos, epoch):
    data = SoftLabelDataset(photos, store, phases=PHASES, check_pixels=False)
    whole = ViewSampler(data, seed=3)
    whole.set_epoch(epoch)
    expected = list(whole)
    assert {show.epoch for show in expected} == {epoch}
    before = ViewSampler(data, seed=3)
    before.set_epoch(epoch)
    first = list(itertools.islice(before, 4))
    state = json.loads(json.dumps(before.state_dict()))
    after = ViewSampler(data, seed=3)
    after.load_state_dict(state)
    assert first + list(after) == expected
    batches = Batches(store, 4, seed=3, phases=PHASES)
    rest = list(batches.epoch(epoch, first=1))
    rows = [labels.dense() for labels in (batch.labels for batch in rest)]
    ours = [data[show][1] for show in expected[4:]]
    np.testing.assert_allclose(
        np.concatenate(rows), np.concatenate([dense(target) for target in ours]), atol=1e-6
    )
    for phases in (None, replace(PHASES, smoothing=0.1)):
        other = SoftLabelDataset(photos, store, phases=phases, check_pixels=False)
        with pytest.raises(MismatchError, match="phases"):
            ViewSampler(other, seed=3).load_state_dict(state)
    plain = ViewSampler(SoftLabelDataset(photos, store, check_pixels=False), seed=3)
    assert "phases" not in plain.state_dict()["settings"]
    assert next(iter(plain)).epoch is None


def test_the_recipe_s_loss_is_that_of_the_phase():
    hald = labelstore.recipe("hald", epochs=8)
    assert hald.phases == LabelPhases(8)
    assert hald.dataset_arguments()["phases"] == hald.phases
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    soft = labelstore.SoftLabels([0.1] * 3, [[1], [2], [0]], [[0.5]] * 3, 5)
    target = labelstore.torch.TorchSoftLabels.from_numpy(soft)
    p = torch.from_numpy(soft.dense()).double()
    for epoch in range(8):
        log_q = torch.log_softmax(z.double() / (1 if epoch in HARD else 20), 1)
        expected = -(p * log_q).sum(1)
        if epoch not in HARD:
            expected = expected + (p * p.log()).sum(1)
        found = hald.build_loss(epoch)(z, target)
        torch.testing.assert_close(found.double(), expected.mean(), atol=1e-6, rtol=1e-5)
    with pytest.raises(UsageError, match=r"build_loss\(epoch\)"):
        hald.build_loss()
    with pytest.raises(UsageError, match="planned for 8 epochs"):
        hald.build_loss(8)
    with pytest.raises(UsageError, match="phases are planned for 5"):
        labelstore.recipe("hald", phases=LabelPhases(5))


def test_what_does_not_go_together_is_refused(store, photos, tmp_path):
    data = SoftLabelDataset(photos, store, phases=PHASES, check_pixels=False)
    with pytest.raises(UsageError, match="depend on the epoch and none was told"):
        data[Show(0, (1, 2))]
    with pytest.raises(UsageError, match="depend on the epoch and none was told"):
        data.recovery(store.read([0], [1]), store.targets[[0]])
    with pytest.raises(UsageError, match="planned for 8 epochs"):
        ViewSampler(data).set_epoch(8)
    with pytest.raises(UsageError, match="planned for 8 epochs"):
        Batches(store, 2, phases=PHASES).epoch(8)
    with pytest.raises(UsageError, match="in phases were asked for with ferkd"):
        Batches(store, 2, phases=PHASES, ferkd=FerKD())
    for wrong in ({"epochs": 0}, {"soft": 0.6}, {"hard": -0.1}, {"smoothing": 1.1}):
        with pytest.raises(UsageError):
            LabelPhases(**wrong)
    unknown, *_ = written(tmp_path / "a.zarr", targets=np.full(20, -1))
    batches = Batches(unknown, 4, phases=PHASES)
    assert len(list(batches.epoch(0))) == 5
    with pytest.raises(LabelError, match="a hard phase needs the ground truth"):
        list(batches.epoch(2))
