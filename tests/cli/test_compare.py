"""``labelstore compare`` over real stores."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from importlib import resources

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli import output
from labelstore.cli.main import main
from labelstore.operations.inspection.compare import compare
from labelstore.views.law import ViewLaw
from tests.support import commands
from tests.support.stores import once, written

written = once(written)

NAMES = [f"animal number {number} [red]of[/red] the zoo" for number in range(30)]


@pytest.fixture
def stores(tmp_path):
    """Two teachers of the same views, with long keys and names."""
    keys = [f"a folder of {n % 3}/photo number {n} [b]x[/b].jpg" for n in range(20)]
    options = {"keys": keys, "class_names": NAMES, "temperature": 1.0, "group_views": 2}
    for name, seed in (("a", 0), ("b", 3)):
        written(tmp_path / f"{name}.zarr", seed=seed, **options)
    return tmp_path / "a.zarr", tmp_path / "b.zarr"


def run(*arguments, code=0):
    done = CliRunner().invoke(main, ["compare", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def at_width(monkeypatch, columns):
    """Results in a terminal of so many columns."""
    plain = output.console

    def console():
        made = plain()
        made.width = columns
        return made

    monkeypatch.setattr(output, "console", console)


def test_json_is_the_comparison(stores):
    done = run(*stores, "--json", "--extremes", 2, "--low", 0.25, "--top", 0.9, "--sample", 2)
    document = json.loads(done.stdout)
    text = resources.files("labelstore.schemas").joinpath("compare.schema.json").read_text()
    jsonschema.Draft202012Validator(json.loads(text)).validate(document)
    rule = labelstore.FerKD(low=0.25, top=0.9)
    assert document == compare(*stores, ferkd=rule, extremes=2, sample=2)


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("sample", [(), ("--sample", 2)])
def test_it_is_readable_at_every_width(stores, monkeypatch, columns, sample):
    at_width(monkeypatch, columns)
    shown = run(*stores, "--extremes", 3, *sample).stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    told = compare(*stores, extremes=3, sample=sample[1] if sample else None)
    # Words are whole, if in the next line; numbers and their units are never parted.
    said = " ".join(shown.split())
    words = set(shown.split())
    for entry in (*told["largest_views"], *told["largest_images"]):
        assert set(entry["key"].split()) <= {word.rstrip(",") for word in words}
        assert f"{entry['total_variation']:.3f}" in said
        assert f"{entry['kl_ab']:.3f}" in said
    for name in ("kl_ab", "kl_ba", "total_variation"):
        for value in (told[name]["mean"], *(q["value"] for q in told[name]["quantiles"])):
            assert f"{value:.4f}" in said
    assert f"{told['agreement']['top1']['mean']:.2%}" in said
    assert ("±" in said) == bool(sample)
    for part in told["ferkd"]["decisions"]:
        assert f"{part['count']} ({part['share']:.1%})" in said
    for section in ("How often they agree", "Bytes on disk", "Views that differ most"):
        assert section in lines
    assert "…" not in shown


def test_class_names_are_shown_and_are_no_markup(stores):
    shown = run(*stores, "--extremes", 1).stdout
    assert "[red]of[/red] the zoo" in " ".join(shown.split())
    document = json.loads(run(*stores, "--json").stdout)
    assert document["class_names"] == NAMES


def test_what_a_store_says_is_not_obeyed_by_the_terminal(tmp_path):
    hostile = "\x1b[2J\x1b]0;owned\x07\u202egnp"
    options = {"images": 4, "classes": 6, "k": 2}
    options["keys"] = [f"{number}{hostile}" for number in range(4)]
    options["class_names"] = [f"{hostile}{number}" for number in range(6)]
    paths = [written(tmp_path / f"{seed}.zarr", seed=seed, **options)[0].path for seed in (1, 2)]
    done = run(*paths)
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    assert {sign for sign in done.output if unicodedata.category(sign) in kinds} <= {"\n"}
    assert r"\x1b[2J" in done.output
    assert json.loads(run(*paths, "--json").stdout)["class_names"][0] == f"{hostile}0"


def test_an_ascii_terminal_is_served_too(stores):
    done = commands.run(
        [sys.executable, "-m", "labelstore", "compare", *map(str, stores)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert done.stdout.isascii()
    heat = done.stdout.split("Confidence: A")[1].split("Classes")[0]
    assert "#" in heat


def test_the_heat_map_is_where_the_crops_are(tmp_path):
    """A is as sure as 0.9 and B as 0.2 of every crop: one cell, below to the right."""
    settings = {"law": ViewLaw(1), "widths": [40] * 3, "heights": [40] * 3}
    paths = []
    for name, value in (("a", 0.91), ("b", 0.21)):
        shape = (3, 2, 1)
        paths.append(tmp_path / f"{name}.zarr")
        labelstore.write(
            paths[-1], np.zeros(shape, dtype=int), np.full(shape, value), 9, **settings
        )
    lines = run(*paths).stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Confidence: A"))
    cells = [line[5:].ljust(40) for line in lines[start + 1 : start + 21]]
    filled = [
        (row, column) for row in range(20) for column in range(20) if cells[row][2 * column] != " "
    ]
    assert filled == [(19 - 4, 18)]


def test_why_views_are_not_compared_is_said_first(stores, tmp_path):
    other = written(tmp_path / "c.zarr", law=ViewLaw(9), keys=labelstore.open(stores[0]).keys)[0]
    shown = " ".join(run(stores[0], other.path).stdout.split())
    assert "Not view by view:" in shown
    assert "seed 9" in shown
    assert "by their mean labels" in shown
    assert "Views that differ most" not in shown
    assert "What FerKD does" not in shown
    assert "The temperatures may differ (1 in A, unknown in B)" in shown


def test_the_mean_of_several_is_compared(stores, tmp_path):
    a, b = stores
    merged = tmp_path / "merged.zarr"
    done = CliRunner().invoke(main, ["merge", str(a), str(b), "-o", str(merged), "-q"])
    assert done.exit_code == 0, done.output
    document = json.loads(run(a, merged, "--mean-a", b, "--json").stdout)
    assert [member["path"] for member in document["a"]["members"]] == [str(a), str(b)]
    assert document["kl_ab"]["mean"] < 0.2
    assert document["agreement"]["top1"]["mean"] > 0.95
    assert "0.5 of" in run(a, merged, "--mean-a", b).stdout


def test_what_cannot_be_compared_is_one_line_and_an_exit_code(stores, tmp_path):
    other = written(tmp_path / "c.zarr", classes=40)[0]
    done = run(stores[0], other.path, "--json", code=1)
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "mismatch"
    assert "30 classes" in error["message"]
    assert done.stderr == f"Error: {error['message']}\n"
    assert run(stores[0], code=2).stderr
    run(*stores, "--sample", 0, code=2)
    chunk = next(file for file in (stores[1] / "labels/classes/c").rglob("*") if file.is_file())
    data = bytearray(chunk.read_bytes())
    data[3] ^= 16
    chunk.write_bytes(data)
    assert "labelstore repair" in run(*stores, code=1).stderr


@pytest.fixture
def photos(stores, tmp_path):
    """The photos of both stores, of which one is another than its size in the stores says."""
    store = labelstore.open(stores[0])
    rng = np.random.default_rng(0)
    for row, key in enumerate(store.keys):
        width, height = (int(side) for side in store.sizes(row))
        file = tmp_path / "photos" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (height + (row == 19), width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return tmp_path / "photos"


def data_of(page):
    """What a page holds."""
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_has_the_numbers_and_the_crops(stores, photos, tmp_path):
    page = tmp_path / "compare.html"
    done = run(*stores, "--report", page, "--photos", photos, "--extremes", 20, "--json")
    document = json.loads(done.stdout)
    assert str(page) in done.stderr
    data = data_of(page)
    shown = data["comparison"]
    for entry in (*shown["largest_views"], *shown["largest_images"]):
        picture = entry.pop("picture")
        assert (picture is None) == ("number 19 " in entry["key"])
        assert picture is None or picture.startswith("data:image/jpeg;base64,")
    columns = shown.pop("classes")
    rows = document.pop("classes")
    assert columns == {name: [row[name] for row in rows] for name in rows[0]}
    assert shown == document
    assert data["pictures"]["different"] == 1
    assert data["pictures"]["shown"] + 1 >= 20
    assert "a.zarr and b.zarr" in page.read_text(encoding="utf-8")[:4000]


def test_a_page_without_photos_and_without_views(stores, tmp_path):
    page = tmp_path / "compare.html"
    run(*stores, "--report", page)
    assert data_of(page)["pictures"] is None
    other = written(tmp_path / "c.zarr", law=ViewLaw(9), keys=labelstore.open(stores[0]).keys)[0]
    run(stores[0], other.path, "--report", page)
    assert data_of(page)["comparison"]["by"] == "images"


def test_pages_are_refused_before_the_stores_are_read(stores, tmp_path):
    assert "without --report" in run(*stores, "--photos", tmp_path, code=2).stderr
    page = tmp_path / "thesis.html"
    page.write_text("<p>mine</p>")
    assert "--overwrite" in run(tmp_path / "absent", stores[1], "--report", page, code=2).stderr
    assert page.read_text() == "<p>mine</p>"
    run(*stores, "--report", page, "--overwrite")
    assert data_of(page)["comparison"]["report_version"] == 1
