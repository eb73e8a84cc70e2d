"""What the rows of ``benchmarks.gpu`` share: where they run, how they time, where results go."""

from __future__ import annotations

import json
import statistics
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Place", "Record"]


class Record:
    """The entries of a row, each in the row's file as soon as it is measured.

    Args:
        path: the file, a JSON object a line.
        seconds: how long the row may take.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._end = time.monotonic() + seconds

    def add(self, **entry: Any) -> None:
        """Keep an entry, whatever becomes of the row afterwards."""
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    @property
    def left(self) -> float:
        """Seconds until the row must have ended."""
        return self._end - time.monotonic()

    def has_time(self, seconds: float, **entry: Any) -> bool:
        """Whether ``seconds`` are left; where not, ``entry`` is kept as not measured."""
        if self.left >= seconds:
            return True
        self.add(**entry, not_measured=f"{max(self.left, 0):.0f} s were left")
        return False

    @contextmanager
    def attempt(self, **entry: Any) -> Iterator[None]:
        """Keep an error inside as what came of ``entry``; the row goes on."""
        try:
            yield
        # Whatever one measurement meets, the others are independent of it.
        except Exception as error:
            self.add(**entry, error=f"{type(error).__name__}: {error}"[:2000])
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class Place:
    """The GPU; in a dry run the CPU, with tiny sizes.

    Attributes:
        dry: whether this is a dry run.
        device: a ``torch.device``.
        precision: of teachers and students, ``"bf16"`` on the GPU.
    """

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.precision = "fp32" if dry else "bf16"
        torch.manual_seed(0)
        if dry:
            torch.set_num_threads(1)

    def synchronize(self) -> None:
        """Wait for all that the device has to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def wall(self, task: Callable[[], object]) -> float:
        """Seconds of one run of a task, by the clock on the wall, until the device is done."""
        self.synchronize()
        start = time.perf_counter()
        task()
        self.synchronize()
        return time.perf_counter() - start

    def milliseconds(self, task: Callable[[], object], seconds: float = 0.25) -> dict[str, Any]:
        """A task's time on the device: by device events there, by the clock in a dry run.

        Args:
            task: what is timed; it is warmed up first.
            seconds: about how long to repeat it, at least 10 times (2 in a dry run).
        """
        for _ in range(1 if self.dry else 3):
            task()
        once = max(self.wall(task), 1e-6)
        count = 2 if self.dry else int(min(max(10, seconds / once), 500))
        if self.device.type == "cuda":
            times = self._by_events(task, count)
        else:
            times = [self.wall(task) * 1000 for _ in range(count)]
        return {
            "median_ms": round(statistics.median(times), 4),
            "min_ms": round(min(times), 4),
            "max_ms": round(max(times), 4),
            "rounds": count,
        }

    def _by_events(self, task: Callable[[], object], count: int) -> list[float]:
        pairs = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(count)
        ]
        for begin, end in pairs:
            begin.record()
            task()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in pairs]

    def graph_milliseconds(self, task: Callable[[], object]) -> float | None:
        """The time that the device alone takes for a task: the median of replays of its CUDA graph,
        in which nothing waits for Python; None in a dry run, and where no graph can be made."""
        if self.device.type != "cuda":
            return None
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                task()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                task()
        except RuntimeError:
            torch.cuda.synchronize()
            return None
        graph.replay()
        return round(statistics.median(self._by_events(graph.replay, 50)), 4)

    def peak_bytes(self, task: Callable[[], object]) -> int | None:
        """The most that torch's allocator hands out during a task, above what it had before; None
        on the CPU."""
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
