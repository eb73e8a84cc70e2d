"""What files say is printed so that no terminal obeys it, and is data in JSON."""

from __future__ import annotations

import json
import unicodedata
import warnings

import pytest
from click.testing import CliRunner

import labelstore
from labelstore.cli import output
from labelstore.cli.main import main
from labelstore.errors import ReplayWarning
from tests.support.stores import make_planned, once, written

make_planned, written = once(make_planned), once(written)

CLEAR = "\x1b[2J\x1b]0;owned\x07"
TURNED = "gpj.\u202egnp"
LINES = "one\r\ntwo\u2028three\x9b1m"
MARKUP = "[red]red[/red] [/nothing] :smile:"
HOSTILE = (CLEAR, TURNED, LINES, MARKUP)
SPEC = f"timm:{CLEAR}{TURNED}{MARKUP}"

TEACHER = {
    "spec": SPEC,
    "checkpoint": LINES,
    "untrained": False,
    "weights_digest": "0" * 32,
    "input_size": [8, 8],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "device": "cpu",
    "precision": "fp32",
}
KEYS = [f"{number}/{words}" for number, words in enumerate(HOSTILE)]


@pytest.fixture
def store(tmp_path):
    names = [f"{CLEAR}{TURNED}{LINES}{MARKUP}{number}" for number in range(6)]
    settings = {"images": 4, "views": 2, "classes": 6, "k": 2, "block_images": 2}
    written(tmp_path / "s.zarr", **settings, keys=KEYS, class_names=names, teacher=TEACHER)
    return tmp_path / "s.zarr"


def obeyed(text):
    """The characters of a text that a terminal would obey."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {sign for sign in text if unicodedata.category(sign) in kinds} - {"\n"}


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_printable():
    assert output.printable("c/é 日本\u3000☃.jpg") == "c/é 日本\u3000☃.jpg"
    assert output.printable(CLEAR) == r"\x1b[2J\x1b]0;owned\x07"
    assert output.printable(TURNED) == r"gpj.\u202egnp"
    assert output.printable(LINES) == r"one\r\ntwo\u2028three\x9b1m"
    assert output.printable(MARKUP) == MARKUP
    assert output.printable("bad\udcff\U000e0041\u200b") == r"bad\udcff\U000e0041\u200b"
    # What Persian words and joined emoji are written with.
    assert output.printable("a\u200cb\u200dc") == "a\u200cb\u200dc"


def test_json_stays_data_and_is_not_obeyed_either():
    document = {"keys": [*HOSTILE, "é 日本", "\udcff"]}
    text = output.text_of_json(document)
    assert json.loads(text) == document
    assert not obeyed(text)
    assert "é 日本" in text


@pytest.mark.parametrize("command", ["inspect", "classes", "schedule", "verify"])
def test_what_is_in_a_store(store, command):
    done = run(command, store)
    assert done.exit_code == 0, done.output
    assert not obeyed(done.output)
    if command == "inspect":
        # As they are, on one line or folded into several.
        said = "".join(done.output.split())
        assert "[red]red[/red][/nothing]:smile:" in said
        for words in HOSTILE:
            assert "".join(output.printable(words).split()) in said


def test_a_store_in_json(store):
    done = run("inspect", store, "--json")
    assert not obeyed(done.stdout)
    document = json.loads(done.stdout)
    assert document["store"]["teachers"][0]["spec"] == SPEC
    named = {entry["key"] for entry in document["extremes"]["hardest_views"]}
    assert named <= set(KEYS)


def test_the_bounds_of_a_damaged_block(store):
    chunk = store / "labels/classes/c/0/0/0"
    chunk.write_bytes(bytes(byte ^ 1 for byte in chunk.read_bytes()))
    done = run("verify", store)
    assert done.exit_code == 1
    assert not obeyed(done.output)
    assert "owned" in done.output


@pytest.mark.parametrize(
    "make",
    [
        lambda store: ("pull", store, f"{store}.copy", "--images", "nothing*"),
        lambda store: ("pull", store, store, "--views", f"{CLEAR}"),
        lambda store: ("inspect", f"{store}{CLEAR}{TURNED}"),
        lambda store: ("inspect", store, f"{CLEAR}"),
        lambda store: ("show", store, f"{CLEAR}"),
        lambda store: ("classes", store, "--find", f"other {CLEAR}"),
        lambda store: (f"{CLEAR}{TURNED}",),
        lambda store: ("inspect", store, f"--{CLEAR}"),
        lambda store: ("merge", store, other_of(store), "-o", f"{store}.merged"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_errors(store, make, as_json):
    done = run(*make(store), *(["--json"] if as_json else []))
    assert done.exit_code in (1, 2)
    assert not obeyed(done.output)
    assert "\\x1b[2J" in done.stderr
    if as_json:
        assert "owned" in json.loads(done.stdout)["error"]["message"]


def other_of(store):
    """A store without the first of the images."""
    path = store.with_name("other.zarr")
    written(path, images=3, views=2, classes=6, k=2, keys=KEYS[1:], teacher=TEACHER)
    return path


def test_warnings():
    before = warnings.formatwarning
    with output.printed_warnings():
        ours = warnings.formatwarning(f"{CLEAR} of {LINES}", ReplayWarning, "a.py", 3)
        theirs = warnings.formatwarning(f"another {CLEAR}", UserWarning, "a.py", 3)
    assert warnings.formatwarning is before
    assert ours == output.printable(f"Warning: {CLEAR} of {LINES}") + "\n"
    assert theirs == output.printable(f"a.py:3: UserWarning: another {CLEAR}") + "\n"


def test_what_a_manifest_that_does_not_fit_is_said_to_hold(store):
    """The schema's message quotes it."""
    make_planned(store.with_name("t.zarr"), images=4)
    file = store.with_name("t.zarr") / "zarr.json"
    document = json.loads(file.read_text())
    document["attributes"]["labelstore"]["labels"]["quantizer"] = CLEAR
    file.write_text(json.dumps(document))
    done = run("inspect", file.parent)
    assert done.exit_code == 1
    assert not obeyed(done.output)


@pytest.mark.parametrize(
    "arguments",
    [["inspekt", "--json"], ["inspect", "--json"], ["inspect", "x", "--no", "--json"], ["--json"]],
)
def test_what_is_no_command_is_an_error_in_json_too(arguments):
    done = run(*arguments)
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "usage"
    assert error["message"] in done.stderr


def test_the_library_gives_keys_as_they_are(store):
    assert labelstore.open(store).keys == tuple(KEYS)
