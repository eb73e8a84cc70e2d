"""Rows of ``benchmarks.gpu`` about the device's own arithmetic: its tests, and the loss."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.support.gpu_place import Place, Record

__all__ = ["loss", "tests"]

ROOT = Path(__file__).parent.parent.parent
TESTS = (
    "tests/gpu/test_on_device.py",
    "tests/torch/losses/test_triton_kernels.py",
    "tests/torch/test_recover.py",
    "tests/teachers/test_load.py",
)
"""Where the tests are that a GPU runs and a CPU skips, or runs elsewhere."""

Way = dict[str, "Callable[[], torch.Tensor]"]


def tests(place: Place, record: Record) -> None:
    """The tests that only a GPU runs: how many passed, and the text of those that failed."""
    import pytest

    outcomes = _Outcomes(record)
    arguments = ["-q", "-W", "default", "-p", "no:cacheprovider"]
    arguments.append("--continue-on-collection-errors")
    chosen = (
        ["-k", "crops_are_pillows and bilinear"]
        if place.dry
        else ["-k", "gpu or cuda or test_on_device"]
    )
    os.chdir(ROOT)
    code = pytest.main(
        [*arguments, *chosen, *(str(ROOT / test) for test in TESTS)], plugins=[outcomes]
    )
    if not sum(outcomes.counts.values()):
        raise RuntimeError(f"pytest ran no test and ended with {code}")
    record.add(**outcomes.counts, exit_code=int(code))


class _Outcomes:
    """A plugin of pytest that writes down each test as it ends: a row that is cut tells which."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A phase of a test is over."""
        if report.when != "call" and report.passed:
            return
        self.counts[report.outcome] += 1
        text = {"text": str(report.longrepr)[-3000:]} if report.failed else {}
        if not report.skipped:
            self._record.add(
                test=report.nodeid,
                outcome=report.outcome,
                seconds=round(report.duration, 2),
                **text,
            )

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be collected has failed."""
        if report.failed:
            self.counts["failed"] += 1
            self._record.add(
                test=report.nodeid, outcome="failed", text=str(report.longrepr)[-3000:]
            )


def loss(place: Place, record: Record) -> None:
    """Forward and backward pass of soft cross-entropy, each way, with its distance from float64.

    ``triton``: the kernels; ``plain``: torch's own operations on the sparse label; ``compiled``:
    the same under torch.compile; ``dense``: the label made dense, then ``F.cross_entropy``;
    ``dense label``: ``F.cross_entropy`` of a label that is dense already, which leaves out what
    making it takes. Times are the device's, of the forward and the backward pass of the mean.
    """
    settings = [
        (batch, k, classes)
        for batch in (1024, 256, 4096)
        for k in (10, 64)
        for classes in (1000, 10_000, 21_841)
    ]
    if place.dry:
        settings = [(16, 3, 50)]
    single, half = torch.float32, torch.bfloat16
    trials = [(single, size, False) for size in settings]
    # A compilation takes many times what is measured.
    trials += [(single, size, True) for size in settings[:3]]
    trials += [(half, size, False) for size in settings]
    trials += [(single, size, True) for size in settings[3:]]
    for dtype, size, compiled in trials:
        if compiled and place.dry:
            continue
        entry = _named(dtype, size) | {"compiled": compiled}
        if not record.has_time(0 if place.dry else (12 if compiled else 4), **entry):
            continue
        with record.attempt(**entry):
            measured = _compiled(place, *size) if compiled else _measured(place, dtype, *size)
            record.add(**entry, **measured)


def _named(dtype: torch.dtype, size: tuple[int, int, int]) -> dict[str, Any]:
    batch, k, classes = size
    kind = str(dtype).removeprefix("torch.")
    return {"logits": kind, "batch_size": batch, "k": k, "classes": classes}


def _inputs(place: Place, batch: int, k: int, classes: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """Logits that want a gradient, and labels."""
    from benchmarks.support.measuring import synthetic_labels
    from labelstore.labels.top_k import TopK
    from labelstore.torch import TorchSoftLabels

    # Labels of 256 images, shown again where the batch is larger: the device does not see it.
    ids, probs = synthetic_labels(min(batch, 256), 1, k, classes)
    soft = TopK(ids[:, 0], probs[:, 0], classes).recover("uniform")
    target = TorchSoftLabels.from_numpy(soft)
    times = -(-batch // len(target))
    target = TorchSoftLabels(
        target.base.repeat(times)[:batch],
        target.indices.repeat(times, 1)[:batch],
        target.weights.repeat(times, 1)[:batch],
        classes,
    ).to(place.device)
    logits = torch.randn(batch, classes, device=place.device).mul_(3).to(dtype)
    return logits.requires_grad_(), target


def _dense_label(target: Any) -> torch.Tensor:
    label = target.base[:, None].repeat(1, target.num_classes)
    return label.scatter_add_(1, target.indices, target.weights)


def _exact(logits: torch.Tensor, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss and its gradient in float64, from the formulas."""
    label = target.base.double()[:, None].repeat(1, target.num_classes)
    label.scatter_add_(1, target.indices, target.weights.double())
    logs = torch.log_softmax(logits.detach().double(), 1)
    value = -(label * logs).sum(1).mean()
    gradient = (label.sum(1, keepdim=True) * logs.exp() - label) / len(logits)
    return value, gradient


