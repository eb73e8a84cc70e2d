"""Ensembles: aligned by key, refused when they do not fit."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

import labelstore
from labelstore.errors import MismatchError, NotFoundError, UsageError
from labelstore.operations.merge import merge
from labelstore.store.writer import StoreWriter
from labelstore.training.decisions import decisions, view_mask
from labelstore.training.recovery import Recovery
from labelstore.views.law import ViewLaw
from tests.support.stores import make_planned, once, planned, written

make_planned, written = once(make_planned), once(written)

NAMES = [f"n{number}" for number in range(30)]


def test_the_mean_of_members_in_another_order(tmp_path):
    first, _, _ = written(tmp_path / "a.zarr", k=3)
    keys = list(first.keys)
    order = np.random.default_rng(0).permutation(20)
    second, _, _ = written(
        tmp_path / "b.zarr",
        k=5,
        seed=1,
        quantizer="fp32",
        keys=[keys[row] for row in order],
        widths=np.arange(20)[order] + 40,
        heights=np.arange(20)[order] + 30,
        targets=np.arange(20)[order],
        block_images=5,
    )
    both = labelstore.ensemble([first, second], weights=[1, 3])
    images, views = np.arange(20)[:, None], np.arange(6)
    place = np.argsort(order)
    expected = 0.25 * first.read(images, views).recover().dense()
    expected += 0.75 * second.read(place[:, None], views).recover().dense()
    got = both.read(images, views)
    np.testing.assert_allclose(got.recover().dense(), expected, atol=1e-6)
    assert [member.k for member in got.members] == [3, 5]
    assert np.array_equal(both.targets, first.targets)
    assert both.complete
    assert both.labelled().all()
    by_key = both.read([keys[7]], 2).recover().dense()
    np.testing.assert_allclose(by_key, expected[7, 2][None], atol=1e-6)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"law": ViewLaw(seed=2)}, "different views"),
        ({"classes": 31}, "30 and 31 classes"),
        ({"images": 19}, "20 and 19 images"),
        ({"widths": np.arange(20) + 41}, "other sizes, 20 in all, first 'c/000.jpg'"),
        ({"targets": np.zeros(20, dtype=int)}, "ground truth of 19 images"),
        ({"class_names": [f"x{number}" for number in range(30)]}, "name their classes"),
    ],
)
def test_stores_that_do_not_fit_are_refused(tmp_path, other, words):
    first, _, _ = written(tmp_path / "a.zarr", class_names=NAMES)
    second, _, _ = written(tmp_path / "b.zarr", seed=1, **other)
    with pytest.raises(MismatchError, match=words):
        labelstore.ensemble([first, second])


def test_other_keys_and_other_boxes_are_refused(tmp_path):
    first, _, _ = written(tmp_path / "a.zarr")
    second, _, _ = written(tmp_path / "b.zarr", keys=[f"d/{n}.jpg" for n in range(20)])
    with pytest.raises(MismatchError, match=r"only .*a\.zarr has 'c/000\.jpg'"):
        labelstore.ensemble([first, second])
    boxes, flips = np.ones((20, 6, 4), dtype=int), np.zeros((20, 6), dtype=bool)
    one, _, _ = written(tmp_path / "c.zarr", law=None, boxes=boxes, flips=flips)
    same, _, _ = written(tmp_path / "d.zarr", law=None, boxes=boxes, flips=flips, seed=1)
    assert labelstore.ensemble([one, same]).num_views == 6
    boxes[3, 2, 0] = 2
    moved, _, _ = written(tmp_path / "e.zarr", law=None, boxes=boxes, flips=flips)
    with pytest.raises(MismatchError, match=r"different crops of 'c/003\.jpg'"):
        labelstore.ensemble([one, moved])
    bare = [written(tmp_path / f"{name}.zarr", law=None)[0] for name in "fg"]
    with pytest.raises(MismatchError, match="cannot be aligned"):
        labelstore.ensemble(bare)


def explicit_without(path, unreadable, blocks=None):
    """The planned labels with stored boxes, but for images that could not be read."""
    manifest, keys, targets, data, _ = planned()
    manifest = dataclasses.replace(manifest, law="explicit")
    shape = manifest.num_images, manifest.num_views
    boxes = np.arange(4 * np.prod(shape)).reshape(*shape, 4)
    readable = ~np.isin(np.arange(manifest.num_images), unreadable)
    with StoreWriter(path, manifest, keys, targets) as writer:
        for block in writer.pending_blocks() if blocks is None else blocks:
            rows = manifest.block_slice(block)
            views = {"boxes": boxes[rows], "flips": boxes[rows][..., 0] % 8 == 0}
            writer.write_block(
                block, dataclasses.replace(data(block), readable=readable[rows], **views)
            )
    return labelstore.open(path)


def test_images_that_a_store_has_no_boxes_of_are_not_compared(tmp_path):
    whole = explicit_without(tmp_path / "a.zarr", [])
    lacking = explicit_without(tmp_path / "b.zarr", [2, 9])
    for members in ([whole, lacking], [lacking, whole]):
        both = labelstore.ensemble(members)
        assert np.flatnonzero(~both.labelled()).tolist() == [2, 9]
    begun = explicit_without(tmp_path / "c.zarr", [], blocks=[1])
    assert labelstore.ensemble([whole, begun]).missing_blocks() == [0, 2]


def test_weights(tmp_path):
    store, _, _ = written(tmp_path / "a.zarr")
    for weights in ([1.0], [-1, 2], [0, 0]):
        with pytest.raises(UsageError, match="weights"):
            labelstore.ensemble([store, store], weights)
    with pytest.raises(UsageError, match="no stores"):
        labelstore.ensemble([])
    with pytest.raises(UsageError, match="images is 'union', expected one of strict, intersection"):
        labelstore.ensemble([store], images="union")


def part(path, rows, seed, targets=None, **options):
    """A store of some of twenty images, in a given order."""
    rows = np.asarray(rows)
    return written(
        path,
        images=len(rows),
        seed=seed,
        keys=[f"c/{row:03}.jpg" for row in rows],
        widths=rows + 40,
        heights=rows + 30,
        targets=rows if targets is None else targets,
        **options,
    )[0]


@pytest.fixture
def parts(tmp_path, suffix):
    """Three teachers' stores of other images in other orders; nine images are in all."""
    rng = np.random.default_rng(3)
    rows = [rng.permutation(20)[:count] for count in (17, 15, 14)]
    stores = [
        part(tmp_path / f"{name}.{suffix}", chosen, seed, views=views, block_images=size)
        for name, chosen, seed, views, size in zip(
            "abc", rows, (0, 1, 2), (7, 6, 9), (4, 8, 5), strict=True
        )
    ]
    return stores, [row for row in rows[0].tolist() if row in rows[1] and row in rows[2]]


