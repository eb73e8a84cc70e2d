"""The loss's Triton kernels against float64 arithmetic: interpreted, compiled, and on a GPU.

Where there is no GPU the kernels run in Triton's interpreter, and are compiled but not run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from labelstore.torch import TorchSoftLabels, soft_cross_entropy
from tests.support import commands

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

ROOT = Path(__file__).parents[3]
EPSILON = {"float32": 2e-6, "bfloat16": 2**-7, "float16": 2**-11}
"""Relative error of one rounding to each type; the interpreter cuts bfloat16 off, a GPU rounds."""
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def case(rows, classes, listed, seed=0, base=0.1, low=0.0, away=0.0):
    """Logits and labels; a third of each row's classes stand more than once."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, classes, size=(rows, listed))
    indices[:, : listed // 3] = indices[:, listed - listed // 3 :]
    weights = rng.uniform(low, 1.0, size=(rows, listed)) / max(listed, 1)
    # Numbers that bfloat16 has: the kernels and the reference see the same ones.
    logits = torch.from_numpy(rng.normal(size=(rows, classes)) * 3 + away).bfloat16()
    return {
        "logits": logits.float().numpy(),
        "base": (rng.uniform(0.5, 1.0, size=rows) * base / classes).astype(np.float32),
        "indices": indices.astype(np.int64),
        "weights": weights.astype(np.float32),
        "upstream": rng.uniform(-1.0, 2.0, size=rows).astype(np.float32),
    }


def masked(base=0.1):
    """Classes that a model cannot say, the first among them."""
    given = case(2, 40, 3, base=base)
    given["logits"][:, [0, 7]] = -np.inf
    given["indices"][...] = [[1, 2, 2], [3, 9, 3]]
    return given


def masked_without_a_tail():
    """Labels that give them no probability: one has a place without weight there; and a first block
    of which the model can say nothing."""
    given = masked(base=0.0)
    given["indices"][0, 0], given["weights"][0, 0] = 7, 0.0
    wide = case(2, 9001, 3, base=0.0)
    wide["logits"][:, :5000] = -np.inf
    wide["indices"][...] = [[6000, 7000, 7000], [5001, 9000, 5001]]
    return given, wide


CASES = {
    "small": (case(3, 5, 2), "float32", 1.0, "rows"),
    "one class": (case(2, 1, 1), "float32", 1.0, "rows"),
    "one row": (case(1, 70, 9), "float32", 1.0, "rows"),
    "no stored classes": (case(2, 9, 0), "float32", 1.0, "rows"),
    "re-norm": (case(4, 1000, 10, base=0.0), "float32", 1.0, "rows"),
    "tail": (case(4, 1000, 64), "float32", 1.0, "rows"),
    "below the base": (case(3, 100, 8, base=1.0, low=-1.0), "float32", 1.0, "rows"),
    "several blocks": (case(2, 9001, 10), "float32", 1.0, "rows"),
    "a block to the last": (case(2, 8192, 10), "float32", 1.0, "rows"),
    "long lists": (case(2, 5000, 300), "float32", 1.0, "rows"),
    "hot": (case(3, 1000, 10), "float32", 4.0, "rows"),
    "cold": (case(3, 1000, 10), "float32", 0.5, "rows"),
    "far from zero": (case(3, 5000, 10, away=4000.0), "float32", 1.0, "rows"),
    "bfloat16": (case(3, 5000, 30), "bfloat16", 1.0, "rows"),
    "bfloat16, hot": (case(3, 1000, 30), "bfloat16", 3.0, "rows"),
    "float16": (case(3, 1000, 30), "float16", 1.0, "rows"),
    "columns": (case(3, 100, 7), "float32", 1.0, "columns"),
    "part of wider rows": (case(3, 100, 7), "float32", 1.0, "part of wider rows"),
    "under autograd": (case(3, 5000, 30), "float32", 2.0, "autograd"),
}


def reference(given, temperature):
    """Losses and gradient in float64, row by row, from the formulas."""
    logits, base, weights, upstream = (
        given[name].astype(np.float64) for name in ("logits", "base", "weights", "upstream")
    )
    losses, gradient = np.zeros(len(logits)), np.zeros(logits.shape)
    for row in range(len(logits)):
        p = np.full(logits.shape[1], base[row])
        np.add.at(p, given["indices"][row], weights[row])
        x = logits[row] / temperature
        logs = x - x.max() - np.log(np.exp(x - x.max()).sum())
        losses[row] = -(p * logs).sum()
        gradient[row] = upstream[row] / temperature * (p.sum() * np.exp(logs) - p)
    return losses, gradient


def assert_right(found, given, dtype, temperature, layout):
    if layout == "autograd":
        given = {**given, "upstream": np.full(len(given["logits"]), 1 / len(given["logits"]))}
    losses, gradient = reference(given, temperature)
    np.testing.assert_allclose(found[0], losses, rtol=1e-5, atol=1e-6)
    # What is rounded to float16's smallest steps is off by half of one.
    np.testing.assert_allclose(found[1], gradient, rtol=EPSILON[dtype] + 5e-5, atol=6e-8)


def run(arguments, folder, **environment):
    """A Python process of its own: Triton reads its environment when it is imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    np.save(folder / "cases.npy", np.array({**CASES, **MASKED}, dtype=object))
    script = ROOT / "tests/support/loss_cases.py"
    run([script, folder / "cases.npy", folder / "found.npy"], folder, TRITON_INTERPRET="1")
    return np.load(folder / "found.npy", allow_pickle=True)[()]


MASKED = {
    name: (given, "float32", 1.0, "rows")
    for name, given in zip(
        ("masked", "without a tail", "a whole block"),
        (masked(), *masked_without_a_tail()),
        strict=True,
    )
}


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_give_the_loss_and_its_gradient(interpreted, name):
    assert_right(interpreted[name], *CASES[name])


def test_a_class_of_logit_minus_infinity_takes_part_in_no_gradient(interpreted):
    losses, gradient = interpreted["masked"]
    given = MASKED["masked"][0]
    assert np.isposinf(losses).all()  # the labels' tail gives it some probability
    above, base = given["upstream"], given["base"]
    expected = np.repeat(-(above * base)[:, None], 2, axis=1)
    np.testing.assert_allclose(gradient[:, [0, 7]], expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["without a tail", "a whole block"])
def test_a_class_without_probability_may_have_the_logit_minus_infinity(interpreted, name):
    losses, gradient = interpreted[name]
    given = MASKED[name][0]
    possible = np.isfinite(given["logits"]).all(axis=0)
    places = np.cumsum(possible) - 1
    # The same without the classes that the model cannot say.
    within = {
        **given,
        "logits": given["logits"][:, possible],
        "indices": places[given["indices"]].clip(0),
    }
    expected, slopes = reference(within, 1.0)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, possible], slopes, rtol=1e-4, atol=6e-8)
    assert (gradient[:, ~possible] == 0).all()


def test_the_trial_before_the_first_use_passes(interpreted):
    assert interpreted["works"] is True


COMPILE = """
import os, sys, warnings
warnings.simplefilter("error")
os.environ["TRITON_CACHE_DIR"] = sys.argv[2]
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from labelstore.torch.losses import triton_kernels as kernels

fixed = {"block": 4096, "listed_block": 64, "compared": 16}
types = {"base": "*fp32", "indices": "*i64", "weights": "*fp32", "losses": "*fp32",
         "rows": "*fp32", "upstream": "*fp32", "stride": "i64", "upstream_stride": "i32",
         "count": "i32", "classes": "i32", "listed": "i32", "scale": "fp32"}
for kernel in (kernels._losses_kernel, kernels._gradient_kernel):
    for logits in ("*fp32", "*bf16", "*fp16"):
        known = {**types, "logits": logits, "gradient": logits, **dict.fromkeys(fixed, "constexpr")}
        source = ASTSource(kernel, {name: known[name] for name in kernel.arg_names},
                           {name: fixed[name] for name in kernel.arg_names if name in fixed})
        made = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32),
                              options={"num_warps": 8, "enable_fp_fusion": True})
        code = made.asm["ttgir"]
        if kernel is kernels._gradient_kernel:
            # Between the row and what is stored for it.
            first, last = code.index("tt.store"), code.rindex("tt.store")
            assert "barrier" in code[first:last], code
        assert made.asm["cubin"]
