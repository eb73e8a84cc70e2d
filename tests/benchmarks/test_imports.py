"""Every benchmark, and what they share, can be imported."""

import importlib
from pathlib import Path

import pytest

import benchmarks

ROOT = Path(benchmarks.__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("[!_]*.py")
)


@pytest.mark.parametrize("name", MODULES)
def test_it_is_imported(name):
    importlib.import_module(name)
