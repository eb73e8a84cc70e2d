"""The name that was given with another project's labels is told wherever a store's teacher is."""

from __future__ import annotations

import numpy as np
import pytest

import labelstore
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.convert import ConversionSettings, convert
from labelstore.operations.inspection.compare import compare
from labelstore.operations.inspection.inspect import report
from labelstore.operations.inspection.show.image import describe
from labelstore.operations.lifecycle.card import card
from labelstore.operations.lifecycle.history import history
from labelstore.operations.lifecycle.subset import subset
from labelstore.operations.merge import merge
from labelstore.operations.recode import recode
from labelstore.peers.peer_labels import PeerOptions
from labelstore.store.lineage import teacher_names
from tests.peers.own_files import CLASSES, photos, save_fkd
from tests.peers.test_convert_command import run_here

NAME = "EfficientNet-L2 475"


def converted(tmp_path, name, teacher):
    if not (tmp_path / "fkd").exists():
        save_fkd(tmp_path / "fkd", photos(tmp_path / "photos", 3), 4)
    convert(
        *(tmp_path / "fkd", tmp_path / name),
        format="fkd",
        options=PeerOptions(CLASSES, FolderSource(tmp_path / "photos")),
        settings=ConversionSettings(teacher_name=teacher),
    )
    return tmp_path / name


@pytest.fixture
def store(tmp_path):
    return converted(tmp_path, "a.zarr", NAME)


def test_each_command_tells_it(store):
    run = run_here(["inspect", str(store)])
    assert run.exit_code == 0, run.stderr
    assert NAME in run.stdout
    assert "unknown" not in run.stdout.split("teacher")[1].split("\n")[0]
    key = labelstore.open(store).keys[0]
    assert NAME in run_here(["show", str(store), key]).stdout
    told = " ".join(run_here(["inspect", str(store), "--history"]).stdout.split())
    assert f"labels of {NAME}, of which" in told
    assert "converted from fkd files" in told
    assert NAME in run_here(["compare", str(store), str(store)]).stdout
    assert f"`{NAME}`, as told when fkd labels were converted" in card(store)
    assert report(store)["store"]["teacher_names"] == [NAME]
    assert describe(store, 0)["store"]["teachers"] == [NAME]
    assert history(store)["teacher_names"] == [NAME]
    assert compare(store, store)["a"]["members"][0]["teachers"] == [NAME]


def test_without_a_name_it_is_unknown(tmp_path):
    store = converted(tmp_path, "b.zarr", None)
    assert report(store)["store"]["teacher_names"] == []
    assert "teacher" in run_here(["inspect", str(store)]).stdout
    assert "TO FILL: the teacher" in card(store)


def test_merges_and_what_is_made_of_them_tell_all(tmp_path, store):
    other = converted(tmp_path, "b.zarr", "ResNeXt-101")
    unknown = converted(tmp_path, "c.zarr", None)
    names = (NAME, "ResNeXt-101", "unknown")
    merge([store, other, unknown], tmp_path / "m.zarr")
    recode(tmp_path / "m.zarr", tmp_path / "r.zarr", k=2)
    subset(tmp_path / "r.zarr", tmp_path / "s.zarr", views=range(2))
    for made in ("m.zarr", "r.zarr", "s.zarr"):
        assert teacher_names(labelstore.open(tmp_path / made).manifest) == names
    assert all(name in run_here(["inspect", str(tmp_path / "s.zarr")]).stdout for name in names)
    # Of stores of which none is named nothing is told.
    merge([unknown, converted(tmp_path, "d.zarr", None)], tmp_path / "n.zarr")
    assert teacher_names(labelstore.open(tmp_path / "n.zarr").manifest) == ()


def test_a_name_is_kept_by_a_part(tmp_path, store):
    subset(store, tmp_path / "s.zarr", views=range(2))
    recode(store, tmp_path / "r.zarr", quantizer="u16")
    for made in ("s.zarr", "r.zarr"):
        assert teacher_names(labelstore.open(tmp_path / made).manifest) == (NAME,)
        assert np.all(labelstore.open(tmp_path / made).labelled())
