"""schemas/SPEC.md and the modules that have its sections."""

from __future__ import annotations

import re

import pytest

from labelstore.format.arrays import (
    commit_columns,
    image_arrays,
    prior_arrays,
    unit_columns,
    view_arrays,
    view_columns,
)
from labelstore.format.manifest import EXPLICIT, Manifest
from tests.support.modules import MODULES, ROOT

TEXT = (ROOT / "schemas" / "SPEC.md").read_text()
SECTIONS = {part.split("\n")[0]: part for part in re.split(r"^## ", TEXT, flags=re.M)[1:]}


def modules_of(section):
    return re.findall(r"`(labelstore(?:\.\w+)+)`", section)


@pytest.mark.parametrize("title", SECTIONS)
def test_each_section_names_the_modules_that_have_it(title):
    assert modules_of(SECTIONS[title])
    assert [name for name in modules_of(SECTIONS[title]) if name not in MODULES] == []


def test_each_module_of_the_format_has_a_section():
    named = set(modules_of(TEXT))
    format_modules = {
        name
        for name, file in MODULES.items()
        if name.startswith("labelstore.format.") and file.parent.name == "format"
    }
    assert format_modules - named == set()


def manifest(**changes):
    settings = {"block_images": 4, "group_views": 2, "law": EXPLICIT, "prior_size": 3, **changes}
    return Manifest(9, 5, 7, 2, "0" * 32, quantizer="u8", **settings)


def test_the_arrays_are_those_of_the_table_in_its_order():
    table = re.findall(r"^\| `\[(\S+)\]` \|", SECTIONS["3. Arrays"], flags=re.M)
    theirs = [name for name in table if name not in ("images/key", "images/target", "commits")]
    specs = (*image_arrays(manifest()), *prior_arrays(manifest()), *view_arrays(manifest()))
    assert [spec.name for spec in specs] == theirs


@pytest.mark.parametrize("unit_images", [None, 3])
@pytest.mark.parametrize("prior_size", [0, 3])
def test_commit_columns_are_as_sections_6_and_10_say(prior_size, unit_images):
    """Column 1 + aD + g is group g of array a; the images before, units and the prior behind."""
    store = manifest(prior_size=prior_size, unit_images=unit_images)
    names = [spec.name for spec in view_arrays(store)]
    groups = store.num_groups
    assert view_columns(store) == {
        name: range(1 + a * groups, 1 + (a + 1) * groups) for a, name in enumerate(names)
    }
    behind = 1 + len(names) * groups
    units = range(behind, behind + (0 if unit_images is None else groups))
    assert unit_columns(store) == units
    assert commit_columns(store) == behind + len(units) + (prior_size > 0)
