"""The loss in situations of real trainings: ranks with other weights, no rows, masked logits, and
torch.func."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from labelstore import TopK
from labelstore.labels.soft_labels import hard
from labelstore.torch import (
    MixUp,
    TorchSoftLabels,
    ferkd_loss,
    mean_weight,
    soft_cross_entropy,
    soft_kl_divergence,
)
from labelstore.torch.losses import cross_entropy
from tests.support.ranks import run_ranks

CLASSES, FEATURES = 7, 5
WEIGHTS = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
"""Of the rows of three ranks: masked views are not spread evenly, and one has none left."""


def batch(rank, rows, weight=None):
    """Features (rows, F) and labels of one rank."""
    rng = np.random.default_rng(rank)
    probs = np.sort(rng.dirichlet(np.full(3, 0.5), rows), 1)[:, ::-1] * 0.9
    labels = TopK(rng.random((rows, CLASSES)).argsort(1)[:, :3], probs, CLASSES).recover()
    features = torch.from_numpy(rng.normal(size=(rows, FEATURES))).float()
    return features, TorchSoftLabels.from_numpy(
        labels, weight=weight, action=np.zeros(rows), image=np.arange(rows)
    )


def network():
    torch.manual_seed(0)
    return torch.nn.Linear(FEATURES, CLASSES)


def one_rank(rank, world, folder):
    """A step of DistributedDataParallel by the sum over the mean weight; writes its gradients."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    try:
        model = DistributedDataParallel(network())
        found = {}
        for name, loss in (("ce", soft_cross_entropy), ("kl", soft_kl_divergence)):
            for kind, weight in (("masked", WEIGHTS[rank]), ("of other sizes", None)):
                features, target = batch(rank, len(WEIGHTS[rank]), weight)
                model.zero_grad()
                (loss(model(features), target, "sum") / mean_weight(target)).backward()
                found[f"{name} {kind}"] = model.module.weight.grad.tolist()
        # All ranks mix the same rows here, so that nothing but the rank can differ.
        images = torch.eye(4)[:, :, None, None].expand(4, 4, 2, 2)
        rows = batch(0, 4)[1]
        found["mixed"] = [MixUp()(images, rows, step=step).images.tolist() for step in range(4)]
        found["of rank 1"] = MixUp(rank=1)(images, rows, step=0).images.tolist()
        (folder / f"rank{rank}.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_gradients_of_ranks_average_to_that_of_the_global_weighted_mean(tmp_path):
    run_ranks(one_rank, (3, tmp_path), 3)
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(3)]
    for name, loss in (("ce", soft_cross_entropy), ("kl", soft_kl_divergence)):
        for kind in ("masked", "of other sizes"):
            parts = [
                batch(rank, len(own), own if kind == "masked" else None)
                for rank, own in enumerate(WEIGHTS)
            ]
            features = torch.cat([part for part, _ in parts])
            target = TorchSoftLabels.cat([labels for _, labels in parts])
            model = network()
            loss(model(features), target).backward()
            for rank in range(3):
                np.testing.assert_allclose(
                    told[rank][f"{name} {kind}"], model.weight.grad, atol=1e-6
                )
    mixed = [told[rank]["mixed"] for rank in range(3)]
    assert mixed[0] != mixed[1] != mixed[2] != mixed[0]
    assert told[0]["of rank 1"] == told[2]["of rank 1"] == mixed[1][0]


def test_alone_the_sum_over_the_mean_weight_is_the_mean():
    logits = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(1))
    for weight in (None, [1.0, 0.0, 0.5, 0.0], [0.0] * 4):
        target = batch(0, 4, weight)[1]
        expected = soft_cross_entropy(logits, target)
        summed = soft_cross_entropy(logits, target, "sum") / mean_weight(target)
        torch.testing.assert_close(summed, expected)


@pytest.mark.parametrize("loss", [soft_cross_entropy, soft_kl_divergence, ferkd_loss])
@pytest.mark.parametrize("weight", [None, []])
def test_no_rows_have_the_loss_and_the_gradient_0(loss, weight):
    model = network()
    features, target = torch.zeros(0, FEATURES), batch(0, 2)[1][:0]
    if weight is not None:
        target = TorchSoftLabels(
            target.base,
            target.indices,
            target.weights,
            CLASSES,
            torch.zeros(0),
            action=target.action,
        )
    value = loss(model(features), target)
    assert value.item() == 0.0
    value.backward()
    assert (model.weight.grad == 0).all()
    assert loss(model(features), target, "none").shape == (0,)
    assert mean_weight(target).item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("part", [cross_entropy.PART, 1])
def test_a_class_without_probability_may_have_no_logit(monkeypatch, dtype, part):
    """Masked classes: of labels without a tail the loss is that over the other classes."""
    monkeypatch.setattr(cross_entropy, "PART", part)
    topk = TopK([[2, 4], [1, 3]], [[0.6, 0.2], [0.9, 0.0]], CLASSES)
    logits = torch.randn(2, CLASSES, generator=torch.Generator().manual_seed(2)).to(dtype)
    logits[:, [0, 5]] = -torch.inf
    logits[1, 3] = -torch.inf
    logits.requires_grad_()
    for labels in (topk.recover("none"), hard([2, 1], CLASSES)):
        target = TorchSoftLabels.from_numpy(labels)
        dense = target.dense().to(torch.float64)
        logs = torch.log_softmax(logits.detach().double(), 1)
        expected = -torch.where(dense > 0, dense * logs, 0.0).sum(1)
        found = soft_cross_entropy(logits, target, "none")
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(soft_cross_entropy(logits, target), found.mean())
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        wanted = torch.softmax(logits.detach().double(), 1) - dense
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-2, atol=1e-2)
        assert (gradient[:, [0, 5]] == 0).all()
    # A label with a tail gives every class some probability: none for it is infinitely wrong.
    spread = TorchSoftLabels.from_numpy(topk.recover("uniform"))
    assert soft_cross_entropy(logits, spread, "none").tolist() == [torch.inf, torch.inf]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_torch_func_gives_the_gradients_of_autograd(temperature):
    logits = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(3))
    target = batch(0, 4)[1]

    def value(z):
        return soft_cross_entropy(z, target, temperature=temperature)

    leaf = logits.clone().requires_grad_()
    value(leaf).backward()
    torch.testing.assert_close(torch.func.grad(value)(logits), leaf.grad)
    hessian = torch.func.jacrev(torch.func.grad(value))(logits)
    reference = torch.autograd.functional.hessian(value, logits)
    torch.testing.assert_close(hessian, reference)

    def of_one(z, base, indices, weights):
        row = TorchSoftLabels(base[None], indices[None], weights[None], CLASSES)
        return soft_cross_entropy(z[None], row, temperature=temperature)

    each = torch.func.vmap(torch.func.grad(of_one))(
        logits, target.base, target.indices, target.weights
    )
    torch.testing.assert_close(each, leaf.grad * 4)
    # Many students, one label each row: the labels are not batched.
    students = torch.randn(3, 4, CLASSES, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        torch.func.vmap(value)(students), torch.stack([value(student) for student in students])
    )
