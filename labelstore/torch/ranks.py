"""Which of several processes this is, as torch.distributed says; and whether a sampler's part is
divided once more by somebody else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import torch

from labelstore.errors import UsageError
from labelstore.launch import torchrun_ranks

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_undivided", "group_rank", "ranks"]

_FRAMES = 64
"""How many callers are looked at."""


def group_rank() -> tuple[int, int]:
    """Number of processes and this one's rank in torch.distributed's group; (1, 0) without one."""
    if _has_group():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0


def _has_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def ranks(
    num_replicas: int | None, rank: int | None, environment: Mapping[str, str] = os.environ
) -> tuple[int, int]:
    """Number of ranks and this rank: as given, else torch.distributed's, else one process.

    Raises:
        UsageError: they do not fit each other; or neither is given, torchrun's variables say that
            there are several processes, and torch.distributed has no group yet.
    """
    world, own = group_rank()
    launched = torchrun_ranks(environment)
    if num_replicas is None and rank is None and launched is not None and not _has_group():
        raise UsageError(
            f"WORLD_SIZE is {launched[0]} and RANK is {launched[1]}, and torch.distributed has no "
            "process group, so that every process would train on the same photos: call "
            "torch.distributed.init_process_group (or make the Accelerator, Fabric or Trainer) "
            "before the sampler is used, or give num_replicas= and rank= (1 and 0 where processes "
            "train independently)."
        )
    num_replicas = world if num_replicas is None else num_replicas
    rank = own if rank is None else rank
    if num_replicas < 1 or not 0 <= rank < num_replicas:
        raise UsageError(
            f"rank is {rank} of {num_replicas}, expected 0 to {num_replicas - 1}: give rank and "
            "num_replicas together, or neither."
        )
    return num_replicas, rank


def check_undivided(sampler: object, num_replicas: int) -> None:
    """UsageError when a caller takes parts of a sampler that yields one rank's part already.

    Such are the wrappers that accelerate (and Hugging Face's Trainer), Lightning and Fabric put
    around a sampler: with R ranks, each rank would show a part of R of its part, and the rest never
    comes. They are known by what they are, a sampler with a number of processes, or by name.
    """
    if num_replicas == 1:
        return
    frame = sys._getframe(1)
    for _ in range(_FRAMES):
        names = frame.f_code.co_varnames
        owner = frame.f_locals.get(names[0]) if names else None
        count = 1 if owner is sampler else _parts(owner)
        if count > 1:
            raise UsageError(
                f"the sampler yields one of {num_replicas} ranks' photos and "
                f"{type(owner).__name__} divides them once more among {count}, so that most would "
                "never come: make it with num_replicas=1, rank=0, or keep the loader out of "
                "accelerate.prepare and Hugging Face's Trainer, and give Lightning and Fabric "
                "use_distributed_sampler=False."
            )
        if frame.f_back is None:
            return
        frame = frame.f_back


def _parts(owner: Any) -> int:
    """Among how many processes a caller divides what it iterates over; 1 where it does not."""
    if any(kind.__name__ == "DataLoaderDispatcher" for kind in type(owner).__mro__):
        return int(getattr(getattr(owner, "state", None), "num_processes", 1))
    if not isinstance(owner, (torch.utils.data.Sampler, torch.utils.data.IterableDataset)):
        return 1
    for count, number in (("num_processes", "process_index"), ("num_replicas", "rank")):
        if hasattr(owner, count) and hasattr(owner, number):
            return int(getattr(owner, count))
    return 1
