"""Golden stores of version 2, and of the draft that it was: read for ever."""

from __future__ import annotations

import json

import numpy as np
import pytest

import labelstore
from labelstore.format.versions import DRAFT_VERSION, VERSION_2
from labelstore.operations.lifecycle.copy import copy
from labelstore.operations.recode import recode
from labelstore.operations.verify import verify
from labelstore.views.stages.names import STAGES
from labelstore.views.stages.parameters import OPERATIONS
from tests.format.independent_reader import read
from tests.format.independent_stages import partner_of, stages_of
from tests.format.make_golden import GOLDEN_2, GOLDEN_DRAFT, views_of

KNOWN = json.loads((GOLDEN_2 / "known.json").read_text())
DRAFTS = sorted(path.name for path in GOLDEN_DRAFT.iterdir())
STORES = [*(GOLDEN_2 / name for name in KNOWN), *(GOLDEN_DRAFT / name for name in DRAFTS)]
each_store = pytest.mark.parametrize(
    "path", STORES, ids=lambda path: f"{path.parent.name}-{path.name}"
)


def test_every_golden_store_is_known():
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


@each_store
def test_labels_and_views_never_change(path):
    store, known = labelstore.open(path), KNOWN[path.name]
    version = DRAFT_VERSION if path.parent == GOLDEN_DRAFT else VERSION_2
    assert store.manifest.to_json()["format_version"] == version
    topk = store.read(np.arange(5)[:, None], np.arange(3))
    assert topk.indices.tolist() == known["classes"]
    assert topk.probs.tolist() == np.float32(known["probs"]).tolist()
    assert views_of(store) == known["views"]


@each_store
def test_the_specification_is_enough_to_read_them(path):
    store, contents, known = labelstore.open(path), read(path), KNOWN[path.name]
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


@pytest.mark.parametrize("name", DRAFTS)
def test_recode_makes_version_2_of_a_draft(name, tmp_path):
    recode(GOLDEN_DRAFT / name, tmp_path / name)
    store, golden = labelstore.open(tmp_path / name), labelstore.open(GOLDEN_2 / name)
    assert store.manifest == golden.manifest
    np.testing.assert_array_equal(store.reader.all_commits, golden.reader.all_commits)
    assert verify(store).whole


@pytest.mark.parametrize("name", DRAFTS)
def test_a_copy_of_a_draft_is_the_same_store(name, tmp_path):
    copy(GOLDEN_DRAFT / name, tmp_path / name)
    store, golden = labelstore.open(tmp_path / name), labelstore.open(GOLDEN_DRAFT / name)
    assert store.manifest == golden.manifest
    assert verify(store).whole
