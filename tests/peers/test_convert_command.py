"""``labelstore convert`` as it is typed: killed and gone on with, refused, told."""

import json
import re
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

import labelstore
from labelstore.cli.main import main
from labelstore.operations.recode import recode
from tests.peers.own_files import CLASSES, photos, save_fkd, save_tinyvit
from tests.support import commands
from tests.support.stores import files_of

VIEWS = 20


def arguments(tmp_path, output, *more):
    return [
        *("convert", str(tmp_path / "fkd"), "--from", "fkd"),
        *("--photos", str(tmp_path / "photos"), "--classes", str(CLASSES)),
        *("-o", str(tmp_path / output), *more),
    ]


def run_here(arguments):
    """In this process: a new one needs seconds for its imports."""
    return CliRunner().invoke(main, arguments)


def committed(path):
    """How many blocks a store has."""
    return len(list((path / "commits" / "c").glob("*")))


def test_a_run_that_is_killed_goes_on_to_the_same_store(tmp_path):
    save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 32), VIEWS)
    settings = ("--block-images", "2")
    assert run_here(arguments(tmp_path, "whole.zarr", *settings)).exit_code == 0
    whole = files_of(tmp_path / "whole.zarr")
    path, deaths = tmp_path / "a.zarr", 0
    for count in (3, 9):
        run = commands.start(
            [sys.executable, "-m", "labelstore", *arguments(tmp_path, "a.zarr", "-q", *settings)]
        )
        while run.poll() is None and committed(path) < count:
            time.sleep(0.01)
        run.kill()
        deaths += run.wait() != 0
        # What is there is right, and the rest is said to be missing.
        there = labelstore.open(path)
        for block in sorted(set(range(16)) - set(there.missing_blocks())):
            expected = labelstore.open(tmp_path / "whole.zarr").read([2 * block] * 3, [0, 1, 2])
            read = there.read([2 * block] * 3, [0, 1, 2])
            np.testing.assert_array_equal(read.probs, expected.probs)
    assert deaths
    lacking = len(labelstore.open(path).missing_blocks())
    last = run_here(arguments(tmp_path, "a.zarr", "--json", *settings))
    assert json.loads(last.stdout)["blocks_made"] == lacking
    assert files_of(path) == whole
    verified = run_here(["verify", str(path)])
    assert verified.exit_code == 0, verified.output


def test_labels_in_units(tmp_path):
    """As ``recode`` lays them out, to the last byte; gone on with as they were begun."""
    save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 5), VIEWS)

    def convert(output, *more):
        return run_here(arguments(tmp_path, output, "--block-images", "2", *more))

    assert convert("chunks.zarr").exit_code == 0
    assert convert("units.zarr", "--layout", "units").exit_code == 0
    recode(tmp_path / "chunks.zarr", tmp_path / "recoded.zarr", layout="units")
    whole = files_of(tmp_path / "recoded.zarr")
    assert files_of(tmp_path / "units.zarr") == whole
    (tmp_path / "units.zarr/commits/c/1/0").unlink()
    other = convert("units.zarr", "--layout", "chunks")
    assert (other.exit_code, "layout.unit_images" in other.stderr) == (1, True)
    assert json.loads(convert("units.zarr", "--json").stdout)["blocks_made"] == 1
    assert files_of(tmp_path / "units.zarr") == whole
    assert convert("units.zarr", "--overwrite").exit_code == 0
    assert files_of(tmp_path / "units.zarr") == files_of(tmp_path / "chunks.zarr")
    refused = convert("p.parquet", "--layout", "units")
    assert (refused.exit_code, "--layout" in refused.stderr) == (2, True)
    assert not (tmp_path / "p.parquet").exists()


def test_what_is_done_is_told(tmp_path):
    save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 5), VIEWS)
    run = run_here(arguments(tmp_path, "a.zarr", "--class-map", str(tmp_path / "map.json")))
    assert run.exit_code == 1
    assert "map.json" in run.stderr
    (tmp_path / "map.json").write_text(json.dumps({"n0000": 7, "n0001": 8, "n0002": 9}))
    run = run_here(
        arguments(
            tmp_path,
            "a.zarr",
            *("--class-map", str(tmp_path / "map.json"), "--teacher-name", "EfficientNet-L2"),
            *("--temperature", "1"),
        )
    )
    assert run.exit_code == 0, run.stderr
    told = " ".join(run.stderr.split())
    assert f"5 images x {VIEWS} views, k = 5" in told
    assert re.search(r"[\d,]+ bytes -> [\d,]+ \(\d+\.\d\d a crop\)", told)
    assert "name no teacher" in told
    store = labelstore.open(tmp_path / "a.zarr")
    assert sorted(set(store.targets.tolist())) == [7, 8, 9]
    assert store.manifest.producer["teacher"] == "EfficientNet-L2"
    again = run_here(arguments(tmp_path, "a.zarr"))
    assert again.exit_code == 1
    assert "overwrite" in again.stderr


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--classes", "0"), 2, "--classes"),
        ((), 2, "--classes"),
        (("--classes", "1000"), 2, "--photos"),
        (("--classes", "1000", "--without-boxes", "--top-k", "9"), 2, "--top-k"),
        (("--classes", "1000", "--without-boxes", "--from", "caffe"), 2, "caffe"),
        (("--classes", "7", "--without-boxes"), 1, ".tar has class ids"),
        (("--classes", "1000", "--without-boxes", "--augment", "ra-n2-m9"), 2, "--augment"),
        (("--classes", "1000", "--without-boxes", "--views", "9"), 2, "--views"),
        (("--classes", "1000", "--without-boxes", "--seed", "1"), 2, "--seed"),
    ],
)
def test_what_is_missing_is_asked_for_by_its_option(tmp_path, more, code, words):
    save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 2), 3)
    plain = ["convert", str(tmp_path / "fkd")]
    settings = () if "--without-boxes" in more or "1000" in more else ("--without-boxes",)
    run = run_here(
        [*plain, "--from", "fkd", "-o", str(tmp_path / "a.zarr"), *settings, *more, "--json"]
    )
    assert run.exit_code == code, run.stderr
    assert words in run.stdout
    assert not isinstance(run.exception, ValueError)


def test_views_that_cannot_be_replayed_are_told(tmp_path):
    save_tinyvit(tmp_path / "tiny", ["a/1.jpg", "a/2.jpg"], 3)
    run = run_here(
        [
            *("convert", str(tmp_path / "tiny")),
            *("--from", "tinyvit", "--classes", "1000", "-o", str(tmp_path / "a.zarr")),
        ]
    )
    assert run.exit_code == 0, run.stderr
    assert "views cannot be replayed" in " ".join(run.stderr.split())
