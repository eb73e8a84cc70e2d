"""``labelstore show`` over real stores and photos, as a terminal sees it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib import resources

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli.main import main
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.images.decoding import decode
from labelstore.images.pixels import content_digest, cut
from labelstore.operations.inspection.show import describe, overview
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw
from tests.cli.test_printed import HOSTILE, obeyed
from tests.support import commands, terminal

NAMES = ("n01440764", "n02012849", "n03126707", "n07753592", *(f"c{n}" for n in range(6)))
KEYS = ["n07753592/banana.png", "n01440764/tench.png"]

TEACHER = {
    "spec": "timm:resnet50",
    "checkpoint": "pretrained",
    "untrained": False,
    "weights_digest": "0" * 32,
    "input_size": [168, 168],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "device": "cpu",
    "precision": "fp32",
}


def make(folder, keys=KEYS, **more):
    """A store of two photos with 12 views each, and the photos."""
    rng = np.random.default_rng(0)
    sizes, digests = [(120, 90), (80, 100)], []
    for key, size in zip(KEYS, sizes, strict=True):
        file = folder / "photos" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        digests.append(content_digest(file.read_bytes()))
    top = np.tile(np.linspace(0.05, 0.99, 12), (2, 1))
    probs = np.stack([top, np.minimum(top, 1 - top) / 2], axis=-1).astype(np.float32)
    targets = np.array([3, 0], dtype=np.int32)
    options = {"law": ViewLaw(1), "class_names": NAMES, "teacher": TEACHER, **more}
    print_of = fingerprint(keys, targets)
    manifest = Manifest(2, 12, len(NAMES), 2, print_of, block_images=2, group_views=4, **options)
    data = BlockData(
        np.tile(np.array([3, 1]), (2, 12, 1)),
        probs,
        widths=np.array([width for width, _ in sizes]),
        heights=np.array([height for _, height in sizes]),
        digests=np.array(digests, dtype=np.uint64),
    )
    with StoreWriter(folder / "s.zarr", manifest, keys, targets) as writer:
        writer.write_block(0, data)
    return labelstore.open(folder / "s.zarr")


@pytest.fixture
def store(tmp_path):
    return make(tmp_path)


def show(*arguments, code=0):
    done = CliRunner().invoke(main, ["show", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_json_is_the_description(store):
    done = show(store.path, KEYS[0], "--views", "3,hardest:2", "--low", 0.2, "--json")
    document = json.loads(done.stdout)
    text = resources.files("labelstore.schemas").joinpath("show.schema.json").read_text()
    jsonschema.Draft202012Validator(json.loads(text)).validate(document)
    rule = labelstore.FerKD(low=0.2)
    views = [view["view"] for view in document["views"]]
    assert views[0] == 3
    assert len(views) == 3
    assert document == {**describe(store, 0, views, rule), "overview": overview(store, 0, rule)}


def test_the_terminal_names_what_it_shows(store):
    lines = show(store.path, 0).stdout.splitlines()

    def row(*words):
        return any(all(word in line for word in words) for line in lines)

    assert lines[0].strip() == KEYS[0]
    assert row("ground truth", "◆ 3 banana")
    assert row("photo", "120 x 90 pixels")
    assert row("teacher", "timm:resnet50")
    assert row("views", "the 4 hardest and the 4 easiest of 12 views")
    assert row("view 11", "0.9900", "discarded (too easy)")
    assert row("◆ banana", "█", "99.00%")
    assert row("crane (1)")
    assert row("FerKD's label")
    (box,) = store.views([0], [11]).box.tolist()
    assert row(f"{box[3]} x {box[2]} pixels, left {box[1]}, top {box[0]}")
    assert max(map(len, lines)) <= 100


def test_of_many_classes_the_likeliest_are_shown_and_the_truth(tmp_path):
    p = np.linspace(30, 1, 30) / 465
    indices = np.tile(np.arange(30), (1, 2, 1))
    path = tmp_path / "s.zarr"
    labelstore.write(path, indices, np.tile(p, (1, 2, 1)), 40, targets=[20], quantizer="fp32")
    shown = show(path, 0, "--views", 0).stdout
    named = [line.split()[-3:] for line in shown.splitlines() if " class " in line and "%" in line]
    assert len(named) == 11
    assert f"{p[20]:.2%}" in shown
    assert f"{1 - p[:10].sum() - p[20]:.2%}" in shown
    assert "~" not in shown


def test_a_truth_that_is_not_stored_is_said_to_be_estimated(store):
    shown = show(store.path, 1, "--views", 5).stdout
    assert "◆ tench" in shown
    assert "~" in shown
    assert "not stored: what the tail gives the class" in shown


def test_shares_of_a_view_are_all_of_it(store):
    shown = show(store.path, 1, "--views", 5).stdout
    shares = [float(line.split()[-1].strip("~%")) for line in shown.splitlines() if "%" in line]
    assert sum(shares) == pytest.approx(100, abs=0.05)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_widths(store, columns):
    lines = terminal.shown(columns, "show", store.path, 0)
    assert max(map(len, lines)) <= columns
    assert not any("…" in line for line in lines)
    for words in ("◆ banana", "crane (1)", "all other classes", "99.00%"):
        assert any(words in line for line in lines), words
    beside = [line for line in lines if line.count("view ") > 1]
    assert len(beside) == (4 if columns == 120 else 0)
    # A whole bar is as long in each view, and a label's bars begin in one column.
    starts = {line.index("█") for line in lines if "█" in line and "|" not in line}
    assert len(starts) <= 2


def test_an_ascii_terminal_is_served_too(store):
    done = commands.run(
        [sys.executable, "-m", "labelstore", "show", str(store.path), "0"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert "####" in done.stdout
    assert "* banana" in done.stdout
    assert done.stdout.isascii()


def test_the_picture_has_the_crops_as_the_teacher_saw_them(store, tmp_path):
    picture = tmp_path / "sheet.png"
    arguments = (store.path, KEYS[0], "--photos", tmp_path / "photos", "--save", picture)
    done = show(*arguments, "--views", "0-2")
    assert str(picture) in done.stderr
    sheet = pixels_of(picture)
    photo = decode((tmp_path / "photos" / KEYS[0]).read_bytes(), KEYS[0])
    views = store.views([0], [0, 1, 2])
    for box, flip in zip(views.box.tolist(), views.flip.tolist(), strict=True):
        assert is_in(cut(photo, box, flip, (168, 168), "bicubic"), sheet)
    assert not is_in(cut(photo, [0, 0, 9, 9], False, (168, 168), "bicubic"), sheet)
    assert "--overwrite" in show(*arguments, code=2).stderr
    show(*arguments, "--overwrite", "--views", "0")
    assert pixels_of(picture).shape != sheet.shape


def pixels_of(picture):
    with Image.open(picture) as image:
        return np.asarray(image)


def is_in(crop, sheet):
    """Whether a picture stands in another, pixel by pixel."""
    rows, columns = np.nonzero((sheet == crop[0, 0]).all(axis=-1))
    height, width = crop.shape[:2]
    return any(
        np.array_equal(sheet[row : row + height, column : column + width], crop)
        for row, column in zip(rows, columns, strict=True)
    )


def test_a_picture_needs_the_photos(store, tmp_path):
    done = show(store.path, 0, "--save", tmp_path / "s.png", code=2)
    assert "pixels are not in the store" in done.stderr
    assert "give --photos" in done.stderr
    assert not (tmp_path / "s.png").exists()
    assert "--save" in show(store.path, 0, "--photos", tmp_path, code=2).stderr
    for name, reason in (("s.jpg", "does not end in .png"), ("no/s.png", "does not exist")):
        arguments = ("--photos", tmp_path / "photos", "--save", tmp_path / name)
        assert reason in " ".join(show(tmp_path / "absent", 0, *arguments, code=2).stderr.split())


def test_another_photo_is_refused(store, tmp_path):
    arguments = ("--photos", tmp_path / "photos", "--save", tmp_path / "s.png")
    shutil.copy(tmp_path / "photos" / KEYS[1], tmp_path / "photos" / KEYS[0])
    done = show(store.path, 0, *arguments, "--json", code=1)
    assert json.loads(done.stdout)["error"]["kind"] == "mismatch"
    assert "is another file than the one that was labelled" in done.stderr
    (tmp_path / "photos" / KEYS[0]).unlink()
    done = show(store.path, 0, *arguments, code=1)
    assert "has no photo 'n07753592/banana.png'" in done.stderr
    assert not (tmp_path / "s.png").exists()


def test_a_store_without_law_or_teacher_is_drawn_as_far_as_it_goes(tmp_path):
    store = make(tmp_path, law=None, teacher=None)
    arguments = ("--photos", tmp_path / "photos", "--save", tmp_path / "s.png")
    shown = show(store.path, 0, *arguments).stdout
    assert "does not say which crops its labels belong to" in " ".join(shown.split())
    assert len(pixels_of(tmp_path / "s.png")) > 300


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("n07753592/bananna.png",), 1, "did you mean 'n07753592/banana.png'?"),
        (("2",), 1, "image 2 was asked for"),
        (("0", "--views", "12"), 1, "view 12 was asked for"),
        (("0", "--views", "a"), 2, "expected numbers and ranges"),
        (("0", "--low", "0.9"), 2, "low <= middle <= top"),
        ((), 2, "Missing argument 'KEY'"),
    ],
)
def test_errors_are_of_one_line(store, arguments, code, words):
    done = show(store.path, *arguments, code=code)
    assert words in done.stderr
    assert "Traceback" not in done.output


def test_hostile_keys_and_names_are_escaped(tmp_path):
    keys = [f"{number}/{words}" for number, words in enumerate(HOSTILE[:2])]
    names = [f"{''.join(HOSTILE)}{number}" for number in range(len(NAMES))]
    teacher = {**TEACHER, "spec": "".join(HOSTILE)}
    store = make(tmp_path, keys=keys, class_names=names, teacher=teacher)
    done = show(store.path, keys[0])
    assert not obeyed(done.output)
    assert "\\x1b[2J" in done.stdout
    # As they are: no markup of rich's.
    assert "[red]" in "".join(done.stdout.split())
    document = json.loads(show(store.path, keys[0], "--json").stdout)
    assert document["key"] == keys[0]
    assert document["target_name"] == names[3]
    done = show(store.path, f"x{keys[0]}", code=1)
    assert not obeyed(done.output)


def test_a_damaged_store_names_its_mend(store):
    file = store.path / "labels/top_prob/c/0/0"
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    assert "labelstore repair" in show(store.path, 0, code=1).stderr
