"""The benchmarks' pictures, drawn again from the results that are kept."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.support import plot_style
from tests.support import commands

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.slow
def test_tables_and_pictures_are_those_of_the_results(tmp_path):
    """What is kept beside a result was not drawn from another."""
    names = ("rate_distortion", "distill", "read_epoch")
    for name in names:
        shutil.copy(RESULTS / f"{name}.json", tmp_path)
    command = [sys.executable, "-m", "benchmarks.redraw", "--results", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    for name in ("rate_distortion", "distill"):
        assert (tmp_path / f"{name}.md").read_text() == (RESULTS / f"{name}.md").read_text()
    for name in names:
        drawn, kept = (
            np.asarray(Image.open(folder / f"{name}.png").convert("L").reduce(10), dtype=float)
            for folder in (tmp_path, RESULTS)
        )
        assert drawn.shape == kept.shape
        # Another version of matplotlib may draw letters a little differently.
        assert abs(drawn - kept).mean() < 3
        assert drawn.std() > 5, "an empty picture"


def test_a_result_that_there_is_no_picture_of():
    command = [sys.executable, "-m", "benchmarks.redraw", "loss"]
    done = commands.run(command, cwd=ROOT)
    assert done.returncode == 2
    assert "choose of rate_distortion" in done.stderr


@pytest.mark.parametrize("crowd", [1, 12])
def test_words_cover_neither_points_nor_each_other(crowd):
    rng = np.random.default_rng(crowd)
    points = [(float(x), float(y)) for x, y in rng.uniform(0, 1, (crowd, 2)) ** 2]
    figure = plot_style.figure(6, 5)
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), "o", markersize=5)
    axes.margins(0.2)
    words = [plot_style.Label(*point, f"word {place}") for place, point in enumerate(points)]
    plot_style.label(axes, words, points)
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text().startswith("word")]
    assert len(boxes) == crowd
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    shown = [axes.transData.transform(point) for point in points]
    assert not any(box.contains(*point) for box in boxes for point in shown)


@pytest.mark.parametrize(
    ("value", "words"), [(0.02, "0.02"), (5.0, "5"), (1670.4, "1,670"), (0.3835, "0.384")]
)
def test_numbers_are_written_without_exponents(value, words):
    assert plot_style.number(value) == words