def _measured(place: Place, dtype: torch.dtype, batch: int, k: int, classes: int) -> dict[str, Any]:
    """Each way's time, memory and error, but for the compiled one."""
    from labelstore.torch import soft_cross_entropy

    logits, target = _inputs(place, batch, k, classes, dtype)
    label = _dense_label(target)
    on_gpu = place.device.type == "cuda"
    ways: Way = {
        **({"triton": lambda: soft_cross_entropy(logits, target)} if on_gpu else {}),
        "plain": lambda: soft_cross_entropy(logits, target),
        "dense": lambda: F.cross_entropy(logits.float(), _dense_label(target)),
        "dense label": lambda: F.cross_entropy(logits.float(), label),
    }
    out: dict[str, Any] = {}
    for name, way in ways.items():
        with _kernels(name == "triton"):
            out[name] = _way(place, logits, target, way)
    ours = "triton" if on_gpu else "plain"
    for name in ways:
        if name == ours:
            continue
        out[f"{name} over {ours}"] = round(out[name]["median_ms"] / out[ours]["median_ms"], 3)
        alone = [out[one]["device_alone_ms"] for one in (name, ours)]
        if None not in alone:
            out[f"{name} over {ours}, device alone"] = round(alone[0] / alone[1], 3)
    return out


def _compiled(place: Place, batch: int, k: int, classes: int) -> dict[str, Any]:
    """The plain way under torch.compile."""
    from labelstore.torch import soft_cross_entropy

    torch._dynamo.reset()
    logits, target = _inputs(place, batch, k, classes, torch.float32)
    way = torch.compile(lambda: soft_cross_entropy(logits, target))
    seconds = place.wall(lambda: way().backward())
    return {"compilation_s": round(seconds, 2), **_way(place, logits, target, way)}


def _way(
    place: Place, logits: torch.Tensor, target: Any, way: Callable[[], torch.Tensor]
) -> dict[str, Any]:
    def step() -> None:
        logits.grad = None
        way().backward()

    exact, slope = _exact(logits, target)
    value = way().detach()
    step()
    gradient = logits.grad
    away = (gradient.double() - slope).abs().max() / slope.abs().max()
    errors = {
        "loss_error": abs(float(value.double() - exact)),
        "gradient_error_of_largest": float(away),
    }
    del exact, slope, gradient, away
    logits.grad = None
    peak = place.peak_bytes(step)
    if peak is not None:
        peak -= logits.nbytes
    timing = place.milliseconds(step, 0.12)
    alone = place.graph_milliseconds(step)
    logits.grad = None
    return {**timing, "device_alone_ms": alone, "bytes_beyond_gradient": peak, **errors}


@contextlib.contextmanager
def _kernels(used: bool) -> Iterator[None]:
    """Whether the loss takes its Triton kernels or torch's own operations."""
    from labelstore.torch.losses import cross_entropy

    if used:
        yield
        return
    with mock.patch.object(cross_entropy, "_fusible", return_value=False):
        yield
