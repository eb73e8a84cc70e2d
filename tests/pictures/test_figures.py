"""Figures of commands: what is written in them, and that they are readable in grey."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from labelstore.pictures.figures import Region, draw_confidence, shortened

EDGES = np.linspace(0, 1, 21)


def drawn(path, bounds, **words):
    shares = np.where(np.arange(20) == 0, 0.1, 0.01)
    edges = [0.0, *bounds, 1.0]
    regions = [
        Region(low, high, f"part {place}", "#777777")
        for place, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    settings = {"title": "a title", "caption": "a caption", **words}
    draw_confidence(path, EDGES, shares, regions=regions, **settings)


def test_regions_of_one_colour_are_told_apart(tmp_path):
    drawn(tmp_path / "a.png", (0.25, 0.5, 0.75))
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L"), dtype=float)
    # Above the bars; lines of the grid are constant along a row.
    rows = pixels[250:400]
    left, right = 140, 1240
    parts = [rows[:, int(left + (right - left) * at) :][:, :80] for at in (0.1, 0.35, 0.6, 0.85)]
    hatched = [part.std(axis=1).mean() for part in parts]
    assert hatched[2] == 0
    assert min(hatched[0], hatched[1], hatched[3]) > 1
    # Lines that rise, dots, lines that fall.
    assert len({part.tobytes() for part in parts}) == 4


def test_what_is_written(tmp_path):
    drawn(tmp_path / "a.svg", (0.93, 0.95), title="cost in $: a$b$", caption="teacher x_y^z")
    text = (tmp_path / "a.svg").read_text()
    for words in (
        "cost in $: a$b$",
        "teacher x_y^z",
        "0.93",
        "0.95",
        "part 2",
        "share of crops, %",
    ):
        assert words in text


@pytest.mark.parametrize("bounds", [(), (0.0, 0.0, 1.0), (0.5, 0.5, 0.5), (0.01, 0.02, 0.03)])
def test_any_thresholds_are_drawn(tmp_path, bounds):
    drawn(tmp_path / "a.png", bounds)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_long_names_keep_both_ends():
    name = "vit_large_patch14_clip_336.openai_ft_in12k_in1k"
    assert shortened(name, 30) == "vit_large_patch…_ft_in12k_in1k"
    assert shortened(name, len(name)) == name
