"""Verifying whole stores: real damage is named, a real teacher looks again."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import labelstore
from labelstore.errors import MismatchError, SourceError
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.verify import replay, verify
from labelstore.store.writer import StoreWriter
from labelstore.teachers.load import load_teacher
from tests.support import commands
from tests.support.stores import files_of, make_planned, once, planned

make_planned = once(make_planned)

FACTORY = """
import torch

class Colours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 8)
        self.layer.weight.data *= 6
    def forward(self, x):
        return self.layer(x.mean((2, 3)))

def colours():
    return Colours(), {"input_size": (16, 16), "mean": (0.5,) * 3, "std": (0.25,) * 3,
                       "interpolation": "bilinear"}

def others():
    model, preprocessing = colours()
    model.layer.bias.data += 1
    return model, preprocessing
"""


def run(*arguments, cwd):
    return commands.run(
        [sys.executable, "-m", "labelstore", *map(str, arguments)],
        cwd=cwd,
    )


def label_file(path, block):
    """The file of a block's largest probabilities."""
    if path.suffix == ".parquet":
        return path / "labels" / f"{block:06}.parquet"
    return path / "labels" / "top_prob" / "c" / str(block) / "0"


def test_a_whole_store(tmp_path, suffix):
    store, _ = make_planned(tmp_path / f"a.{suffix}", k=3)
    told = []
    report = verify(store, tell=lambda images, views: told.append((images, views)))
    assert report.whole
    assert (report.blocks, report.images, report.unreadable_images) == (3, 20, 0)
    assert told == [(8, 48), (8, 48), (4, 24)]


