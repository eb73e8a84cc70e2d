"""What the benchmarks share: the machine, the versions, fair timing, the result file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parents[1] / "results"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    packages = ("labelstore", "numpy", "torch", "triton", "timm", "zarr", "numcodecs", "Pillow")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def alternate(
    tasks: dict[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each task in each round; the tasks take turns, so drift hits all alike.

    ``time.process_time`` as the clock leaves out what other processes take of the machine.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(warmup + rounds):
        for name, task in tasks.items():
            start = clock()
            task()
            elapsed = clock() - start
            if round_number >= warmup:
                seconds[name].append(elapsed)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, least and most of some timings, in seconds."""
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "rounds": len(seconds),
    }


def ratio(slower: list[float], faster: list[float]) -> float:
    """The median over rounds of ``slower / faster``, paired by round."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def synthetic_labels(
    images: int, views: int, k: int, num_classes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Top-k labels with a confident teacher's statistics: (images, views, k) ids and probabilities.

    The largest probability has the distribution of the FerKD paper's Table 1; the others halve from
    rank to rank with noise; the views of an image draw their classes from its own 3k likeliest.
    """
    rng = np.random.default_rng(seed)
    edges = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0])
    shares = np.array([0.43, 0.89, 1.29, 2.03, 3.66, 4.35, 5.04, 7.76, 8.14, 28.73, 37.34, 0.33])
    bins = rng.choice(len(shares), size=(images, views), p=shares / shares.sum())
    top = np.maximum(edges[bins] + rng.random((images, views)) * np.diff(edges)[bins], 2.0 / k / 4)
    falling = np.sort(rng.random((images, views, k - 1)) * 0.5 ** np.arange(1, k), axis=-1)[
        ..., ::-1
    ]
    rest = falling / falling.sum(-1, keepdims=True) * (0.8 * (1 - top))[..., None]
    probs = np.concatenate([top[..., None], np.minimum(rest, top[..., None])], axis=-1)
    likely = np.argsort(rng.random((images, num_classes)), axis=-1)[:, : 3 * k]
    order = np.argsort(rng.gumbel(size=(images, views, 3 * k)) - 0.5 * np.arange(3 * k), axis=-1)[
        ..., ::-1
    ][..., :k]
    ids = np.take_along_axis(likely[:, None, :], order, axis=-1)
    return ids.astype(np.int32), np.sort(probs, axis=-1)[..., ::-1].astype(np.float32)


def write_result(name: str, result: dict[str, Any], out: Path | None) -> None:
    """Write a benchmark's JSON and print where it is."""
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": name, "machine": machine(), **result}
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    print(f"written to {path}")


def size_of(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
