"""torchdata's StatefulDataLoader: stopped anywhere, it goes on with the same views."""

from __future__ import annotations

import json

import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import labelstore
from labelstore import FerKD
from labelstore.torch import SoftLabelDataset, ViewSampler, collate_views

# torchdata calls what this version of torch calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")

EPOCHS = 3


def loader_of(work, photos, workers, **options):
    data = SoftLabelDataset(photos, labelstore.open(work.store))
    sampler = ViewSampler(data, views_per_image=2, seed=5, **options)
    loader = StatefulDataLoader(
        data, batch_size=3, sampler=sampler, collate_fn=collate_views, num_workers=workers
    )
    return sampler, loader


def content(batch):
    """The views of a batch and their labels."""
    target = batch[1]
    columns = (target.image, target.view, target.indices, target.weights)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.fixture(scope="module")
def undisturbed(work):
    """Each epoch's batches, from torch's own loader."""
    from torchvision.datasets import ImageFolder

    data = SoftLabelDataset(ImageFolder(work.photos), labelstore.open(work.store))
    sampler = ViewSampler(data, views_per_image=2, seed=5)
    loader = DataLoader(data, batch_size=3, sampler=sampler, collate_fn=collate_views)
    epochs = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        epochs.append([content(batch) for batch in loader])
    assert len({str(epoch) for epoch in epochs}) == EPOCHS
    return epochs


@pytest.mark.parametrize(
    ("epoch", "batches", "workers"),
    [(0, 1, 0), (1, 3, 0), (1, 3, 2), pytest.param(0, 1, 2, marks=pytest.mark.slow)],
)
def test_a_run_goes_on_in_mid_epoch(work, photos, undisturbed, workers, epoch, batches):
    sampler, loader = loader_of(work, photos, workers)
    sampler.set_epoch(epoch)
    running = iter(loader)
    seen = [content(next(running)) for _ in range(batches)]
    state = json.loads(json.dumps(loader.state_dict()))
    del running

    sampler, loader = loader_of(work, photos, workers)
    loader.load_state_dict(state)
    for later in range(epoch, EPOCHS):
        sampler.set_epoch(later)
        shown = [content(batch) for batch in loader]
        assert (seen if later == epoch else []) + shown == undisturbed[later]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_after_a_whole_epoch(work, photos, undisturbed, workers):
    sampler, loader = loader_of(work, photos, workers)
    assert [content(batch) for batch in loader] == undisturbed[0]
    state = json.loads(json.dumps(loader.state_dict()))

    sampler, loader = loader_of(work, photos, workers)
    loader.load_state_dict(state)
    for later in range(1, EPOCHS):
        sampler.set_epoch(later)
        assert [content(batch) for batch in loader] == undisturbed[later]


def test_going_back_in_the_same_process(work, photos, undisturbed):
    sampler, loader = loader_of(work, photos, 0)
    running = iter(loader)
    for _ in range(2):
        next(running)
    state = loader.state_dict()
    list(running)
    loader.load_state_dict(state)
    assert [content(batch) for batch in loader] == undisturbed[0][2:]
    sampler.set_epoch(1)
    assert [content(batch) for batch in loader] == undisturbed[1]


def sampler_with(store, photos, tail, confidence):
    rule = FerKD(low=0.0, middle=0.1, top=0.9, confidence=confidence)
    return ViewSampler(SoftLabelDataset(photos, store, ferkd=rule, tail=tail))


@pytest.mark.parametrize("confidence", ["max", "target"])
def test_another_tail_changes_no_view(store, photos, confidence):
    # The rule looks at the teacher's own probability, whatever its label is recovered to.
    one = sampler_with(store, photos, "none", confidence)
    other = sampler_with(store, photos, None, confidence)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert list(one) == list(other)


@pytest.mark.parametrize(
    ("ranks", "batch", "workers"),
    [(1, 4, 0), (4, 2, 0), (4, 2, 2), pytest.param(1, 4, 2, marks=pytest.mark.slow)],
)
def test_an_end_that_was_left_out_is_not_the_next_epoch(work, photos, workers, ranks, batch):
    def make():
        data = SoftLabelDataset(photos, labelstore.open(work.store))
        sampler = ViewSampler(data, 2, seed=5, num_replicas=ranks, rank=0, drop_last=True)
        loader = StatefulDataLoader(
            data, batch, sampler=sampler, collate_fn=collate_views, drop_last=True,
            num_workers=workers,
        )  # fmt: skip
        return sampler, loader

    sampler, loader = make()
    sampler.set_epoch(0)
    batches = len(list(loader))
    assert batches * batch * ranks < len(photos), "nothing is left out"
    state = json.loads(json.dumps(loader.state_dict()))
    sampler.set_epoch(1)
    undisturbed = [content(batch) for batch in loader]

    sampler, loader = make()
    loader.load_state_dict(state)
    sampler.set_epoch(1)
    assert [content(batch) for batch in loader] == undisturbed
    assert len(undisturbed) == batches
