"""``labelstore classes``, and class maps of names, as a person uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli.main import main
from labelstore.operations.inspection.classes import classes_of_store, classes_of_teacher
from labelstore.teachers.timm_networks import imagenet_class_names
from tests.cli.test_printed import HOSTILE, obeyed
from tests.support.stores import written

NAMES = ("n01440764", "n02012849", "n03126707", "mine")
SCHEMA = json.loads(
    resources.files("labelstore.schemas").joinpath("classes.schema.json").read_text()
)


def make(path, names=NAMES, targets=(0, 0, 3, -1)):
    options = {"classes": 4, "k": 2, "law": None, "class_names": names}
    return written(path, images=4, views=2, targets=np.array(targets), **options)[0]


def classes(*arguments, code=0):
    done = CliRunner().invoke(main, ["classes", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_json_is_the_list(tmp_path):
    store = make(tmp_path / "s.zarr")
    document = json.loads(classes(store.path, "--json").stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert document == classes_of_store(store)
    assert [entry["images"] for entry in document["classes"]] == [2, 0, 0, 1]
    assert (document["images"], document["unknown_images"]) == (4, 1)
    assert document["classes"][0] == {
        "class": 0,
        "name": "n01440764",
        "human_name": "tench",
        "words": ["tench", "Tinca tinca"],
        "meaning": "freshwater dace-like game fish of Europe and western Asia noted for ability to "
        "survive outside water",
        "images": 2,
    }
    assert document["classes"][3]["human_name"] == "mine"


def test_the_terminal_lists_numbers_names_and_images(tmp_path):
    lines = classes(make(tmp_path / "s.zarr").path).stdout.splitlines()
    cells = [line.split() for line in lines]
    assert ["0", "n01440764", "tench", "2"] in cells
    assert ["1", "n02012849", "crane", "(1)", "0"] in cells
    assert ["3", "mine", "mine", "1"] in cells
    assert "4 classes, 4 images, 2 classes without an image, 1 image of unknown class" in lines[-1]


def test_classes_without_names_have_numbers(tmp_path):
    shown = classes(make(tmp_path / "s.zarr", names=None).path).stdout
    assert "whose names are unknown" in shown
    assert ["3", "1"] in [line.split() for line in shown.splitlines()]
    document = json.loads(classes(tmp_path / "s.zarr", "--json").stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert "3" in classes(tmp_path / "s.zarr", "--find", "3").stdout


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("crane", [134, 517]),
        ("CRANE", [134, 517]),
        ("954", [954]),
        ("n07753592", [954]),
        ("golden retriever", [207]),
        ("tank suit", [639]),
        ("maillot", [638, 639]),
    ],
)
def test_a_teachers_classes_are_found_by_what_they_are_called(text, numbers):
    done = classes("--teacher", "timm:resnet50", "--find", text, "--json")
    document = json.loads(done.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert [entry["class"] for entry in document["classes"]] == numbers
    shown = classes("--teacher", "timm:resnet50", "--find", text).stdout
    assert document["classes"][0]["meaning"][:30] in shown


def test_no_class_of_the_name():
    done = classes("--teacher", "timm:resnet50", "--find", "bananna", code=1)
    assert "did you mean 'banana'?" in done.stderr


@pytest.mark.parametrize(
    ("spec", "num_classes", "count", "first"),
    [
        ("timm:resnet50", None, 1000, "n01440764"),
        ("timm:resnet50.a1_in1k", 7, 7, None),
        ("timm:vit_base_patch16_224.augreg_in21k", None, 21843, "n00004475"),
        ("timm:convnext_nano.in12k", None, 11821, "n00005787"),
    ],
)
def test_no_network_is_built_for_its_classes(monkeypatch, spec, num_classes, count, first):
    def built(*given, **more):
        raise AssertionError("a network was built")

    monkeypatch.setattr(torch.nn.Module, "__init__", built)
    told = classes_of_teacher(spec, num_classes=num_classes)
    assert (told["count"], len(told["classes"])) == (count, count)
    assert told["classes"][0]["name"] == first


def test_a_teacher_from_a_factory(tmp_path, monkeypatch):
    (tmp_path / "own_classes.py").write_text(
        "import torch\n"
        "def make():\n"
        "    return torch.nn.Flatten(), {'input_size': (2, 2), 'mean': (0.5,) * 3,\n"
        "        'std': (0.5,) * 3, 'interpolation': 'bicubic',\n"
        "        'class_names': [f'c{n}' for n in range(12)]}\n"
    )
    monkeypatch.chdir(tmp_path)
    told = classes_of_teacher("python:own_classes:make")
    assert [entry["human_name"] for entry in told["classes"]][:2] == ["c0", "c1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give a store, or --teacher"),
        (("s.zarr", "--teacher", "timm:resnet50"), "one of the two"),
        (("s.zarr", "--num-classes", "3"), "--num-classes is of a teacher"),
        (("--teacher", "resnet50"), "expected timm:NAME"),
        (("timm:resnet50",), "give --teacher timm:resnet50"),
    ],
)
def test_wrong_requests_exit_with_2(arguments, words):
    done = classes(*arguments, code=2)
    assert words in " ".join(done.stderr.split())


def test_a_network_that_does_not_classify():
    done = classes("--teacher", "timm:vit_base_patch16_clip_224.openai", code=1)
    assert "embedding" in done.stderr
    assert "did you mean" in classes("--teacher", "timm:resnet5O", code=1).stderr


def test_hostile_names_are_escaped(tmp_path):
    store = make(tmp_path / "s.zarr", names=HOSTILE)
    for arguments in ((store.path,), (store.path, "--find", "owned"), (store.path, "--json")):
        assert not obeyed(classes(*arguments).output)
    assert not obeyed(classes(store.path, "--find", f"x{HOSTILE[0]}", code=1).output)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_widths(tmp_path, columns, monkeypatch):
    from rich.console import Console

    from labelstore.cli import output

    store = make(tmp_path / "s.zarr")
    monkeypatch.setattr(
        output, "console", lambda: Console(width=columns, highlight=False, markup=False)
    )
    for arguments in ((store.path,), (store.path, "--find", "n")):
        shown = classes(*arguments).stdout
        assert max(map(len, shown.splitlines())) <= columns
        assert "…" not in shown
        assert "crane (1)" in shown


@pytest.mark.parametrize("command", ["classes", "show"])
def test_a_store_is_looked_at_without_torch_and_timm(tmp_path, command):
    make(tmp_path / "s.zarr")
    arguments = [command, str(tmp_path / "s.zarr"), *(["0"] if command == "show" else [])]
    code = f"""
