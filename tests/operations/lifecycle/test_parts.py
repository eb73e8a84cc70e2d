"""Parts that one teacher made apart become one store; what are no parts is refused by name."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

import labelstore
from labelstore.errors import IncompleteError, MismatchError, UsageError
from labelstore.operations.lifecycle.parts import join_parts
from labelstore.operations.merge import merge
from labelstore.store.writer import StoreWriter
from tests.support import commands
from tests.support.stores import files_of, make_planned, once, planned, written
from tests.support.training import TEACHER

make_planned, written = once(make_planned), once(written)


def run(*arguments):
    return commands.run([sys.executable, "-m", "labelstore", *map(str, arguments)])


def half(path, number, **options):
    keys = [f"{number}/{index}.jpg" for index in range(10)]
    return written(path, 10, seed=number, keys=keys, **options)[0]


def test_blocks_of_one_store_that_were_made_apart(tmp_path, suffix):
    whole, _ = make_planned(tmp_path / f"whole.{suffix}")
    first, _ = make_planned(tmp_path / f"a.{suffix}", blocks=[0])
    second, _ = make_planned(tmp_path / f"b.{suffix}", blocks=[0, 2])
    report = join_parts([first, second], tmp_path / f"c.{suffix}")
    assert report.blocks_missing == 1
    third, _ = make_planned(tmp_path / f"d.{suffix}", blocks=[1])
    assert join_parts([first, second, third], tmp_path / f"c.{suffix}").blocks_missing == 0
    assert files_of(tmp_path / f"c.{suffix}") == files_of(whole.path)


def test_a_block_of_other_photos_is_refused(tmp_path):
    """Two machines that made one store, with other files under the same keys."""
    first, _ = make_planned(tmp_path / "a.zarr", blocks=[0, 1])
    manifest, keys, targets, data, _ = planned()
    with StoreWriter(tmp_path / "b.zarr", manifest, keys, targets) as writer:
        digests = data(1).digests.copy()
        digests[3] += 100
        writer.write_block(1, dataclasses.replace(data(1), digests=digests))
        writer.write_block(2, data(2))
    with pytest.raises(MismatchError, match=f"block 1 .*{keys[8]}.*of other photos") as caught:
        join_parts([first, tmp_path / "b.zarr"], tmp_path / "c.zarr")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c.zarr").exists()
    third, _ = make_planned(tmp_path / "d.zarr", blocks=[1, 2])
    assert join_parts([first, third], tmp_path / "c.zarr").blocks_missing == 0


def test_the_command_says_what_is_missing(tmp_path):
    for name, block in (("a", 0), ("b", 1)):
        make_planned(tmp_path / f"{name}.zarr", blocks=[block])
    done = run(
        "merge", tmp_path / "a.zarr", tmp_path / "b.zarr", "--parts", "-o", tmp_path / "c.zarr"
    )
    assert done.returncode == 1
    assert "1 block stood in no part" in done.stderr
    refused = run(
        "merge",
        tmp_path / "a.zarr",
        tmp_path / "b.zarr",
        "--parts",
        "--weights",
        "1,2",
        "-o",
        tmp_path / "d.zarr",
    )
    assert refused.returncode == 2
    assert "--weights and --parts" in refused.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantizer": "u16"}, "quantizer"),
        ({"views": 5}, "num views"),
        ({"temperature": 2.0}, "temperature"),
        ({"law": labelstore.views.law.ViewLaw(seed=2)}, "law"),
        ({"teacher": TEACHER}, "different teachers"),
    ],
)
def test_stores_that_are_no_parts_are_refused(tmp_path, options, words):
    first, second = half(tmp_path / "a.zarr", 0), half(tmp_path / "b.zarr", 1, **options)
    with pytest.raises(MismatchError, match=words):
        join_parts([first, second], tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


def test_the_command_puts_whole_blocks_first(tmp_path):
    parts = {}
    for name, images in (("a", 6), ("b", 9)):
        keys = [f"{name}/{number}" for number in range(images)]
        path = tmp_path / f"{name}.zarr"
        parts[name] = written(path, images, 3, 2, 9, keys=keys, block_images=4, seed=images)[0]
    paths = [part.path for part in parts.values()]
    done = run("merge", *paths, "-o", tmp_path / "c.zarr", "--parts", "--any-order")
    assert done.returncode == 0, done.stderr
    joined, (a, b) = labelstore.open(tmp_path / "c.zarr"), parts.values()
    assert joined.keys == (*a.keys[:4], *b.keys[:8], *a.keys[4:], *b.keys[8:])
    for part in (a, b):
        images = np.arange(part.num_images)[:, None]
        here = joined.positions(list(part.keys))
        found, truth = joined.read(here[:, None], np.arange(3)), part.read(images, np.arange(3))
        np.testing.assert_array_equal(joined.targets[here], part.targets)
        np.testing.assert_array_equal(found.indices, truth.indices)
        np.testing.assert_array_equal(found.probs, truth.probs)


def test_a_teacher_is_known_by_its_weights_not_by_where_it_ran(tmp_path):
    first = half(tmp_path / "a.zarr", 0, teacher=TEACHER)
    elsewhere = half(tmp_path / "b.zarr", 1, teacher=TEACHER | {"device": "cuda", "spec": "b"})
    joined = labelstore.open(join_parts([first, elsewhere], tmp_path / "c.zarr").path)
    assert joined.manifest.teacher == TEACHER
    other = half(tmp_path / "d.zarr", 2, teacher=TEACHER | {"weights_digest": "1" * 32})
    with pytest.raises(MismatchError, match="weights_digest differs"):
        join_parts([first, other], tmp_path / "e.zarr")


@pytest.mark.parametrize(
    ("teacher", "how", "words"),
    [
        (TEACHER | {"weights_digest": "1" * 32}, {}, "different teachers .weights_digest"),
        (TEACHER, {"weights": [3.0, 1.0]}, "other weights"),
        (TEACHER, {"tail": "uniform"}, "other weights, tails"),
        (TEACHER, {"ferkd": labelstore.FerKD(low=0.0, middle=0.5)}, "rules of FerKD"),
        (TEACHER, {}, None),
    ],
)
def test_means_are_parts_where_they_are_of_the_same_teachers(tmp_path, teacher, how, words):
    means = []
    for number, (other, options) in enumerate(((TEACHER, {}), (teacher, how))):
        members = [
            half(tmp_path / f"{number}{name}.zarr", number, teacher=of)
            for name, of in (("a", TEACHER | {"mean": [0.1] * 3}), ("b", other))
        ]
        merge(members, tmp_path / f"{number}.zarr", **options)
        means.append(tmp_path / f"{number}.zarr")
    if words is None:
        joined = labelstore.open(join_parts(means, tmp_path / "c.zarr").path)
        rest = half(tmp_path / "2a.zarr", 2, teacher=TEACHER | {"mean": [0.1] * 3})
        merge([rest, half(tmp_path / "2b.zarr", 2, teacher=TEACHER)], tmp_path / "2.zarr")
        whole = labelstore.open(join_parts([joined, tmp_path / "2.zarr"], tmp_path / "d.zarr").path)
        assert whole.num_images == 3 * rest.num_images
        return
    with pytest.raises(MismatchError, match=words):
        join_parts(means, tmp_path / "c.zarr")


def test_an_image_that_two_have_is_refused_by_name(tmp_path):
    first, second = half(tmp_path / "a.zarr", 0), half(tmp_path / "b.zarr", 0, block_images=4)
    with pytest.raises(MismatchError, match=r"'0/0\.jpg'"):
        join_parts([first, second], tmp_path / "c.zarr")


def produced(path, number, producer):
    manifest, keys, targets, data, _ = planned()
    keys = [f"{number}-{key}" for key in keys]
    manifest = dataclasses.replace(
        manifest,
        fingerprint=labelstore.format.manifest.fingerprint(keys, targets),
        producer=producer,
    )
    with StoreWriter(path, manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            writer.write_block(block, data(block))
    return labelstore.open(path)


def test_labels_that_were_given_are_parts_where_their_teachers_have_one_name(tmp_path):
    first, other = (
        produced(tmp_path / f"{name}.zarr", number, {"teacher": name})
        for number, name in enumerate(("resnet", "vit"))
    )
    same = produced(tmp_path / "same.zarr", 2, {"teacher": "resnet"})
    assert join_parts([first, same], tmp_path / "c.zarr").num_images == 40
    with pytest.raises(MismatchError, match="different teachers"):
        join_parts([first, other], tmp_path / "e.zarr", allow_version_drift=True)


def test_other_libraries_are_let_in_when_asked(tmp_path):
    stores = [
        produced(tmp_path / f"{number}.zarr", number, {"pillow": version})
        for number, version in enumerate(("10.0", "11.0"))
    ]
    with pytest.raises(MismatchError, match=r"pillow 11\.0 and 10\.0"):
        join_parts(stores, tmp_path / "c.zarr")
    joined = labelstore.open(join_parts(stores, tmp_path / "c.zarr", allow_version_drift=True).path)
    assert joined.num_images == 40
    view = np.arange(6)
    assert np.array_equal(joined.read(25, view).probs, stores[1].read(5, view).probs)


def test_unfinished_parts_of_their_own_and_lone_ones_are_refused(tmp_path):
    store = half(tmp_path / "a.zarr", 0)
    partly, _ = make_planned(tmp_path / "b.zarr", blocks=[0])
    with pytest.raises(IncompleteError):
        join_parts([store, partly], tmp_path / "c.zarr")
    with pytest.raises(UsageError, match="two or more"):
        join_parts([store], tmp_path / "c.zarr")
    with pytest.raises(UsageError, match="a part that is read"):
        join_parts([store, half(tmp_path / "d.zarr", 1)], tmp_path / "d.zarr")