def test_strict_names_the_first_key_that_only_one_has(tmp_path):
    whole = part(tmp_path / "a.zarr", range(20), 0)
    less = part(tmp_path / "b.zarr", [row for row in range(20) if row not in (5, 9)], 1)
    with pytest.raises(MismatchError, match=r"20 and 18 images.*only .*a\.zarr has 'c/005\.jpg'"):
        labelstore.ensemble([whole, less])
    with pytest.raises(MismatchError, match=r"18 and 20 images.*only .*a\.zarr has 'c/005\.jpg'"):
        labelstore.ensemble([less, whole], images="strict")


def test_shared_images_are_read_from_every_member(parts):
    stores, common = parts
    both = labelstore.ensemble(stores, [1, 2, 5], images="intersection")
    keys = [f"c/{row:03}.jpg" for row in common]
    assert 3 < len(common) < 14
    assert list(both.keys) == keys
    assert (both.num_images, both.num_views) == (len(common), 6)
    assert both.targets.tolist() == common
    assert both.complete
    assert both.labelled().tolist() == [True] * len(common)
    width, height = both.sizes(np.arange(len(common)))
    assert (width.tolist(), height.tolist()) == (
        [row + 40 for row in common],
        [row + 30 for row in common],
    )
    assert both.index_of(list(reversed(keys))).tolist() == list(range(len(common)))[::-1]
    assert both.positions([[keys[2]], [keys[0]]]).tolist() == [[2], [0]]
    numbers, views = np.arange(len(common))[:, None], np.arange(6)
    expected = sum(
        weight * store.read(np.array(keys)[:, None], views).recover().dense()
        for weight, store in zip((1 / 8, 2 / 8, 5 / 8), stores, strict=True)
    )
    np.testing.assert_allclose(both.read(numbers, views).recover().dense(), expected, atol=1e-6)
    geometry = both.views(numbers, views)
    for store in stores:
        theirs = store.views(np.array(keys)[:, None], views)
        assert np.array_equal(geometry.box, theirs.box)
        assert np.array_equal(geometry.flip, theirs.flip)
    assert both.key_hashes.tolist() == stores[1].key_hashes[stores[1].index_of(keys)].tolist()
    again = pickle.loads(pickle.dumps(both))
    assert again.keys == both.keys
    np.testing.assert_allclose(again.read(0, 3).recover().dense(), expected[0, 3], atol=1e-6)