import sys
sys.modules.update(torch=None, timm=None, torchvision=None)
from labelstore.cli.main import main
main({arguments})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "n01440764" in done.stdout


def test_a_class_map_of_names_on_the_command_line(tmp_path):
    for name in ("ours", "yours"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / name / "1.png")
    (tmp_path / "map.csv").write_text("ours,banana\nyours,n02012849\n")
    common = ("--teacher", "timm:resnet18", "--checkpoint", "none", "--size", "32")
    arguments = ["generate", tmp_path / "photos", *common, "--views", "1", "--device", "cpu"]
    arguments += ["--class-map", tmp_path / "map.csv", "-o", tmp_path / "s.zarr"]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    store = labelstore.open(tmp_path / "s.zarr")
    assert store.targets.tolist() == [954, 134]
    assert store.manifest.class_names == imagenet_class_names()
    (tmp_path / "map.csv").write_text("ours,crane\nyours,954\n")
    for command in ("generate", "evaluate"):
        arguments = [command, tmp_path / "photos", *common, "--class-map", tmp_path / "map.csv"]
        arguments += ["--views", "1", "-o", tmp_path / "t.zarr"] if command == "generate" else []
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == 2
        assert "134 (n02012849), 517 (n03126707)" in done.stderr
        assert "--class-map" in done.stderr