"""


@pytest.mark.parametrize("capability", [90, pytest.param(80, marks=pytest.mark.slow)])
def test_kernels_compile_for_a_gpu(tmp_path, capability):
    pytest.importorskip("triton.backends.nvidia", reason="Triton without NVIDIA's compiler")
    commands.run([sys.executable, "-c", COMPILE, capability, tmp_path], cwd=ROOT, check=True)
    assert list(tmp_path.iterdir()), "something else was found compiled"


@on_gpu
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][3] != "autograd"])
def test_kernels_on_a_gpu_give_the_loss_and_its_gradient_alike_in_every_run(name):
    from tests.support.loss_cases import by_kernels

    runs = [by_kernels(*CASES[name], device="cuda") for _ in range(3)]
    losses, gradient = runs[0]
    assert_right((losses.cpu(), gradient.double().cpu()), *CASES[name])
    for other in runs[1:]:
        assert torch.equal(losses, other[0])
        assert torch.equal(gradient, other[1])


@on_gpu
def test_on_a_gpu_the_kernels_are_used_and_make_nothing_as_wide_as_the_classes():
    from labelstore.torch.losses import triton_kernels

    assert triton_kernels.works(torch.device("cuda", torch.cuda.current_device()))
    given = case(64, 20_000, 20)
    target = TorchSoftLabels(
        *(torch.from_numpy(given[name]) for name in ("base", "indices", "weights")), 20_000
    ).to("cuda")
    logits = torch.from_numpy(given["logits"]).cuda().requires_grad_()
    soft_cross_entropy(logits, target).backward()
    logits.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = soft_cross_entropy(logits, target)
    assert torch.cuda.max_memory_allocated() - before < logits.nbytes / 10
    loss.backward()
    assert torch.cuda.max_memory_allocated() - before < logits.nbytes * 1.1