def test_what_is_not_shared_is_not_there(parts):
    stores, common = parts
    both = labelstore.ensemble(stores, images="intersection")
    alone = next(key for key in stores[0].keys if key not in both.keys)
    with pytest.raises(NotFoundError, match="not of every member"):
        both.read([alone], 0)
    with pytest.raises(NotFoundError, match="no image with key 'z'"):
        both.index_of(["z"])
    for image in (len(common), -1):
        with pytest.raises(NotFoundError, match=f"image {image} was asked for"):
            both.read(image, 0)
        with pytest.raises(NotFoundError, match=f"image {image} was asked for"):
            both.sizes([image])
    for call in (both.read, both.views):
        with pytest.raises(NotFoundError, match=r"view 6 was asked for, the ensemble has 6"):
            call(0, 6)
    with pytest.raises(UsageError, match="expected integers or keys"):
        both.read(0.5, 0)


def test_no_shared_image_is_an_error(tmp_path):
    one, two = part(tmp_path / "a.zarr", range(9), 0), part(tmp_path / "b.zarr", range(9, 20), 1)
    with pytest.raises(MismatchError, match=r"share no image .*'c/000\.jpg', 'c/009\.jpg'"):
        labelstore.ensemble([one, two], images="intersection")


UNSIZED = {"widths": np.full(20, -1), "heights": np.full(20, -1)}


@pytest.mark.parametrize(
    ("silent", "second", "third", "words"),
    [
        ({}, {"class_names": NAMES}, {"class_names": NAMES[::-1]}, "name their classes"),
        (UNSIZED, {}, {"widths": np.arange(20) + 41}, "other sizes, 20 in all"),
    ],
)
def test_stores_behind_one_that_says_nothing_have_to_fit_each_other(
    tmp_path, silent, second, third, words
):
    stores = [
        written(tmp_path / f"{seed}.zarr", seed=seed, **options)[0]
        for seed, options in enumerate((silent, second, third))
    ]
    for pair in ([0, 1], [0, 2]):
        labelstore.ensemble([stores[number] for number in pair])
    with pytest.raises(MismatchError, match=rf"1\.zarr and .*2\.zarr .*{words}"):
        labelstore.ensemble(stores)


