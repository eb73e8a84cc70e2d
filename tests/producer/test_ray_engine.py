"""Ray: the stores of one process, also when an actor is killed."""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

import labelstore
from labelstore.cli.generating.labelling import _load
from labelstore.cli.main import main
from labelstore.cli.options import SourceOptions
from labelstore.errors import MismatchError, NotFoundError, SourceError
from labelstore.format.settings import StoreSettings
from labelstore.images.preprocessing import Preprocessing
from labelstore.images.sources.folder import FolderSource
from labelstore.producer.generation import generate, generate_together
from labelstore.producer.settings import LabelSettings, Output, RunOptions
from labelstore.teachers.teacher import Teacher
from labelstore.views.law import ViewLaw
from tests.support.stores import few_photos, files_of

ray = pytest.importorskip("ray", reason="the extra ray is not installed")

# Ray leaves its sockets to the end of the process.
pytestmark = pytest.mark.filterwarnings("ignore")

RECIPE = LabelSettings(4, StoreSettings(k=3, block_images=2))


class Colours(torch.nn.Module):
    """The mean colours of 4 x 4 patches through a fixed matrix; no actor imports timm for it."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("weight", torch.randn(48, 10, generator=generator))

    def forward(self, x):
        # Long enough for an actor to be killed at work.
        time.sleep(0.05)
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) @ self.weight


def teacher_of(network):
    preprocessing = Preprocessing((16, 16), (0.5,) * 3, (0.25,) * 3, "bilinear")
    return Teacher(network, preprocessing, spec="python:colours:make", device="cpu")


def load(folder):
    """What an actor opens."""
    return FolderSource(folder), [teacher_of(Colours())]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return few_photos(tmp_path_factory.mktemp("photos"), 8)


@pytest.fixture(scope="module")
def cluster():
    """This machine, as a cluster of two cores."""
    here = str(Path(__file__).parents[2])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([here, *sys.path])}},
    )
    yield ray
    ray.shutdown()


def make(photos, path, engine, progress=None):
    source = FolderSource(photos)
    output = Output(np.full(len(source), -1, np.int32), path, RECIPE)
    options = RunOptions(batch_size=8)
    return generate_together(source, [output], engine, options=options, progress=progress)[0]


def engine_of(photos, actors, workers=1):
    from labelstore.producer.engines.ray_engine import RayEngine

    opened = functools.partial(load, photos)
    return RayEngine(opened, actors=actors, device="cpu", options=RunOptions(workers=workers))


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


def test_one_actor_differs_another_is_killed_and_the_store_is_that_of_one_process(
    photos, tmp_path, cluster
):
    """One start of Ray and three of actors: each kind of both has a long test of its own."""
    from labelstore.producer.engines.ray_engine import RayEngine

    here = shutil.copytree(photos, tmp_path / "photos")
    spoil("files changed", here)
    opened = functools.partial(load_for_second, here, tmp_path)
    engine = RayEngine(opened, actors=1, device="cpu", options=RunOptions(workers=1))
    number = cluster.get(engine._actors[0].__ray_call__.remote(lambda self: os.getpid()))
    engine._start(1)  # A node that joins later.
    progress = UntilAllThenKill(engine, number)
    name = re.escape(socket.gethostname())
    with pytest.warns(RuntimeWarning, match=f"left out.*{name} .*{NODES['files changed']}"):
        report = make(here, tmp_path / "ray.zarr", engine, progress=progress)
    assert (report.blocks_made, report.views_made) == (4, 32)
    assert progress.numbers == []
    engine.close()
    make_here(here, tmp_path / "one.zarr")
    assert files_of(tmp_path / "ray.zarr") == files_of(tmp_path / "one.zarr")


@pytest.mark.slow
def test_an_actor_that_is_killed_is_replaced_and_the_store_is_that_of_one_process(
    photos, tmp_path, cluster
):
    source, (teacher,) = load(photos)
    generate(
        source,
        np.full(8, -1, np.int32),
        teacher,
        tmp_path / "one.zarr",
        RECIPE,
        options=RunOptions(batch_size=8),
    )
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
    with pytest.raises(SourceError, match="on_error='skip'"):
        make(broken, tmp_path / "broken.zarr", other)
    other.close()


def turned(network):
    """Another network with the same weights."""

    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, pixels):
            return -self.inner(pixels)

        def state_dict(self, *given, **options):
            return self.inner.state_dict(*given, **options)

    return Turned()


def load_for(node, photos, first):
    """What an actor opens on the first node; what it opens on a node that is not as it should be.

    Args:
        node: what is wrong with the other node.
        first: a file that the first actor to open makes.
    """
    try:
        first.open("x").close()
    except FileExistsError:
        if node == "no photos":
            return load(photos.parent / "nowhere")
        source = FolderSource(photos.parent / node if "file" in node else photos)
        network = Colours(seed=1) if node == "other weights" else Colours()
        return source, [teacher_of(turned(network) if node == "other code" else network)]
    return load(photos)


def load_for_second(photos, places):
    """What an actor opens that is the second to do so, and others: other files, and the photos."""
    for place in ("first", "second", "third"):
        try:
            (places / place).open("x").close()
        except FileExistsError:
            continue
        break
    return load(photos.parent / "files changed" if place == "second" else photos)


def spoil(node, photos):
    """The other node's copy of the photos."""
    copy = shutil.copytree(photos, photos.parent / node)
    files = sorted(copy.iterdir())
    if node == "a file more":
        shutil.copy(files[3], copy / f"{files[2].stem}_copy.jpg")
    elif node == "a file less":
        files[2].unlink()
    elif node == "a probed file changed":
        shutil.copy(files[1], files[7])
    else:  # files changed that no probe looks at
        for number in (1, 3, 4, 6):
            shutil.copy(files[0], files[number])


