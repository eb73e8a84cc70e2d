"""Compiled parts that do not fit the code are as missing ones, and told by name."""

from __future__ import annotations

import functools
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import labelstore
from labelstore import compiled
from labelstore.format import doubtful
from labelstore.format.codecs import one_label
from labelstore.format.units import unit_code, unit_digests
from labelstore.images import resampling
from labelstore.operations.inspection.doctor import diagnose
from labelstore.peers.pickles import latin1
from labelstore.store.backends.zarr import many_chunks
from labelstore.training.planning import coded_rules
from labelstore.views import boxes
from labelstore.views.law import ViewLaw
from tests.support.stores import few_photos, in_units, said_of_labels, written

ROOT = Path(labelstore.__file__).parent
ASKING = {
    "labelstore.format._doubtful": (doubtful, "_compiled"),
    "labelstore.format.codecs._one_label": (one_label, "_compiled"),
    "labelstore.format.units._unit_code": (unit_code, "_compiled"),
    "labelstore.format.units._unit_digests": (unit_digests, "_compiled"),
    "labelstore.images._resample": (resampling, "_compiled"),
    "labelstore.peers.pickles._latin1": (latin1, "_compiled"),
    "labelstore.store.backends.zarr._chunks": (many_chunks, "_compiled"),
    "labelstore.training.planning._coded_rules": (coded_rules, "_compiled"),
    "labelstore.views._boxes": (boxes, "_compiled"),
}


def source_of(name):
    return ROOT.joinpath(*name.split(".")[1:]).with_suffix(".c")


def test_every_part_has_its_number_in_both_places():
    assert set(ROOT.rglob("_*.c")) == {source_of(name) for name in compiled.PARTS}
    for name, number in compiled.PARTS.items():
        said = re.findall(r"^#define INTERFACE (\d+)$", source_of(name).read_text(), re.MULTILINE)
        assert said == [str(number)], name


@pytest.fixture
def older(monkeypatch):
    """All parts as a checkout that was not built again has them: none has a number, or what the
    code asks of it."""
    for name, (module, asks) in ASKING.items():
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        # Who asks keeps the answer: here it asks anew, and what was kept stays so for others.
        monkeypatch.setattr(module, asks, functools.cache(getattr(module, asks).__wrapped__))


def test_older_parts_are_as_missing_ones(tmp_path, request):
    store, _, _ = written(tmp_path / "a.zarr", images=20, views=5)
    hashes, views = np.arange(9, dtype=np.uint64)[:, None], np.arange(7)
    expected = ViewLaw(seed=3)(hashes, views, 640, 427)
    units = in_units(store, tmp_path / "units.zarr", 3)
    labels = said_of_labels(units)

    request.getfixturevalue("older")
    assert all(getattr(module, asks)() is None for module, asks in ASKING.values())
    assert not resampling.can_resize((8, 8), "bilinear")
    np.testing.assert_array_equal(ViewLaw(seed=3)(hashes, views, 640, 427).box, expected.box)
    assert said_of_labels(labelstore.open(units.path)) == labels


def test_doctor_tells_of_them(tmp_path, older):
    store, _, _ = written(tmp_path / "a.zarr", images=2)
    report = diagnose(store, labelstore.open_source(few_photos(tmp_path, 1)))
    (found,) = [f for f in report["findings"] if f["kind"] == "compiled-parts"]
    assert (found["weight"], found["count"]) == ("note", len(compiled.PARTS))
    assert {named["name"] for named in found["first"]} == set(compiled.PARTS)
    first = found["first"][0]
    expected = compiled.PARTS[first["name"]]
    assert first["detail"] == f"built with interface 0, expected {expected}"
