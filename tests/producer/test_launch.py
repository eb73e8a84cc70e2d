"""Which of several processes this is."""

from __future__ import annotations

import os

import pytest

from labelstore.errors import LaunchWarning, UsageError
from labelstore.launch import Launch, launched, own_cores, take_gpu


def test_torchrun_and_slurm():
    torchrun = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3", "SLURM_STEP_ID": "0"}
    assert launched(torchrun) == Launch(9, 16, 1)
    assert launched(slurm) == Launch(3, 4, 3)
    assert launched({**slurm, **torchrun}) == Launch(9, 16, 1)


def test_a_process_alone():
    assert launched({}) is None
    assert launched({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) is None
    # sbatch without srun
    assert launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None


@pytest.mark.parametrize("step", [None, "4294967290", "4294967291", "batch"])
def test_a_script_of_sbatch_is_alone_and_told(step):
    """Its variables are those of a task, but nobody started the others."""
    environment = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}
    if step is not None:
        environment["SLURM_STEP_ID"] = step
    with pytest.warns(LaunchWarning, match=r"SLURM_NTASKS is 8.*Write srun before the command"):
        assert launched(environment) is None
    assert launched({**environment, "SLURM_STEP_ID": "3"}) == Launch(0, 8, 0)
    # torchrun inside of it is believed.
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    assert launched({**environment, **torchrun}) == Launch(1, 2, 1)


def test_left_over_and_contradicting_variables_are_refused():
    with pytest.raises(UsageError, match=r"RANK is 0 and WORLD_SIZE is 4.*unset RANK"):
        launched({"RANK": "0", "WORLD_SIZE": "4"})
    # As some schedulers do that start a process a machine.
    assert launched({"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "a"}) == Launch(0, 4, 0)
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}
    with pytest.raises(UsageError, match=r"WORLD_SIZE is 1 and SLURM_NTASKS is 4"):
        launched({**slurm, "RANK": "0", "WORLD_SIZE": "1"})


@pytest.mark.parametrize("values", [("a", "2"), ("2", "2"), ("-1", "2"), ("0", "")])
def test_nonsense_is_refused(values):
    with pytest.raises(UsageError, match="torchrun or srun"):
        launched({"RANK": values[0], "WORLD_SIZE": values[1]})


@pytest.mark.parametrize(
    ("seen", "there", "takes"),
    [
        (None, 4, "2"),
        (None, 0, "2"),
        ("4,5,6,7", 8, "6"),
        ("GPU-a", 8, "GPU-a"),
        ("", 8, ""),
    ],
)
def test_each_process_sees_one_gpu(tmp_path, seen, there, takes):
    environment = {} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}
    for number in range(there):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    take_gpu(Launch(2, 4, 2), environment, tmp_path)
    assert environment["CUDA_VISIBLE_DEVICES"] == takes


@pytest.mark.parametrize("seen", [None, "0,1"])
def test_more_processes_than_gpus_are_refused(tmp_path, seen):
    for number in range(2):
        (tmp_path / str(number)).mkdir()
    environment = {} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}
    with pytest.raises(UsageError, match=r"process 2 of its machine.*GPUs are 2"):
        take_gpu(Launch(2, 4, 2), environment, tmp_path)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux alone binds processes")
def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(96))
    launch = Launch(1, 16, 1)
    assert own_cores(None, {"LOCAL_WORLD_SIZE": "8"}) == 96
    assert own_cores(launch, {"LOCAL_WORLD_SIZE": "8"}) == 12
    assert own_cores(launch, {"SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}) == 24
    assert own_cores(launch, {}) == 96
    # The processes of a torchrun share what the job has; srun binds each of its own.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    assert own_cores(launch, {"LOCAL_WORLD_SIZE": "8"}) == 8
    srun = {"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_CPUS_ON_NODE": "64"}
    assert own_cores(launch, srun) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    assert own_cores(launch, srun) == 6
