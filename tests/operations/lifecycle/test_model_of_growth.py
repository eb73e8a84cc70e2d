"""Any sequence of growth and other operations, interrupted or not, says what a model says."""

from __future__ import annotations

import random

import pytest

from tests.support.worlds import World, truth_of

pytestmark = [
    # zarr leaves coroutines behind when one of several writes fails.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine.*never awaited:RuntimeWarning"),
]


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return truth_of(tmp_path_factory.mktemp("truth"))


@pytest.fixture(autouse=True)
def own_slabs(tmp_path, monkeypatch):
    """Nobody else's labels in memory are swept."""
    monkeypatch.setenv("LABELSTORE_SLABS", str(tmp_path / "slabs"))


@pytest.mark.parametrize("seed", [1, 2, pytest.param(0, marks=pytest.mark.slow)])
def test_a_sequence_says_what_the_model_says(tmp_path, truth, seed):
    World(tmp_path, random.Random(seed), ("zarr", "parquet")[seed % 2], truth).go(5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_many_sequences_say_what_the_model_says(tmp_path, truth, seed):
    World(tmp_path, random.Random(seed), ("zarr", "parquet")[seed % 2], truth).go(8)
