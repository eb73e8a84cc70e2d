"""Who shows what when: coverage, ranks, resumption and FerKD's replacement."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from training_data import NUM_VIEWS, make_store

import labelstore
from labelstore import Action, FerKD
from labelstore.blocks import BlockData
from labelstore.errors import IncompleteError, MismatchError, NotFoundError, UsageError
from labelstore.images import FolderSource
from labelstore.manifest import Manifest, fingerprint
from labelstore.torch import Show, SoftLabelDataset, ViewSampler
from labelstore.writer import StoreWriter


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def ranks(store, count, **options):
    return [ViewSampler(store, num_replicas=count, rank=rank, **options) for rank in range(count)]


def interleaved(lists):
    """The global order that ranks' lists make together."""
    return [show for row in zip(*lists, strict=True) for show in row]


def test_an_epoch_shows_every_image_once_with_its_views(store):
    sampler = ViewSampler(store, views_per_image=3)
    shows = epoch_of(sampler, 0)
    assert len(shows) == len(sampler) == store.num_images
    assert all(isinstance(show, Show) and type(show.image) is int for show in shows)
    assert sorted(show.image for show in shows) == list(range(store.num_images))
    assert all(len(set(show.views)) == 3 for show in shows)


def test_all_views_are_shown_before_any_comes_again(store):
    sampler = ViewSampler(store, views_per_image=2)
    seen = {image: [] for image in range(store.num_images)}
    for epoch in range(NUM_VIEWS // 2):
        for show in epoch_of(sampler, epoch):
            seen[show.image] += show.views
    assert all(sorted(views) == list(range(NUM_VIEWS)) for views in seen.values())


def test_orders_differ_between_epochs_and_seeds_and_can_be_repeated(store):
    sampler = ViewSampler(store)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert [show.image for show in first] != [show.image for show in second]
    assert epoch_of(sampler, 0) == first
    assert list(ViewSampler(store)) == first
    other = list(ViewSampler(store, seed=1))
    assert [show.image for show in other] != [show.image for show in first]
    plain = list(ViewSampler(store, shuffle=False))
    assert [show.image for show in plain] == list(range(store.num_images))
    assert sorted(plain) == sorted(first)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 14])
