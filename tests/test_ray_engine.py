"""Ray: the stores of one process, also when an actor is killed."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys

import numpy as np
import pytest
from core_data import few_photos, files_of

import labelstore
from labelstore.errors import SourceError, UsageError
from labelstore.generate import Output, Recipe, generate, generate_together
from labelstore.images import FolderSource
from labelstore.teachers import load_teacher

ray = pytest.importorskip("ray", reason="the extra ray is not installed")

# Ray leaves its sockets to the end of the process.
pytestmark = pytest.mark.filterwarnings("ignore")

RECIPE = Recipe(num_views=4, k=3, block_images=2)


def load(folder):
    """What an actor opens."""
    teacher = load_teacher("timm:test_vit", checkpoint="none", device="cpu", size=160)
    return FolderSource(folder), [teacher]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return few_photos(tmp_path_factory.mktemp("photos"), 8)


@pytest.fixture(scope="module")
def cluster():
    """This machine, as a cluster of two cores."""
    here = os.path.dirname(__file__)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([here, *sys.path])}},
    )
    yield ray
    ray.shutdown()


def make(photos, path, engine, **options):
    source = FolderSource(photos)
    output = Output(engine.teachers[0], np.full(len(source), -1, np.int32), path, RECIPE)
    return generate_together(source, [output], batch_size=8, engine=engine, **options)[0]


def engine_of(photos, actors, workers=1):
    from labelstore.ray_engine import RayEngine

    opened = functools.partial(load, photos)
    return RayEngine(opened, actors=actors, device="cpu", workers=workers)


class KillOne:
    """Kills an actor's process at the first block."""

    def __init__(self, numbers):
        self.numbers = numbers

    def resumed(self, images):
        pass

    def update(self, images, views):
        if self.numbers:
            os.kill(self.numbers.pop(), signal.SIGKILL)

    def waited(self, seconds):
        pass


def test_an_actor_that_is_killed_is_replaced_and_the_store_is_that_of_one_process(
    photos, tmp_path, cluster
):
    source, (teacher,) = load(photos)
    generate(source, np.full(8, -1, np.int32), teacher, tmp_path / "one.zarr", RECIPE, batch_size=8)
    engine = engine_of(photos, 2)
    numbers = [
        cluster.get(actor.__ray_call__.remote(lambda self: os.getpid())) for actor in engine._actors
    ]
    report = make(photos, tmp_path / "ray.zarr", engine, progress=KillOne(numbers[:1]))
    assert (report.blocks_made, report.views_made) == (4, 32)
    assert files_of(tmp_path / "ray.zarr") == files_of(tmp_path / "one.zarr")

    # What one engine began, the other goes on with.
    (tmp_path / "one.zarr" / "commits" / "c" / "1" / "0").unlink()
    report = make(photos, tmp_path / "one.zarr", engine)
    assert (report.blocks_found, report.blocks_made) == (3, 1)
    assert labelstore.open(tmp_path / "one.zarr").complete
    assert files_of(tmp_path / "ray.zarr") == files_of(tmp_path / "one.zarr")

    engine.close()
    # What is wrong on a node is told as it would be here.
    broken = tmp_path / "broken"
    shutil.copytree(photos, broken)
    sorted(broken.iterdir())[3].write_bytes(b"no photo")
    other = engine_of(broken, 1)
    with pytest.raises(SourceError, match="--on-error skip"):
        make(broken, tmp_path / "broken.zarr", other)
    other.close()


def test_actors_that_find_no_room_are_not_waited_for(photos, tmp_path, cluster):
    # Two cores: as many actors at a time, of however many workers; the third is never placed.
    engine = engine_of(photos, 3, workers=2)
    assert engine.workers == 1
    report = make(photos, tmp_path / "a.zarr", engine)
    assert report.blocks_made == 4
    assert len(engine._starting) >= 1

    # What an engine's teachers are called is no teacher without it.
    source = FolderSource(photos)
    output = Output(engine.teachers[0], np.full(8, -1, np.int32), tmp_path / "b.zarr", RECIPE)
    with pytest.raises(UsageError, match="without its engine"):
        generate_together(source, [output])
    engine.close()
