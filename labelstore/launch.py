"""Which of several processes this is, as torchrun or Slurm's srun tell it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labelstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

__all__ = ["Launch", "launched", "take_gpu"]

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


def take_gpu(launch: Launch, environment: MutableMapping[str, str] = os.environ) -> None:
    """Let this process see one GPU, that of its number on the machine; before CUDA is started.

    Where the launcher has shared out the GPUs already (``srun --gpus-per-task``), one is seen, and
    it stays.
    """
    seen = environment.get("CUDA_VISIBLE_DEVICES")
    if seen is None:
        environment["CUDA_VISIBLE_DEVICES"] = str(launch.local_rank)
        return
    names = [name for name in seen.split(",") if name]
    if names:
        environment["CUDA_VISIBLE_DEVICES"] = names[launch.local_rank % len(names)]
