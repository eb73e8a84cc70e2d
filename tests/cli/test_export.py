"""``labelstore export``: options of each format, parts, JSON, and what is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import labelstore
from labelstore.cli.main import main
from tests.support.stores import written
from tests.support.training import make_photos, upright


def made(folder, keys, sizes, **options):
    widths, heights = sizes.T
    names = [f"name {number}" for number in range(30)]
    settings = {"keys": keys, "widths": widths, "heights": heights, "class_names": names}
    return written(folder / "s.zarr", 8, **settings, **options)[0]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Eight photos, and the labels of views of each."""
    keys = make_photos(tmp_path / "photos", 8)
    sizes = np.array([upright(tmp_path / "photos" / key).size for key in keys])
    made(tmp_path, keys, sizes)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(text, code=0):
    done = CliRunner().invoke(main, ["export", "s.zarr", *text.split()])
    assert done.exit_code == code, done.output
    return done


def test_each_format_by_its_word(work):
    told = run("--to fkd -o fkd").stderr
    assert told.startswith("fkd: 8 images x 6 views for fkd, 9 files")
    assert len(list(work.glob("fkd/train/*/*.tar"))) == 8
    document = json.loads(run("--to webdataset -o shards --shard-mb 1 --json").stdout)
    assert {name: document[name] for name in ("format", "num_images", "num_views", "files")} == {
        "format": "webdataset",
        "num_images": 8,
        "num_views": 6,
        "files": 2,
    }
    assert document["bytes"] == sum(file.stat().st_size for file in work.glob("shards/*"))
    assert run("--to npz -o a.npz --quiet").output == ""
    with np.load("a.npz") as arrays:
        assert arrays["probs"].shape == (8, 6, 3)
    run("--to hf -o rows --license mit")
    assert 'license: "mit"' in (work / "rows/README.md").read_text()
    about = json.loads((work / "rows/labelstore.json").read_text())
    assert about["manifest"] == labelstore.open("s.zarr").manifest.to_json()


def test_parts_are_chosen_as_for_subset(work):
    for options, images, views in (
        ("--images a/*", 4, 6),
        ("--class 2 --class 5 --views 1:3", 2, 2),
        ("--per-image 2 --choose surgical", 8, 2),
    ):
        run(f"--to npz -o part.npz --overwrite {options}")
        with np.load("part.npz") as arrays:
            assert arrays["views"].shape == (images, views)
    assert "no image" in run("--to npz -o b.npz --class 29", 2).stderr
    assert not (work / "b.npz").exists()


def test_fkds_options(work):
    done = run("--to fkd -o fkd --label-type smoothing --folder p --arrays numpy --photos photos")
    assert "5 images x 6 views" in done.stderr
    assert "3 images left out: turned by EXIF" in done.stderr
    coords, _, labels = torch.load("fkd/p/a/photo 0.tar", weights_only=False)
    assert (coords.shape, labels.shape) == ((6, 4), (6, 2))
    document = json.loads(run("--to fkd -o fkd --overwrite --photos photos --json").stdout)
    assert document["left_out"] == {"turned by EXIF": 3}


def test_photos_that_are_not_the_stores_are_refused(work):
    keys = list(labelstore.open("s.zarr").keys)
    made(work, keys, np.full((8, 2), 40), overwrite=True)
    assert "a/photo 0.jpg" in run("--to fkd -o fkd --photos photos", 1).stderr
    assert not (work / "fkd").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--to npz -o a.npz --photos photos", "--photos was given and the format is npz"),
        ("--to hf -o a --label-type hard", "for fkd alone"),
        ("--to fkd -o a --shard-mb 3", "for webdataset, hf alone"),
        ("--to webdataset -o a --license mit", "for hf alone"),
        ("--to npz -o a", "does not end in .npz"),
        ("--to other -o a", "Invalid value for '--to'"),
        ("--to fkd -o s.zarr", "the store that is read"),
        ("--to fkd -o photos", "is no export of the format fkd"),
        ("--to fkd -o a --folder b/c", "expected its name alone"),
    ],
)
def test_what_cannot_be_is_a_sentence(work, options, words):
    done = run(options, 2)
    assert words in " ".join(done.stderr.split())
    assert not (work / "a").exists()


def test_an_export_that_is_there_names_the_option(work):
    run("--to hf -o rows")
    assert "Option: --overwrite." in run("--to hf -o rows", 2).stderr
    run("--to hf -o rows --overwrite")
    assert "is no export of the format fkd" in run("--to fkd -o rows --overwrite", 2).stderr
