"""Which of several processes this is."""

from __future__ import annotations

import pytest

from labelstore.errors import UsageError
from labelstore.launch import Launch, launched, take_gpu


def test_torchrun_and_slurm():
    torchrun = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3"}
    assert launched(torchrun) == Launch(9, 16, 1)
    assert launched(slurm) == Launch(3, 4, 3)
    assert launched({**slurm, **torchrun}) == Launch(9, 16, 1)


def test_a_process_alone():
    assert launched({}) is None
    assert launched({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) is None
    # sbatch without srun
    assert launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None


@pytest.mark.parametrize("values", [("a", "2"), ("2", "2"), ("-1", "2"), ("0", "")])
def test_nonsense_is_refused(values):
    with pytest.raises(UsageError, match="torchrun or srun"):
        launched({"RANK": values[0], "WORLD_SIZE": values[1]})


@pytest.mark.parametrize(
    ("seen", "takes"),
    [(None, "2"), ("4,5,6,7", "6"), ("GPU-a", "GPU-a"), ("0,1", "0"), ("", "")],
)
def test_each_process_sees_one_gpu(seen, takes):
    environment = {} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}
    take_gpu(Launch(2, 4, 2), environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == takes
