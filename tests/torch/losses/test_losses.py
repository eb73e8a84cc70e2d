"""The loss against dense float64 arithmetic, its gradient, its precision and its memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import labelstore
from labelstore.errors import LabelError, UsageError
from labelstore.labels.soft_labels import SoftLabels, mix, smooth
from labelstore.torch import TorchSoftLabels, soft_cross_entropy, soft_kl_divergence
from labelstore.torch.losses import cross_entropy


def recovered(rows=6, classes=30, k=4, seed=0, tail="uniform"):
    rng = np.random.default_rng(seed)
    probs = np.sort(rng.dirichlet(np.full(classes, 0.2), size=rows), axis=1)[:, ::-1][:, :k]
    indices = rng.random((rows, classes)).argsort(1)[:, :k]
    return labelstore.TopK(indices, probs, classes).recover(tail)


def doubled():
    """A mean of labels: classes stand twice, and weights are below zero."""
    return mix(
        [recovered(seed=1), recovered(seed=1, k=2), smooth(np.arange(6), 30, 0.3)], [0.5] * 3
    )


def negative():
    """Stored classes below the base."""
    return SoftLabels(np.full(6, 1 / 29), np.arange(6)[:, None], np.full((6, 1), -1 / 29), 30)


CASES = {
    "top-k": recovered,
    "one class": lambda: recovered(k=1),
    "all classes": lambda: recovered(k=30),
    "re-norm": lambda: recovered(tail="none"),
    "smoothed": lambda: smooth(np.arange(6), 30, 0.1),
    "mixed": doubled,
    "negative weights": negative,
}


def logits_for(labels, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shape = (len(labels), labels.num_classes)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def some_logits(labels, classes=8):
    """Logits of some of the classes, and a function that makes the whole of them.

    A numerical check takes two losses for each number; the whole gradient is compared elsewhere.
    """
    logits = logits_for(labels, 1.0)
    return logits[:, :classes].clone().requires_grad_(), lambda z: torch.cat(
        [z, logits[:, classes:]], dim=1
    )


@pytest.fixture(params=["one part", "parts"])
def parts(request, monkeypatch):
    """Small batches are one part, and keep their gradient; with this also the others' way."""
    if request.param == "parts":
        monkeypatch.setattr(cross_entropy, "PART", 1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [3.0, 3000.0])
@pytest.mark.usefixtures("parts")
def test_value_and_gradient_are_those_of_dense_cross_entropy(case, scale):
    labels = CASES[case]()
    target = TorchSoftLabels.from_numpy(labels)
    ours = logits_for(labels, scale).requires_grad_()
    dense = logits_for(labels, scale).requires_grad_()
    upstream = torch.linspace(-1.0, 2.0, len(labels), dtype=torch.float64)
    losses = soft_cross_entropy(ours, target, "none")
    probabilities = torch.zeros(labels.base.shape[0], labels.num_classes, dtype=torch.float64)
    probabilities += target.base.double()[:, None]
    probabilities.scatter_add_(1, target.indices, target.weights.double())
    expected = F.cross_entropy(dense, probabilities, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)
    losses.backward(upstream)
    expected.backward(upstream)
    # The labels are float32: their sum, which scales the softmax, is known to that precision.
    torch.testing.assert_close(ours.grad, dense.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("parts")
def test_gradient_passes_a_numerical_check(case):
    labels = CASES[case]()
    target = TorchSoftLabels.from_numpy(labels)
    some, whole = some_logits(labels)
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(whole(z), target, "none"), some)
    weighted = TorchSoftLabels.from_numpy(labels, weight=[1.0, 0.0, 0.5, 1.0, 0.0, 2.0])
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(whole(z), weighted), some)


@pytest.mark.parametrize("case", CASES)
def test_torch_agrees_with_the_numpy_reference(case):
    labels = CASES[case]()
    logits = logits_for(labels, dtype=torch.float32)
    ours = soft_cross_entropy(logits, TorchSoftLabels.from_numpy(labels), "none")
    np.testing.assert_allclose(ours, labels.cross_entropy(logits.numpy()), rtol=2e-6)


def test_float32_logits_of_a_thousand_lose_nothing_to_cancellation():
    labels = recovered(rows=64, classes=1000)
    logits = logits_for(labels, 1.0) + 4000.0
    target = TorchSoftLabels.from_numpy(labels)
    exact = soft_cross_entropy(logits.float().double(), target, "none")
    torch.testing.assert_close(
        soft_cross_entropy(logits.float(), target, "none").double(), exact, rtol=1e-5, atol=0
    )


@pytest.mark.usefixtures("parts")
def test_reductions():
    labels = recovered()
    target, logits = TorchSoftLabels.from_numpy(labels), logits_for(labels).requires_grad_()
    losses = soft_cross_entropy(logits, target, "none")
    assert losses.shape == (6,)
    for reduction, expected in (("mean", losses.mean()), ("sum", losses.sum())):
        reduced = soft_cross_entropy(logits, target, reduction)
        torch.testing.assert_close(reduced, expected)
        torch.testing.assert_close(
            torch.autograd.grad(3 * reduced, logits),
            torch.autograd.grad(3 * expected, logits, retain_graph=True),
        )


