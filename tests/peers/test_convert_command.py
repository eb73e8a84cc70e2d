"""``labelstore convert`` as it is typed: killed and gone on with, refused, told."""

import json
import re
import sys
import time

import numpy as np
import pytest

import labelstore
from tests.peers.own_files import CLASSES, photos, save_fkd, save_tinyvit
from tests.support import commands
from tests.support.stores import files_of

VIEWS = 20


def arguments(tmp_path, output, *more):
    return [
        *(sys.executable, "-m", "labelstore", "convert", str(tmp_path / "fkd"), "--from", "fkd"),
        *("--photos", str(tmp_path / "photos"), "--classes", str(CLASSES)),
        *("-o", str(tmp_path / output), *more),
    ]


def committed(path):
    """How many blocks a store has."""
    return len(list((path / "commits" / "c").glob("*")))


def test_a_run_that_is_killed_goes_on_to_the_same_store(tmp_path):
    save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 48), VIEWS)
    settings = ("--block-images", "2")
    assert commands.run(arguments(tmp_path, "whole.zarr", *settings)).returncode == 0
    whole = files_of(tmp_path / "whole.zarr")
    path, deaths = tmp_path / "a.zarr", 0
    for count in (3, 12):
        run = commands.start(arguments(tmp_path, "a.zarr", "-q", *settings))
        while run.poll() is None and committed(path) < count:
            time.sleep(0.01)
        run.kill()
        deaths += run.wait() != 0
        # What is there is right, and the rest is said to be missing.
        there = labelstore.open(path)
        for block in sorted(set(range(24)) - set(there.missing_blocks())):
            expected = labelstore.open(tmp_path / "whole.zarr").read([2 * block] * 3, [0, 1, 2])
            read = there.read([2 * block] * 3, [0, 1, 2])
            np.testing.assert_array_equal(read.probs, expected.probs)
    assert deaths
    lacking = len(labelstore.open(path).missing_blocks())
    last = commands.run(arguments(tmp_path, "a.zarr", "--json", *settings))
    assert json.loads(last.stdout)["blocks_made"] == lacking
    assert files_of(path) == whole
    verified = commands.run([sys.executable, "-m", "labelstore", "verify", str(path)])
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_what_is_done_is_told(tmp_path):
    save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 5), VIEWS)
    run = commands.run(arguments(tmp_path, "a.zarr", "--class-map", str(tmp_path / "map.json")))
    assert run.returncode == 1
    assert "map.json" in run.stderr
    (tmp_path / "map.json").write_text(json.dumps({"n0000": 7, "n0001": 8, "n0002": 9}))
    run = commands.run(
        arguments(
            tmp_path,
            "a.zarr",
            *("--class-map", str(tmp_path / "map.json"), "--teacher-name", "EfficientNet-L2"),
            *("--temperature", "1"),
        )
    )
    assert run.returncode == 0, run.stderr
    told = " ".join(run.stderr.split())
    assert f"5 images x {VIEWS} views, k = 5" in told
    assert re.search(r"[\d,]+ bytes -> [\d,]+ \(\d+\.\d\d a crop\)", told)
    assert "name no teacher" in told
    store = labelstore.open(tmp_path / "a.zarr")
    assert sorted(set(store.targets.tolist())) == [7, 8, 9]
    assert store.manifest.producer["teacher"] == "EfficientNet-L2"
    again = commands.run(arguments(tmp_path, "a.zarr"))
    assert again.returncode == 1
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
    ],
)
def test_what_is_missing_is_asked_for_by_its_option(tmp_path, more, code, words):
    save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 2), 3)
    plain = [sys.executable, "-m", "labelstore", "convert", str(tmp_path / "fkd")]
    settings = () if "--without-boxes" in more or "1000" in more else ("--without-boxes",)
    run = commands.run(
        [*plain, "--from", "fkd", "-o", str(tmp_path / "a.zarr"), *settings, *more, "--json"]
    )
    assert run.returncode == code, run.stderr
    assert words in run.stdout
    assert "Traceback" not in run.stderr


def test_views_that_cannot_be_replayed_are_told(tmp_path):
    save_tinyvit(tmp_path / "tiny", ["a/1.jpg", "a/2.jpg"], 3)
    run = commands.run(
        [
            *(sys.executable, "-m", "labelstore", "convert", str(tmp_path / "tiny")),
            *("--from", "tinyvit", "--classes", "1000", "-o", str(tmp_path / "a.zarr")),
        ]
    )
    assert run.returncode == 0, run.stderr
    assert "views cannot be replayed" in " ".join(run.stderr.split())