def test_every_kind_of_damage_is_named_and_the_rest_is_read_on(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    make_planned(path, k=3, blocks=[0, 1])
    file = label_file(path, 1)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    report = verify(labelstore.open(path))
    assert {problem.kind for problem in report.problems} == {"corrupt", "incomplete"}
    assert {problem.block for problem in report.problems} == {1, 2}
    assert report.problems[0].images == ("c/008.jpg", "c/015.jpg")
    done = run("verify", path, "--json", cwd=tmp_path)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert not told["whole"]
    assert [problem["block"] for problem in told["problems"]] == [
        problem.block for problem in report.problems
    ]
    done = run("verify", path, cwd=tmp_path)
    assert "'c/008.jpg' to 'c/015.jpg'" in done.stderr
    assert "Traceback" not in done.stderr
    file.unlink()
    assert not verify(labelstore.open(path)).whole


def test_what_is_in_memory_does_not_hide_damage(tmp_path, suffix):
    store, _ = make_planned(tmp_path / f"a.{suffix}", k=3)
    store.read(np.arange(20)[:, None], np.arange(6))
    label_file(store.path, 0).write_bytes(b"nothing")
    assert {problem.block for problem in verify(store).problems} == {0}


def test_a_producers_fault_is_no_label_although_its_digest_is_right(tmp_path):
    """A class twice in one label: written around the writer's own checks."""
    manifest, keys, targets, data, _ = planned(prior_size=4)
    with StoreWriter(tmp_path / "a.parquet", manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            if block != 1:
                writer.write_block(block, data(block))
                continue
            whole = data(block)
            from labelstore.format.blocks import block_codes

            codes = block_codes(whole, writer.manifest, block)
            codes.views["labels/classes"][2, 3, 1] = codes.views["labels/classes"][2, 3, 0]
            writer._backend.write_objects(writer._backend.encode_block(block, codes.arrays)[0])
            writer._backend.write_commit(block, codes.commit_row(writer.manifest, block))
    report = verify(labelstore.open(tmp_path / "a.parquet"))
    assert [problem.block for problem in report.problems] == [1]


@pytest.fixture
def made(tmp_path):
    """Photos, and the store that a real run of the command made of them."""
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "photos" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 48)).save(folder / f"{number:02}.png")
    (tmp_path / "hues.py").write_text(FACTORY)
    done = run(
        *("generate", "photos", "--teacher", "python:hues:colours", "--views", 6),
        *("--targets", "none", "--prior-size", 4, "-o", "a.zarr", "--quiet"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_the_teacher_says_the_same_again(made, monkeypatch):
    monkeypatch.chdir(made)
    store, source = labelstore.open("a.zarr"), FolderSource("photos")
    found = replay(store, source, load_teacher("python:hues:colours"), 1.0)
    assert found.agrees
    assert (found.images, found.views) == (12, 48)
    assert found.same_top1 == 1
    assert 0 < found.largest_difference <= 0.0025
    assert replay(store, source, load_teacher("python:hues:colours"), 0.001).images == 1
    done = run(
        *("verify", "a.zarr", "--replay", "20%", "--photos", "photos"),
        *("--teacher", "python:hues:colours"),
        cwd=made,
    )
    assert done.returncode == 0, done.stderr
    assert "replayed" in done.stderr


def test_a_photo_that_is_another_file_of_the_same_pixels_is_told(made):
    shutil.copytree(made / "photos", made / "others")
    photo = made / "others" / "a" / "00.png"
    Image.open(photo).save(photo, compress_level=1)
    assert photo.read_bytes() != (made / "photos" / "a" / "00.png").read_bytes()
    arguments = ("verify", "a.zarr", "--teacher", "python:hues:colours", "--photos", "others")
    done = run(*arguments, "--replay", "100%", "--json", cwd=made)
    assert done.returncode == 1
    found = json.loads(done.stdout)["replay"]
    assert (found["changed"], found["differing"], found["agrees"]) == (["a/00.png"], [], False)
    # Photos that nothing would look at are refused, or the store would be called right.
    done = run("verify", "a.zarr", "--photos", "others", cwd=made)
    assert done.returncode == 2
    assert "give --replay" in done.stderr


def test_exchanged_photos_and_other_teachers_are_found(made, monkeypatch):
    monkeypatch.chdir(made)
    shutil.copytree("photos", "others")
    first, second = made / "others" / "a" / "00.png", made / "others" / "b" / "01.png"
    pictures = first.read_bytes(), second.read_bytes()
    first.write_bytes(pictures[1])
    second.write_bytes(pictures[0])
    store = labelstore.open("a.zarr")
    teacher = load_teacher("python:hues:colours")
    found = replay(store, FolderSource("others"), teacher, 1.0)
    assert found.differing == found.changed == ("a/00.png", "b/01.png")
    arguments = ("verify", "a.zarr", "--replay", "100%", "--photos", "others")
    done = run(*arguments, "--teacher", "python:hues:colours", cwd=made)
    assert done.returncode == 1
    assert "differs: a/00.png" in done.stderr
    with pytest.raises(MismatchError, match="weights digest"):
        replay(store, FolderSource("photos"), load_teacher("python:hues:others"), 1.0)
    second.unlink()
    with pytest.raises(SourceError, match=r"has no 'b/01.png'"):
        replay(store, FolderSource("others"), teacher, 1.0)
    Image.new("RGB", (10, 10)).save(second)
    with pytest.raises(MismatchError, match="10 x 10 pixels and 60 x 48 was labelled"):
        replay(store, FolderSource("others"), teacher, 1.0)
    done = run(*arguments, cwd=made)
    assert done.returncode == 2
    assert "give --photos and --teacher" in done.stderr


def test_another_temperature_is_replayed_at_that_temperature(made, monkeypatch):
    monkeypatch.chdir(made)
    done = run(
        *("generate", "photos", "--teacher", "python:hues:colours", "--views", 6),
        *("--targets", "none", "--prior-size", 4, "--temperature", 3, "-o", "soft.zarr", "-q"),
        cwd=made,
    )
    assert done.returncode == 0, done.stderr
    store = labelstore.open("soft.zarr")
    assert replay(store, FolderSource("photos"), load_teacher("python:hues:colours"), 1.0).agrees
    # The check is not one that anything passes.
    store.manifest = dataclasses.replace(store.manifest, temperature=1.0)
    found = replay(store, FolderSource("photos"), load_teacher("python:hues:colours"), 1.0)
    assert len(found.differing) > 6


def damage(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


@pytest.mark.parametrize("suffix", ["zarr", pytest.param("parquet", marks=pytest.mark.slow)])
def test_repair_makes_damaged_blocks_anew_and_touches_no_other(made, suffix):
    out = made / f"r.{suffix}"
    arguments = ("--teacher", "python:hues:colours")
    done = run(
        *("generate", "photos", *arguments, "--views", 6, "--targets", "none"),
        *("--prior-size", 4, "--block-images", 4, "-o", out, "--quiet"),
        cwd=made,
    )
    assert done.returncode == 0, done.stderr
    before = files_of(out)
    untouched = label_file(out, 0).stat().st_mtime_ns
    done = run("repair", out, "photos", *arguments, cwd=made)
    assert done.returncode == 0, done.stderr
    assert "every block is there" in done.stderr
    assert files_of(out) == before
    damage(label_file(out, 1))
    (out / "commits" / ("000002.npy" if suffix == "parquet" else "c/2/0")).unlink()
    assert run("verify", out, cwd=made).returncode == 1
    done = run("repair", out, "photos", *arguments, "--json", cwd=made)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {problem["block"] for problem in told["found"]["problems"]} == {1, 2}
    assert told["made"]["blocks_made"] == 2
    assert files_of(out) == before
    assert label_file(out, 0).stat().st_mtime_ns == untouched


def test_repair_refuses_what_would_not_be_the_same_labels(made):
    damage(label_file(made / "a.zarr", 0))
    before = files_of(made / "a.zarr")
    shutil.copytree(made / "photos", made / "fewer")
    (made / "fewer" / "a" / "00.png").unlink()
    for arguments, words in (
        (("a.zarr", "photos", "--teacher", "python:hues:others"), "spec is python:hues:others"),
        (("a.zarr", "photos", "--teacher", "python:hues:colours", "--size", 8), "input size"),
        (("a.zarr", "fewer", "--teacher", "python:hues:colours"), "other images"),
    ):
        done = run("repair", *arguments, cwd=made)
        assert done.returncode == 1, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert files_of(made / "a.zarr") == before


def test_a_repair_that_was_stopped_is_gone_on_with(made):
    """Stopped by a photo that cannot be decoded: its block stays as it was."""
    before = files_of(made / "a.zarr")
    damage(label_file(made / "a.zarr", 0))
    photo = made / "photos" / "b" / "04.png"
    whole = photo.read_bytes()
    photo.write_bytes(b"no picture")
    arguments = ("repair", "a.zarr", "photos", "--teacher", "python:hues:colours")
    done = run(*arguments, cwd=made)
    assert done.returncode == 1
    assert labelstore.open(made / "a.zarr").missing_blocks() == []
    photo.write_bytes(whole)
    done = run(*arguments, cwd=made)
    assert done.returncode == 0, done.stderr
    assert files_of(made / "a.zarr") == before
