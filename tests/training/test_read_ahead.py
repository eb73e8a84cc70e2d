"""Training with slabs: the same samples with any workers, memory given back, deaths survived."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import labelstore
from labelstore import FerKD
from labelstore.store.slabs import shared_file
from labelstore.torch import ViewSampler
from labelstore.training.epochs import EpochOrder
from labelstore.training.read_ahead import EpochReadAhead
from tests.support import commands
from tests.support.ranks import end_workers
from tests.support.stores import make_planned, once, written

make_planned, written = once(make_planned), once(written)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of the test's own for slabs."""
    monkeypatch.setenv("LABELSTORE_SLABS", str(tmp_path / "slabs"))
    yield tmp_path / "slabs"
    shared_file.sweep(tmp_path / "slabs")


class Labels(torch.utils.data.Dataset):
    """What is shown, with its labels; no photos."""

    def __init__(self, store):
        self.store = store

    def __len__(self):
        return self.store.num_images

    def __getitem__(self, show):
        topk = self.store.read(show.image, np.array(show.views))
        return show.image, show.views, topk.indices, topk.probs


def epoch_of(loader):
    return [(i, v, ids.tolist(), probs.tolist()) for i, v, ids, probs in loader]


def loader_of(path, slab_bytes, workers, method="fork", ferkd=None, **options):
    store = labelstore.open(path)
    sampler = ViewSampler(store, 2, slab_bytes=slab_bytes, ferkd=ferkd)
    loader = torch.utils.data.DataLoader(
        Labels(store),
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context=method if workers else None,
        **options,
    )
    return store, sampler, loader