def test_ranks_together_show_what_one_shows(store, count):
    alone = epoch_of(ViewSampler(store, views_per_image=2), 3)
    parts = [epoch_of(sampler, 3) for sampler in ranks(store, count, views_per_image=2)]
    assert len({len(part) for part in parts}) == 1
    together = interleaved(parts)
    padding = len(together) - len(alone)
    assert 0 <= padding < count
    assert together == alone + alone[:padding]
    dropped = [
        epoch_of(sampler, 3) for sampler in ranks(store, count, views_per_image=2, drop_last=True)
    ]
    assert interleaved(dropped) == alone[: 14 // count * count]


def test_more_ranks_than_images(store):
    some = {"images": [2, 5, 6]}
    alone = list(ViewSampler(store, **some))
    parts = [list(sampler) for sampler in ranks(store, 8, **some)]
    assert interleaved(parts) == (alone * 3)[:8]
    assert all(not list(sampler) for sampler in ranks(store, 8, drop_last=True, **some))


def test_a_choice_of_images_by_number_or_by_key(store):
    numbers = [13, 2, 7]
    by_number = list(ViewSampler(store, images=numbers))
    assert sorted(show.image for show in by_number) == [2, 7, 13]
    keys = [store.keys[number] for number in numbers]
    assert list(ViewSampler(store, images=keys)) == by_number
    whole = {show.image: show.views for show in ViewSampler(store)}
    assert all(whole[show.image] == show.views for show in by_number)
    with pytest.raises(NotFoundError, match="14"):
        ViewSampler(store, images=[14])
    with pytest.raises(NotFoundError, match="none was named"):
        ViewSampler(store, images=np.zeros(0, dtype=np.int64))


def test_long_epochs_are_drawn_in_pieces_that_join(tmp_path):
    count = 2500
    rng = np.random.default_rng(0)
    indices = rng.random((count, 4, 5)).argsort(-1)[..., :1]
    store = labelstore.write(tmp_path / "long.zarr", indices, np.full((count, 4, 1), 0.5), 5)
    shows = list(ViewSampler(store))
    assert sorted(show.image for show in shows) == list(range(count))
    some = {show.image: show.views for show in ViewSampler(store, images=np.arange(0, count, 7))}
    assert {show.image: show.views for show in shows if show.image % 7 == 0} == some


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("seen", [0, 1, 4])
def test_training_goes_on_in_the_middle_with_any_number_of_ranks(store, before, after, seen):
    options = {"views_per_image": 2, "seed": 4}
    whole = epoch_of(ViewSampler(store, **options), 6)
    old = ranks(store, before, **options)
    first = interleaved([list(itertools.islice(sampler_at(s, 6), seen)) for s in old])
    states = [json.loads(json.dumps(sampler.state_dict(seen))) for sampler in old]
    assert all(state == states[0] for state in states)
    new = ranks(store, after, **options)
    for sampler in new:
        sampler.load_state_dict(states[0])
        sampler.set_epoch(sampler.epoch)
    rest = interleaved([list(sampler) for sampler in new])
    assert {len(sampler) for sampler in new} == {len(rest) // after}
    joined = first + rest
    assert joined[:14] == whole
    assert joined[14:] == whole[: len(joined) - 14]
    # The next epoch is a whole one again.
    following = epoch_of(ViewSampler(store, **options), 7)
    assert interleaved([epoch_of(sampler, 7) for sampler in new])[:14] == following


def sampler_at(sampler, epoch):
    sampler.set_epoch(epoch)
    return iter(sampler)


def test_a_state_counts_what_was_yielded_when_it_is_not_told(store):
    sampler = ViewSampler(store, num_replicas=2, rank=0)
    assert sampler.state_dict()["position"] == 0
    running = iter(sampler)
    next(running), next(running), next(running)
    assert sampler.state_dict()["position"] == 6
    assert sampler.state_dict(seen=1)["position"] == 2
    list(running)
    assert sampler.state_dict()["position"] == 14
    finished = ViewSampler(store, num_replicas=2, rank=0)
    finished.load_state_dict(sampler.state_dict())
    assert len(finished) == 0
    assert list(finished) == []
    finished.set_epoch(1)
    assert len(finished) == 7


def test_going_on_twice_in_one_epoch(store):
    whole = list(ViewSampler(store))
    sampler = ViewSampler(store)
    for _ in range(3):
        state = sampler.state_dict(seen=3)
        sampler = ViewSampler(store)
        sampler.load_state_dict(state)
    assert list(sampler) == whole[9:]


def test_a_padded_end_is_padded_alike_after_going_on(store):
    old = ranks(store, 4)
    whole = [list(sampler) for sampler in old]
    for rank, sampler in enumerate(ranks(store, 4)):
        sampler.load_state_dict(old[0].state_dict(seen=3))
        assert list(sampler) == whole[rank][3:]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"shuffle": False}, {"views_per_image": 2}, {"images": [1, 2, 3]}]
)
def test_a_state_of_other_settings_is_refused(store, change):
    state = ViewSampler(store).state_dict()
    with pytest.raises(MismatchError, match=next(iter(change))):
        ViewSampler(store, **change).load_state_dict(state)


def test_seen_beyond_the_epoch_is_refused(store):
    with pytest.raises(UsageError, match="seen is 15, expected 0 to 14"):
        ViewSampler(store).state_dict(seen=15)


def test_unreadable_images_are_left_out(work, tmp_path):
    keys = list(FolderSource(work.photos).keys)
    store = make_store(tmp_path / "broken.zarr", work.photos, keys, broken=3)
    rule = FerKD(low=0.0, middle=0.0, top=1.0)
    for sampler in (ViewSampler(store), ViewSampler(store, ferkd=rule)):
        assert sorted(show.image for show in sampler) == [n for n in range(14) if n != 3]
    with pytest.raises(NotFoundError, match="no labels of any"):
        ViewSampler(store, images=[3])
    # The photo itself may then be missing, too.
    rest = [key for key in store.keys if key != store.keys[3]]
    data = SoftLabelDataset([b""] * 13, store, keys=rest)
    with pytest.raises(NotFoundError, match="could not be decoded"):
        data[Show(3, (0,))]


