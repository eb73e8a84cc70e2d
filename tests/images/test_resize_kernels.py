"""The Triton kernel that resizes: in Triton's interpreter, and compiled for a GPU.

A GPU runs it in tests/gpu/test_on_device.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import commands

pytest.importorskip("triton", reason="the kernel is written in Triton, which is not installed")

ROOT = Path(__file__).parents[2]


def run(arguments, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_interpreted_it_makes_pillows_pixels(tmp_path):
    script = str(ROOT / "tests/support/resize_cases.py")
    differing, values = run([script], tmp_path, TRITON_INTERPRET="1").split()
    assert differing == "0"
    assert int(values) > 10_000


COMPILE = """
import os, sys, warnings
warnings.simplefilter("error")
os.environ["TRITON_CACHE_DIR"] = sys.argv[1]
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from labelstore.images.resize_kernels import _pass_kernel as kernel

types = {"source": "*u8", "table": "*i64", "numbers": "*i32", "out": "*u8"}
for across in (True, False):
    fixed = {"across": across, "block_lines": 8, "block_values": 128}
    known = {**types, **dict.fromkeys(("step", "out_step", "places"), "i32"),
             **dict.fromkeys(fixed, "constexpr")}
    source = ASTSource(kernel, {name: known[name] for name in kernel.arg_names}, fixed)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert made.asm["cubin"]
"""


@pytest.mark.slow
def test_it_compiles_for_a_gpu(tmp_path):
    pytest.importorskip("triton.backends.nvidia", reason="Triton without NVIDIA's compiler")
    commands.run([sys.executable, "-c", COMPILE, tmp_path], cwd=ROOT, check=True)
    assert list(tmp_path.iterdir()), "something else was found compiled"