@pytest.mark.parametrize(
    ("workers", "method", "persistent"),
    [
        (0, "fork", False),
        (2, "fork", False),
        (2, "fork", True),
        pytest.param(2, "spawn", True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_epochs_are_the_same_with_and_without(tmp_path, workers, method, persistent, folder):
    written(tmp_path / "s.zarr", images=60, views=8, group_views=4)
    _, plain_sampler, plain = loader_of(tmp_path / "s.zarr", 0, 0)
    size = labelstore.open(tmp_path / "s.zarr").slabs._layouts.layout(0, 8).nbytes
    store, sampler, loader = loader_of(
        tmp_path / "s.zarr", 2 * size, workers, method, persistent_workers=persistent
    )
    assert not folder.exists()
    # Workers that each epoch starts anew cost most of it.
    for epoch in range(4 if persistent or not workers else 2):
        sampler.set_epoch(epoch)
        plain_sampler.set_epoch(epoch)
        assert epoch_of(loader) == epoch_of(plain)
        assert shared_file.used(folder, store.manifest.id, besides="nothing") <= 2 * size
    assert list(folder.glob("*.slab"))
    end_workers(loader._iterator)
    store.slabs.close()
    assert list(folder.glob("*")) == []


KILL_A_WORKER = """
import os, signal, sys, warnings
sys.path[:0] = sys.argv[2:]
warnings.simplefilter("ignore")
from tests.training.test_read_ahead import epoch_of, loader_of
_, plain_sampler, plain = loader_of(sys.argv[1], 0, 0)
store, sampler, loader = loader_of(sys.argv[1], 2**26, 2)
batches, seen = iter(loader), []
# Else torch raises from a signal's handler, wherever this process then is.
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
try:
    for sample in batches:
        seen.append(sample)
        if len(seen) == 5:
            os.kill(batches._workers[0].pid, signal.SIGKILL)
except (RuntimeError, OSError, EOFError) as error:
    # torch says that a worker died, or fails to get a tensor from the dead one.
    print("worker" in str(error) or not isinstance(error, RuntimeError))
del batches
print(epoch_of(seen) == epoch_of(plain)[: len(seen)], len(seen) < 80)
for epoch in (0, 1):
    sampler.set_epoch(epoch)
    plain_sampler.set_epoch(epoch)
    print(epoch_of(loader) == epoch_of(plain))
"""


def test_a_worker_that_dies_ends_the_epoch_and_the_next_one_is_right(tmp_path, folder):
    """In a process of its own, whose signals are its own."""
    written(tmp_path / "s.zarr", images=80, views=8)
    arguments = [str(tmp_path / "s.zarr"), str(Path(__file__).parents[2])]
    done = commands.run([sys.executable, "-c", KILL_A_WORKER, *arguments], check=True)
    assert done.stdout.split() == ["True"] * 5
    assert list(folder.glob("*")) == []


def test_few_images_are_not_read_ahead(tmp_path, folder):
    store, _, _ = written(tmp_path / "s.zarr", images=60, views=8)
    assert EpochReadAhead(EpochOrder(store, images=[1, 2]), 1000).slab_bytes == 0
    assert store.slabs.slab_bytes == 0
    assert EpochReadAhead(EpochOrder(store), 1000).slab_bytes == 1000


SPREAD = {
    "surgical": {"ferkd": FerKD(low=0.2, middle=0.2, top=0.6)},
    "budget": {"ferkd": FerKD(low=0.2, middle=0.2, top=0.6), "budget": 0.5},
    "curriculum": {"schedule": "easy-to-hard", "epochs": 9},
}


def slab_size(store):
    return store.slabs._layouts.layout(0, store.manifest.num_blocks).nbytes


@pytest.mark.parametrize("options", SPREAD.values(), ids=SPREAD)
def test_all_groups_of_an_epoch_are_held_where_there_is_room(tmp_path, folder, options):
    store, _, _ = written(tmp_path / "s.zarr", images=64, views=24, group_views=4)
    order = EpochOrder(store, 2, **options)
    read_ahead = EpochReadAhead(order, 2**26)
    kept = {}
    for epoch in range(9):
        read_ahead.start(epoch)
        read_ahead.wait(epoch)
        present = order.present(epoch)
        groups = np.bincount(order.views(present, epoch).reshape(-1) // 4, minlength=6)
        assert order.groups(epoch).tolist() == groups.tolist()
        needed = set(np.flatnonzero(groups >= store.manifest.num_blocks).tolist())
        assert needed <= store.slabs.held()
        # What the epoch before had is not read again.
        assert all(
            store.slabs._slabs[group] is kept.get(group, store.slabs._slabs[group])
            for group in needed
        )
        store.slabs.wait(range(6))
        kept = dict(store.slabs._slabs)
    store.slabs.close()


def test_where_room_is_short_the_most_wanted_groups_are_held(tmp_path, folder):
    store, _, _ = written(tmp_path / "s.zarr", images=64, views=40, group_views=4)
    rule = SPREAD["surgical"]["ferkd"]
    order = EpochOrder(store, 2, ferkd=rule)
    room = 3 * slab_size(store)
    read_ahead = EpochReadAhead(order, room)
    plain = EpochOrder(labelstore.open(store.path), 2, ferkd=rule)
    short = 0
    for epoch in range(12):
        read_ahead.start(epoch)
        read_ahead.wait(epoch)
        store.slabs.wait(range(10))
        held, counts = store.slabs.held(), order.groups(epoch)
        # A group that is wanted by fewer views than it has chunks is not worth reading.
        missing = [group for group in np.flatnonzero(counts >= 8).tolist() if group not in held]
        if missing:
            # One that is there stays while no other is wanted by a quarter more.
            assert len(held) == 3
            assert max(counts[missing]) <= 1.25 * min(counts[list(held)])
            short += 1
        assert shared_file.used(folder, store.manifest.id, besides="nothing") <= room
        images = order.order(epoch)
        views = order.views(images, epoch)
        assert (views == plain.views(images, epoch)).all()
        topk = store.read(images[:, None], views)
        assert (topk.indices == plain.store.read(images[:, None], views).indices).all()
    assert short > 3
    store.slabs.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_see_the_same_surgical_epochs_in_little_room(tmp_path, folder):
    """Half of the groups are in slabs, the others are read chunk by chunk."""
    made, _, _ = written(tmp_path / "s.zarr", images=60, views=24, group_views=4)
    room, rule = 3 * slab_size(made), SPREAD["surgical"]["ferkd"]
    _, plain_sampler, plain = loader_of(made.path, 0, 0, ferkd=rule)
    store, sampler, loader = loader_of(made.path, room, 2, ferkd=rule, persistent_workers=True)
    for epoch in (0, 1, 2, 9):
        sampler.set_epoch(epoch)
        plain_sampler.set_epoch(epoch)
        assert epoch_of(loader) == epoch_of(plain)
        # Workers give an old slab up after some reads, of which so few images have hardly enough.
        assert store.slabs.held() or epoch
        assert shared_file.used(folder, store.manifest.id, besides="nothing") <= room
    end_workers(loader._iterator)
    store.slabs.close()
    assert list(folder.glob("*")) == []


def test_an_ensemble_has_slabs_of_every_member(tmp_path, folder):
    one, _, _ = written(tmp_path / "a.zarr", views=8)
    two, _, _ = written(tmp_path / "b.zarr", views=8, seed=3)
    both = labelstore.ensemble([one, two])
    sampler = ViewSampler(both, 4, slab_bytes=2**26)
    list(sampler)
    one.slabs.wait([0, 1])
    two.slabs.wait([0, 1])
    assert len(list(folder.glob("*.slab"))) == 4
    one.slabs.close()
    two.slabs.close()
    assert list(folder.glob("*")) == []


def test_an_ensembles_groups_are_read_of_members_with_other_ones(tmp_path, folder):
    four, _, _ = written(tmp_path / "a.zarr", views=12, group_views=4)
    two, _, _ = written(tmp_path / "b.zarr", views=6, group_views=2, seed=1)
    order = EpochOrder(labelstore.ensemble([four, two]), 1)
    read_ahead = EpochReadAhead(order, 2**26)
    for epoch in range(12):
        views = np.unique(order.views(order.images, epoch))
        for member in (four, two):
            needed = np.unique(views // member.manifest.group_views)
            assert set(needed.tolist()) <= set(read_ahead._groups(member, epoch))
    read_ahead.start(0)
    read_ahead.wait(0)
    for member in (four, two):
        assert sorted(member.slabs._slabs) == sorted(read_ahead._groups(member, 0))
        member.slabs.close()


def test_an_order_of_few_images_leaves_the_slabs_of_another_alone(tmp_path, folder):
    store, _, _ = written(tmp_path / "s.zarr", images=64, views=12, group_views=4)
    sampler = ViewSampler(store, slab_bytes=2**26)
    list(sampler)
    ViewSampler(store, images=[0, 1])
    for epoch in range(1, 5):
        sampler.set_epoch(epoch)
        views = {view for show in sampler for view in show.views}
        assert {view // 4 for view in views} <= set(store.slabs._slabs)
    store.slabs.close()


IMPORTS_OF_THREADS = """
import sys, threading
late = []
class Finder:
    def find_spec(name, path=None, target=None):
        if threading.current_thread() is not threading.main_thread():
            late.append(name)
sys.meta_path.insert(0, Finder)
import labelstore
from labelstore.training.epochs import EpochOrder
from labelstore.training.read_ahead import EpochReadAhead
store = labelstore.open(sys.argv[1])
ahead = EpochReadAhead(EpochOrder(store, 2))
for epoch in range(2):
    ahead.start(epoch)
    ahead.wait(epoch)
assert store.slabs.held()
print(late)
"""


def test_the_background_imports_nothing(tmp_path, suffix):
    """A data loader that forks meanwhile would leave its workers waiting for the import to end."""
    make_planned(tmp_path / f"a.{suffix}")
    command = [sys.executable, "-c", IMPORTS_OF_THREADS, str(tmp_path / f"a.{suffix}")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
