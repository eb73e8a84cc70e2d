"""What is slower here, and taken without a word, is told by ``labelstore doctor``."""

from __future__ import annotations

import ctypes.util
import functools
import json
import re
import types
from importlib import resources
from pathlib import Path

import google_crc32c
import jsonschema
import pytest
from PIL import features

import labelstore
from labelstore.format import doubtful
from labelstore.images import resampling
from labelstore.operations.inspection.diagnosis.slow_ways import VARIABLES
from labelstore.operations.inspection.doctor import diagnose
from labelstore.storage import local_files
from labelstore.store.backends.zarr import many_chunks
from labelstore.views import boxes
from tests.support.stores import few_photos, said_of_labels, written

SCHEMA = json.loads(
    resources.files("labelstore.schemas").joinpath("doctor.schema.json").read_text()
)
KINDS = {"unused-parts", "slow-libraries", "shared-memory", "cache", "variables"}


@pytest.fixture
def photos(tmp_path):
    return labelstore.open_source(few_photos(tmp_path, 1))


@pytest.fixture
def store(tmp_path):
    return written(tmp_path / "a.zarr", images=40, views=80, group_views=4)[0]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def told(store, photos):
    """Findings of slow ways by kind."""
    report = diagnose(store, photos)
    jsonschema.validate(report, SCHEMA)
    found = [finding for finding in report["findings"] if finding["kind"] in KINDS]
    assert all(finding["weight"] == "note" for finding in found)
    return {finding["kind"]: finding for finding in found}


def afresh(monkeypatch, module):
    """A part proves itself again, and what was found before stays so for others."""
    monkeypatch.setattr(module, "_compiled", functools.cache(module._compiled.__wrapped__))


def test_a_numcodecs_that_shows_no_zstd_is_told_and_labels_are_the_same(store, photos, monkeypatch):
    assert not told(store, photos).keys() & {"unused-parts", "slow-libraries", "cache"}
    assert many_chunks._compiled() is not None
    labels = said_of_labels(store)
    afresh(monkeypatch, many_chunks)
    # A library that holds none of the functions.
    library = types.SimpleNamespace(__file__=ctypes.util.find_library("c"))
    monkeypatch.setattr(many_chunks, "blosc", library)
    finding = told(store, photos)["unused-parts"]
    (named,) = finding["first"]
    assert named["name"] == "labelstore.store.backends.zarr._chunks"
    assert re.match(r"numcodecs \S+ shows no functions .* twice the processor's", named["detail"])
    assert (finding["cause"], "pip install" in finding["mend"]) == ("numcodecs", True)
    assert said_of_labels(labelstore.open(store.path)) == labels


@pytest.mark.parametrize(
    ("module", "proof", "cause"),
    [
        (many_chunks, "_decodes", "numcodecs"),
        (resampling, "_is_pillow", "Pillow"),
        (boxes, "_is_numpys", "numpy"),
        (doubtful, "_finds", "numpy"),
    ],
)
def test_a_part_that_does_not_prove_itself_is_told(
    module, proof, cause, store, photos, monkeypatch
):
    afresh(monkeypatch, module)
    monkeypatch.setattr(module, proof, lambda *_: False)
    finding = told(store, photos)["unused-parts"]
    assert (finding["count"], finding["cause"]) == (1, cause)
    assert module._compiled() is None


def test_a_processor_without_the_instructions_is_told(store, photos, monkeypatch):
    old = types.SimpleNamespace(CHECKS=0, usable=lambda: False)
    for module in (many_chunks, resampling):
        afresh(monkeypatch, module)
        monkeypatch.setattr(module, "compiled_part", lambda _: old)
    finding = told(store, photos)["unused-parts"]
    assert (finding["count"], finding["cause"]) == (2, "processor")


def test_slow_libraries_are_told(store, photos, monkeypatch):
    monkeypatch.setattr(google_crc32c, "implementation", "python")
    assert told(store, photos)["slow-libraries"]["cause"] == "google-crc32c"
    monkeypatch.setattr(google_crc32c, "implementation", "c")
    monkeypatch.setattr(features, "check_feature", lambda name: name != "libjpeg_turbo")
    assert told(store, photos)["slow-libraries"]["cause"] == "Pillow"


def test_too_little_shared_memory_is_told_unless_a_folder_is_named(
    store, photos, monkeypatch, tmp_path
):
    # As in a container of Docker, where nothing is said of it.
    monkeypatch.setattr(local_files, "total_bytes", lambda _: 64 << 20)
    finding = told(store, photos)["shared-memory"]
    assert "64 MiB" in finding["first"][0]["detail"]
    assert "more room" in finding["mend"]
    monkeypatch.setenv("LABELSTORE_SLABS", str(tmp_path))
    assert "shared-memory" not in told(store, photos)


def test_a_folder_that_keeps_nothing_is_told(store, photos, monkeypatch, tmp_path):
    monkeypatch.setenv("LABELSTORE_CACHE", str(tmp_path / "made" / "later"))
    assert "cache" not in told(store, photos)
    assert not (tmp_path / "made").exists()
    monkeypatch.setenv("LABELSTORE_CACHE", "/proc/nowhere")
    assert told(store, photos)["cache"]["first"][0]["name"] == "/proc/nowhere"


def test_a_variable_that_is_none_is_told(store, photos, monkeypatch):
    code = "".join(file.read_text() for file in Path(labelstore.__file__).parent.rglob("*.py"))
    assert set(re.findall(r'"(LABELSTORE_[A-Z_]+)"', code)) == VARIABLES
    monkeypatch.setenv("LABELSTORE_SLAB", "/scratch")
    finding = told(store, photos)["variables"]
    assert [named["name"] for named in finding["first"]] == ["LABELSTORE_SLAB"]
    assert "LABELSTORE_SLABS" in finding["mend"]
