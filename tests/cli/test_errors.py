"""Errors for programs: kinds, fields, and the command's options beside the library's arguments."""

from __future__ import annotations

import json
import pickle
from importlib import resources

import jsonschema
import pytest
from click.testing import CliRunner

import labelstore
from labelstore import errors
from labelstore.cli.main import main
from tests.support.stores import make_planned, written

SCHEMA = json.loads(resources.files("labelstore.schemas").joinpath("error.schema.json").read_text())
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.LabelStoreError)
]


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def error_of(*arguments):
    """The error of a command in JSON, which fits the schema; stderr says the same."""
    done = run(*arguments, "--json")
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    assert done.stderr == f"Error: {document['error']['message']}\n"
    return document["error"]


def test_each_class_has_a_kind_of_its_own():
    kinds = [cls.kind for cls in CLASSES]
    assert sorted(kinds) == sorted(errors.ErrorKind)
    assert sorted(kinds) == sorted(SCHEMA["properties"]["error"]["properties"]["kind"]["enum"])
    assert f"{errors.CorruptError.kind}" == "corrupt"


@pytest.mark.parametrize("cls", CLASSES)
def test_fields_cross_the_border_of_a_process(cls):
    error = cls("what", arguments=("k",), array="labels/classes", block=3, images=(6, 7))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == "what"
    assert copy.fields() == {
        "arguments": ["k"],
        "array": "labels/classes",
        "block": 3,
        "images": [6, 7],
    }
    assert cls("what").fields() == {}
    longer = copy.extended("And more.")
    assert (str(longer), longer.fields()) == ("what And more.", copy.fields())


def test_a_damaged_block_is_named_in_fields(tmp_path):
    path = tmp_path / "s.zarr"
    written(path, images=4, views=2, k=2, block_images=2)
    # The chunk of another block: it can be decoded, and is not what was committed.
    (path / "labels/top_prob/c/1/0").write_bytes((path / "labels/top_prob/c/0/0").read_bytes())
    with pytest.raises(errors.CorruptError) as caught:
        labelstore.open(path).read([0, 1, 2, 3], 0)
    place = {"array": "labels/top_prob", "block": 1, "images": [2, 3]}
    assert caught.value.fields() == place
    error = error_of("inspect", path)
    assert error["kind"] == "corrupt"
    assert "labelstore repair" in error["message"]
    assert {name: error[name] for name in place} == place


def test_of_a_chunk_that_cannot_be_decoded_the_array_is_named(tmp_path):
    path = tmp_path / "s.zarr"
    written(path, images=4, views=2, k=2, block_images=2)
    file = path / "labels/top_prob/c/1/0"
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    assert error_of("inspect", path)["array"] == "labels/top_prob"


def test_a_missing_block_is_named_in_fields(tmp_path):
    store, _ = make_planned(tmp_path / "t.zarr", blocks=[0], images=4, block_images=2)
    with pytest.raises(errors.IncompleteError) as caught:
        store.read(3, 0)
    assert caught.value.fields() == {"block": 1, "images": [2, 3]}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("schedule", "s.zarr", "--schedule", "easy-to-hard"), ["--epochs"]),
        (("recode", "s.zarr", "-o", "new.zarr", "--top-k", "5000"), ["--top-k"]),
        (("merge", "s.zarr", "few.zarr", "-o", "m.zarr"), ["--images"]),
        (
            (
                "generate",
                "photos",
                "--teacher",
                "timm:a",
                "--views",
                "1",
                "--seed",
                "-1",
                "-o",
                "x",
            ),
            ["--seed"],
        ),
    ],
)
def test_commands_add_their_options(tmp_path, monkeypatch, arguments, options):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.zarr", images=4, views=2, k=2)
    written(tmp_path / "few.zarr", images=3, views=2, k=2)
    error = error_of(*arguments)
    assert error["options"] == options
    for option in options:
        assert option in error["message"]


def test_an_argument_that_the_command_has_no_option_for_adds_nothing(tmp_path):
    path = tmp_path / "s.zarr"
    written(path, images=4, views=2, k=2)
    error = error_of("materialize", path, tmp_path)
    assert "options" not in error
    assert "Option" not in error["message"]


def test_names_that_look_like_a_wrong_one():
    keys = ["tabby/1.jpg", "tabby/2.jpg", "owl/1.jpg", "owl/photo of an owl.jpg"]
    assert errors.did_you_mean("Tabby/2.JPG", keys) == "did you mean 'tabby/2.jpg'?"
    assert errors.did_you_mean("train/2.jpg", keys) == "did you mean 'tabby/2.jpg'?"
    assert errors.did_you_mean("1.jpg", keys) == "did you mean 'tabby/1.jpg' or 'owl/1.jpg'?"
    assert errors.did_you_mean("photo of", keys) == "did you mean 'owl/photo of an owl.jpg'?"
    for far in ("zebra", "", "/"):
        assert errors.did_you_mean(far, keys) == ""
    assert errors.did_you_mean("x", []) == ""
    # Those of the same folder are looked at, however many others there are.
    many = [f"a/{number}.jpg" for number in range(20_000)] + ["b/banana.jpg"]
    assert errors.did_you_mean("b/bananna.jpg", many) == "did you mean 'b/banana.jpg'?"
