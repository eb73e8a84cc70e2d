"""The card of a store says what the store knows, and marks what it does not."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import labelstore
from labelstore.errors import IncompleteError
from labelstore.operations.inspection.show.image import describe
from labelstore.operations.lifecycle.card import card
from labelstore.operations.lifecycle.preview import preview, preview_table
from labelstore.operations.lifecycle.subset import subset
from labelstore.views.law import ViewLaw
from tests.support import commands
from tests.support.stores import make_planned, once, written

make_planned, written = once(make_planned), once(written)

GOLDEN = sorted(
    path
    for path in (Path(__file__).parents[2] / "format" / "golden" / "v1").iterdir()
    if path.is_dir()
)


def run(*arguments):
    return commands.run([sys.executable, "-m", "labelstore", *map(str, arguments)])


def head_of(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_its_numbers_are_the_stores(tmp_path, suffix):
    store, _ = make_planned(tmp_path / f"a.{suffix}")
    part = labelstore.open(subset(store, tmp_path / f"b.{suffix}", views=range(2, 5)).path)
    text = card(part, license_id="cc-by-4.0")
    assert head_of(text)["license"] == "cc-by-4.0"
    assert f"`{part.id}`" in text
    assert f"subset (labelstore {labelstore.__version__}) of `{store.id}` made `{part.id}`" in text
    assert "boxes and flips are stored beside the labels" in text
    total = sum(part.bytes_by_part().values())
    assert f"{total:,} bytes, {total / 60:.2f} a label" in text
    confidence = part.confidence().reshape(-1)
    counts, _ = np.histogram(confidence, 20, (0, 1))
    bars = re.findall(r"^\d\.\d\d-\d\.\d\d +([\d.]+)%", text, re.MULTILINE)
    assert [float(bar) for bar in bars] == pytest.approx(100 * counts / 60, abs=0.01)
    assert "KL to the teacher's whole distribution: not known" in text
    assert card(part.path, license_id="cc-by-4.0") == text


@pytest.mark.parametrize("name", [path.name for path in GOLDEN])
def test_stores_of_every_kind_have_one(name):
    store = labelstore.open(GOLDEN[0].parent / name)
    text = card(store)
    assert head_of(text)["tags"] == ["soft-labels", "knowledge-distillation", "labelstore"]
    for teacher in store.manifest.teachers:
        assert f"* `{teacher['spec']}`" in text
    assert preview_table(store).num_rows == int(store.labelled().sum()) * min(4, store.num_views)


def test_the_preview_tells_what_was_done_to_augmented_crops(tmp_path):
    law = ViewLaw(1, stages=("ra-n2-m9", "mixup-0.8"))
    store, _, _ = written(tmp_path / "a.zarr", law=law)
    rows = pq.read_table(io.BytesIO(preview(store))).to_pylist()
    assert len(rows) == 20 * 4
    names, partners = set(), set()
    for row in rows:
        image = describe(store, row["key"], [row["view"]])
        (view,) = image["views"]
        assert row["box"] == view["box"]
        nothing = {"partner": None, "partner_view": None}
        assert row["operations"] == [nothing | done for done in view["operations"]]
        names |= {done["name"] for done in row["operations"]}
        partners |= {done["partner"] for done in row["operations"]}
    assert names >= {"mixup", "rotate", "shear-x", "solarize"}
    assert partners > {None}
    assert "operations" not in preview_table(written(tmp_path / "plain.zarr")[0]).column_names


def test_its_python_runs(tmp_path, monkeypatch, capsys):
    store, _, _ = written(tmp_path / "a.zarr")
    monkeypatch.chdir(tmp_path)
    exec(re.search("```python\n(.*?)```", card(store), re.DOTALL)[1], {})
    assert capsys.readouterr().out.startswith("c/000.jpg [[")


def test_names_from_a_stranger_are_shown_and_not_obeyed(tmp_path):
    name = "a`: b\n# <script>.zarr"
    store, _, _ = written(tmp_path / "a.zarr")
    moved = tmp_path / name
    store.path.rename(moved)
    text = card(moved)
    assert head_of(text)["pretty_name"].startswith("Soft labels: a`: b")
    assert "\n# <script>" not in text


def test_a_file_is_not_overwritten_unless_asked(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr")
    path = tmp_path / "README.md"
    assert run("card", store.path, "-o", path).returncode == 0
    assert head_of(path.read_text())["license"] == "unknown"
    assert run("card", store.path).stdout == path.read_text()
    path.write_text("mine")
    done = run("card", store.path, "-o", path)
    assert done.returncode == 2
    assert "replace it with --overwrite" in done.stderr
    assert path.read_text() == "mine"
    assert run("card", store.path, "-o", path, "--overwrite", "-q").returncode == 0
    assert path.read_text() != "mine"


def test_an_unfinished_store_has_no_card(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr", blocks=[0])
    with pytest.raises(IncompleteError):
        card(store)
