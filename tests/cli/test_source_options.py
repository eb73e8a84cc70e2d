"""Commands that read photos: what they say of a source, and the options that choose its parts."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli.main import main
from labelstore.format.settings import StoreSettings
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.images.sources.choose import in_order, open_source
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings
from labelstore.teachers.load import load_teacher

FACTORY = """
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        return 5 * x.mean((2, 3))
def net():
    return Net(), {"input_size": (16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3,
                   "interpolation": "bilinear"}
"""


def png(seed, size=(24, 20)):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a teacher of three classes without names, and the current one."""
    (tmp_path / "colours.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run(command, *arguments):
    teacher = ("--teacher", "python:colours:net", "--device", "cpu")
    return CliRunner().invoke(main, [command, *map(str, arguments), *teacher])


def test_what_is_said_of_a_folder(work):
    for name in ("ant/1.png", "bee/2.png", "cat/3.png"):
        (work / "photos" / name).parent.mkdir(parents=True)
        (work / "photos" / name).write_bytes(png(len(name)))
    for name in ("list.txt", "ant/notes.txt", "bee/raw.cr2"):
        (work / "photos" / name).write_text("x")
    settings = ("photos", "--views", 2, "--top-k", 3)
    refused = run("generate", *settings, "-o", "photos/s.zarr")
    assert refused.exit_code == 2
    assert "in the photos' folder" in refused.stderr
    assert not (work / "photos" / "s.zarr").exists()
    done = run("generate", *settings, "-o", "s.zarr")
    assert done.exit_code == 0, done.stderr
    assert "classes: 'ant' -> 0, 'bee' -> 1, 'cat' -> 2\n" in done.stderr
    assert "3 other files passed over: 2 '.txt', 1 '.cr2' ('ant/notes.txt'" in done.stderr
    done = run("generate", *settings, "-o", "s.zarr", "--json")
    assert json.loads(done.stdout)["passed_over"] == {
        "count": 3,
        "suffixes": {".txt": 2, ".cr2": 1},
        "first": ["ant/notes.txt", "bee/raw.cr2", "list.txt"],
    }


def test_columns_of_parquet_files(work):
    columns = {"photo": [png(n) for n in range(6)], "kind": [0, -1, 2, None, 1, 0]}
    pq.write_table(pa.table(columns), work / "x.parquet")
    settings = ("x.parquet", "--views", 2, "--top-k", 3, "-o", "s.zarr")
    refused = run("generate", *settings)
    assert refused.exit_code == 1
    assert "--image-column" in refused.stderr
    columns = ("--image-column", "photo", "--label-column", "kind")
    done = run("generate", *settings, *columns)
    assert done.exit_code == 0, done.stderr
    store = labelstore.open(work / "s.zarr")
    assert store.targets.tolist() == [0, -1, 2, -1, 1, 0]
    replayed = run("verify", "s.zarr", "--photos", "x.parquet", "--replay", "100%", *columns)
    assert replayed.exit_code == 0, replayed.output
    assert run("repair", "s.zarr", "x.parquet", *columns).exit_code == 0


def test_most_pixels(work, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    (work / "photos").mkdir()
    (work / "photos" / "1.png").write_bytes(png(0))
    settings = ("photos", "--views", 2, "--top-k", 3, "--targets", "none", "-o", "s.zarr")
    refused = run("generate", *settings, "--max-pixels", 24 * 20 - 2)
    assert refused.exit_code == 1
    assert "more than the 478 pixels" in refused.stderr
    assert run("generate", *settings, "--max-pixels", 24 * 20).exit_code == 0


def test_a_store_that_was_begun_in_another_order(work):
    """As of Parquet files before their images were read in the order of rows."""
    order = np.random.default_rng(0).permutation(8).tolist()
    rows = [{"bytes": png(n), "path": f"{n}.png"} for n in order]
    pq.write_table(pa.table({"image": rows, "label": [n % 3 for n in order]}), "x.parquet")
    source = in_order(open_source("x.parquet"), sorted(f"{n}.png" for n in order))
    targets = resolve_targets(source, num_classes=3, class_names=None)
    assert targets.tolist() == [n % 3 for n in range(8)]
    teacher = load_teacher("python:colours:net", device="cpu")
    generate(source, targets, teacher, "s.zarr", LabelSettings(2, StoreSettings(k=3)))
    done = run("generate", "x.parquet", "--views", 2, "--top-k", 3, "-o", "s.zarr")
    assert done.exit_code == 0, done.stderr
    assert "finished already" in done.stderr
    assert run("repair", "s.zarr", "x.parquet").exit_code == 0
