"""One of a thing is one image, block or view in what commands say; damage names its mend."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from labelstore.cli import text
from labelstore.cli.main import main
from tests.support.stores import written

NOUNS = "images views blocks crops labels teachers stores classes photos epochs files"
MANY = re.compile(rf"\b(?<![.,/])1 ({NOUNS.replace(' ', '|')})\b")


@pytest.fixture
def store(tmp_path):
    written(tmp_path / "s.zarr", images=1, views=1, k=1, block_images=1, temperature=1.0)
    written(tmp_path / "t.zarr", images=1, views=1, k=1, block_images=1, seed=1, temperature=1.0)
    return tmp_path / "s.zarr"


def test_counted():
    assert text.counted(1, "image") == "1 image"
    assert text.counted(0, "image") == "0 images"
    assert text.counted(1000, "class") == "1,000 classes"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999.4, "999 bytes"),
        (999.6, "1 kB"),
        (1536, "1.54 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (15e9, "15 GB"),
        (2.5e12, "2.5 TB"),
        (12_345e12, "12,345 TB"),
    ],
)
def test_sizes_have_three_digits_and_the_unit_they_round_to(count, words):
    assert text.size(count) == words


def test_durations_and_shares():
    assert [text.duration(s) for s in (90, 900, 9000, 900_000)] == [
        "90 s",
        "15 min",
        "2.5 h",
        "10.4 days",
    ]
    assert text.clock(3723.4) == "1:02:03"
    assert (text.share(0.125), text.share(0.956, 0)) == ("12.50%", "96%")


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "s.zarr"),
        ("show", "s.zarr", "0"),
        ("classes", "s.zarr"),
        ("classes", "s.zarr", "--find", "0"),
        ("verify", "s.zarr"),
        ("schedule", "s.zarr", "--epochs", "1"),
        ("pull", "s.zarr", "copy.zarr"),
        ("recode", "s.zarr", "-o", "s.parquet"),
        ("materialize", "s.zarr", "copy"),
        ("export", "s.zarr", "--to", "npz", "-o", "s.npz"),
        ("merge", "s.zarr", "t.zarr", "-o", "m.zarr"),
    ],
)
def test_one_is_one(store, monkeypatch, arguments):
    monkeypatch.chdir(store.parent)
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 0, done.output
    assert not MANY.findall(done.output), done.output


def test_inspect_names_repair_where_a_store_is_damaged(store):
    file = store / "labels/top_prob/c/0/0"
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    done = CliRunner().invoke(main, ["inspect", str(store)])
    assert done.exit_code == 1
    assert "labelstore repair" in done.stderr
    assert "labelstore verify" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_merge_of_one_store_exits_with_2(store):
    done = CliRunner().invoke(main, ["merge", str(store), "-o", f"{store}.m"])
    assert done.exit_code == 2
    assert "labelstore recode" in done.stderr