@pytest.mark.usefixtures("parts")
def test_masked_rows_count_neither_in_the_mean_nor_in_the_gradient():
    labels = recovered()
    keep = torch.tensor([True, False, True, False, False, True])
    target = TorchSoftLabels.from_numpy(labels, weight=keep.float())
    logits = logits_for(labels).requires_grad_()
    alone = soft_cross_entropy(logits.detach()[keep], target[keep])
    loss = soft_cross_entropy(logits, target)
    torch.testing.assert_close(loss, alone)
    loss.backward()
    assert (logits.grad[~keep] == 0).all()
    assert (logits.grad[keep] != 0).any(dim=1).all()
    halved = TorchSoftLabels.from_numpy(labels, weight=np.full(6, 0.5))
    plain = TorchSoftLabels.from_numpy(labels)
    torch.testing.assert_close(
        soft_cross_entropy(logits, halved), soft_cross_entropy(logits, plain)
    )
    total = soft_cross_entropy(logits, halved, "sum")
    torch.testing.assert_close(total, soft_cross_entropy(logits, plain, "sum") / 2)


@pytest.mark.usefixtures("parts")
def test_a_batch_of_masked_rows_alone_has_loss_and_gradient_zero():
    labels = recovered()
    target = TorchSoftLabels.from_numpy(labels, weight=np.zeros(6))
    logits = logits_for(labels).requires_grad_()
    loss = soft_cross_entropy(logits, target)
    loss.backward()
    assert loss.item() == 0.0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reduced_in_float32(dtype):
    labels = recovered(rows=32, classes=1000)
    target = TorchSoftLabels.from_numpy(labels)
    logits = logits_for(labels, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss = soft_cross_entropy(logits, target)
    loss.backward()
    wide = logits.detach().double().requires_grad_()
    exact = soft_cross_entropy(wide, target)
    exact.backward()
    assert loss.dtype == torch.float32
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        logits.grad.double(), wide.grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-7
    )


def test_a_model_trains_under_autocast():
    labels = recovered(rows=16, classes=10)
    target = TorchSoftLabels.from_numpy(labels)
    model = torch.nn.Linear(8, 10)
    features = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    history = []
    for _ in range(60):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = soft_cross_entropy(model(features), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] - 0.3


