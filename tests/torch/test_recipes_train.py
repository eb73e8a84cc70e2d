"""Every recipe, as its documentation shows it, over real photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import labelstore
from labelstore.errors import LabelError
from labelstore.torch import SoftLabelDataset, ViewSampler, collate_views
from labelstore.torch.recipes import RECIPES

EPOCH = 100
"""Of 300: of HALD's, one with hard labels."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_student_learns_by_every_recipe(name, photos, store):
    changes = {"hard_weight": 0.5} if name == "kd" else {}
    chosen = labelstore.recipe(name, **changes)
    data = SoftLabelDataset(photos, store, check_pixels=False, **chosen.dataset_arguments())
    sampler = ViewSampler(data, **chosen.sampler_arguments())
    loader = torch.utils.data.DataLoader(
        data, batch_size=7, sampler=sampler, collate_fn=collate_views
    )
    mixing, loss = chosen.build_mixing(), chosen.build_loss(EPOCH)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 20, 20))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
    history, step = [], 0
    for epoch in range(8):
        sampler.set_epoch(EPOCH)
        values = []
        for images, target in loader:
            labels = target
            if mixing is not None:
                # Each epoch mixes alike, so that its losses can be compared.
                images, labels, alone = mixing(images, target, step=step % 2)
                assert alone == 0
            value = loss(model(images), labels)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
            step += 1
        history.append(np.mean(values))
        assert np.isfinite(history[-1]), epoch
    assert history[-1] < history[0] - 0.05


def test_equation_1_after_mixing_takes_the_ground_truth_mixed_alike(photos, store):
    chosen = labelstore.recipe("kd", hard_weight=0.5)
    data = SoftLabelDataset(photos, store, check_pixels=False, **chosen.dataset_arguments())
    images, target = collate_views([data[labelstore.torch.Show(i, (0, 1))] for i in range(4)])
    rule = labelstore.torch.MixUp()
    mixed = rule(images, target, step=0)
    logits = torch.zeros(8, 20)
    with pytest.raises(LabelError, match="hard="):
        chosen.build_loss()(logits, mixed.target)
    truth = labelstore.torch.TorchSoftLabels.from_numpy(
        labelstore.labels.hard(target.target.numpy(), 20)
    )
    hard = rule(images, truth, step=0).target
    value = chosen.build_loss()(logits, mixed.target, hard=hard)
    entropies = labelstore.torch.label_entropy(mixed.target).mean()
    assert value.item() == pytest.approx(np.log(20) - 0.5 * entropies.item(), rel=1e-5)
