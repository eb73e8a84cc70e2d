"""Golden stores of version 2: as long as it is a draft, of the present one, and then for ever."""

from __future__ import annotations

import json

import numpy as np
import pytest

import labelstore
from labelstore.format.manifest import DRAFT_VERSION
from labelstore.views.stages.names import STAGES
from labelstore.views.stages.parameters import OPERATIONS
from tests.format.independent_reader import read
from tests.format.independent_stages import partner_of, stages_of
from tests.format.make_golden import GOLDEN_2, views_of

KNOWN = json.loads((GOLDEN_2 / "known.json").read_text())
VERSION = KNOWN.pop("format_version")


def test_they_are_of_the_present_draft():
    assert VERSION == DRAFT_VERSION, "make them anew: python -m tests.format.make_golden"
    assert sorted(path.name for path in GOLDEN_2.iterdir() if path.is_dir()) == sorted(KNOWN)


def test_every_kind_of_stage_is_in_one():
    laws = [labelstore.open(GOLDEN_2 / name).law for name in KNOWN]
    assert {stage.NAME for law in laws for stage in law.stages} == set(STAGES)
    done = [
        step
        for known in KNOWN.values()
        for row in known["views"]
        for view in row
        for stage in view["stages"]
        for step in stage
    ]
    assert {name for name, _ in done} >= set(OPERATIONS) - {"identity"} - RARE


RARE = {"shear-x", "shear-y", "translate-x", "translate-y", "posterize", "autocontrast", "equalize"}
"""Operations that policies choose: a few views need not have them all."""


@pytest.mark.parametrize("name", KNOWN)
def test_labels_and_views_never_change(name):
    store, known = labelstore.open(GOLDEN_2 / name), KNOWN[name]
    assert store.manifest.to_json()["format_version"] == VERSION
    topk = store.read(np.arange(5)[:, None], np.arange(3))
    assert topk.indices.tolist() == known["classes"]
    assert topk.probs.tolist() == np.float32(known["probs"]).tolist()
    assert views_of(store) == known["views"]


@pytest.mark.parametrize("name", KNOWN)
def test_the_specification_is_enough_to_read_them(name):
    store, contents, known = labelstore.open(GOLDEN_2 / name), read(GOLDEN_2 / name), KNOWN[name]
    np.testing.assert_array_equal(contents.probs, np.float32(known["probs"]))
    np.testing.assert_array_equal(contents.boxes, store.views(np.arange(5)[:, None], range(3)).box)
    law, hashes = store.law.to_json(), store.key_hashes.tolist()
    for image, rows in enumerate(known["views"]):
        for view, told in enumerate(rows):
            theirs = stages_of(law, hashes[image], view)
            for ours, others in zip(told["stages"], theirs, strict=True):
                assert [step[0] for step in ours] == [step[0] for step in others]
                for (_, values), (_, expected) in zip(ours, others, strict=True):
                    np.testing.assert_allclose(values[: len(expected)], expected, rtol=1e-13)
            mixes = "partners" in law["stages"][-1]
            partner = partner_of(law, hashes, image, view) if mixes else None
            held = partner and [store.keys[partner[0]], partner[1]]
            assert held == told["partner"]
