"""Which of several processes this is, as torchrun or Slurm's srun tell it."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labelstore.errors import LaunchWarning, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

__all__ = ["Launch", "launched", "own_cores", "take_gpu", "torchrun_ranks"]

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SRUN = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
"""Number of the process, of all processes, number on its machine."""

_OWN_STEP = 0xFFFFFFFA
"""Slurm numbers the steps of srun from 0; from here on they are its own: the shell of salloc, the
script of sbatch."""


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

    An environment is inherited: by an sbatch script's commands, by a shell in which somebody tried
    a launch. So what it says counts where the launcher itself was the last to speak.

    Raises:
        UsageError: the launcher's variables are no such numbers, some of them are missing, or two
            launchers say different things.

    Warns:
        LaunchWarning: Slurm has several tasks here, and this process is none that srun started.
    """
    torchrun, srun = _launch_from(_TORCHRUN, environment), _launch_from(_SRUN, environment)
    if torchrun is not None and torchrun.world > 1:
        if environment.get("LOCAL_RANK") is None and environment.get("MASTER_ADDR") is None:
            raise UsageError(
                f"RANK is {torchrun.rank} and WORLD_SIZE is {torchrun.world}, and neither "
                "LOCAL_RANK nor MASTER_ADDR is set, which a launcher sets with them: they are left "
                "from elsewhere; unset RANK and WORLD_SIZE, or start it by torchrun."
            )
        return torchrun
    if srun is None or srun.world == 1:
        return None
    if not _is_step(environment):
        step = environment.get("SLURM_STEP_ID", "not set")
        warnings.warn(
            f"SLURM_NTASKS is {srun.world}, but srun did not start this process (SLURM_STEP_ID is "
            f"{step}): it works alone. Write srun before the command to have all {srun.world} "
            "tasks work, or unset SLURM_NTASKS.",
            LaunchWarning,
            stacklevel=2,
        )
        return None
    if torchrun is not None:
        raise UsageError(
            f"WORLD_SIZE is 1 and SLURM_NTASKS is {srun.world}: is this one process or one of "
            f"{srun.world}? Unset RANK and WORLD_SIZE where srun starts it, or give srun --ntasks "
            "as many tasks as there are torchruns."
        )
    return srun


def _launch_from(names: tuple[str, str, str], environment: Mapping[str, str]) -> Launch | None:
    """What a launcher's variables say; None where they are not set."""
    values = [environment.get(name) for name in names]
    if values[0] is None or values[1] is None:
        return None
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
    return Launch(rank, world, local)


def _is_step(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process."""
    step = environment.get("SLURM_STEP_ID") or environment.get("SLURM_STEPID") or ""
    return step.isdecimal() and int(step) < _OWN_STEP


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
            f"this is process {launch.local_rank} of its machine, counted from 0, and the "
            f"machine's GPUs are {len(names)}: start one process a GPU, or choose the device cpu.",
            arguments=("device",),
        )
    environment["CUDA_VISIBLE_DEVICES"] = names[launch.local_rank]


def own_cores(launch: Launch | None, environment: Mapping[str, str] = os.environ) -> int:
    """How many of the machine's cores this process may use.

    Those that it may run on, shared by the processes of the machine where all may run on the same:
    under torchrun always, under srun unless it has bound each task to its own.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = count or 1
    if launch is None:
        return cores
    tasks = environment.get("LOCAL_WORLD_SIZE")
    if not tasks:
        of_job = _number(environment.get("SLURM_CPUS_ON_NODE")) or os.cpu_count() or 1
        if cores < of_job:
            return cores
        # Slurm writes 4(x2),3 for two nodes of four tasks and one of three.
        tasks = environment.get("SLURM_STEP_TASKS_PER_NODE")
    return max(1, cores // max(1, _number(tasks) or 1))


def _number(text: str | None) -> int | None:
    """The number that a text begins with."""
    digits = re.match(r"\d+", text or "")
    return int(digits[0]) if digits else None
