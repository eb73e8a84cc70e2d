"""Forecasts against the run itself, and another teacher's views."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import labelstore
from labelstore.format.manifest import Manifest, StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.forecast import forecast
from labelstore.producer.engines.local import LocalEngine
from labelstore.producer.generation import generate_together
from labelstore.producer.settings import FIDELITIES, LabelSettings, Output, RunOptions
from labelstore.producer.store_bytes import empty_store_bytes
from labelstore.storage.workspaces import workspace
from labelstore.store.writer import StoreWriter
from labelstore.teachers.load import load_teacher
from labelstore.views.law import ViewLaw
from tests.support import commands

FACTORY = """
import torch

class Colours(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = torch.nn.Linear(3, 100)
        self.layer.weight.data *= 8
    def forward(self, x):
        return self.layer(x.mean((2, 3)))

PREPROCESSING = {"input_size": (16, 16), "mean": (0.5,) * 3, "std": (0.25,) * 3,
                 "interpolation": "bilinear"}

def first():
    return Colours(0), PREPROCESSING

def second():
    return Colours(1), {**PREPROCESSING, "input_size": (24, 24)}
"""


@pytest.fixture
def work(tmp_path):
    return placed(tmp_path, 40)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A source of more photos, and the first teacher."""
    place = placed(tmp_path_factory.mktemp("many"), 108)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        teacher = load_teacher("python:mine:first", device="cpu")
    return FolderSource(place / "photos"), teacher


def placed(place, count):
    """A folder with so many photos, and the module of the teachers."""
    rng = np.random.default_rng(0)
    (place / "photos").mkdir()
    for number in range(count):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 48)).save(place / "photos" / f"{number:02}.png")
    (place / "mine.py").write_text(FACTORY)
    return place


def generate(work, *arguments, teacher="first"):
    command = [sys.executable, "-m", "labelstore", "generate", "photos", "--targets", "none"]
    command += ["--teacher", f"python:mine:{teacher}", *map(str, arguments)]
    return commands.run(command, cwd=work)


