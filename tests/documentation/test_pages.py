"""README and docs/: their Python runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shlex
import sys
from pathlib import Path

import click
import pytest

import labelstore
import labelstore.torch
from labelstore import errors
from labelstore.cli.main import COMMANDS, main
from tests.documentation.page_runner import commands_in
from tests.documentation.pages import PAGES, PREPARATIONS, ROOT, Preparation, blocks_of, name_of
from tests.support import commands

WITH_PYTHON = [
    name_of(page) for page in PAGES if any(block.language == "python" for block in blocks_of(page))
]

FIRST_COMMAND = "generate photos --teacher timm:tf_efficientnet_lite0 --views 200 -o teacher.zarr"


def lacks(page):
    """The packages that a page needs and that are not here."""
    packages = PREPARATIONS.get(page, Preparation()).packages
    return [package for package in packages if importlib.util.find_spec(package) is None]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What went wrong with the Python of each page, beside six photos and README's first store."""
    place = tmp_path_factory.mktemp("pages")
    shared = place / "shared"
    shared.mkdir()
    make = """
from labelstore.operations.demo import place_photos, place_teacher
from pathlib import Path
place_photos(Path("photos"))
for photo in sorted(Path("photos").glob("*/*"), key=lambda photo: photo.name)[6:]:
    photo.unlink()
    if not any(photo.parent.iterdir()):
        photo.parent.rmdir()
place_teacher("tf_efficientnet_lite0", Path("lite0.safetensors"))
from labelstore.cli.main import main
main()
"""
    command = FIRST_COMMAND.replace("--views 200", "--views 8").split()
    commands.run(
        [sys.executable, "-c", make, *command, "--checkpoint", "lite0.safetensors"],
        cwd=shared,
        check=True,
    )
    results = place / "results.json"
    pages = [page for page in WITH_PYTHON if not lacks(page)]
    own = {"PYTHONPATH": str(Path(__file__).parents[2]), "MPLBACKEND": "agg"}
    commands.run(
        [sys.executable, "-m", "tests.documentation.page_runner", str(results), *pages],
        cwd=shared,
        env={**os.environ, **own},
        check=True,
    )
    return json.loads(results.read_text())


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_its_python_runs(page, outcomes):
    if missing := lacks(page):
        pytest.skip(f"without {', '.join(missing)}")
    assert not outcomes[page], outcomes[page]


def test_every_preparation_is_of_a_page():
    assert set(PREPARATIONS) <= set(WITH_PYTHON)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_commands_exist(page):
    for block in blocks_of(page):
        for arguments in commands_in(block.code) if block.language == "sh" else ():
            parse(arguments)


def parse(arguments):
    """Have click read a command as it stands on a page; its options' values are checked, too."""
    if arguments[0].startswith("-"):
        return
    with main.make_context("labelstore", list(arguments)) as top:
        try:
            name, command, rest = main.resolve_command(top, list(arguments))
            with command.make_context(name, rest, parent=top):
                pass
        except click.ClickException as error:
            pytest.fail(f"labelstore {shlex.join(arguments)}: {error.format_message()}")


def test_readme_begins_with_the_command_that_made_the_store():
    assert FIRST_COMMAND in (ROOT / "README.md").read_text()


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text()) <= 9000


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_it_installs_nobody_elses_package(page):
    # That name belongs to others on the public index.
    assert not re.search(r"pip install [\"']?labelstore", page.read_text())


def rows_of(page, heading):
    """The first cells of the table below a heading, without marks of code."""
    section = (ROOT / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[1:]
    return [cell.strip().replace("`", "") for cell in cells]


def test_tables_name_every_kind_of_error():
    kinds = [
        value.kind
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.LabelStoreError)
    ]
    assert rows_of("docs/reference/tables.md", "Kinds of errors") == [
        kind for kind in kinds if kind != "error"
    ]


def test_tables_name_every_extra():
    setup = (ROOT / "setup.cfg").read_text()
    section = setup.split("[options.extras_require]\n")[1].split("\n[")[0]
    extras = re.findall(r"^(\w+) =", section, re.MULTILINE)
    assert rows_of("docs/reference/tables.md", "Extras") == sorted(extras)


def test_tables_name_every_format():
    from labelstore.images.formats import IMAGE_SUFFIXES, NOT_HERE

    page = (ROOT / "docs/reference/tables.md").read_text()
    table = page.split("## Formats of photos\n")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\.\w+)`", table))
    assert named == IMAGE_SUFFIXES | set(NOT_HERE)


def test_reference_has_every_command():
    page = (ROOT / "docs/reference/cli.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(COMMANDS)


def test_reference_has_every_public_name():
    page = (ROOT / "docs/reference/api.md").read_text()
    entries = set(re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE))
    names = {
        f"{package.__name__}.{name}"
        for package in (labelstore, labelstore.torch)
        for name in package.__all__
        if not inspect.ismodule(getattr(package, name))
    }
    # What is in the tree of errors is described as one.
    assert names - entries == {"labelstore.__version__", "labelstore.LabelStoreError"}
    for entry in entries - {"labelstore.errors", "labelstore.torch.lightning.LabelStoreDataModule"}:
        module, _, name = entry.rpartition(".")
        assert hasattr(sys.modules.get(module) or importlib.import_module(module), name), entry


def test_tables_name_every_variable_of_our_own():
    modules = [*(ROOT / "labelstore").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]
    read = set(re.findall(r"LABELSTORE_[A-Z_]+", "".join(map(Path.read_text, modules))))
    named = rows_of("docs/reference/tables.md", "Environment variables")
    assert read == {name for name in named if name.startswith("LABELSTORE_")}
