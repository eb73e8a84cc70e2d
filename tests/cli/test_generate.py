"""``labelstore generate`` as a user types it: what it prints, and what it says of mistakes."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli.main import main
from labelstore.operations.recode import recode
from tests.support import commands
from tests.support.stores import files_of, said_of_labels

TEACHER = ("--teacher", "timm:test_resnet", "--checkpoint", "none", "--device", "cpu")


@pytest.fixture
def photos(tmp_path):
    """Four photos in two class folders."""
    for number, name in enumerate(["cat/a.jpg", "cat/b.png", "dog/c.jpg", "dog/d.jpg"]):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").rotate(40 * number).convert("RGB").resize((60, 50)).save(file)
    return tmp_path / "photos"


def run(*arguments):
    command = [sys.executable, "-m", "labelstore", "generate", *map(str, arguments)]
    return commands.run(command)


def test_from_folders_to_a_store(photos, tmp_path):
    (tmp_path / "map.csv").write_text("folder,class\ncat,281\ndog,207\n")
    common = (photos, *TEACHER, "--views", 5, "-o", tmp_path / "s.zarr")
    done = run(*common, "--class-map", tmp_path / "map.csv", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["num_images"], report["views_made"], report["blocks_found"]) == (4, 20, 0)
    store = labelstore.open(tmp_path / "s.zarr")
    assert store.targets.tolist() == [281, 281, 207, 207]
    assert (store.k, store.manifest.quantizer, store.manifest.prior_size) == (4, "ratio16", 64)
    again = run(*common, "--class-map", tmp_path / "map.csv")
    assert (again.returncode, "nothing was done" in again.stderr) == (0, True)
    other = run(*common, "--class-map", tmp_path / "map.csv", "--seed", 1, "--json")
    assert other.returncode == 1
    assert json.loads(other.stdout)["error"]["kind"] == "mismatch"
    assert "views.law.seed: stored 0, asked for 1" in other.stderr
    replaced = run(
        *common, "--targets", "none", "--fidelity", "fast", "--top-k", 3, "--overwrite", "--quiet"
    )
    assert (replaced.returncode, replaced.stdout, replaced.stderr) == (0, "", "")
    store = labelstore.open(tmp_path / "s.zarr")
    assert (store.k, store.manifest.quantizer, store.manifest.prior_size) == (3, "u8", 0)
    assert (store.targets == -1).all()


def test_labels_in_units(photos, tmp_path):
    """As ``recode`` lays them out, to the last byte; gone on with, and grown, as they are."""
    common = (photos, *TEACHER, "--targets", "none", "--block-images", 3, "--group-views", 2)
    chunks, units = tmp_path / "chunks.zarr", tmp_path / "units.zarr"
    assert run(*common, "--views", 5, "-o", chunks).returncode == 0
    asked = (*common, "--views", 5, "-o", units)
    assert run(*asked, "--layout", "units").returncode == 0
    recode(chunks, tmp_path / "recoded.zarr", layout="units")
    assert files_of(units) == files_of(tmp_path / "recoded.zarr")
    (units / "commits/c/1/0").unlink()
    again = run(*asked, "--json")
    assert json.loads(again.stdout)["blocks_found"] == 1
    assert files_of(units) == files_of(tmp_path / "recoded.zarr")
    other = run(*asked, "--layout", "chunks")
    assert (other.returncode, "layout.unit_images" in other.stderr) == (1, True)
    for store in (units, chunks):
        longer = (*common, "--views", 7, "--grow", store, "-o", tmp_path / f"grown-{store.name}")
        other = run(*longer, "--layout", {units: "chunks", chunks: "units"}[store])
        assert (other.returncode, f"was made with {store.stem}" in other.stderr) == (2, True)
        assert run(*longer).returncode == 0
    grown = [labelstore.open(tmp_path / f"grown-{store.name}") for store in (units, chunks)]
    refused = run(*common, "--views", 5, "--layout", "units", "-o", tmp_path / "p.parquet")
    assert (refused.returncode, "--layout" in refused.stderr) == (2, True)
    assert [store.manifest.label_layout for store in grown] == ["units", "chunks"]
    assert said_of_labels(grown[0]) == said_of_labels(grown[1])


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--targets", "folders"], 1, "--class-map"),
        (["--class-map", "nowhere.csv"], 1, "nowhere.csv"),
        (["--teacher", "timm:resnot50"], 1, "resnot50"),
        (["--teacher", "resnet50"], 2, "timm:NAME"),
        (["--checkpoint", "nowhere.pt"], 1, "nowhere.pt"),
        (["--top-k", "1001"], 2, "--top-k"),
        (["--scale", "0.5", "0.1"], 2, "--scale"),
        (["--temperature", "0"], 2, "temperature"),
        (["--device", "cuda"], 2, "cuda"),
        (["--precision", "fp16"], 2, "fp16"),
        (["--views", "0"], 2, "--views"),
        (["--teacher", "timm:test_vit"], 2, "--output was given 1 times for 2 --teacher"),
    ],
)
def test_mistakes_are_one_clear_sentence(photos, tmp_path, change, code, words):
    common = [photos, *TEACHER, "--views", 2, "--targets", "none", "-o", tmp_path / "s.zarr"]
    if change[0] == "--class-map":
        change = ["--targets", "folders", *change]
    if change[0] in TEACHER and "times" not in words:
        # Given twice, it would stand for two teachers.
        place = common.index(change[0])
        common[place : place + 2] = []
    # In this process, which has torch and timm already.
    done = CliRunner().invoke(main, ["generate", *map(str, [*common, *change])])
    assert done.exit_code == code, done.stderr
    assert isinstance(done.exception, SystemExit)
    assert words in done.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_folders_that_hold_no_photos(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "empty"), (tmp_path / "none", "none")):
        done = run(folder, *TEACHER, "--views", 2, "-o", tmp_path / "s.zarr")
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_truncated_photo_is_named(photos, tmp_path):
    broken = photos / "dog" / "c.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    common = (photos, *TEACHER, "--views", 2, "--targets", "none", "-o", tmp_path / "s.zarr")
    done = run(*common)
    assert done.returncode == 1
    assert "dog/c.jpg" in done.stderr
    assert "(on_error='skip')" in done.stderr
    assert "Option: --on-error." in done.stderr
    done = run(*common, "--on-error", "skip")
    assert done.returncode == 3, done.stderr
    assert "left out: cannot decode the image" in done.stderr
    assert "dog/c.jpg: Truncated File Read" in done.stderr
    assert "1 of 4 images have no labels (exit code 3)" in done.stderr
    # Reasons are in no store: a later run looks again.
    again = run(*common, "--on-error", "skip", "--json")
    assert again.returncode == 3
    (reason,) = json.loads(again.stdout)["unreadable"].items()
    assert reason[0] == "dog/c.jpg"
    assert "Truncated File Read" in reason[1]
