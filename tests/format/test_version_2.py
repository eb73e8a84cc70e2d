"""Version 2: stages of views, by the specification alone, and what a manifest says."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from labelstore import schemas
from labelstore.errors import CorruptError, FormatError, UsageError
from labelstore.format.manifest import Manifest, differences
from labelstore.format.versions import DRAFT_VERSION, FORMAT_VERSION, VERSION_2
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys
from tests.format.independent_stages import partner_of, stages_of

STAGES = (
    *("jitter-0.4-0.3-0.2-0.1-p0.8", "jitter-2", "gray-0.5", "rotate-15", "blur-0.5-0.1-3"),
    *("solarize-0.5-100", "erase-0.9", "ra-n3-m9", "ra-n2-m30", "ta-wide"),
)


def planned(stages=STAGES):
    return Manifest(4, 2, 10, 2, "0" * 32, ViewLaw(seed=2**40 + 7, stages=stages), 2, 2)


def test_parameters_are_those_of_an_independent_reader():
    law = planned().law
    hashes = hash_keys([f"c/{number}.jpg" for number in range(12)])
    views = law(hashes[:, None], np.arange(20), 500, 375)
    for image, key_hash in enumerate(hashes.tolist()):
        for view in range(20):
            theirs = stages_of(law.to_json(), key_hash, view)
            for stage, expected in zip(views.stages, theirs, strict=True):
                codes, values = stage.operation[image, view], stage.values[image, view]
                ours = [(stage.names[c], v) for c, v in zip(codes, values, strict=True) if c]
                assert [name for name, _ in ours] == [name for name, _ in expected]
                for (_, value), (_, other) in zip(ours, expected, strict=True):
                    np.testing.assert_allclose(value, other, rtol=1e-14)


@pytest.mark.parametrize("name", ["mixup-0.2-r1", "cutmix-1-p0.7", "mix-0.8-1.5-p0.9-r3"])
def test_mixed_views_are_those_of_an_independent_reader(name):
    hashes = hash_keys([f"c/{number}.jpg" for number in range(12)])
    # The first nine are partners, as of a store that has grown by three.
    law = ViewLaw(seed=2**40 + 7, stages=("gray-0.5", name)).among(hashes[:9]).among(hashes)
    views, document = law(hashes[:, None], np.arange(20), 500, 375), law.to_json()
    for image, key_hash in enumerate(hashes.tolist()):
        for view in range(20):
            (expected,) = stages_of(document, key_hash, view)[1] or [("identity", (0, 0, 0))]
            mixed = views.stages[1]
            operation = mixed.names[mixed.operation[image, view, 0]]
            assert (operation, tuple(mixed.values[image, view, 0])) == expected
            partner = partner_of(document, hashes.tolist(), image, view)
            pair = views.partners.image[image, view], views.partners.view[image, view]
            assert pair == (partner or (-1, 0))


MIXED = Manifest(
    *(4, 2, 10, 2, "0" * 32),
    ViewLaw(stages=("mixup-0.8",)).among(hash_keys([f"{number}.jpg" for number in range(4)])),
    *(2, 2),
)


def test_a_manifest_of_mixed_views_reads_back():
    document = MIXED.to_json()
    assert document["format_version"] == VERSION_2
    assert Manifest.from_json(json.loads(json.dumps(document)), "here") == MIXED


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"partners": 5}, "make no store"),
        ({"partners": 1}, "make no store"),
        ({"partners": 4.0}, "make no store"),
        ({"partners_digest": ""}, "malformed at"),
        ({"partners_digest": 7}, "malformed at"),
        ({"run": 0}, "make no store"),
        ({"alpha": 0.01}, "make no store"),
        ({"alpha": "0" * 32}, "malformed at"),
    ],
)
def test_mixing_that_no_store_has(change, words):
    document = copy.deepcopy(MIXED.to_json())
    document["views"]["law"]["stages"][0].update(change)
    document["id"] = _id_of(document)
    with pytest.raises(CorruptError, match=words):
        Manifest.from_json(document, "here")


def test_a_stage_behind_the_mixing():
    document = copy.deepcopy(MIXED.to_json())
    document["views"]["law"]["stages"] *= 2
    document["id"] = _id_of(document)
    with pytest.raises(CorruptError, match="make no store"):
        Manifest.from_json(document, "here")


def test_a_manifest_that_does_not_say_among_which_images():
    with pytest.raises(UsageError, match="expected 2 to all of them"):
        planned(("mixup-0.8",))


def test_a_manifest_with_stages_is_of_version_2_and_reads_back():
    document = planned().to_json()
    assert document["format_version"] == VERSION_2
    assert Manifest.from_json(json.loads(json.dumps(document)), "here") == planned()
    plain = planned(()).to_json()
    assert plain["format_version"] == FORMAT_VERSION
    assert "stages" not in plain["views"]["law"]


def test_the_schema_knows_the_versions():
    schema = json.loads((Path(schemas.__file__).parent / "manifest.schema.json").read_text())
    assert schema["properties"]["format_version"]["enum"] == [
        FORMAT_VERSION,
        VERSION_2,
        DRAFT_VERSION,
    ]


@pytest.mark.parametrize(
    ("version", "change"),
    [
        (FORMAT_VERSION, lambda law: None),
        (VERSION_2, lambda law: law.pop("stages")),
        (DRAFT_VERSION, lambda law: law.pop("stages")),
        (VERSION_2, lambda law: law.update(stages=[])),
        (VERSION_2, lambda law: law.update(stages=law["stages"] * 2)),
        (VERSION_2, lambda law: law["stages"].append({"name": "gray"})),
        (VERSION_2, lambda law: law["stages"].append("gray-0.1")),
        (VERSION_2, lambda law: law["stages"][2].update(probability="0.5")),
        (VERSION_2, lambda law: law["stages"][2].update(version="1")),
    ],
)
def test_stages_that_the_schema_does_not_allow(version, change):
    document = planned().to_json() | {"format_version": version}
    change(document["views"]["law"])
    with pytest.raises(CorruptError, match="malformed"):
        Manifest.from_json(document, "here")


@pytest.mark.parametrize("stages", [(), STAGES])
def test_labels_in_units_are_of_version_2_and_of_no_draft(stages):
    manifest = dataclasses.replace(planned(stages), unit_images=3)
    document = manifest.to_json()
    assert document["format_version"] == VERSION_2
    assert Manifest.from_json(json.loads(json.dumps(document)), "here") == manifest
    for version in (FORMAT_VERSION, DRAFT_VERSION):
        other = document | {"format_version": version}
        with pytest.raises(CorruptError, match=r"malformed at (format_version|layout|views/law) "):
            Manifest.from_json(other | {"id": _id_of(other)}, "here")


def test_a_manifest_of_version_2_that_uses_nothing_of_it_is_told_in_a_few_words():
    document = planned(()).to_json() | {"format_version": VERSION_2}
    words = r"malformed at format_version \(2, which goes with another law or layout\)"
    with pytest.raises(CorruptError, match=words):
        Manifest.from_json(document, "here")


@pytest.mark.parametrize("version", [0, 3, 20000, 20002, 2.0, "2", True, None])
def test_other_versions_are_refused_in_a_sentence(version):
    document = planned().to_json() | {"format_version": version}
    with pytest.raises(FormatError, match="this labelstore reads 1 and 2: install the labelstore"):
        Manifest.from_json(document, "here")


def test_a_manifest_of_the_draft_stays_one_until_something_is_derived_from_it():
    document = planned().to_json() | {"format_version": DRAFT_VERSION}
    document["id"] = _id_of(document)
    read = Manifest.from_json(json.loads(json.dumps(document)), "here")
    assert (read.format_version, read.id) == (DRAFT_VERSION, document["id"])
    assert read.to_json() == document
    assert pickle.loads(pickle.dumps(read)) == read
    assert read != planned()
    assert differences(read, planned()) == differences(planned(), read) == []
    assert dataclasses.replace(read) == planned()


@pytest.mark.parametrize(
    "change",
    [
        {"probability": 1},
        {"probability": 1.5},
        {"probability": -0.1},
        {"more": 1.0},
    ],
)
def test_settings_that_no_stage_has(change):
    document = copy.deepcopy(planned().to_json())
    document["views"]["law"]["stages"][2].update(change)
    document["id"] = _id_of(document)
    with pytest.raises(CorruptError, match="make no store"):
        Manifest.from_json(document, "here")


@pytest.mark.parametrize("change", [{"name": "shuffle"}, {"version": 2}])
def test_a_stage_of_a_later_labelstore(change):
    document = copy.deepcopy(planned().to_json())
    document["views"]["law"]["stages"][2].update(change)
    document["id"] = _id_of(document)
    with pytest.raises(FormatError, match="install the labelstore release that made it"):
        Manifest.from_json(document, "here")


def _id_of(document):
    import xxhash

    body = {name: value for name, value in document.items() if name != "id"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return xxhash.xxh3_128_hexdigest(text.encode())
