"""Two real processes: the ranks' shares, and a step of DistributedDataParallel."""

from __future__ import annotations

import json

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import labelstore
from labelstore.images.sources.folder import FolderSource
from labelstore.torch import SoftLabelDataset, ViewSampler, collate_views, soft_cross_entropy
from tests.support.ranks import run_ranks


def one_rank(rank, world, folder, photos, store):
    """One epoch of training in one of ``world`` processes; writes what it saw."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    try:
        data = SoftLabelDataset(FolderSource(photos), labelstore.open(store))
        # Rank and number of ranks come from torch.distributed.
        sampler = ViewSampler(data, views_per_image=2, seed=7)
        sampler.set_epoch(2)
        loader = DataLoader(data, batch_size=3, sampler=sampler, collate_fn=collate_views)
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 20, 20))
        model = DistributedDataParallel(network)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        seen = []
        for pixels, target in loader:
            loss = soft_cross_entropy(model(pixels), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += zip(target.image.tolist(), target.view.tolist(), strict=True)
        result = {"seen": seen, "weights": network[1].weight.detach().double().sum().item()}
        (folder / f"rank{rank}.json").write_text(json.dumps(result))
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_train_on_one_epoch(work, store, tmp_path):
    arguments = (2, tmp_path, work.photos, work.store)
    run_ranks(one_rank, arguments, 2)
    results = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    sampler = ViewSampler(store, views_per_image=2, seed=7)
    sampler.set_epoch(2)
    order = [[[show.image, view] for view in show.views] for show in sampler]
    for rank, result in enumerate(results):
        assert result["seen"] == [pair for shown in order[rank::2] for pair in shown]
    assert results[0]["weights"] == results[1]["weights"]
