"""Real processes of torch.distributed that start at once, and a loader's that end at once."""

from __future__ import annotations

import multiprocessing
import sys

import pytest
import torch

__all__ = ["METHODS", "context_of", "end_workers", "run_ranks"]

START = "forkserver" if sys.platform == "linux" else "spawn"

IMPORTED = ["torch.distributed", "torch.nn.parallel", "torch.utils.data", "labelstore.torch"]
IMPORTED += ["pytest", "torchvision.datasets", "labelstore.images", "labelstore.store"]


def run_ranks(function, arguments, ranks):
    """Run ``function(rank, *arguments)`` in a process each, and wait for all.

    They are forked from one that has imported torch and run nothing, where each would need seconds
    of CPU for it; nothing of this process comes along.
    """
    context_of(START)
    torch.multiprocessing.start_processes(function, arguments, nprocs=ranks, start_method=START)


def context_of(method):
    """Python's ways to start processes; "forkserver" pickles as "spawn" does, and imports once."""
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(IMPORTED)
    return multiprocessing.get_context(method)


METHODS = ["fork", START, pytest.param("spawn", marks=pytest.mark.slow)]
"""For tests of processes that inherit memory, and of those that get what they need pickled; the
second have the environment of the first one's time."""


def end_workers(batches):
    """End the workers of a data loader's iterator.

    An error's traceback holds the iterator, in a circle: whoever comes upon it later waits 5 s for
    workers whose queues are gone. They are waited for: torch terminates those that take long, as on
    a busy machine, and a slab that one of them has is in use until it has died.
    """
    if end := getattr(batches, "_shutdown_workers", None):
        end()
        for worker in batches._workers:
            worker.join()