def test_class_names_that_any_member_has_are_kept(tmp_path):
    silent, _, _ = written(tmp_path / "a.zarr")
    named, _, _ = written(tmp_path / "b.zarr", seed=1, class_names=NAMES)
    merge([silent, named], tmp_path / "c.zarr")
    merged = labelstore.open(tmp_path / "c.zarr")
    assert merged.manifest.class_names == tuple(NAMES)
    # So that a mean of them is still compared with others.
    other, _, _ = written(tmp_path / "d.zarr", seed=2, class_names=NAMES[::-1])
    with pytest.raises(MismatchError, match="name their classes"):
        labelstore.ensemble([merged, other])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"law": ViewLaw(seed=2)}, "different views"),
        ({"classes": 31}, "30 and 31 classes"),
        ({"targets": np.full(10, 7)}, "ground truth of 9 images, first 'c/005.jpg'"),
    ],
)
def test_shared_images_still_have_to_fit(tmp_path, other, words):
    one = part(tmp_path / "a.zarr", range(15), 0)
    two = part(tmp_path / "b.zarr", range(5, 15), 1)
    assert labelstore.ensemble([one, two], images="intersection").num_images == 10
    with pytest.raises(MismatchError, match=words):
        labelstore.ensemble(
            [one, part(tmp_path / "c.zarr", range(5, 15), 1, **{"targets": None, **other})],
            images="intersection",
        )


def test_a_ground_truth_that_any_member_knows_is_known(tmp_path):
    rows = np.arange(12)
    first = part(tmp_path / "a.zarr", rows, 0, targets=np.where(rows % 3 == 0, rows, -1))
    order = rows[::-1].copy()
    second = part(tmp_path / "b.zarr", order, 1, targets=np.where(order % 3 == 1, order, -1))
    both = labelstore.ensemble([first, second])
    assert both.targets.tolist() == [row if row % 3 < 2 else -1 for row in rows]
    # The first member does not know image 4's; the others may still contradict each other.
    wrong = part(tmp_path / "c.zarr", rows, 2, targets=np.where(rows == 4, 5, -1))
    with pytest.raises(MismatchError, match=r"b\.zarr and .*c\.zarr .* of 1 images, first 'c/004"):
        labelstore.ensemble([first, second, wrong])
    rule = labelstore.FerKD(low=0.0, middle=1.0, top=1.0)
    known = np.flatnonzero(both.targets >= 0)
    done = rule.apply(both.read(known, 0), both.targets[known])
    assert done.labels.dense().argmax(-1).tolist() == both.targets[known].tolist()


def test_a_photo_size_that_any_member_knows_is_known(tmp_path):
    boxes, flips = np.ones((6, 4, 4), dtype=int), np.zeros((6, 4), dtype=bool)
    explicit = {"images": 6, "views": 4, "law": None, "boxes": boxes, "flips": flips}
    plain, _, _ = written(tmp_path / "a.zarr", **explicit)
    sized, _, _ = written(
        tmp_path / "b.zarr", **explicit, seed=1, widths=np.arange(6) + 9, heights=np.full(6, 5)
    )
    assert plain.sizes(0)[0] == -1
    width, height = labelstore.ensemble([plain, sized]).sizes([2, 4])
    assert (width.tolist(), height.tolist()) == ([11, 13], [5, 5])