@pytest.mark.parametrize("part", [8 * 5000, 1000])
def test_nothing_wider_than_a_part_is_kept_for_the_backward_pass(monkeypatch, part):
    monkeypatch.setattr(cross_entropy, "PART", part // torch.get_num_threads())
    labels = recovered(rows=8, classes=5000)
    target = TorchSoftLabels.from_numpy(labels)
    logits = logits_for(labels, dtype=torch.float32).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        soft_cross_entropy(logits, target)
    own = [tensor for tensor in kept if tensor.data_ptr() != logits.data_ptr()]
    assert len(own) < len(kept)
    gradient = 8 * 5000 if part >= 8 * 5000 else 0
    assert sum(tensor.numel() for tensor in own) <= 8 * (2 * 4 + 4) + gradient


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_rows_worked_on_in_parts_are_those_worked_on_at_once(monkeypatch, dtype, temperature):
    labels = recovered(rows=11, classes=500, seed=3)
    target = TorchSoftLabels.from_numpy(labels)
    found = []
    # Rows at once: all; four, with three left over; one, where a row is longer than a part.
    for part in (11 * 500, 4 * 500, 100):
        monkeypatch.setattr(cross_entropy, "PART", part // torch.get_num_threads())
        logits = logits_for(labels, dtype=dtype).requires_grad_()
        losses = soft_cross_entropy(logits, target, "none", temperature=temperature)
        losses.backward(torch.linspace(-1.0, 2.0, 11, dtype=losses.dtype))
        assert logits.grad.dtype == dtype
        found.append((losses.detach(), logits.grad))
    for losses, gradient in found[1:]:
        torch.testing.assert_close(losses, found[0][0])
        torch.testing.assert_close(gradient, found[0][1])


class Storages(TorchDispatchMode):
    """Bytes of every piece of memory that operations make, kept so that none is counted twice."""

    def __init__(self, *given):
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.kept, self.sizes = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.given:
                    self.kept.append(tensor)
                    self.sizes[storage.data_ptr()] = storage.nbytes()
        return out


def test_a_large_batch_makes_nothing_as_wide_as_the_classes_but_its_gradient(monkeypatch):
    monkeypatch.setattr(cross_entropy, "PART", 2**18 // torch.get_num_threads())
    labels = recovered(rows=64, classes=40_000)
    target = TorchSoftLabels.from_numpy(labels)
    logits = torch.randn(64, 40_000, requires_grad=True)
    with Storages(logits) as storages:
        torch.autograd.grad(soft_cross_entropy(logits, target), logits)
    sizes = sorted(storages.sizes.values())
    room = 4 * cross_entropy.PART * torch.get_num_threads()
    assert sizes[-1] == logits.nbytes
    assert sum(sizes[:-1]) < 1.1 * room < logits.nbytes


@pytest.mark.parametrize(
    ("backend", "reduction"),
    [
        ("aot_eager", "mean"),
        *(
            pytest.param(*names, marks=pytest.mark.slow)
            for names in itertools.product(("aot_eager", "inductor"), ("mean", "sum", "none"))
            if names != ("aot_eager", "mean")
        ),
    ],
)
def test_the_loss_compiles_without_a_break(backend, reduction):
    def loss(logits, target):
        options = {"temperature": 2.0, "temperature_squared": True}
        return (
            soft_cross_entropy(logits, target, reduction)
            + soft_kl_divergence(logits, target, reduction, **options)
        ).sum()

    target = TorchSoftLabels.from_numpy(doubled(), weight=np.linspace(0.0, 1.0, 6))
    plain = logits_for(doubled(), dtype=torch.float32).requires_grad_()
    compiled = plain.detach().clone().requires_grad_()
    torch._dynamo.reset()
    expected = loss(plain, target)
    found = torch.compile(loss, fullgraph=True, backend=backend)(compiled, target)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(compiled.grad, plain.grad)


@pytest.mark.parametrize("case", ["top-k", "mixed", "negative weights"])
def test_the_second_derivative_passes_a_numerical_check(case):
    labels = CASES[case]()
    target = TorchSoftLabels.from_numpy(labels, weight=[1.0, 0.0, 0.5, 1.0, 0.0, 2.0])
    some, whole = some_logits(labels)
    assert torch.autograd.gradgradcheck(
        lambda z: soft_cross_entropy(whole(z), target, temperature=2.0), some
    )


def test_a_gradient_penalty_is_that_of_dense_cross_entropy():
    labels = recovered()
    target = TorchSoftLabels.from_numpy(labels)
    found = []
    for loss in (
        lambda z: soft_cross_entropy(z, target),
        lambda z: F.cross_entropy(z, target.dense().double()),
    ):
        logits = logits_for(labels).requires_grad_()
        value = loss(logits)
        (slope,) = torch.autograd.grad(value, logits, create_graph=True)
        (value + slope.square().sum()).backward()
        found.append(logits.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("parts")
def test_the_gradient_can_be_taken_again_from_a_kept_graph():
    labels = recovered()
    logits = logits_for(labels).requires_grad_()
    loss = soft_cross_entropy(logits, TorchSoftLabels.from_numpy(labels))
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    expected = first.clone()
    # What is done to the first, as accumulation does, is not done to the second.
    first.zero_()
    (second,) = torch.autograd.grad(loss, logits)
    assert torch.equal(second, expected)


def test_labels_without_stored_classes():
    target = TorchSoftLabels(
        torch.full((3,), 1 / 30), torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, 0), 30
    )
    logits = torch.randn(3, 30, dtype=torch.float64, requires_grad=True)
    expected = -torch.log_softmax(logits, 1).mean(1)
    torch.testing.assert_close(
        soft_cross_entropy(logits, target, "none"), expected, rtol=1e-6, atol=0
    )
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, target, "none"), logits)


def test_logits_that_do_not_fit_are_refused():
    target = TorchSoftLabels.from_numpy(recovered())
    with pytest.raises(LabelError, match=r"\(6, 31\).*expected \(6, 30\)"):
        soft_cross_entropy(torch.zeros(6, 31), target)
    with pytest.raises(LabelError, match=r"\(5, 30\)"):
        soft_cross_entropy(torch.zeros(5, 30), target)
    with pytest.raises(LabelError, match=r"int64.*floating point"):
        soft_cross_entropy(torch.zeros(6, 30, dtype=torch.int64), target)
    with pytest.raises(UsageError, match=r"'average'.*mean, sum, none"):
        soft_cross_entropy(torch.zeros(6, 30), target, "average")
    with pytest.raises(UsageError, match=r"logits are on meta.*target\.to"):
        soft_cross_entropy(torch.zeros(6, 30, device="meta"), target)


def test_labels_survive_the_way_to_torch_and_back():
    labels = doubled()
    target = TorchSoftLabels.from_numpy(labels, target=np.arange(6), action=np.zeros(6))
    np.testing.assert_allclose(target.dense(), labels.dense(), atol=1e-7)
    assert (target.indices.dtype, target.target.dtype) == (torch.int64, torch.int64)
    assert (target.weights.dtype, target.action.dtype) == (torch.float32, torch.uint8)
    moved = target.to("meta")
    assert {moved.base.device.type, moved.target.device.type, moved.action.device.type} == {"meta"}
    assert moved.weight is None
    part = target[2:4]
    assert len(part) == 2
    np.testing.assert_allclose(part.dense(), labels.dense()[2:4], atol=1e-7)


def test_tensors_that_make_no_labels_are_refused():
    base, indices = torch.zeros(3), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(LabelError, match=r"expected \(B,\), \(B, K\)"):
        TorchSoftLabels(base, indices, torch.zeros(3, 1), 5)
    with pytest.raises(LabelError, match=r"weight has shape \(2,\), expected \(3,\)"):
        TorchSoftLabels(base, indices, torch.zeros(3, 2), 5, weight=torch.zeros(2))
