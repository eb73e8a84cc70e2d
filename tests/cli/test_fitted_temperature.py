"""``generate --temperature fit`` with a real teacher and real photos."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

import labelstore
from tests.support import commands
from tests.support.colours import FACTORY


@pytest.fixture
def folder(tmp_path):
    """Twelve photos of three colours, two of them in the wrong class's folder."""
    (tmp_path / "mine.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    for number in range(12):
        shown = (number + 1) % 3 if number in (4, 9) else number % 3
        pixels = rng.integers(0, 120, (50, 60, 3))
        pixels[..., shown] += 100
        name = ("red", "green", "blue")[number % 3]
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels.astype(np.uint8))
        image.save(tmp_path / "photos" / name / f"{number:02}.png")
    return tmp_path


def run(folder, *arguments, program="generate"):
    command = [sys.executable, "-m", "labelstore", program, "photos", "--teacher"]
    return commands.run(
        [*command, "python:mine:colour", "--device", "cpu", *map(str, arguments)], cwd=folder
    )


def test_the_temperature_is_evaluate_s_and_a_number_like_any_other(folder):
    told = json.loads(run(folder, "--json", program="evaluate").stdout)["calibration"]
    temperature = float(f"{told['temperature']:.4g}")
    assert temperature != 1
    done = run(folder, "--views", 3, "-o", "fit.zarr", "--temperature", "fit")
    assert done.returncode == 0, done.stderr
    assert f"temperature {temperature:g} fits colour" in done.stderr.replace("python:mine:", "")
    assert "12 photos" in done.stderr
    store = labelstore.open(folder / "fit.zarr")
    assert store.manifest.temperature == temperature
    run(folder, "--views", 3, "-o", "number.zarr", "--temperature", temperature)
    other = labelstore.open(folder / "number.zarr")
    assert np.array_equal(store.confidence(), other.confidence())
    # A store that is there keeps its temperature, whatever the photos' would be now.
    run(folder, "--views", 3, "-o", "other.zarr", "--temperature", 3.5)
    again = run(folder, "--views", 3, "-o", "other.zarr", "--temperature", "fit")
    assert again.returncode == 0, again.stderr
    assert "temperature 3.5 is that of other.zarr" in again.stderr
    anew = run(folder, "--views", 3, "-o", "other.zarr", "--temperature", "fit", "--overwrite")
    assert anew.returncode == 0, anew.stderr
    assert labelstore.open(folder / "other.zarr").manifest.temperature == temperature


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--temperature", "fit", "--targets", "none"), "has a ground truth"),
        (("--temperature", "fits"), "expected a number, or fit"),
        (("--temperature", "fit", "--engine", "ray"), "runs in one process"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_nothing_is_made(folder, words, expected):
    done = run(folder, "--views", 3, "-o", "x.zarr", *words)
    assert done.returncode == 2
    assert expected in " ".join(done.stderr.split())
    assert not (folder / "x.zarr").exists()


def test_a_teacher_that_is_always_right_has_none(folder):
    for photo in ("green/04.png", "red/09.png"):
        (folder / "photos" / photo).unlink()
    done = run(folder, "--views", 3, "-o", "x.zarr", "--temperature", "fit")
    assert done.returncode == 2
    assert "no temperature calibrates" in done.stderr
    assert not (folder / "x.zarr").exists()