@pytest.mark.parametrize("suffix", ["zarr", pytest.param("parquet", marks=pytest.mark.slow)])
def test_bytes_and_shares_are_those_of_the_run(work, suffix):
    out = f"a.{suffix}"
    settings = ("--views", 64, "-o", out)
    told = generate(work, *settings, "--dry-run", "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert not (work / out).exists()
    assert (found["images"], found["views"], found["crops"]) == (40, 64, 2560)
    assert found["fits"]
    done = generate(work, *settings)
    assert done.returncode == 0, done.stderr
    store = labelstore.open(work / out)
    files = [file for file in (work / out).rglob("*") if file.is_file()]
    made = sum(file.stat().st_size for file in files)
    assert found["bytes"] == pytest.approx(made, rel=0.05)
    action = labelstore.FerKD().decide(store.confidence())
    for item in labelstore.Action:
        assert found["ferkd"][item.name.lower()] == pytest.approx((action == item).mean(), abs=0.1)
    assert found["seconds"] > 0
    assert found["bottleneck"] in ("teacher", "pixels")


STORES = {
    "small": FIDELITIES["small"],
    "balanced": FIDELITIES["balanced"],
    "fast": FIDELITIES["fast"],
    "ten": StoreSettings(10, "ratio32", 64),
    "five in blocks of 16": StoreSettings(5, "u16", 0, block_images=16),
}
"""Ways to store labels, each by other parts: lists, ranks in them, plain classes, many blocks."""


@pytest.mark.parametrize("views", [2, 16])
@pytest.mark.parametrize("name", STORES)
def test_bytes_of_few_views_are_those_of_the_run(many, tmp_path, name, views):
    """By a sample of a quarter of the photos: 4 % of the whole, 8 % of labels and lists."""
    source, teacher = many
    path = tmp_path / "a.zarr"
    settings = LabelSettings(views, STORES[name])
    output = Output(np.full(len(source), -1, dtype=np.int32), path, settings)
    found = forecast(source, teacher, output, RunOptions(), images=27, views=views)
    assert (found.sample_images, found.sample_views) == (27, views)
    generate_together(source, [output], LocalEngine([teacher]))
    sizes = {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    assert found.bytes == pytest.approx(sum(sizes.values()), rel=0.04)
    folders = tuple(f"{path}/{part}" for part in ("labels/", "commits/", "images/prior"))
    objects = [
        size
        for file, size in sizes.items()
        if "/c/" in str(file)[len(str(path)) :] and str(file).startswith(folders)
    ]
    assert found.bytes_per_crop * found.crops == pytest.approx(sum(objects), rel=0.08)


def test_fewer_views_are_made_up_for_by_more_photos(many, tmp_path):
    source, teacher = many
    output = Output(np.full(len(source), -1, np.int32), tmp_path / "a.zarr", LabelSettings(3))
    found = forecast(source, teacher, output, RunOptions(), images=4, views=16)
    assert (found.sample_images, found.sample_views) == (22, 3)
    assert not (tmp_path / "a.zarr").exists()


def test_many_keys_and_targets_are_weighed_by_some_of_them():
    """Keys and ground truth of 70,000 images, of which 65,536 are stored."""
    keys = [f"class-{number % 97}/{number}.jpg" for number in range(70_000)]
    targets = np.arange(70_000, dtype=np.int32) % 97
    manifest = Manifest(
        num_images=70_000,
        num_views=2,
        num_classes=100,
        fingerprint="0" * 32,
        law=ViewLaw(),
        **StoreSettings(2, "u8", 0, block_images=1024, group_views=2).chosen(),
    )
    with workspace() as folder:
        with StoreWriter(folder / "a.zarr", manifest, keys, targets):
            pass
        made = sum(f.stat().st_size for f in (folder / "a.zarr").rglob("*") if f.is_file())
    assert empty_store_bytes(manifest, keys, targets) == pytest.approx(made, rel=0.03)


@pytest.mark.parametrize("sizes", [(40, 4), (8, 64)])
def test_bytes_of_units_are_those_of_the_run(work, sizes):
    """Blocks of eight photos have five times the tables of one of forty."""
    block_images, group_views = sizes
    settings = ("--views", 64, "--block-images", block_images, "--group-views", group_views)
    settings = (*settings, "--layout", "units", "-o", "a.zarr")
    found = json.loads(generate(work, *settings, "--dry-run", "--json").stdout)
    done = generate(work, *settings)
    assert done.returncode == 0, done.stderr
    # The bytes of labels, commits and lists, without what describes the arrays.
    folders = [
        *work.glob("a.zarr/images/prior*"),
        *(work / "a.zarr" / n for n in ("labels", "commits")),
    ]
    files = [file for folder in folders for file in folder.glob("**/c/**/*") if file.is_file()]
    made = sum(file.stat().st_size for file in files) / (40 * 64)
    assert found["bytes_per_crop"] == pytest.approx(made, rel=0.04)
    # A store that is there is gone on with as it is, and measured so.
    again = generate(work, "--views", 64, "-o", "a.zarr", "--dry-run", "--json")
    assert json.loads(again.stdout)["bytes_per_crop"] == found["bytes_per_crop"]


def test_the_dry_run_in_words(work):
    told = generate(work, "--views", 8, "--dry-run", "-o", "a.zarr")
    assert told.returncode == 0, told.stderr
    for words in ("40 images x 8 views = 320 crops", "nothing was written", "free:", "FerKD would"):
        assert words in told.stderr
    assert not (work / "a.zarr").exists()


def test_another_teacher_labels_the_very_same_views(work):
    settings = ("--views", 12, "--seed", 5, "--scale", 0.2, 0.9, "--flip", 0.25)
    assert generate(work, *settings, "-o", "a.zarr").returncode == 0
    done = generate(work, "--views-from", "a.zarr", "-o", "b.zarr", teacher="second")
    assert done.returncode == 0, done.stderr
    a, b = labelstore.open(work / "a.zarr"), labelstore.open(work / "b.zarr")
    assert (b.law, b.num_views) == (a.law, 12)
    assert labelstore.ensemble([a, b]).num_views == 12
    found, other = a.views(3, range(12)), b.views(3, range(12))
    assert np.array_equal(found.box, other.box)
    assert np.array_equal(found.flip, other.flip)
    done = generate(work, "--views-from", "a.zarr", "--views", 4, "-o", "c.zarr")
    assert done.returncode == 0, done.stderr
    assert labelstore.open(work / "c.zarr").num_views == 4


def test_views_that_cannot_be_taken_over_are_refused(work):
    indices = np.arange(8).reshape(2, 2, 2)
    probs = np.full((2, 2, 2), 0.4)
    labelstore.write(work / "own.zarr", indices, probs, 100)
    assert generate(work, "--views", 12, "-o", "a.zarr").returncode == 0
    for arguments, code, words in (
        (("--views-from", "own.zarr"), 1, "has no view law"),
        (("--views-from", "a.zarr", "--seed", 1), 2, "leave --seed out"),
        (("--views-from", "a.zarr", "--views", 13), 2, "has 12 views of each image"),
        ((), 2, "--views is missing"),
    ):
        done = generate(work, *arguments, "-o", "b.zarr")
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert not (work / "b.zarr").exists()
    # Another photo under the same name, of the same size.
    shutil.copy(work / "photos" / "00.png", work / "photos" / "39.png")
    done = generate(work, "--views-from", "a.zarr", "-o", "b.zarr")
    assert done.returncode == 1
    assert "another file '39.png' than a.zarr was made from" in done.stderr
    assert not (work / "b.zarr").exists()
