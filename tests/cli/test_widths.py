"""What commands print on terminals of 40, 80 and 120 columns: nothing is cut, nothing shredded."""

from __future__ import annotations

import functools
import inspect
import io
import re
import shlex

import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from labelstore.cli import output
from labelstore.cli.main import COMMANDS, main
from labelstore.cli.tables import Widths, bands_of
from labelstore.cli.text import wrapped
from labelstore.operations import demo
from tests.support.stores import written
from tests.support.terminal import shown

WIDE = 200
TEACHER = "--teacher timm:test_resnet --checkpoint none --device cpu"
DRAWN = re.compile("[━╸╺─█▏▎▍▌▋▊▉░▒▓]")


def words_of(lines):
    """What may not be cut: words and numbers, without what is drawn."""
    return {word.strip(",") for line in lines for word in DRAWN.sub(" ", line).split()} - {""}


def measured(lines):
    """Lines without what another run measures anew: speeds, and progress with its bar."""
    kept = [line for line in lines if not re.search("[━╸╺]", line)]
    return [re.sub(r"\S+ (M/s|a second)", r"\1", line) for line in kept]


def check(narrow, wide, columns):
    """Nothing is wider than the terminal or cut, and all that a wide one shows is there."""
    assert max(map(cell_len, narrow)) <= columns
    assert not any("…" in line for line in narrow)
    missing = words_of(measured(wide)) - words_of(measured(narrow))
    assert {word for word in missing if cell_len(word) <= columns - 2} == set()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with two stores of images that have keys of several lengths, and photos."""
    folder = tmp_path_factory.mktemp("widths")
    keys = [f"n0{number}/ILSVRC_{number:0{7 * number}}.JPEG" for number in range(1, 6)]
    for seed, name in enumerate("ab"):
        written(folder / f"{name}.zarr", images=5, views=8, classes=60, keys=keys, seed=seed)
    (folder / "photos" / "dog").mkdir(parents=True)
    (folder / "classes.json").write_text('{"dog": 207}')
    for number in range(3):
        photo = Image.linear_gradient("L").rotate(40 * number).convert("RGB").resize((60, 50))
        photo.save(folder / "photos" / "dog" / f"{number}.png")
    (folder / "photos" / "dog" / "a photo that cannot be read.jpg").write_bytes(b"no photo")
    return folder


@pytest.mark.parametrize(
    ("command", "columns"),
    [
        # Each on the narrowest; of the wider ones those that have the widest tables.
        pytest.param(command, columns, marks=() if columns in usual else pytest.mark.slow)
        for command, usual in (
            *(("inspect a.zarr", (40, 80)), ("plan a.zarr", (40, 120)), ("verify a.zarr", (40,))),
            *(("schedule a.zarr", (40,)), ("schedule a.zarr b.zarr", (40, 120))),
            *(("compare a.zarr b.zarr", (40, 80)), ("compare a.zarr b.zarr --sample 2", (40,))),
        )
        for columns in (40, 80, 120)
    ],
)
def test_what_looks_at_a_store(root, monkeypatch, columns, command):
    # Paths of the test's folder would be longer than the terminal.
    monkeypatch.chdir(root)
    arguments = command.split()
    check(shown(columns, *arguments), shown_wide(*arguments), columns)


@functools.cache
def shown_wide(*arguments):
    return shown(WIDE, *arguments)


@pytest.mark.slow
def test_what_makes_stores(root, monkeypatch):
    """Everything on 40 columns: a line is longer where it is a single word alone."""
    monkeypatch.chdir(root)
    made = f"{TEACHER} --targets none --on-error skip --views 4 --fidelity small"
    for command, code in (
        (f"generate photos {made} -o made.zarr", 3),
        (f"generate photos {made} -o planned.zarr --dry-run", 0),
        ("inspect made.zarr", 0),
        ("merge a.zarr b.zarr -o merged.zarr", 0),
        ("recode a.zarr -o coded.zarr --top-k 1", 0),
        ("materialize a.zarr raw", 0),
        ("export a.zarr --to hf -o rows", 0),
        ("pull a.zarr part.zarr --images n01*", 0),
        (f"evaluate photos {TEACHER} --class-map classes.json", 0),
        (f"repair made.zarr photos {TEACHER}", 0),
        ("verify absent.zarr", 1),
        ("schedule a.zarr --views-per-image 100", 2),
    ):
        lines = shown(40, *command.split(), code=code)
        assert any(lines), command
        long = [line for line in lines if cell_len(line) > 40]
        assert all(" " not in line.strip() for line in long), (command, long)
        assert not any("…" in line for line in lines), command


WORDS = st.text("abcdefgh0123456789.%()[]_/日é", min_size=1, max_size=24)
CELLS = st.lists(WORDS, max_size=4).map(" ".join)


@st.composite
def tables(draw):
    count = draw(st.integers(1, 9))
    columns = draw(st.lists(CELLS, min_size=count, max_size=count))
    row = st.lists(CELLS, min_size=count, max_size=count)
    numbers = st.sets(st.integers(0, count - 1))
    return columns, draw(st.lists(row, min_size=1, max_size=5)), draw(numbers), draw(numbers)


@given(tables(), st.integers(28, 160))
def test_any_table_fits_and_has_every_word(table, columns):
    headings, rows, numeric, names = table
    file = io.StringIO()
    console = Console(file=file, width=columns, markup=False, emoji=False)
    console.print(output.table(headings, rows, numeric=sorted(numeric), named_by=sorted(names)))
    lines = file.getvalue().split("\n")
    assert max(map(cell_len, lines)) <= columns
    words = {word for row in rows for cell in row for word in cell.split()}
    # A list within a list takes four columns.
    words = {word for word in words if cell_len(word) <= columns - 4}
    assert words - words_of(lines) == set()


def test_columns_are_folded_in_order():
    widths = [Widths(8, 8), Widths(10, 30), Widths(6, 6), Widths(6, 6)]
    assert bands_of(widths, [0], 39) == [[0, 1, 2, 3]]
    assert bands_of(widths, [0], 38) == [[0, 1, 2], [0, 3]]
    assert bands_of(widths, [2], 24) == [[0, 2], [1, 2], [2, 3]]
    assert bands_of(widths, [0, 1], 26) is None
    assert bands_of([Widths(9, 9)] * 8, [0], 21) is None, "too many to be compared"


def test_a_row_becomes_a_list_where_its_columns_do_not_fit():
    columns = ("", "k", "quantizer", "KL")
    table = output.table(columns, [("small", "1", "ratio16", "0.07")], named_by=(0, 1))
    file = io.StringIO()
    Console(file=file, width=18).print(table)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines == ["small, k 1", "  quantizer", "    ratio16", "  KL", "    0.07"]


def test_words_are_wrapped_whole():
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("日本 日本", 8) == ["日本", "日本"]
    assert wrapped("of /a/long/path here", 6) == ["of", "/a/long/path", "here"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns(name):
    lines = CliRunner().invoke(main, [name, "--help"], terminal_width=80).output.splitlines()
    assert [line for line in lines if cell_len(line) > 80] == []


def test_the_demos_code_fits_80_columns():
    """It is shown as it is, indented by four."""
    lines = inspect.getsource(demo.train_student).splitlines()
    assert [line for line in lines if cell_len(line) > 76] == []


def test_a_command_that_is_wrapped_can_be_copied(monkeypatch, capsys):
    arguments = ["labelstore", "inspect", "a store.zarr", "--plot", "a.png", "--top", "0.9"]
    output.note_command(arguments)
    assert capsys.readouterr().err == f"$ {shlex.join(arguments)}\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    output.note_command(arguments)
    shown = capsys.readouterr().err
    assert shlex.split(shown.removeprefix("$ ").replace("\\\n", " ")) == arguments
    lines = shown.splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 40
    assert any("--plot a.png" in line for line in lines)