COUNTS = "it has {} images where the driver's source has 8"

NODES = {
    "a file more": f"{COUNTS.format(9)}; the first other key is '.*_copy",
    "a file less": f"{COUNTS.format(7)}; the first key that it lacks",
    "a probed file changed": "with other pixels",
    "files changed": "its file '.*' is another one than the driver's",
    "other weights": "the teacher's weights digest is",
    "other code": "a teacher that does something else",
    "no photos": "nowhere",
}


@pytest.mark.slow
@pytest.mark.parametrize("node", NODES)
def test_a_node_that_differs_is_left_out_by_name_and_others_do_its_work(
    node, photos, tmp_path, cluster
):
    from labelstore.producer.engines.ray_engine import RayEngine

    here = shutil.copytree(photos, tmp_path / "photos")
    if "file" in node:
        spoil(node, here)
    opened = functools.partial(load_for, node, here, tmp_path / "first")
    engine = RayEngine(opened, actors=1, device="cpu", options=RunOptions(workers=1))
    engine._start(1)  # A node that joins later.
    name = re.escape(socket.gethostname())
    with pytest.warns(RuntimeWarning, match=f"left out.*{name} .*{NODES[node]}"):
        report = make(here, tmp_path / "ray.zarr", engine, progress=UntilAll(engine))
    assert report.blocks_made == 4
    assert len(engine._actors) == 1
    engine.close()
    make_here(here, tmp_path / "one.zarr")
    assert files_of(tmp_path / "ray.zarr") == files_of(tmp_path / "one.zarr")


def make_here(photos, path):
    """The same store by this process, of its own copy of the photos."""
    source, (teacher,) = load(photos)
    targets = np.full(8, -1, np.int32)
    generate(source, targets, teacher, path, RECIPE, options=RunOptions(batch_size=8))


class UntilAll:
    """Keeps a run from ending before all actors have joined it."""

    def __init__(self, engine):
        self.engine = engine

    def resumed(self, images):
        # The run begins: both actors are there when it looks which are.
        while self.engine._starting and not self.engine._refused:
            done, _ = ray.wait(list(self.engine._starting), timeout=60)
            self.engine._begun(done[0])

    def update(self, images, views):
        pass

    def waited(self, seconds):
        pass


class UntilAllThenKill(UntilAll, KillOne):
    """Kills an actor once all have joined, at the first block."""

    def __init__(self, engine, number):
        UntilAll.__init__(self, engine)
        KillOne.__init__(self, [number])

    update = KillOne.update


@pytest.mark.slow
def test_an_actor_that_is_started_again_elsewhere_proves_itself_again(photos, tmp_path, cluster):
    from labelstore.producer.engines.ray_engine import RayEngine

    here = shutil.copytree(photos, tmp_path / "photos")
    spoil("a file more", here)
    opened = functools.partial(load_for, "a file more", here, tmp_path / "first")
    engine = RayEngine(opened, actors=1, device="cpu", options=RunOptions(workers=1))
    number = cluster.get(engine._actors[0].__ray_call__.remote(lambda self: os.getpid()))
    with pytest.raises(MismatchError, match=r"no Ray actor is left .* 9 images .* 8;"):
        make(here, tmp_path / "ray.zarr", engine, progress=KillOne([number]))
    engine.close()
    make_here(here, tmp_path / "one.zarr")
    begun, right = (labelstore.open(tmp_path / f"{name}.zarr") for name in ("ray", "one"))
    committed = sorted(set(range(4)) - set(begun.missing_blocks()))
    assert len(committed) in (1, 2)
    for block in committed:
        images = np.arange(2 * block, 2 * block + 2)
        assert (begun.read(images, 0).indices == right.read(images, 0).indices).all()


@pytest.mark.slow
def test_where_no_node_agrees_nothing_is_written_and_what_all_lack_is_told(
    photos, tmp_path, cluster
):
    here = shutil.copytree(photos, tmp_path / "photos")
    spoil("a file more", here)
    engine = engine_of(here.parent / "a file more", 1)
    with pytest.raises(MismatchError, match=r"no Ray actor is left .* the first other key is"):
        make(here, tmp_path / "ray.zarr", engine)
    assert not (tmp_path / "ray.zarr").exists()
    engine.close()
    with pytest.raises(NotFoundError, match="nowhere"):
        engine_of(tmp_path / "nowhere", 1)


