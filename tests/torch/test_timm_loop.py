"""A loop in the style of timm's train.py: uint8 batches, normalised by timm's PrefetchLoader."""

from __future__ import annotations

import timm
import torch
from timm.data.loader import PrefetchLoader
from timm.optim import create_optimizer_v2

from labelstore.torch import SoftLabelDataset, ViewSampler, collate_views, soft_kl_divergence
from tests.support.training import TEACHER


def make_loader(photos, store):
    data = SoftLabelDataset(photos, store, normalize=None)
    return PrefetchLoader(
        torch.utils.data.DataLoader(
            data,
            batch_size=7,
            sampler=ViewSampler(data, views_per_image=2),
            collate_fn=collate_views,
        ),
        mean=TEACHER["mean"],
        std=TEACHER["std"],
        device=torch.device("cpu"),
    )


def test_batches_are_those_that_the_data_set_normalises(photos, store):
    loader = make_loader(photos, store)
    direct = SoftLabelDataset(photos, store)
    loader.sampler.set_epoch(3)
    shows = iter(list(loader.sampler))
    count = 0
    for images, target in loader:
        expected, labels = collate_views([direct[next(shows)] for _ in range(7)])
        torch.testing.assert_close(images, expected)
        assert (target.dense() == labels.dense()).all()
        count += len(images)
    assert count == 28


def test_a_model_of_timm_learns_the_labels(photos, store):
    torch.manual_seed(0)
    loader = make_loader(photos, store)
    model = timm.create_model("test_resnet", num_classes=store.num_classes)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(8):
        if hasattr(loader.sampler, "set_epoch"):
            # The same views in every epoch, so that what is learnt shows in the loss.
            loader.sampler.set_epoch(0)
        total = 0.0
        for images, target in loader:
            loss = soft_kl_divergence(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / len(loader))
    assert losses[-1] < 0.25 * losses[0]
