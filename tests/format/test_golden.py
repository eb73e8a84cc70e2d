"""Golden stores: what was written once is read for ever, also from the specification alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from independent_reader import read

import labelstore

GOLDEN = Path(__file__).parent / "golden" / "v1"
KNOWN = json.loads((GOLDEN / "known.json").read_text())


def test_every_golden_store_is_known():
    assert sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()) == sorted(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_labels_never_change(name):
    store = labelstore.open(GOLDEN / name)
    assert store.manifest.to_json()["format_version"] == 1
    topk = store.read(np.arange(5)[:, None], np.arange(3))
    assert topk.indices.tolist() == KNOWN[name]["classes"]
    assert topk.probs.tolist() == np.float32(KNOWN[name]["probs"]).tolist()


@pytest.mark.parametrize("name", KNOWN)
def test_the_specification_is_enough_to_read_them(name):
    classes, probs = read(GOLDEN / name)
    known = KNOWN[name]
    np.testing.assert_array_equal(probs, np.float32(known["probs"]))
    stored = classes >= 0
    assert np.array_equal(classes[stored], np.array(known["classes"])[stored])
    assert stored[..., 0].all()
