"""Who may import whom: docs/architecture.md's table, typing imports included."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAY_IMPORT = {
    "errors": set(),
    "launch": {"errors"},
    "storage": {"errors"},
    "views": {"errors"},
    "labels": {"errors"},
    "images": {"storage", "errors"},
    "format": {"storage", "labels", "views", "errors"},
    "store": {"format", "labels", "views", "storage", "errors"},
    "teachers": {"images", "errors"},
    "training": {"store", "format", "labels", "views", "errors"},
    "producer": {"teachers", "store", "format", "images", "labels", "views", "storage", "errors"},
    "torch": {"training", "store", "format", "images", "labels", "views", "errors"},
    "operations": {
        *("producer", "torch", "training", "teachers", "store", "format", "images"),
        *("labels", "views", "storage", "errors"),
    },
    "testing": {"storage", "labels", "errors"},
}
MAY_IMPORT["cli"] = {*MAY_IMPORT, "cli"} - {"testing"}

STORE_PARTS = ["write_arrays", "rewrite", "ensembles", "store", "writer", "slabs", "chunks"]
"""Of the package store: each may import those behind it, and these ``backends`` and ``indexing``."""


def modules():
    """Dotted name of each module of the library and its file."""
    for folder in ("labelstore", "cli"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if folder == "cli":
                parts = ("labelstore", *parts)
            yield ".".join(part for part in parts if part != "__init__"), file


MODULES = dict(modules())


def imports_of(source):
    """Modules of this library that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # What is imported of a package may be a module of it.
            names = [f"{node.module}.{name.name}" for name in node.names]
            names = [name if name in MODULES else node.module for name in names]
        yield from (name for name in names if name.split(".")[0] == "labelstore")


IMPORTS = {name: set(imports_of(file.read_text())) for name, file in MODULES.items()}


def package_of(name):
    return name.split(".")[1] if "." in name else ""


def forbidden(name, imports):
    """Imports of a module that the table does not allow."""
    package = package_of(name)
    allowed = {package, "launch", *MAY_IMPORT.get(package, MAY_IMPORT["cli"])}
    return [other for other in imports if package_of(other) not in allowed | {""}]


@pytest.mark.parametrize(
    "name", [name for name in MODULES if package_of(name) not in ("", "__main__")]
)
def test_imports_are_in_the_table(name):
    assert forbidden(name, IMPORTS[name]) == []


def test_the_check_can_fail():
    assert forbidden("labelstore.labels.prior", {"labelstore.store.store"}) == [
        "labelstore.store.store"
    ]
    assert forbidden("labelstore.torch.sampler", {"labelstore.producer.run"})
    typed = "if TYPE_CHECKING:\n    from labelstore.store import store"
    assert list(imports_of(typed)) == ["labelstore.store.store"]


def test_no_circle():
    try:
        list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_the_parts_of_a_store_stand_on_one_another():
    below = {
        name: {*STORE_PARTS[place:], "backends", "indexing"}
        for place, name in enumerate(STORE_PARTS)
    }
    below |= {"backends": {"backends"}, "indexing": {"indexing"}}
    for name, imports in IMPORTS.items():
        if name.startswith("labelstore.store."):
            part = name.split(".")[2]
            used = {
                other.split(".")[2] for other in imports if other.startswith("labelstore.store.")
            }
            assert used <= below[part], name


def test_a_package_fits_on_a_screen():
    for folder in {file.parent for file in MODULES.values()}:
        files = [file for file in folder.glob("*.py") if file.stem != "__init__"]
        assert len(files) <= 12, f"{folder} has {len(files)} files"
