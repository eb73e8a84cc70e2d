"""Parts of a store: what they hold, which views a rule takes, what is refused."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import labelstore
from labelstore.errors import IncompleteError, MismatchError, NotFoundError, UsageError
from labelstore.labels.ferkd import FerKD
from labelstore.operations.lifecycle.subset import ViewChoice, choose_views, subset
from labelstore.store.writer import StoreWriter
from tests.support import commands
from tests.support.stores import files_of, make_planned, once, planned, written

make_planned, written = once(make_planned), once(written)


def run(*arguments):
    return commands.run([sys.executable, "-m", "labelstore", *map(str, arguments)])


def test_surgical_views_are_those_that_pass_before_all_others(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr", images=20, views=40)
    rule = FerKD(low=0.3, middle=0.4, top=0.6)
    confidence = store.confidence()
    passes = (confidence > rule.low) & (confidence <= rule.top)
    assert 0 < passes.mean() < 1
    views = choose_views(store, np.arange(20), ViewChoice(12, "surgical", 3, rule))
    assert (np.diff(views.astype(int), axis=1) > 0).all()
    for row in range(20):
        taken = passes[row][views[row]].sum()
        assert taken == min(12, passes[row].sum())


def test_random_views_are_all_equally_likely_and_a_function_of_key_and_seed(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr", 400, 20, 1, 5)
    views = choose_views(store, np.arange(400), ViewChoice(5, seed=1))
    counts = np.bincount(views.reshape(-1), minlength=20)
    # 400 draws of 5 among 20: 100 each, with a standard deviation of 8.7.
    assert np.abs(counts - 100).max() < 45
    again = choose_views(store, np.array([7, 300]), ViewChoice(5, seed=1))
    assert np.array_equal(again, views[[7, 300]])
    assert not np.array_equal(choose_views(store, np.arange(400), ViewChoice(5, seed=2)), views)


def test_the_command_puts_whole_blocks_first(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr", 10, 4, 2, 9, block_images=4)
    # All but the second and the last: of three blocks the middle one is whole.
    rows = [0, 2, 3, 4, 5, 6, 7, 8]
    wanted = tmp_path / "keys.txt"
    wanted.write_text("".join(f"{store.keys[row]}\n" for row in rows))
    done = run(
        "subset", store.path, "-o", tmp_path / "b.zarr", "--images", f"@{wanted}", "--any-order"
    )
    assert done.returncode == 0, done.stderr
    order, views = np.array([4, 5, 6, 7, 0, 2, 3, 8]), np.arange(4)
    part = labelstore.open(tmp_path / "b.zarr")
    assert part.keys == tuple(store.keys[row] for row in order)
    assert part.targets.tolist() == store.targets[order].tolist()
    found, truth = part.read(np.arange(8)[:, None], views), store.read(order[:, None], views)
    np.testing.assert_array_equal(found.indices, truth.indices)
    np.testing.assert_array_equal(found.probs, truth.probs)


def test_other_views_keep_their_crops(tmp_path, suffix):
    store, _ = make_planned(tmp_path / f"a.{suffix}")
    report = subset(store, tmp_path / f"b.{suffix}", views=range(2, 5))
    assert report.explicit
    part = labelstore.open(report.path)
    assert part.law == "explicit"
    images = np.arange(20)[:, None]
    before, after = store.views(images, range(2, 5)), part.views(images, range(3))
    assert np.array_equal(before.box, after.box)
    assert np.array_equal(before.flip, after.flip)
    assert not subset(store, tmp_path / f"c.{suffix}", views=range(2)).explicit


def test_unreadable_images_stay_so(tmp_path):
    manifest, keys, targets, data, _ = planned()
    with StoreWriter(tmp_path / "a.zarr", manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            whole = data(block)
            readable = np.ones(len(whole.indices), dtype=bool)
            readable[1] = False
            object.__setattr__(whole, "readable", readable)
            writer.write_block(block, whole)
    store = labelstore.open(tmp_path / "a.zarr")
    part = labelstore.open(subset(store, tmp_path / "b.zarr", views=ViewChoice(2)).path)
    assert part.unreadable() == store.unreadable()
    assert all(part.check_block(block) == [] for block in range(part.manifest.num_blocks))


def test_an_interrupted_part_is_gone_on_with(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr")

    def stop(_images, _views):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subset(store, tmp_path / "b.zarr", views=ViewChoice(3, seed=5), tell=stop)
    assert 0 < len(labelstore.open(tmp_path / "b.zarr").missing_blocks()) < 3
    with pytest.raises(MismatchError):
        subset(store, tmp_path / "b.zarr", views=ViewChoice(3, seed=6))
    subset(store, tmp_path / "b.zarr", views=ViewChoice(3, seed=5))
    subset(store, tmp_path / "whole.zarr", views=ViewChoice(3, seed=5))
    assert files_of(tmp_path / "b.zarr") == files_of(tmp_path / "whole.zarr")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"images": ["nobody"]}, NotFoundError, "nobody"),
        ({"classes": [30]}, UsageError, "expected 0 to 29"),
        ({"images": [0], "classes": [5]}, UsageError, "no image"),
        ({"views": range(7)}, UsageError, "0:7"),
        ({"views": range(3, 3)}, UsageError, "3:3"),
        ({"views": ViewChoice(7)}, UsageError, "7 views"),
    ],
)
def test_what_is_no_part_is_refused(tmp_path, arguments, error, words):
    store, _ = make_planned(tmp_path / "a.zarr")
    with pytest.raises(error, match=words):
        subset(store, tmp_path / "b.zarr", **arguments)
    assert not (tmp_path / "b.zarr").exists()


def test_places_that_make_no_part_are_refused(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr")
    with pytest.raises(UsageError, match="the store that is read"):
        subset(store, tmp_path / "a.zarr")
    with pytest.raises(UsageError, match="another format"):
        subset(store, tmp_path / "b.parquet")
    partly, _ = make_planned(tmp_path / "c.zarr", blocks=[0])
    with pytest.raises(IncompleteError):
        subset(partly, tmp_path / "b.zarr")


def test_the_command_takes_classes_by_name_and_number(tmp_path):
    names = tuple(f"class {number}" for number in range(30))
    manifest_options = {"class_names": names}
    make_planned(tmp_path / "a.zarr", **manifest_options)
    done = run(
        "subset",
        tmp_path / "a.zarr",
        "-o",
        tmp_path / "b.zarr",
        "--class",
        "class 3",
        "--class",
        "5",
        "--per-image",
        "2",
        "--choose",
        "surgical",
        "--thresholds",
        "fit",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    part = labelstore.open(tmp_path / "b.zarr")
    assert (report["num_images"], report["num_views"]) == (2, 2)
    assert part.targets.tolist() == [3, 5]
    refused = run("subset", tmp_path / "a.zarr", "-o", tmp_path / "c.zarr", "--class", "clas 3")
    assert refused.returncode == 2
    assert "did you mean 'class 3'" in refused.stderr