@pytest.mark.slow
def test_an_engine_makes_stores_of_other_settings_one_after_the_other(photos, tmp_path, cluster):
    engine = engine_of(photos, 1)
    source, (teacher,) = load(photos)
    unknown = np.full(8, -1, np.int32)
    for seed in (0, 1):
        recipe = dataclasses.replace(RECIPE, law=ViewLaw(seed=seed))
        by_ray, alone = tmp_path / f"ray{seed}.zarr", tmp_path / f"one{seed}.zarr"
        generate_together(
            source, [Output(unknown, by_ray, recipe)], engine, options=RunOptions(batch_size=8)
        )
        generate(source, unknown, teacher, alone, recipe, options=RunOptions(batch_size=8))
        assert files_of(by_ray) == files_of(alone)
    engine.close()


DRIVER = """
import sys


class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("the driver has no torch")


sys.meta_path.insert(0, NoTorch())
import numpy as np
from labelstore.images import FolderSource
from labelstore.producer import LabelSettings, Output, generate_together
from labelstore.producer.engines.ray_engine import RayEngine

photos, path = sys.argv[1:]


def load():
    from labelstore.teachers import load_teacher

    teacher = load_teacher("timm:test_vit", checkpoint="none", device="cpu", size=160)
    return FolderSource(photos), [teacher]


source = FolderSource(photos)
with RayEngine(load, actors=1, device="cpu") as engine:
    output = Output(np.full(len(source), -1, np.int32), path, LabelSettings(2))
    (report,) = generate_together(source, [output], engine)
print("made", report.views_made)
"""


@pytest.mark.slow
def test_the_driver_needs_no_torch(photos, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, photos, tmp_path / "s.zarr"], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["made 16"], done.stderr
    assert labelstore.open(tmp_path / "s.zarr").complete


def colours():
    """What actors import as ``python:tests.producer.test_ray_engine:colours``."""
    return Colours(), {
        "input_size": (16, 16),
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "interpolation": "bilinear",
    }


def test_a_node_opens_photos_in_the_drivers_order(photos, tmp_path):
    """Of a folder with the photos that views are mixed with first; of Parquet files in a store's
    order; and of others as they are, which the driver then refuses."""
    options = SourceOptions(None, None, None, None)
    folder = FolderSource(photos)
    rows = [{"bytes": folder.read(n), "path": key} for n, key in enumerate(folder.keys)]
    table = tmp_path / "photos.parquet"
    pq.write_table(pa.table({"image": rows}), table)
    for source in (folder, options.open(str(table))):
        keys = (*source.keys[5:], *source.keys[:5])
        path = str(photos if source is folder else table)
        opened = functools.partial(_load, options, path, [], keys)
        found, _ = pickle.loads(pickle.dumps(opened))()
        assert tuple(found.keys) == keys
        assert [found.read(n) for n in range(8)] == [source.read((n + 5) % 8) for n in range(8)]
        assert tuple(_load(options, path, [], None)[0].keys) == source.keys
        lacking = (*keys, "lacking.jpg")
        assert tuple(_load(options, path, [], lacking)[0].keys) == source.keys


@pytest.mark.slow
def test_views_of_a_store_that_are_mixed_are_labelled_in_its_order(photos, tmp_path, cluster):
    """Photos that came since stand before the store's, and views are mixed with its alone."""
    few = tmp_path / "few"
    few.mkdir()
    files = sorted(photos.iterdir())
    for file in files[3:]:
        shutil.copy(file, few / file.name)
    given = ["--teacher", "python:tests.producer.test_ray_engine:colours", "--targets", "none"]
    given += ["--device", "cpu", "--block-images", "3", "--workers", "1"]
    first = tmp_path / "first.zarr"
    views = ["--views", "4", "--augment", "mix-0.8-1"]
    generated(few, first, *given, *views)
    for file in files[:3]:
        shutil.copy(file, few / file.name)
    alone, by_ray = tmp_path / "one.zarr", tmp_path / "ray.zarr"
    more = [*given, "--views-from", str(first)]
    generated(few, alone, *more)
    assert labelstore.open(alone).keys[:5] == labelstore.open(first).keys
    generated(few, by_ray, *more, *RAY)
    assert files_of(by_ray) == files_of(alone)
    # What one engine began, the other goes on with.
    (by_ray / "commits" / "c" / "1" / "0").unlink()
    generated(few, by_ray, *more)
    (by_ray / "commits" / "c" / "2" / "0").unlink()
    generated(few, by_ray, *more, *RAY)
    assert files_of(by_ray) == files_of(alone)


RAY = ["--engine", "ray", "--actors", "1"]


def generated(photos, path, *arguments):
    """``labelstore generate``, in this process, which has the cluster."""
    done = CliRunner().invoke(main, ["generate", str(photos), *arguments, "-o", str(path)])
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_actors_that_find_no_room_are_not_waited_for(photos, tmp_path, cluster):
    # Two cores: as many actors at a time, of however many workers; the third is never placed.
    engine = engine_of(photos, 3, workers=2)
    assert engine.workers == 1
    report = make(photos, tmp_path / "a.zarr", engine)
    assert report.blocks_made == 4
    assert len(engine._starting) >= 1
    engine.close()
