"""``labelstore inspect`` over real stores."""

import json
import os
import subprocess
import sys
from importlib import resources

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli.main import main
from labelstore.operations.inspection.inspect import report
from labelstore.views.law import ViewLaw
from tests.support import commands, terminal
from tests.support.stores import in_units

# Of ten views of each image: what the largest probability is.
CONFIDENCE = (0.1, 0.2, 0.2, 0.5, 0.6, 0.7, 0.75, 0.92, 0.96, 0.99)


@pytest.fixture
def store(tmp_path):
    images, views = 12, len(CONFIDENCE)
    indices = np.tile(np.array([3, 1]), (images, views, 1))
    top = np.tile(np.array(CONFIDENCE), (images, 1))
    top[5, 4] = 0.02
    probs = np.stack([top, np.minimum(1 - top, top) / 2], axis=-1)
    targets = np.where(np.arange(images) < 9, 3, 1)
    sides = np.full(images, 50)
    path = tmp_path / "made.zarr"
    labelstore.write(
        path,
        indices,
        probs,
        10,
        keys=[f"photos/[red]{n}[/red].jpg" for n in range(images)],
        targets=targets,
        law=ViewLaw(7),
        widths=sides,
        heights=sides,
        temperature=2.0,
    )
    return path


def inspect(*arguments, code=0):
    done = CliRunner().invoke(main, ["inspect", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_json_is_the_report(store):
    done = inspect(store, "--json", "--low", 0.25, "--top", 0.97, "--extremes", 2)
    document = json.loads(done.stdout)
    text = resources.files("labelstore.schemas").joinpath("inspect.schema.json").read_text()
    jsonschema.Draft202012Validator(json.loads(text)).validate(document)
    rule = labelstore.FerKD(low=0.25, top=0.97)
    assert document == report(labelstore.open(store), rule, extremes=2)
    # 0.1 and 0.2 twice of each image, and the one crop of 0.02.
    assert document["ferkd"]["discarded_low"]["count"] == 12 * 3 + 1
    assert document["ferkd"]["discarded_high"]["count"] == 12


def test_the_terminal_shows_every_part(store):
    shown = inspect(store).stdout
    lines = shown.splitlines()

    def row(*words):
        return any(all(word in line for word in words) for line in lines)

    assert row("crops", "120: 12 images x 10 views")
    assert row("labels", "top 2 of 10 classes", "temperature 2", "quantizer u8")
    assert row("views", "seed 7")
    assert row("[0, 0.1)", "0.83%")
    assert row("[0.95, 1]", "20.00%", "[0, 1]", "100.00%")
    assert row("discarded (too hard)", "[0, 0.15]", "13", "10.83%")
    assert row("discarded (too easy)", "(0.95, 1]", "24", "20.00%")
    assert row("top-1 75.00%, top-2 100.00% of 120 crops of 12 images")
    assert row("0.0200", "4", "photos/[red]5[/red].jpg")
    assert row("labels/top_prob")
    assert "\x1b" not in shown, "colours in a pipe"
    # Paragraphs are left to what the pipe leads to.
    assert max(len(line) for line in lines if line[:2] not in ("! ", "Ep")) <= 100


def test_the_terminal_shows_what_the_report_says_of_classes_and_mistakes(store):
    shown = inspect(store).stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    told = report(labelstore.open(store))
    assert "! " + told["alerts"][0]["text"] in " ".join(lines)
    at_most = dict(zip(*told["thresholds"].values(), strict=True))
    assert f"0.95 {at_most[0.95] / 120:.2%} {1 - at_most[0.95] / 120:.2%}" in lines
    error = told["reliability"]["expected_calibration_error"]
    assert f"Calibration of the teacher on crops: expected calibration error {error:.2%}" in lines
    assert f"1 {told['residual'][0]['mean']:.2%}" in lines
    assert any(line.startswith(f"mean {told['entropy']['mean']:.3f} nats; 0 ") for line in lines)
    assert any(line.startswith(f"mean {told['drift']['mean']:.4f}; 0 ") for line in lines)
    first = told["wrong_targets"]["entries"][0]
    assert any(
        line.startswith(f"{first['key']} {first['target']} {first['target_probability']:.3f} ")
        for line in lines
    )
    assert "Epochs without a repeated view: 10 at 1 view an image, 2 at 4 views an image." in lines


def test_classes_are_shown_in_the_order_that_is_asked_for(store):
    def numbers(*more):
        lines = inspect(store, "--by", "class", *more).stdout.splitlines()
        return [int(line.split()[0]) for line in lines if line[:1].isdigit() and "of" not in line]

    told = {row["class"]: row for row in report(labelstore.open(store))["classes"]}
    assert set(numbers()) == {1, 3}
    for name, largest_first in (("confidence", False), ("agreement", False), ("drift", True)):
        expected = sorted((1, 3), key=lambda c, name=name: told[c][name], reverse=largest_first)
        assert numbers("--sort", name) == expected
    assert numbers("--sort", "class", "--rows", 1) == [1]
    assert numbers("--sort", "class", "--rows", 0) == [1, 3]
    shown = inspect(store, "--by", "class", "--rows", 1).stdout
    assert "1 of 2 classes with images, by confidence" in shown


def test_a_sample_says_what_was_looked_at(tmp_path):
    probs = np.random.default_rng(0).random((9, 12, 1), dtype=np.float32)
    path = tmp_path / "made.zarr"
    labelstore.write(path, np.zeros((9, 12, 1), int), probs, 4, group_views=2, targets=[0] * 9)
    shown = " ".join(inspect(path, "--sample", 3).stdout.split())
    assert "whole labels of 4 of the 12 views of each image" in shown
    document = json.loads(inspect(path, "--sample", 3, "--json").stdout)
    assert document["sample"] == {"views": 4, "label_views": 4, "of": 12}
    assert document["ferkd"]["kept"]["error"] > 0
    assert "Looked at" not in inspect(path, "--sample", 12).stdout


def test_bars_are_as_long_as_their_shares(store):
    lines = inspect(store).stdout.splitlines()
    bars = {line[:4]: line.count("█") for line in lines if line[1:2] == "." and " to " not in line}
    counts = {f"{row['low']:.2f}": row["count"] for row in histogram(store)}
    longest = max(counts.values())
    assert longest > min(counts.values())
    for low, count in counts.items():
        assert bars[low] == int(30 * count / longest)


def histogram(store):
    return json.loads(inspect(store, "--json").stdout)["histogram"]


def test_an_ascii_terminal_is_served_too(store):
    done = commands.run(
        [sys.executable, "-m", "labelstore", "inspect", str(store)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert "####" in done.stdout
    assert done.stdout.isascii()


def test_thresholds_by_the_ground_truth(store):
    shown = inspect(store, "--confidence", "target").stdout
    assert "by the ground truth's" in shown
    document = json.loads(inspect(store, "--confidence", "target", "--json").stdout)
    assert document["ferkd"]["confidence"] == "target"


def test_a_store_without_ground_truth_or_law_is_shown(tmp_path):
    path = tmp_path / "plain.zarr"
    labelstore.write(path, np.zeros((2, 2, 1), dtype=int), np.ones((2, 2, 1)), 3)
    shown = inspect(path).stdout
    assert "unknown: the store has no ground truth" in shown
    assert "temperature unknown" in shown
    done = inspect(path, "--confidence", "target", code=1)
    assert "needs the ground truth" in done.stderr


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".svg", ".pdf"])
def test_the_plot_is_drawn_and_replaced(store, tmp_path, suffix):
    plot = tmp_path / f"figure{suffix}"
    plot.write_text("something old")
    done = inspect(store, "--plot", plot)
    assert str(plot) in done.stderr
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix.lower()]
    assert plot.read_bytes().startswith(start)


def test_the_plots_bars_are_where_the_crops_are(store, tmp_path):
    plot = tmp_path / "figure.png"
    inspect(store, "--plot", plot, "--confidence", "target")
    pixels = np.asarray(Image.open(plot).convert("RGB")).astype(int)
    grey = (abs(pixels - [0x8A, 0x8F, 0x98]) <= 2).all(axis=-1)
    heights = grey.sum(axis=0)
    columns = np.flatnonzero(heights)
    # Bars fill bins 0..19 but for those without crops; the outermost have some: all 20 in equal
    # steps.
    bins = np.array_split(heights[columns[0] : columns[-1] + 1], 20)
    counts = np.array([row["count"] for row in histogram(store)])
    drawn = np.array([np.median(part) for part in bins])
    assert drawn == pytest.approx(counts / counts.max() * drawn.max(), abs=3)


def test_the_plot_tells_shares_and_thresholds(store, tmp_path):
    plot = tmp_path / "figure.svg"
    inspect(store, "--plot", plot, "--low", "0.12")
    # matplotlib draws text as paths and leaves what it says in comments.
    text = plot.read_text()
    for words in (
        "made.zarr: 120 crops of 12 images",
        "10 views an image, top 2 of 10 classes, temperature 2",
        *("0.12", "kept", "share of crops, %", "largest probability"),
    ):
        assert words in text


@pytest.mark.parametrize(
    ("name", "reason"), [("figure.jpg", "does not end in"), ("absent/figure.png", "does not exist")]
)
def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_read(tmp_path, name, reason):
    done = inspect(tmp_path / "absent.zarr", "--plot", tmp_path / name, code=2)
    assert reason in " ".join(done.stderr.split())


def test_a_plot_that_cannot_be_written_is_an_error_of_one_line(store, tmp_path):
    (tmp_path / "figure.png").mkdir()
    done = inspect(store, "--plot", tmp_path / "figure.png", code=1)
    assert "figure.png: a folder stands where a file has to be" in done.stderr


def test_of_a_plot_that_the_disk_has_no_room_for_nothing_is_left(store, tmp_path):
    """The largest file that a process may write stands for a disk that is full."""
    code = (
        "import resource, signal, sys\n"
        "from labelstore.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "main()\n"
    )
    folder = tmp_path / "plots"
    folder.mkdir()
    plot = folder / "figure.png"
    arguments = ["inspect", str(store), "--plot", str(plot)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert f"Error: cannot write {plot}: " in done.stderr
    assert list(folder.iterdir()) == []


def test_the_papers_plot_of_an_empty_store(tmp_path):
    from labelstore.format.manifest import Manifest, fingerprint
    from labelstore.store.writer import StoreWriter

    keys, targets = ["a", "b"], np.array([0, 1], dtype=np.int32)
    manifest = Manifest(2, 3, 4, 1, fingerprint(keys, targets), None, 1, 3)
    with StoreWriter(tmp_path / "begun.zarr", manifest, keys, targets):
        pass
    done = inspect(tmp_path / "begun.zarr", "--plot", tmp_path / "figure.png")
    assert "2 of 2 blocks missing (2 images)" in done.stdout
    assert "No crop is labelled yet." in done.stdout
    assert (tmp_path / "figure.png").exists()


def test_a_narrow_terminal_cuts_nothing_off(store):
    wide, narrow = (terminal.written(columns, "inspect", store) for columns in (140, 80))
    for shown in (wide, narrow):
        assert "\x1b[1m" in shown, "no terminal was seen"
        assert "…" not in shown
        for words in ("[0.9, 0.95)", "agg. ratio", "20.00%", "photos/[red]5[/red].jpg"):
            assert words in shown
    assert "█" * 30 in wide
    assert "█" * 18 in narrow
    assert "█" * 19 not in narrow


def test_how_labels_lie(store, tmp_path):
    units = in_units(labelstore.open(store), tmp_path / "units.zarr", 7).path
    assert json.loads(inspect(units, "--json").stdout)["store"]["unit_images"] == 7
    assert "in units of 7 images" in " ".join(inspect(units).stdout.split())
    assert "in units" not in inspect(store).stdout
