"""Labels in units: golden stores are read for ever, also from the specification alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, strategies as st

import labelstore
from labelstore.errors import CorruptError
from labelstore.format.arrays import image_arrays, prior_arrays, view_arrays
from labelstore.format.blocks import BlockCodes
from labelstore.format.manifest import EXPLICIT, Manifest, fingerprint
from labelstore.format.versions import VERSION_2
from labelstore.operations.verify import verify
from labelstore.store.writer import StoreWriter
from tests.format.independent_reader import read
from tests.format.independent_unit_writer import FLAT, object_of, skewed, table_of
from tests.format.independent_units import index_bytes, planes_of, unit_arrays
from tests.format.make_golden import GOLDEN_UNITS, STORES_UNITS, views_of
from tests.support.examples import examples

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


@examples(10)
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


def with_objects(name, path, make):
    """A golden store whose objects are made by ``make(block's arrays, manifest)``."""
    shutil.copytree(GOLDEN_UNITS / name, path)
    store = labelstore.open(path)
    for block in range(store.manifest.num_blocks):
        file = path / "labels" / "units" / "c" / str(block)
        views = store.block_codes(block)[2]
        file.write_bytes(make(views, store.manifest.to_json()))
    return labelstore.open(path)


def fitted(lengths):
    """Words of no bits where one value is coded; no words where none is."""

    def of(_plane, _code, values):
        if len(values) > 1:
            return lengths
        return [15 if value in values else 0 for value in range(256)]

    return of


@pytest.mark.parametrize("lengths", [FLAT, skewed(1), skewed(2)], ids=["flat", "skewed", "other"])
@pytest.mark.parametrize("name", KNOWN)
def test_objects_of_another_writer_are_read(name, lengths, tmp_path):
    for number, lengths_of in enumerate((lambda *_: lengths, fitted(lengths))):
        store = with_objects(
            name, tmp_path / str(number), lambda *block, of=lengths_of: object_of(*block, of)
        )
        topk = store.read(*VIEWS)
        assert topk.indices.tolist() == KNOWN[name]["classes"]
        assert topk.probs.tolist() == np.float32(KNOWN[name]["probs"]).tolist()
        assert verify(store).whole


def others(**lengths):
    """The flat code with other lengths of some values."""
    return [lengths.get(f"v{value}", 8) for value in range(256)]


NO_CODES = {
    "a word is missing": others(v7=0),
    "too many words": others(v7=7),
    "a word of 12 bits": others(v7=12, v8=12),
    "a word of 14 bits": others(v9=14),
    "the only one, and others": others(v7=15),
    "two that are the only one": [15, 15, *[0] * 254],
    "one value of one bit": [1, *[0] * 255],
    "one value of no length": [0] * 256,
}


@pytest.mark.parametrize("name", ["balanced.zarr", "fp16-700.zarr"])
@pytest.mark.parametrize("lengths", NO_CODES.values(), ids=NO_CODES)
def test_what_is_no_prefix_code_is_damage(name, lengths, tmp_path):
    """Also where all labels could be decoded without it."""

    def make(views, manifest):
        planes, _ = planes_of(manifest)
        codes = sum(count for _, _, count in planes)
        for damaged in (0, codes - 1):
            tables = [table_of(FLAT)] * codes
            tables[damaged] = table_of(lengths)
            yield object_of(views, manifest, lambda *_: FLAT, b"".join(tables))

    for damaged in range(2):
        store = with_objects(
            name, tmp_path / str(damaged) / name, lambda *block, n=damaged: list(make(*block))[n]
        )
        require_damage(store)


def require_damage(store):
    """An error; the largest probabilities, for which not all is decoded, may be right as well."""
    with pytest.raises(CorruptError):
        labelstore.open(store.path).read(*VIEWS)
    right = labelstore.open(GOLDEN_UNITS / store.path.name).confidence()
    with contextlib.suppress(CorruptError):
        np.testing.assert_array_equal(labelstore.open(store.path).confidence(), right)
    assert {problem.kind for problem in verify(store).problems} == {"corrupt"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda piece: piece + b"\0", id="a byte too many"),
        pytest.param(lambda piece: piece[:-1], id="a byte too few"),
        pytest.param(lambda piece: b"", id="none"),
        pytest.param(lambda piece: piece[::-1], id="others"),
    ],
)
def test_a_unit_that_does_not_end_with_its_bytes_is_damage(change, tmp_path):
    store = with_objects(
        "balanced.zarr",
        tmp_path / "balanced.zarr",
        lambda *block: object_of(*block, lambda *_: FLAT, change=change),
    )
    require_damage(store)


@pytest.mark.parametrize(
    "tables",
    [
        pytest.param(lambda tables: tables[:-1], id="a byte too few"),
        pytest.param(lambda tables: tables + b"\0", id="a byte too many"),
        pytest.param(lambda tables: b"", id="none"),
        pytest.param(lambda tables: b"\x81" + b"\x88" * 129 + tables[129:], id="258 values"),
    ],
)
def test_tables_that_do_not_end_with_their_bytes_are_damage(tables, tmp_path):
    def make(views, manifest):
        codes = sum(count for _, _, count in planes_of(manifest)[0])
        return object_of(views, manifest, lambda *_: FLAT, tables(table_of(FLAT) * codes))

    require_damage(with_objects("balanced.zarr", tmp_path / "balanced.zarr", make))


@pytest.mark.parametrize("place", [1, 2**20, 2**63, 2**64 - 1])
def test_units_that_do_not_lie_before_the_tables_are_damage(place, tmp_path):
    def make(views, manifest):
        data = object_of(views, manifest, lambda *_: FLAT)
        row = len(data) - index_bytes(manifest)
        return data[:row] + place.to_bytes(8, "little") + data[row + 8 :]

    require_damage(with_objects("balanced.zarr", tmp_path / "balanced.zarr", make))


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**32 - 1])
def test_another_length_of_the_tables_is_damage(length, tmp_path):
    def make(views, manifest):
        data = object_of(views, manifest, lambda *_: FLAT)
        end = len(data) - index_bytes(manifest)
        return data[: end - 4] + length.to_bytes(4, "little") + data[end:]

    require_damage(with_objects("balanced.zarr", tmp_path / "balanced.zarr", make))
