"""Real processes of torch.distributed that start at once."""

from __future__ import annotations

import multiprocessing
import sys

import torch

__all__ = ["run_ranks"]

START = "forkserver" if sys.platform == "linux" else "spawn"

IMPORTED = ["torch.distributed", "torch.nn.parallel", "torch.utils.data", "labelstore.torch"]


def run_ranks(function, arguments, ranks):
    """Run ``function(rank, *arguments)`` in a process each, and wait for all.

    They are forked from one that has imported torch and run nothing, where each would need seconds
    of CPU for it; nothing of this process comes along.
    """
    multiprocessing.set_forkserver_preload(IMPORTED)
    torch.multiprocessing.start_processes(function, arguments, nprocs=ranks, start_method=START)
