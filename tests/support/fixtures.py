"""Fixtures of what trains: real photos with synthetic labels."""

from __future__ import annotations

import pytest
import torch

import labelstore
from tests.support.training import Work, make_photos, make_store


@pytest.fixture(scope="session")
def work(tmp_path_factory) -> Work:
    """Fourteen photos and a complete store of them; nothing may write to it."""
    folder = tmp_path_factory.mktemp("photos")
    keys = make_photos(folder)
    path = tmp_path_factory.mktemp("stores") / "teacher.zarr"
    make_store(path, folder, keys)
    return Work(folder, path)


@pytest.fixture
def single_thread():
    """So that sums are added in one order, in this process and in those that are started."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(work):
    return labelstore.open(work.store)


@pytest.fixture
def photos(work):
    """The photos as torchvision's data set: its order is not the store's."""
    from torchvision.datasets import ImageFolder

    return ImageFolder(work.photos)