def test_an_incomplete_store_is_refused(tmp_path):
    keys, targets = [str(n) for n in range(10)], np.full(10, -1, dtype=np.int32)
    manifest = Manifest(
        num_images=10,
        num_views=4,
        num_classes=5,
        k=1,
        fingerprint=fingerprint(keys, targets),
        law=None,
        block_images=3,
        group_views=4,
    )
    with StoreWriter(tmp_path / "part.zarr", manifest, keys, targets) as writer:
        data = BlockData(np.zeros((3, 4, 1), dtype=int), np.full((3, 4, 1), 0.5))
        writer.write_block(1, data)
    with pytest.raises(IncompleteError, match="lacks 3 of 4 blocks"):
        ViewSampler(labelstore.open(tmp_path / "part.zarr"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views_per_image": 11}, "views per image is 11, expected 1 to 10"),
        ({"views_per_image": 0}, "views per image is 0"),
        ({"num_replicas": 2, "rank": 2}, "rank is 2 of 2"),
        ({"rank": 1}, "rank is 1 of 1"),
    ],
)
def test_numbers_out_of_range_are_refused(store, options, words):
    with pytest.raises(UsageError, match=words):
        ViewSampler(store, **options)
    with pytest.raises(UsageError, match="epoch is -1"):
        ViewSampler(store).set_epoch(-1)


RULES = {
    "max": FerKD(low=0.3, middle=0.4, top=0.7),
    "target": FerKD(low=0.01, middle=0.02, top=0.7, confidence="target"),
}


@pytest.mark.parametrize("rule", RULES)
def test_discarded_views_are_never_shown_while_others_pass(store, photos, rule):
    ferkd = RULES[rule]
    done = ferkd.apply(
        store.read(np.arange(14)[:, None], np.arange(NUM_VIEWS)), store.targets[:, None]
    )
    passes = done.action != Action.DISCARDED
    assert 0 < passes.sum() < passes.size
    data = SoftLabelDataset(photos, store, ferkd=ferkd)
    sampler = ViewSampler(data, views_per_image=2)
    plain = ViewSampler(store, views_per_image=2)
    replaced = 0
    for epoch in range(10):
        for show, planned in zip(epoch_of(sampler, epoch), epoch_of(plain, epoch), strict=True):
            assert show.image == planned.image
            good = passes[show.image]
            if good.any():
                assert good[list(show.views)].all()
            kept = [(a, b) for a, b in zip(show.views, planned.views, strict=True) if good[b]]
            assert all(a == b for a, b in kept)
            replaced += 2 - len(kept)
    assert replaced > 20
    # What the data set then gives is not discarded either.
    for show in epoch_of(sampler, 0):
        if passes[show.image].any():
            assert (data[show][1].action != Action.DISCARDED).all()


def test_an_image_without_a_passing_view_shows_its_most_confident(store):
    confidence = store.read(np.arange(14)[:, None], np.arange(NUM_VIEWS)).confidence
    sampler = ViewSampler(store, views_per_image=2, ferkd=FerKD(low=0.98, middle=0.98, top=0.98))
    assert (confidence <= 0.98).all(axis=1).any()
    for show in sampler:
        if (confidence[show.image] <= 0.98).all():
            best = np.sort(confidence[show.image])[::-1][:2]
            assert confidence[show.image][list(show.views)].tolist() == best.tolist()


@pytest.mark.parametrize("discard", ["mask", "keep"])
def test_other_treatments_leave_the_schedule_alone(store, discard):
    rule = FerKD(low=0.3, middle=0.4, top=0.7, discard=discard)
    assert list(ViewSampler(store, ferkd=rule)) == list(ViewSampler(store))


@pytest.mark.parametrize("combine", ["all", "any", "mean"])
@pytest.mark.parametrize("confidence", ["max", "target"])
def test_an_ensemble_is_scheduled_by_its_own_rule(work, store, tmp_path, combine, confidence):
    keys = sorted(store.keys)
    other = make_store(tmp_path / "b.zarr", work.photos, keys, seed=8)
    shuffled = make_store(tmp_path / "c.zarr", work.photos, keys[5:] + keys[:5], seed=9)
    for second in (other, shuffled):
        check_ensemble(labelstore.ensemble([store, second], [2, 1]), combine, confidence)


def check_ensemble(both, combine, confidence):
    low = 0.01 if confidence == "target" else 0.4
    ferkd = FerKD(low=low, middle=low, top=0.8, ensemble=combine, confidence=confidence)
    topk = both.read(np.arange(14)[:, None], np.arange(NUM_VIEWS))
    passes = ferkd.apply(topk, both.targets[:, None]).action != Action.DISCARDED
    assert 0 < passes.sum() < passes.size
    shown = np.zeros_like(passes)
    sampler = ViewSampler(both, views_per_image=2, ferkd=ferkd)
    for epoch in range(5):
        for show in epoch_of(sampler, epoch):
            if passes[show.image].any():
                shown[show.image, list(show.views)] = True
    assert not (shown & ~passes).any()
    # A cycle shows every passing view: none is discarded by mistake.
    assert (shown == passes)[passes.any(axis=1)].all()
