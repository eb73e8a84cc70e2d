"""Labels in units: golden stores are read for ever, also from the specification alone."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import labelstore
from labelstore.format.arrays import image_arrays, prior_arrays, view_arrays
from labelstore.format.blocks import BlockCodes
from labelstore.format.manifest import EXPLICIT, Manifest, fingerprint
from labelstore.format.versions import VERSION_2
from labelstore.store.writer import StoreWriter
from tests.format.independent_reader import read
from tests.format.independent_units import unit_arrays
from tests.format.make_golden import GOLDEN_UNITS, STORES_UNITS, views_of

KNOWN = json.loads((GOLDEN_UNITS / "known.json").read_text())
VIEWS = np.arange(5)[:, None], np.arange(3)


def test_every_golden_store_is_known():
    assert sorted(path.name for path in GOLDEN_UNITS.iterdir() if path.is_dir()) == sorted(KNOWN)
    assert set(KNOWN) == set(STORES_UNITS)


@pytest.mark.parametrize("name", KNOWN)
def test_labels_never_change(name):
    store, known = labelstore.open(GOLDEN_UNITS / name), KNOWN[name]
    assert store.manifest.to_json()["format_version"] == VERSION_2
    assert store.manifest.unit_images == STORES_UNITS[name][2]
    topk = store.read(*VIEWS)
    assert topk.indices.tolist() == known["classes"]
    assert topk.probs.tolist() == np.float32(known["probs"]).tolist()
    assert "views" not in known or views_of(store) == known["views"]


@pytest.mark.parametrize("name", KNOWN)
def test_the_specification_is_enough_to_read_them(name):
    store, contents, known = (
        labelstore.open(GOLDEN_UNITS / name),
        read(GOLDEN_UNITS / name),
        KNOWN[name],
    )
    np.testing.assert_array_equal(contents.probs, np.float32(known["probs"]))
    stored = contents.classes >= 0
    assert np.array_equal(contents.classes[stored], np.array(known["classes"])[stored])
    assert stored[..., 0].all()
    views = store.views(*VIEWS)
    np.testing.assert_array_equal(views.box, contents.boxes)
    np.testing.assert_array_equal(views.flip, contents.flips)


@st.composite
def planned(draw):
    """A manifest of labels in units, with seldom or never met layouts among them."""
    classes = draw(st.sampled_from([2, 12, 255, 256, 257, 700, 5000, 65530, 65536, 70000]))
    return Manifest(
        num_images=draw(st.integers(1, 9)),
        num_views=draw(st.integers(1, 5)),
        num_classes=classes,
        k=draw(st.integers(1, min(classes, 3))),
        fingerprint="0" * 32,
        law=draw(st.sampled_from([None, EXPLICIT])),
        block_images=draw(st.integers(1, 12)),
        group_views=draw(st.integers(1, 6)),
        quantizer=draw(st.sampled_from(["ratio16", "ratio32", "u8", "u16", "fp16", "fp32"])),
        prior_size=draw(st.sampled_from([0, min(classes, 3)])),
        unit_images=draw(st.sampled_from([1, 2, 3, 16])),
    )


def any_codes(spec, count, rng):
    """(count, ...) codes of an array: all alike, few values, any bytes, or fill among them."""
    shape = (count, *spec.shape[1:])
    size = spec.dtype.itemsize * int(np.prod(shape, dtype=int))
    most = rng.choice([1, 3, 40, 256])
    values = rng.integers(0, most, size, dtype=np.uint8).view(spec.dtype).reshape(shape)
    return np.where(rng.random(shape) < rng.choice([0, 0.3]), spec.dtype.type(spec.fill), values)


@settings(max_examples=25, deadline=None)
@given(planned=planned(), seed=st.integers(0, 2**32 - 1))
def test_the_specification_is_enough_for_any_codes(tmp_path_factory, planned, seed):
    """Codes need not be labels: what a unit holds is bytes."""
    rng, path = np.random.default_rng(seed), tmp_path_factory.mktemp("units") / "s.zarr"
    keys, targets = (
        [f"{n}.jpg" for n in range(planned.num_images)],
        np.zeros(planned.num_images, "<i4"),
    )
    manifest = dataclasses.replace(planned, fingerprint=fingerprint(keys, targets))
    whole = {spec.name: any_codes(spec, manifest.num_images, rng) for spec in view_arrays(manifest)}
    rest = (*image_arrays(manifest), *prior_arrays(manifest))
    with StoreWriter(path, manifest, keys, targets) as writer:
        for block in range(manifest.num_blocks):
            rows = manifest.block_slice(block)
            count = rows.stop - rows.start
            codes = {spec.name: np.zeros((count, *spec.shape[1:]), spec.dtype) for spec in rest}
            lists = {name: codes.pop(name) for name in list(codes) if "prior" in name}
            views = {name: array[rows] for name, array in whole.items()}
            writer.write_codes(block, BlockCodes(codes, lists, views))
    arrays, _ = unit_arrays(path, manifest.to_json())
    assert list(arrays) == list(whole)
    for name, array in arrays.items():
        assert array.tobytes() == whole[name].tobytes()
