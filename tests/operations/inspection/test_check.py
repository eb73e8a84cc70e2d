"""``labelstore check`` over real folders with real faults."""

from __future__ import annotations

import io
import json
import tarfile
from importlib import resources

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli.main import main
from labelstore.images import decoding
from labelstore.operations.inspection.check import check
from tests.support.faulty_photos import clean, faulty, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos with one of each fault; nothing may write to it."""
    return faulty(tmp_path_factory.mktemp("faulty"))


@pytest.fixture
def few_pixels(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    decoding.allow_pixels(20_000)


def run(*arguments, width=100):
    return CliRunner().invoke(
        main, ["check", *map(str, arguments)], env={"COLUMNS": str(width)}, catch_exceptions=False
    )


def valid(document):
    text = resources.files("labelstore.schemas").joinpath("check.schema.json").read_text()
    jsonschema.Draft202012Validator(json.loads(text)).validate(document)
    return document


def named(report):
    """Names of each kind of finding."""
    return {f["kind"]: [n["name"] for n in f["first"]] for f in report["findings"]}


def test_each_fault_is_named_with_its_kind(folder, few_pixels):
    report = valid(check(labelstore.open_source(folder), workers=2))
    assert named(report) == {
        "unreadable": ["owl/gone.jpg", "owl/pipe.jpg"],
        "truncated": ["cat/cut.jpg", "cat/head.jpg"],
        "no-image": ["dog/text.jpg"],
        "empty": ["dog/empty.png"],
        "too-large": ["cat/large.png"],
        "mode": ["owl/deep.png"],
        "duplicates-across-classes": ["cat/00.jpg"],
        "duplicates": ["cat/01.jpg"],
        "alike-classes": ["cat"],
        "folders-like-photos": ["owl/folder.jpg"],
        "empty-classes": ["emu"],
        "turned": ["owl/turned.jpg"],
        "several-frames": ["dog/moving.gif"],
    }
    assert report["stops"] == ["unreadable"]
    assert report["skipped"] == ["truncated", "no-image", "empty", "too-large", "mode"]
    assert not report["fit"]
    details = {n["name"]: n["detail"] for f in report["findings"] for n in f["first"]}
    assert details["owl/pipe.jpg"] == "it is no file, but a pipe"
    assert details["owl/gone.jpg"] == "No such file or directory"
    assert details["cat/00.jpg"] == "owl/copy.jpg"
    assert "truncated" in details["cat/cut.jpg"]


def test_what_is_there_is_counted(folder, few_pixels):
    report = check(labelstore.open_source(folder))
    kinds = {(row["format"], row["mode"]): row for row in report["formats"]}
    assert {kind: row["count"] for kind, row in kinds.items()} == {
        ("JPEG", "RGB"): 15,
        ("JPEG", "CMYK"): 1,
        ("PNG", "L"): 1,
        ("GIF", "P"): 1,
        ("BMP", "RGB"): 1,
    }
    # The turned one counts as it is shown.
    assert kinds["JPEG", "RGB"]["smallest"] == [60, 50]
    assert kinds["JPEG", "RGB"]["largest"] == [63, 50]
    assert kinds["JPEG", "RGB"]["median"] == [61, 50]
    files = [path for path in folder.glob("*/*.jpg") if path.is_file() and path.stem != "text"]
    whole = [path for path in files if path.stem not in ("cut", "head", "cmyk")]
    assert kinds["JPEG", "RGB"]["bytes"] == sum(path.stat().st_size for path in whole)
    assert (report["count"], report["decoded"]) == (27, 19)
    assert report["classes"] == {
        "count": 4,
        "smallest": {"name": "Cat", "count": 1},
        "largest": {"name": "owl", "count": 9},
    }
    assert report["passed_over"] == {
        "count": 1,
        "suffixes": {".txt": 1},
        "first": ["cat/notes.txt"],
    }


@pytest.mark.parametrize("form", ["folder", "tar", "parquet"])
def test_clean_photos_are_fit_in_every_form(form, tmp_path):
    photos = clean(tmp_path / "photos")
    source = packed(photos, form, tmp_path)
    done = run(source, "--json")
    assert done.exit_code == 0, done.output
    report = valid(json.loads(done.stdout))
    assert report["findings"] == []
    assert (report["count"], report["decoded"], report["fit"]) == (12, 12, True)
    assert report["classes"]["count"] == 3
    assert run(source).output.rstrip().endswith("Nothing here would stop labelstore generate.")


def packed(photos, form, place):
    """A folder of photos as it is, as a shard or as a table."""
    files = sorted(photos.glob("*/*"))
    if form == "folder":
        return photos
    if form == "tar":
        with tarfile.open(place / "photos.tar", "w") as shard:
            for file in files:
                shard.add(file, file.relative_to(photos).as_posix())
        return place / "photos.tar"
    rows = [
        {"bytes": file.read_bytes(), "path": file.relative_to(photos).as_posix()} for file in files
    ]
    labels = [file.parent.name for file in files]
    pq.write_table(pa.table({"image": rows, "label": labels}), place / "photos.parquet")
    return place / "photos.parquet"


def test_faults_in_shards_and_tables(tmp_path):
    cut = io.BytesIO()
    picture(1).save(cut, "JPEG")
    rows = [
        {"bytes": cut.getvalue(), "path": "a/0.jpg"},
        {"bytes": cut.getvalue()[:500], "path": "a/1.jpg"},
        {"bytes": None, "path": "b/2.jpg"},
    ]
    pq.write_table(pa.table({"image": rows}), tmp_path / "p.parquet")
    report = check(labelstore.open_source(tmp_path / "p.parquet"), workers=3)
    assert named(report) == {"truncated": ["a/1.jpg"], "empty": ["b/2.jpg"]}
    with tarfile.open(tmp_path / "p.tar", "w") as shard:
        for row in rows[:2]:
            member = tarfile.TarInfo(row["path"])
            member.size = len(row["bytes"])
            shard.addfile(member, io.BytesIO(row["bytes"]))
    assert named(check(labelstore.open_source(tmp_path / "p.tar"))) == {"truncated": ["a/1"]}


def test_photos_outside_class_folders(tmp_path):
    clean(tmp_path)
    picture(1).save(tmp_path / "loose.jpg")
    report = valid(check(labelstore.open_source(tmp_path)))
    assert named(report) == {"without-class": ["loose.jpg"]}
    assert report["stops"] == ["without-class"]
    # Of a folder without any class all are outside.
    report = check(labelstore.open_source(tmp_path / "cat"))
    assert report["findings"][0]["count"] == 4
    assert report["classes"] is None
    done = run(tmp_path / "cat", "--targets", "none")
    assert done.exit_code == 0
    assert "without-class" in done.stdout


def test_nothing_that_can_be_decoded(tmp_path):
    for name in ("a/0.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"no photo")
    report = valid(check(labelstore.open_source(tmp_path)))
    assert named(report) == {"no-image": ["a/0.jpg", "b/1.jpg"]}
    assert (report["formats"], report["decoded"]) == ([], 0)
    assert run(tmp_path).exit_code == 1


def test_a_copy_outside_class_folders_is_in_no_other_class(tmp_path):
    clean(tmp_path)
    (tmp_path / "loose.jpg").write_bytes((tmp_path / "cat" / "00.jpg").read_bytes())
    report = check(labelstore.open_source(tmp_path))
    assert named(report) == {"without-class": ["loose.jpg"], "duplicates": ["cat/00.jpg"]}


def test_splits_are_no_classes(tmp_path):
    clean(tmp_path / "train")
    clean(tmp_path / "val", each=1)
    report = check(labelstore.open_source(tmp_path))
    assert report["stops"] == ["splits"]
    assert named(report)["splits"] == ["train", "val"]


def test_copies_in_another_class_are_told_before_others(tmp_path):
    clean(tmp_path)
    for number in range(3):
        (tmp_path / "cat" / f"copy{number}.jpg").write_bytes(
            (tmp_path / "cat" / "00.jpg").read_bytes()
        )
    (tmp_path / "owl" / "z.jpg").write_bytes((tmp_path / "dog" / "13.jpg").read_bytes())
    done = run(tmp_path)
    assert done.exit_code == 0
    across, within = (
        done.stdout.index(f"\n{kind}: ") for kind in ("duplicates-across-classes", "duplicates")
    )
    assert across < within
    assert "dog/13.jpg: owl/z.jpg" in done.stdout
    assert "cat/00.jpg: cat/copy0.jpg, cat/copy1.jpg, cat/copy2.jpg" in done.stdout


def test_a_file_that_is_removed_meanwhile_cannot_be_read(tmp_path):
    source = labelstore.open_source(clean(tmp_path))
    (tmp_path / "dog" / "11.jpg").unlink()
    report = check(source)
    assert named(report) == {"unreadable": ["dog/11.jpg"]}
    assert report["decoded"] == 11


def test_more_names_on_request(tmp_path):
    clean(tmp_path, each=15)
    for number in range(15):
        (tmp_path / "cat" / f"0{number}.jpg").write_bytes(b"no photo")
        (tmp_path / "cat" / f"{number:02}.txt").write_bytes(b"no photo")
    report = json.loads(run(tmp_path, "--json").stdout)
    assert (report["findings"][0]["count"], len(report["findings"][0]["first"])) == (15, 10)
    assert len(report["passed_over"]["first"]) == 10
    assert "and 5 more" in run(tmp_path).stdout
    report = json.loads(run(tmp_path, "--json", "--limit", 12).stdout)
    assert [len(report["findings"][0]["first"]), len(report["passed_over"]["first"])] == [12, 12]
    assert json.loads(run(tmp_path, "--json", "--limit", 0).stdout)["findings"][0]["first"] == []


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_is_readable_at_every_width(folder, width, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(Console, "width", width)
    lines = run(folder, width=width).stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert "JPEG RGB" in "\n".join(lines)
    # Numbers and names stand whole on their lines.
    assert any("60 x 50" in line for line in lines)
    assert any("cat/cut.jpg: " in line for line in lines)


def test_names_are_not_obeyed_by_a_terminal(tmp_path):
    clean(tmp_path)
    (tmp_path / "cat" / "\x1b[31m[red]x.jpg").write_bytes(b"no photo")
    done = run(tmp_path)
    assert "\x1b" not in done.output
    assert r"cat/\x1b[31m[red]x.jpg" in done.stdout


def test_a_source_that_cannot_be_looked_at_is_an_error(tmp_path):
    done = run(tmp_path / ("x" * 300))
    assert done.exit_code == 1
    assert "File name too long" in done.stderr
    assert "Traceback" not in done.output
