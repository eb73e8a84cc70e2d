"""Which photos each process of a distributed training gets, whatever made its loader."""

from __future__ import annotations

import json

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import BatchSampler, DataLoader

import labelstore
from labelstore.errors import UsageError
from labelstore.images.sources.folder import FolderSource
from labelstore.torch import SoftLabelDataset, ViewSampler, collate_views
from tests.support.ranks import run_ranks


def sampler_first(rank, world, folder, photos, store):
    """Makes everything before the process group, as many scripts do; writes what it saw."""
    torch.set_num_threads(1)
    data = SoftLabelDataset(FolderSource(photos), labelstore.open(store))
    loader = DataLoader(data, 3, sampler=ViewSampler(data), collate_fn=collate_views)
    alone = len(loader.sampler)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    try:
        seen = [image for _, target in loader for image in target.image.tolist()]
        told = {"alone": alone, "seen": seen, "left": len(loader.sampler)}
        (folder / f"rank{rank}.json").write_text(json.dumps(told))
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_a_sampler_made_before_the_process_group_is_of_its_rank(work, tmp_path):
    arguments = (2, tmp_path, work.photos, work.store)
    run_ranks(sampler_first, arguments, 2)
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert sorted(told[0]["seen"] + told[1]["seen"]) == list(range(14))
    assert [(each["alone"], each["left"]) for each in told] == [(14, 7), (14, 7)]


def test_processes_without_a_group_are_refused(store, monkeypatch):
    sampler = ViewSampler(store)
    assert len(list(sampler)) == 14
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    for use in (len, lambda sampler: next(iter(sampler)), lambda sampler: sampler.state_dict()):
        with pytest.raises(UsageError, match=r"WORLD_SIZE is 2 and RANK is 1, .*no process group"):
            use(sampler)
    with pytest.raises(UsageError, match="neither num_replicas nor rank was given"):
        labelstore.Batches(store, 4)
    # What is said holds: training alone, or as one of several.
    assert len(ViewSampler(store, num_replicas=1, rank=0)) == 14
    assert len(ViewSampler(store, num_replicas=2, rank=1)) == 7
    assert labelstore.Batches(store, 4, num_replicas=2, rank=1).count(0) == 2
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert len(ViewSampler(store)) == 14


class Sharded(BatchSampler):
    """What accelerate does: every ``num_processes``-th batch of a batch sampler."""

    def __init__(self, batches, num_processes, process_index):
        self.batches = batches
        self.num_processes, self.process_index = num_processes, process_index

    def __len__(self):
        return -(-len(self.batches) // self.num_processes)

    def __iter__(self):
        yield from list(self.batches)[self.process_index :: self.num_processes]


def accelerated(sampler):
    module = pytest.importorskip("accelerate.data_loader")
    batches = BatchSampler(sampler, 2, drop_last=False)
    return module.BatchSamplerShard(batches, num_processes=2, process_index=1, even_batches=False)


def of_lightning(sampler):
    module = pytest.importorskip("lightning_fabric.utilities.distributed")
    return module.DistributedSamplerWrapper(sampler, num_replicas=2, rank=1)


def every_other_batch(sampler):
    return Sharded(BatchSampler(sampler, 2, drop_last=False), 2, 1)


@pytest.mark.parametrize("divide", [every_other_batch, accelerated, of_lightning])
def test_a_part_that_is_divided_once_more_is_refused(store, photos, divide):
    data = SoftLabelDataset(photos, store)
    twice = divide(ViewSampler(data, num_replicas=2, rank=1))
    with pytest.raises(UsageError, match=f"{type(twice).__name__} divides them once more among 2"):
        list(twice)
    once = list(divide(ViewSampler(data, num_replicas=1, rank=0)))
    assert sum(len(shows) if isinstance(shows, list) else 1 for shows in once) in (6, 7)
    # Nor does an undivided part that is iterated inside of other loaders complain.
    loader = DataLoader(
        data, 2, sampler=ViewSampler(data, num_replicas=2, rank=1), collate_fn=collate_views
    )
    assert sum(len(target) for _, target in loader) == 7


def test_a_second_iteration_after_a_resume_is_the_whole_epoch(store):
    sampler = ViewSampler(store, seed=3, num_replicas=2, rank=1)
    whole = list(sampler)
    assert list(sampler) == whole
    state = sampler.state_dict(seen=3)
    sampler.load_state_dict(state)
    assert len(sampler) == 4
    assert list(sampler) == whole[3:]
    # The state after the epoch is that of its end, until the next iteration begins.
    assert sampler.state_dict()["position"] == 14
    assert list(sampler) == whole
    assert len(sampler) == 7
    # What was broken off stays where it began.
    sampler.load_state_dict(state)
    shows = iter(sampler)
    next(shows)
    assert list(sampler) == whole[3:]
    sampler.load_state_dict(state)
    assert list(sampler) == whole[3:]
    sampler.set_epoch(0)
    assert list(sampler) == whole
