"""``labelstore plan`` as a user types it, on real output of a network."""

from __future__ import annotations

import json
import sys

import pytest
from PIL import Image

from tests.support import commands
from tests.support.stores import make_planned

TEACHER = ("--teacher", "timm:test_resnet", "--checkpoint", "none", "--device", "cpu")


def run(*arguments):
    command = [sys.executable, "-m", "labelstore", "plan", *map(str, arguments)]
    return commands.run(command)


def test_a_folder_of_photos_with_its_teacher(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        photo = Image.linear_gradient("L").rotate(40 * number).convert("RGB").resize((60, 50))
        photo.save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    common = (tmp_path / "photos", *TEACHER, "--size", 64)
    common = (*common, "--sample-views", 8, "--setting", "12:fp32:0")
    done = run(*common, "--views", 50, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sample"] == {"images": 3, "views": 8, "planned_views": 50}
    rows = {(row["setting"]["k"], row["setting"]["quantizer"]): row for row in found["rows"]}
    asked, small = rows[12, "fp32"], rows[1, "ratio16"]
    assert asked["bytes_per_crop"] > 3 * small["bytes_per_crop"]
    assert (asked["confidence_error"], asked["top1_kept"]) == (0, 1)
    assert 0 < small["confidence_error"] <= 0.0025
    assert small["bytes_per_crop"] == pytest.approx(
        small["label_bytes_per_crop"] + small["prior_bytes_per_image"] / 50, abs=2e-3
    )
    missing = run(*common)
    assert (missing.returncode, "--views is missing" in missing.stderr) == (2, True)


def test_a_store(tmp_path, suffix):
    make_planned(tmp_path / f"a.{suffix}", k=3, quantizer="fp32")
    done = run(tmp_path / f"a.{suffix}", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = found["rows"]
    # No more classes than the store holds; with all of them, nothing but the tail is lost.
    assert {row["setting"]["k"] for row in rows} == {1, 2, 3}
    by_k = {row["setting"]["k"]: row["kl_nats"] for row in rows if row["setting"]["top_p"] is None}
    assert by_k[3] < by_k[1]
    assert isinstance(found["advice"], list)
    table = run(tmp_path / f"a.{suffix}", "--quiet")
    assert "small" in table.stdout
    units = run(tmp_path / f"a.{suffix}", "--layout", "units")
    assert (units.returncode, "in units of " in " ".join(units.stderr.split())) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "is no store"),
        (("nowhere", "--setting", "3"), "K:QUANTIZER:LIST"),
        (("nowhere", "--setting", "3:u9:0"), "expected one of ratio16"),
    ],
)
def test_mistakes(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
