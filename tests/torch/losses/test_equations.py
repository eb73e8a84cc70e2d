"""The losses of the FerKD paper's equations 1 to 3 and the KL divergence, against dense float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import labelstore
from labelstore.errors import LabelError, UsageError
from labelstore.labels.distribution import entropy
from labelstore.labels.ferkd import FerKD
from labelstore.labels.soft_labels import SoftLabels, mix, smooth
from labelstore.torch import (
    TorchSoftLabels,
    ferkd_loss,
    fkd_loss,
    label_entropy,
    soft_cross_entropy,
    soft_kl_divergence,
    vanilla_kd_loss,
)
from labelstore.torch.recipes import LABEL_TYPES, recover_as

CLASSES, ROWS = 30, 6


def stored(k=4, seed=0, sharp=0.2):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(CLASSES, sharp), size=ROWS)
    order = np.argsort(-p, 1)[:, :k]
    return labelstore.TopK(order, np.take_along_axis(p, order, 1), CLASSES)


LABELS = {
    "top-k": lambda: stored().recover(),
    "one class": lambda: stored(k=1).recover(),
    "re-norm": lambda: stored().recover("none"),
    "one-hot": lambda: smooth(np.arange(ROWS), CLASSES, 0.0),
    "mixed": lambda: mix([stored().recover(), stored(seed=1).recover()], [0.3, 0.7]),
}


def dense(label):
    out = np.zeros((len(label), label.num_classes))
    for row in range(len(label)):
        out[row] = float(label.base[row])
        for index, weight in zip(label.indices[row], label.weights[row], strict=True):
            out[row, index] += float(weight)
    return np.maximum(out, 0.0)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def cross_entropy(p, z):
    return -(p * log_softmax(z)).sum(-1)


def divergence(p, z):
    return cross_entropy(p, z) + (p * np.log(np.where(p > 0, p, 1))).sum(-1)


def logits(seed=0, scale=3.0):
    return np.random.default_rng(seed).normal(size=(ROWS, CLASSES)) * scale


@pytest.mark.parametrize("case", LABELS)
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
@pytest.mark.parametrize("squared", [False, True])
def test_cross_entropy_and_divergence_at_a_student_temperature(case, temperature, squared):
    label, z = LABELS[case](), logits()
    target = TorchSoftLabels.from_numpy(label)
    options = {"temperature": temperature, "temperature_squared": squared}
    factor = temperature**2 if squared else 1.0
    p = dense(label)
    found = soft_cross_entropy(torch.tensor(z), target, "none", **options)
    np.testing.assert_allclose(found, factor * cross_entropy(p, z / temperature), rtol=1e-6)
    found = soft_kl_divergence(torch.tensor(z), target, "none", **options)
    expected = factor * divergence(p, z / temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    found = soft_kl_divergence(torch.tensor(z), target, **options)
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradients_pass_a_numerical_check(temperature):
    label = LABELS["mixed"]()
    target = TorchSoftLabels.from_numpy(
        label, weight=[1.0, 0.0, 0.5, 1.0, 0.0, 2.0], target=np.arange(ROWS)
    )
    # Two losses are taken for each number: some of the classes vary, stored ones among them.
    some, rest = torch.tensor(logits(scale=1.0)).split([8, CLASSES - 8], dim=1)
    some = some.clone().requires_grad_()
    options = {"temperature": temperature, "temperature_squared": True}
    for loss in (
        lambda z: soft_cross_entropy(z, target, **options),
        lambda z: soft_kl_divergence(z, target, "none", **options),
        lambda z: vanilla_kd_loss(z, target, 0.3, "sum", **options),
    ):
        assert torch.autograd.gradcheck(
            lambda z, loss=loss: loss(torch.cat([z, rest], dim=1)), some
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_divided_in_float32(dtype):
    target = TorchSoftLabels.from_numpy(LABELS["top-k"]())
    z = torch.tensor(logits()).to(dtype).requires_grad_()
    loss = soft_cross_entropy(z, target, temperature=3.0)
    loss.backward()
    exact = soft_cross_entropy(z.detach().double(), target, temperature=3.0)
    assert (loss.dtype, z.grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", LABELS)
def test_the_divergence_is_zero_where_the_student_says_what_the_label_says(case):
    label = LABELS[case]()
    z = torch.tensor(np.log(np.maximum(dense(label), 1e-30)), requires_grad=True)
    losses = soft_kl_divergence(z, TorchSoftLabels.from_numpy(label), "none")
    np.testing.assert_allclose(losses.detach(), 0, atol=3e-6)
    losses.sum().backward()
    assert z.grad.abs().max() < 1e-6


@pytest.mark.parametrize("case", LABELS)
def test_entropy_is_that_of_numpy_and_never_dense(case):
    label = LABELS[case]()
    found = label_entropy(TorchSoftLabels.from_numpy(label))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, entropy(label), atol=1e-12)
    bare = SoftLabels(np.full(2, 0.25), np.zeros((2, 0)), np.zeros((2, 0)), 4)
    np.testing.assert_allclose(label_entropy(TorchSoftLabels.from_numpy(bare)), np.log(4))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equation_1_weighs_hard_and_soft_labels(alpha, temperature):
    label, z, truth = stored().recover(), logits(), np.arange(ROWS) * 3
    target = TorchSoftLabels.from_numpy(label, target=truth)
    found = vanilla_kd_loss(
        torch.tensor(z), target, alpha, temperature=temperature, temperature_squared=True
    )
    hard_term = -log_softmax(z)[np.arange(ROWS), truth]
    soft_term = temperature**2 * divergence(dense(label), z / temperature)
    np.testing.assert_allclose(
        found, np.mean(alpha * hard_term + (1 - alpha) * soft_term), rtol=1e-6
    )


def test_equation_1_with_hard_labels_of_ones_own():
    label, z = stored().recover(), logits()
    own = smooth(np.arange(ROWS), CLASSES, 0.1)
    found = vanilla_kd_loss(
        torch.tensor(z),
        TorchSoftLabels.from_numpy(label, weight=np.arange(ROWS)),
        0.4,
        hard=TorchSoftLabels.from_numpy(own),
    )
    rows = 0.4 * cross_entropy(dense(own), z) + 0.6 * divergence(dense(label), z)
    np.testing.assert_allclose(found, (rows * np.arange(ROWS)).sum() / 15, rtol=1e-6)


def test_equation_1_needs_the_ground_truth_and_says_which_option_does():
    label, z = stored().recover(), torch.tensor(logits())
    without = TorchSoftLabels.from_numpy(label)
    with pytest.raises(LabelError, match=r"alpha > 0.*6 of 6 views.*alpha=0"):
        vanilla_kd_loss(z, without, 0.5)
    partly = TorchSoftLabels.from_numpy(label, target=[0, 1, -1, 3, -1, 5])
    with pytest.raises(LabelError, match=r"2 of 6 views.*hard="):
        vanilla_kd_loss(z, partly, 0.5)
    expected = soft_kl_divergence(z, without)
    torch.testing.assert_close(vanilla_kd_loss(z, without, 0.0), expected)
    with pytest.raises(UsageError, match=r"alpha is 1\.5"):
        vanilla_kd_loss(z, partly, 1.5)


def test_equation_2_is_cross_entropy_with_the_soft_labels():
    label, z = stored().recover(), logits()
    found = fkd_loss(torch.tensor(z), TorchSoftLabels.from_numpy(label))
    np.testing.assert_allclose(found, cross_entropy(dense(label), z).mean(), rtol=1e-6)


def test_equation_3_is_cross_entropy_with_the_calibrated_labels():
    topk = labelstore.TopK(
        np.arange(ROWS)[:, None], np.array([0.10, 0.15, 0.2, 0.3, 0.31, 0.96])[:, None], CLASSES
    )
    truth, z = np.arange(ROWS) + 7, logits()
    done = FerKD(discard="mask", smoothing=0.2).apply(topk, truth)
    target = TorchSoftLabels.from_numpy(done.labels, weight=done.weight, action=done.action)
    # The rule by hand: rows 0, 1 and 5 are discarded, 2 and 3 calibrated, 4 kept.
    rows = []
    for row in (2, 3, 4):
        p = np.full(CLASSES, 0.2 / (CLASSES - 1))
        p[truth[row]] = 0.8
        if row == 4:
            p = np.full(CLASSES, 0.69 / (CLASSES - 1))
            p[4] = 0.31
        rows.append(cross_entropy(p, z[row]))
    np.testing.assert_allclose(ferkd_loss(torch.tensor(z), target), np.mean(rows), rtol=1e-6)


def test_equation_3_refuses_labels_that_were_not_calibrated():
    with pytest.raises(LabelError, match=r"ferkd=FerKD\(\).*fkd_loss"):
        ferkd_loss(torch.tensor(logits()), TorchSoftLabels.from_numpy(stored().recover()))


def test_a_temperature_that_is_none_is_refused():
    target = TorchSoftLabels.from_numpy(stored().recover())
    for temperature in (0.0, -2.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="expected a positive number"):
            soft_cross_entropy(torch.tensor(logits()), target, temperature=temperature)
        with pytest.raises(UsageError, match="expected a positive number"):
            soft_kl_divergence(torch.tensor(logits()), target, temperature=temperature)


@pytest.mark.parametrize("k", [1, 5, CLASSES])
def test_label_types_by_name(k):
    topk = stored(k)
    p = topk.probs.astype(np.float64)
    for row in range(ROWS):
        first, others = topk.indices[row, 0], max(CLASSES - k, 1)
        expected = {"hard": np.eye(CLASSES)[first]}
        expected["label-smoothing"] = np.full(CLASSES, (1 - p[row, 0]) / (CLASSES - 1))
        expected["label-smoothing"][first] = p[row, 0]
        expected["marginal-smoothing"] = np.full(CLASSES, (1 - p[row].sum()) / others)
        expected["marginal-smoothing"][topk.indices[row]] = p[row]
        # These labels come without a list of likely classes.
        expected["top-k"] = expected["marginal-smoothing"]
        expected["marginal-re-norm"] = np.zeros(CLASSES)
        expected["marginal-re-norm"][topk.indices[row]] = p[row] / p[row].sum()
        for name, values in expected.items():
            np.testing.assert_allclose(recover_as(topk, name).dense()[row], values, atol=3e-7)
    assert set(expected) == set(LABEL_TYPES) - {"image-tail"}
    with pytest.raises(UsageError, match=r"soft.*expected one of hard"):
        recover_as(topk, "soft")
