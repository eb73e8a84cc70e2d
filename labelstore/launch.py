"""Which of several processes this is, as torchrun or Slurm's srun tell it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labelstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

__all__ = ["Launch", "launched", "own_cores", "take_gpu", "torchrun_ranks"]

_VARIABLES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
)
"""Of torchrun, then of srun: number of the process, of all processes, number on its machine."""


@dataclass(frozen=True)
class Launch:
    """One of the processes of a launch."""

    rank: int
    """0..world-1."""
    world: int
    local_rank: int
    """Among those of its machine: the number of its GPU."""


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """How this process was launched; None where it is the only one.

    Raises:
        UsageError: the launcher's variables are no such numbers.
    """
    for names in _VARIABLES:
        values = [environment.get(name) for name in names]
        if values[0] is None or values[1] is None:
            continue
        try:
            rank, world, local = (int(value or 0) for value in values)
        except ValueError as error:
            raise UsageError(
                f"the environment says {dict(zip(names, values, strict=True))}, expected whole "
                "numbers: start it by torchrun or srun, or unset these variables."
            ) from error
        if not 0 <= rank < world:
            raise UsageError(
                f"{names[0]} is {rank} and {names[1]} is {world}, expected 0 to {world - 1}: start "
                "it by torchrun or srun, or unset these variables."
            )
        return Launch(rank, world, local) if world > 1 else None
    return None


def torchrun_ranks(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Number of processes and this one's rank as torchrun's variables say; None where this is the
    only one, or was not started by torchrun."""
    world, rank = environment.get("WORLD_SIZE", ""), environment.get("RANK", "")
    if not (world.isdecimal() and rank.isdecimal()) or int(world) <= 1:
        return None
    return int(world), int(rank)


def take_gpu(
    launch: Launch,
    environment: MutableMapping[str, str] = os.environ,
    gpus: Path = Path("/proc/driver/nvidia/gpus"),
) -> None:
    """Let this process see one GPU, that of its number on the machine; before CUDA is started.

    Where the launcher has shared out the GPUs already (``srun --gpus-per-task``), one is seen, and
    it stays.

    Args:
        gpus: the folder in which NVIDIA's driver has an entry for each GPU.

    Raises:
        UsageError: there are GPUs, and fewer than processes.
    """
    seen = environment.get("CUDA_VISIBLE_DEVICES")
    if seen is not None:
        names = [name for name in seen.split(",") if name]
        if len(names) <= 1:
            return
    else:
        count = len(list(gpus.iterdir())) if gpus.is_dir() else 0
        # Where the driver does not tell, a number that is none leaves no GPU to see.
        names = [str(number) for number in range(count or launch.local_rank + 1)]
    if launch.local_rank >= len(names):
        raise UsageError(
            f"this is process {launch.local_rank} of its machine, counted from 0, and there are "
            f"{len(names)} GPUs: start one process a GPU, or give --device cpu."
        )
    environment["CUDA_VISIBLE_DEVICES"] = names[launch.local_rank]


def own_cores(launch: Launch | None, environment: Mapping[str, str] = os.environ) -> int:
    """How many of the machine's cores this process may use.

    Those that it is bound to, shared by the processes of the machine where all see the same.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = count or 1
    if launch is None or cores < (os.cpu_count() or 1):
        return cores
    # Slurm writes 4(x2),3 for two nodes of four tasks and one of three.
    told = environment.get("LOCAL_WORLD_SIZE") or environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    digits = re.match(r"\d+", told)
    return max(1, cores // max(1, int(digits[0]))) if digits else cores
