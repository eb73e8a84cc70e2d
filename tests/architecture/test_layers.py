"""Who may import whom: docs/architecture.md's table, typing imports included."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import pytest

from tests.support.modules import MODULES, imports_in, imports_of, package_of

MAY_IMPORT = {
    "errors": set(),
    "launch": {"errors"},
    "compiled": set(),
    "storage": {"errors"},
    "views": {"errors"},
    "labels": {"errors"},
    "images": {"storage", "errors"},
    "format": {"storage", "labels", "views", "errors"},
    "store": {"format", "labels", "views", "storage", "errors"},
    "peers": {"store", "format", "images", "labels", "views", "storage", "errors"},
    "statistics": {"labels", "errors"},
    "pictures": {"images", "labels", "views", "storage", "errors"},
    "teachers": {"images", "errors"},
    "training": {"store", "format", "labels", "views", "storage", "errors"},
    "producer": {"teachers", "store", "format", "images", "labels", "views", "storage", "errors"},
    "torch": {"training", "store", "format", "images", "labels", "views", "errors"},
    "operations": {
        *("producer", "torch", "training", "teachers", "peers", "store", "format", "images"),
        *("statistics", "pictures", "labels", "views", "storage", "errors"),
    },
    "testing": {"storage", "labels", "errors"},
}
MAY_IMPORT["cli"] = {*MAY_IMPORT, "cli"} - {"testing"}

STORE_PARTS = [
    *(
        "write_arrays",
        "rewrite",
        "selection",
        "reissue",
        "lineage",
        "ensembles",
        "alignment",
        "mixed_views",
        "label_reader",
        "store",
        "writer",
    ),
    *("slabs", "chunks"),
]
"""Of the package store: each may import those behind it, and ``backends`` and ``indexing``."""


def imports():
    """What each module imports; read when a test asks, not when tests are collected."""
    return {name: imports_in(name, ours=True) for name in MODULES}


def forbidden(name, imports):
    """Imports of a module that the table does not allow."""
    package = package_of(name)
    allowed = {package, "launch", "compiled", *MAY_IMPORT.get(package, MAY_IMPORT["cli"])}
    return [other for other in imports if package_of(other) not in allowed | {""}]


def test_imports_are_in_the_table():
    refused = {
        name: others
        for name, imported in imports().items()
        if package_of(name) not in ("", "__main__") and (others := forbidden(name, imported))
    }
    assert refused == {}


def test_the_check_can_fail():
    assert forbidden("labelstore.labels.prior", {"labelstore.store.store"}) == [
        "labelstore.store.store"
    ]
    assert forbidden("labelstore.torch.sampler", {"labelstore.producer.run"})
    typed = "if TYPE_CHECKING:\n    from labelstore.store import store"
    assert list(imports_of(typed, ours=True)) == ["labelstore.store.store"]
    relative = "from .. import text\nfrom . import demo\nfrom ..reports.inspect import print_report"
    assert list(imports_of(relative, ours=True, module="labelstore.cli.commands.plan")) == [
        "labelstore.cli.text",
        "labelstore.cli.commands.demo",
        "labelstore.cli.reports.inspect",
    ]


def test_no_circle():
    try:
        list(TopologicalSorter(imports()).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_the_parts_of_a_store_stand_on_one_another():
    below = {
        name: {*STORE_PARTS[place:], "backends", "indexing"}
        for place, name in enumerate(STORE_PARTS)
    }
    below |= {"backends": {"backends"}, "indexing": {"indexing"}}
    for name, imported in imports().items():
        if name.startswith("labelstore.store."):
            part = name.split(".")[2]
            used = {
                other.split(".")[2] for other in imported if other.startswith("labelstore.store.")
            }
            assert used <= below[part], name


def test_a_package_fits_on_a_screen():
    for folder in {file.parent for file in MODULES.values()}:
        files = [file for file in folder.glob("*.py") if file.stem != "__init__"]
        assert len(files) <= 12, f"{folder} has {len(files)} files"
