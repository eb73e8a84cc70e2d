"""Golden stores: what was written once is read for ever, also from the specification alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import labelstore
from labelstore.format.blocks import BlockCodes
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys
from tests.format.independent_reader import philox, read, recovered, view_of

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
def test_version_1_is_written_as_it_was(name, tmp_path):
    """Encoded anew, with the digests over names, places and codes; the id is that of the text."""
    golden = labelstore.open(GOLDEN / name)
    with StoreWriter(tmp_path / name, golden.manifest, golden.keys, golden.targets) as writer:
        for block in range(golden.manifest.num_blocks):
            writer.write_codes(block, BlockCodes(*golden.block_codes(block)))
    store = labelstore.open(tmp_path / name)
    assert store.manifest.to_json() == golden.manifest.to_json()
    np.testing.assert_array_equal(store.reader.all_commits, golden.reader.all_commits)


@pytest.fixture(scope="module", params=KNOWN)
def both(request):
    """A golden store as the library and as the specification read it."""
    path = GOLDEN / request.param
    return labelstore.open(path), read(path), KNOWN[request.param]


def test_the_specification_is_enough_to_read_them(both):
    _, contents, known = both
    np.testing.assert_array_equal(contents.probs, np.float32(known["probs"]))
    stored = contents.classes >= 0
    assert np.array_equal(contents.classes[stored], np.array(known["classes"])[stored])
    assert stored[..., 0].all()


def test_the_specification_is_enough_to_recover_labels(both):
    store, contents, _ = both
    topk = store.read(np.arange(5)[:, None], np.arange(3))
    for tail in ("uniform", "none", *(["image"] if contents.lists else [])):
        dense = topk.recover(tail).dense()
        for place in np.ndindex(5, 3):
            expected = recovered(contents, *place, tail)
            assert expected.sum() == pytest.approx(1, abs=1e-12)
            np.testing.assert_allclose(dense[place], expected, rtol=2e-6, atol=1e-7)


def test_the_specification_is_enough_to_replay_views(both):
    store, contents, _ = both
    views = store.views(np.arange(5)[:, None], np.arange(3))
    np.testing.assert_array_equal(views.box, contents.boxes)
    np.testing.assert_array_equal(views.flip, contents.flips)


def test_the_law_over_many_sizes():
    """Long, narrow and tiny images, too, which the golden stores have none of."""
    law = ViewLaw(seed=2**40 + 7, scale=(0.2, 0.9), ratio=(0.6, 1.9), flip=0.3)
    sizes = [(500, 375), (1, 1), (3, 2000), (2000, 3), (1, 40), (17, 13), (4096, 4095)]
    keys = [f"n/{number}é.jpg" for number in range(len(sizes))]
    width, height = np.array(sizes).T
    found = law(hash_keys(keys)[:, None], np.arange(60), width[:, None], height[:, None])
    for image, (key, size) in enumerate(zip(keys, sizes, strict=True)):
        for view in range(60):
            box, flip = view_of(law.to_json(), key, view, *size)
            assert (tuple(found.box[image, view]), found.flip[image, view]) == (box, flip)


def test_philox_is_random123s():
    ones = 2**32 - 1
    assert philox((0, 0), (0,) * 4) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox((ones,) * 2, (ones,) * 4) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
