"""The sparse soft cross-entropy against making labels dense first, forward and backward.

Time: both in turns, rounds upon rounds, in one process; on one thread of a CPU it is the
processor's, so that other work on the machine counts little. Memory: the highest resident size
while one forward and backward pass runs, above what was there before, each in a process of its own
(on a GPU: what torch's allocator handed out). The gradient, which both must make, is taken off.
With a GPU there are rows for it too.

    python -m benchmarks.loss
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.support.measuring import alternate, ratio, summary, synthetic_labels, write_result
from labelstore.labels.top_k import TopK
from labelstore.torch import TorchSoftLabels, soft_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 1.5
"""About how long one row's rounds may take."""
MOST_ROUNDS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--top-k", type=int, nargs="+", default=[10, 64])
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 10_000, 21_841])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, help="as many as fit in 1.5 s, 15 to 2,000")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        way, *sizes = options.memory_of
        print(json.dumps(resident(way, *map(int, sizes))))
        return
    torch.manual_seed(0)
    places = [("cpu", torch.float32, threads) for threads in options.threads]
    if torch.cuda.is_available():
        places += [("cuda", torch.float32, None), ("cuda", torch.bfloat16, None)]
    rows, memory = [], []
    for classes in options.classes:
        for batch in options.batch_sizes:
            for k in options.top_k:
                sizes = (batch, k, classes)
                rows += [measure(*place, *sizes, options.rounds) for place in places]
        memory.append(memory_on_cpu(options.batch_sizes[0], options.top_k[-1], classes))
        if torch.cuda.is_available():
            memory.append(memory_on_gpu(options.batch_sizes[0], options.top_k[-1], classes))
    setting = {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}
    write_result("loss", {"setting": setting, "rows": rows, "memory": memory}, options.out)


def ways(
    batch: int, k: int, classes: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, dict[str, Callable[[], torch.Tensor]]]:
    """The logits, and each way's forward and backward pass, which returns the loss."""
    ids, probs = synthetic_labels(batch, 1, k, classes)
    soft = TopK(ids[:, 0], probs[:, 0], classes).recover("uniform")
    target = TorchSoftLabels.from_numpy(soft).to(device)
    logits = torch.randn(batch, classes, device=device, dtype=dtype, requires_grad=True)

    def sparse() -> torch.Tensor:
        return soft_cross_entropy(logits, target)

    def dense() -> torch.Tensor:
        label = target.base[:, None].repeat(1, classes)
        label.scatter_add_(1, target.indices, target.weights)
        return F.cross_entropy(logits.float(), label)

    def step(loss: Callable[[], torch.Tensor]) -> torch.Tensor:
        logits.grad = None
        value = loss()
        value.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return value.detach()

    return logits, {"sparse": lambda: step(sparse), "dense": lambda: step(dense)}


def measure(
    device: str,
    dtype: torch.dtype,
    threads: int | None,
    batch: int,
    k: int,
    classes: int,
    rounds: int | None,
) -> dict[str, Any]:
    """One setting's times."""
    torch.set_num_threads(threads or 1)
    _, tasks = ways(batch, k, classes, device, dtype)
    first, second = (task().item() for task in tasks.values())
    if not np.isclose(first, second, rtol=1e-4):
        raise SystemExit(f"the losses disagree: {first} and {second}")
    start = time.perf_counter()
    tasks["dense"]()
    if rounds is None:
        rounds = int(np.clip(SECONDS / 2 / (time.perf_counter() - start), 15, MOST_ROUNDS))
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds = alternate(tasks, rounds, warmup=3, clock=clock)
    row = {
        "device": device,
        "logits": str(dtype).removeprefix("torch."),
        "threads": threads,
        "batch_size": batch,
        "k": k,
        "classes": classes,
        "sparse": summary(seconds["sparse"]),
        "densify_and_dense": summary(seconds["dense"]),
        "dense_over_sparse": round(ratio(seconds["dense"], seconds["sparse"]), 3),
        "dense_over_sparse_of_least": round(min(seconds["dense"]) / min(seconds["sparse"]), 3),
    }
    print({name: value for name, value in row.items() if not isinstance(value, dict)}, flush=True)
    return row


def memory_on_cpu(batch: int, k: int, classes: int) -> dict[str, Any]:
    """Bytes of each way beyond the gradient, each measured in a process of its own."""
    row: dict[str, Any] = {"device": "cpu", "batch_size": batch, "k": k, "classes": classes}
    for way in ("sparse", "dense"):
        command = [sys.executable, "-m", "benchmarks.loss", "--memory-of", way]
        done = subprocess.run(
            [*command, str(batch), str(k), str(classes)], check=True, capture_output=True, text=True
        )
        row[way] = json.loads(done.stdout.splitlines()[-1])
    return row


def resident(way: str, batch: int, k: int, classes: int) -> dict[str, int]:
    """Highest resident bytes of one pass above what was resident before, by Linux's own count."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _, small = ways(4, k, 3 * k)
    small[way]()
    logits, tasks = ways(batch, k, classes)
    # What making the logits and labels left free would hide what the pass takes.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    tasks[way]()
    extra = status("VmHWM") - before
    return {"peak": extra, "gradient": logits.nbytes, "beyond_gradient": extra - logits.nbytes}


def status(name: str) -> int:
    """A size of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def memory_on_gpu(batch: int, k: int, classes: int) -> dict[str, Any]:
    """Bytes of each way beyond the gradient, by torch's allocator."""
    row: dict[str, Any] = {"device": "cuda", "batch_size": batch, "k": k, "classes": classes}
    logits, tasks = ways(batch, k, classes, "cuda")
    for way, task in tasks.items():
        task()
        logits.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        extra = torch.cuda.max_memory_allocated() - before
        row[way] = {
            "peak": extra,
            "gradient": logits.nbytes,
            "beyond_gradient": extra - logits.nbytes,
        }
    return row


if __name__ == "__main__":
    main()