def with_digests(path, change):
    """The planned store with other digests of files: ``change`` of those that it has."""
    manifest, keys, targets, data, _ = planned()
    with StoreWriter(path, manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            made = data(block)
            writer.write_block(block, dataclasses.replace(made, digests=change(made.digests)))
    return labelstore.open(path)


def test_stores_made_from_other_files_under_the_same_keys_are_refused(tmp_path):
    one, _ = make_planned(tmp_path / "a.zarr")
    same = with_digests(tmp_path / "b.zarr", lambda digests: digests)
    unknown = with_digests(tmp_path / "c.zarr", lambda digests: digests * 0)
    # Two photos have changed places.
    changed = with_digests(
        tmp_path / "d.zarr", lambda d: np.where(d == 3, 17, np.where(d == 17, 3, d))
    )
    with pytest.raises(MismatchError, match=r"other files under the same keys, 2 in all, .*002"):
        labelstore.ensemble([one, changed])
    with pytest.raises(MismatchError, match="other files"):
        labelstore.ensemble([unknown, one, changed])
    images = np.arange(20)
    for members in ([one, same], [unknown, same], [same, unknown]):
        assert labelstore.ensemble(members).image_digests(images).tolist() == (images + 1).tolist()
    assert not labelstore.ensemble([unknown]).image_digests(images).any()


def test_blocks_are_runs_of_the_ensembles_images(tmp_path):
    # Of 20 images in blocks of 8, the second store lacks 8 to 15.
    whole, _ = make_planned(tmp_path / "a.zarr")
    partial, _ = make_planned(tmp_path / "b.zarr", blocks=(0, 2))
    both = labelstore.ensemble([whole, partial])
    assert both.missing_blocks() == [1]
    assert not both.complete
    assert both.labelled().tolist() == [row < 8 or row > 15 for row in range(20)]
    rows = [3, 5, 16, 17, 18]
    few = part(tmp_path / "c.zarr", rows, 1)
    # None of the images that lack labels is used.
    assert labelstore.ensemble([partial, few], images="intersection").complete
    some = part(tmp_path / "d.zarr", [0, 1, 2, 3, 4, 5, 6, 16, 17, 9], 1)
    used = labelstore.ensemble([partial, some], images="intersection")
    assert used.keys[7] == "c/009.jpg"
    assert used.missing_blocks() == [0]
    assert used.manifest.num_blocks == 2
    assert used.manifest.block_slice(1) == slice(8, 10)


@pytest.mark.parametrize("combine", ["all", "any", "mean"])
def test_a_rule_by_the_ground_truth_takes_it_from_whoever_knows_it(tmp_path, combine):
    rows = np.arange(12)
    # Image 11 is the first store's alone and nobody knows what it shows.
    first = part(tmp_path / "a.zarr", rows, 0, targets=np.where(rows < 6, rows, -1))
    order = rows[10::-1].copy()
    second = part(tmp_path / "b.zarr", order, 1, targets=np.where(order >= 6, order, -1))
    both = labelstore.ensemble([first, second], images="intersection")
    assert both.targets.tolist() == list(range(11))
    rule = labelstore.FerKD(0.005, 0.01, 0.5, confidence="target", ensemble=combine)
    topk = both.read(np.arange(11)[:, None], np.arange(6))
    action = rule.apply(topk, both.targets[:, None], "uniform").action
    found = view_mask(both, rule, 1)
    expected = action != labelstore.Action.DISCARDED
    assert 0 < expected.sum() < expected.size
    assert (found.passes(np.arange(11)) == expected).all()


@pytest.mark.parametrize("combine", ["all", "any", "mean"])
def test_a_store_and_an_ensemble_of_it_alone_read_the_same(tmp_path, combine):
    """What training does asks for members, be it of a store: it is its own only one."""
    store, _ = make_planned(tmp_path / "a.zarr")
    (itself,) = store.members
    assert itself is store
    assert store.weights.tolist() == [1.0]
    assert store.id == store.manifest.id
    assert store.member_rows(0).tolist() == list(range(store.num_images))
    alone = labelstore.ensemble([store])
    images, views = np.arange(store.num_images)[:, None], np.arange(store.num_views)
    topk = store.read(images, views)
    rule = labelstore.FerKD(0.1, 0.3, 0.9, ensemble=combine, smoothing=0.2)
    targets = store.targets[:, None]
    labels, _, action = Recovery.of(store, ferkd=rule)(topk, targets)
    labels_alone, _, action_alone = Recovery.of(alone, ferkd=rule)(
        alone.read(images, views), targets
    )
    assert len(set(action.reshape(-1).tolist())) > 1
    assert (action == action_alone).all()
    assert (labels.dense() == labels_alone.dense()).all()
    decided, decided_alone = decisions(store, rule), decisions(alone, rule)
    assert (decided.passes == decided_alone.passes).all()
    assert (decided.calibrated == decided_alone.calibrated).all()
    assert decided.counts == decided_alone.counts


def test_a_key_with_a_nul_is_no_key_of_an_ensemble(tmp_path):
    """As of a store: NumPy's own strings would lose it and name another image."""
    store, _, _ = written(tmp_path / "a.zarr")
    for reader in (store, labelstore.ensemble([store])):
        assert reader.positions([store.keys[3]]).tolist() == [3]
        with pytest.raises(NotFoundError):
            reader.positions([store.keys[3] + "\0"])
