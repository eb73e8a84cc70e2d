"""Who shows what when: coverage, ranks, resumption and FerKD's replacement."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import labelstore
from labelstore import Action, EnsembleFerKD, FerKD
from labelstore.errors import IncompleteError, MismatchError, NotFoundError, UsageError
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.images.sources.folder import FolderSource
from labelstore.labels.calibration.thresholds import ClassThresholds
from labelstore.store.writer import StoreWriter
from labelstore.torch import Show, SoftLabelDataset, ViewSampler
from labelstore.torch.joins.view_join import ViewJoin
from labelstore.training.curriculum import curriculum_views
from tests.support.stores import once
from tests.support.training import NUM_VIEWS, make_store as make_anew

make_store = once(make_anew)


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
    "change",
    [
        {"seed": 1},
        {"shuffle": False},
        {"views_per_image": 2},
        {"images": [1, 2, 3]},
        {"budget": 0.5},
        {"schedule": "easy-to-hard", "epochs": 3},
    ],
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
    "by class": FerKD(
        *(0.3, 0.4, 0.7),
        by_class=ClassThresholds(
            20, range(0, 20, 2), np.full(10, 0.5), np.full(10, 0.6), np.linspace(0.7, 1, 10)
        ),
    ),
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
    times = np.zeros(passes.shape, dtype=int)
    for epoch in range(10):
        for show in epoch_of(sampler, epoch):
            np.add.at(times[show.image], list(show.views), 1)
        for image in np.flatnonzero(passes.any(axis=1)):
            assert not times[image][~passes[image]].any()
            # None that passes comes again before all that pass were shown.
            assert np.ptp(times[image][passes[image]]) <= 1
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


CURRICULA = ["easy-to-hard", "hard-to-easy"]


@pytest.mark.parametrize("direction", CURRICULA)
def test_a_curriculum_moves_through_the_confidences(store, direction):
    confidence = store.confidence()
    sampler = ViewSampler(store, 2, schedule=direction, epochs=5)
    order = np.argsort(-confidence, axis=1, kind="stable")
    seen = {image: [] for image in range(14)}
    for epoch in range(5):
        expected = curriculum_views(order, epoch, 5, 2, direction)
        for show in epoch_of(sampler, epoch):
            assert list(show.views) == expected[show.image].tolist()
            seen[show.image] += [confidence[show.image, view] for view in show.views]
    # Ten views in five epochs of two: every one once, by falling or rising confidence.
    for values in seen.values():
        assert len(values) == NUM_VIEWS
        assert values == sorted(values, reverse=direction == "easy-to-hard")


@pytest.mark.parametrize("direction", CURRICULA)
def test_a_curriculum_leaves_discarded_views_out(store, photos, direction):
    rule = RULES["max"]
    confidence = store.confidence()
    passes = rule.decide(confidence) != Action.DISCARDED
    data = SoftLabelDataset(photos, store, ferkd=rule)
    sampler = ViewSampler(data, 1, schedule=direction, epochs=12)
    shown = np.zeros_like(passes)
    for epoch in range(12):
        for show in epoch_of(sampler, epoch):
            shown[show.image, list(show.views)] = True
    some = passes.any(axis=1)
    assert (shown[some] == passes[some]).all()
    hopeless = FerKD(low=1, middle=1, top=1)
    for show in ViewSampler(store, 2, ferkd=hopeless, schedule=direction, epochs=4):
        best = np.sort(confidence[show.image])[::-1][:2]
        assert sorted(confidence[show.image, list(show.views)], reverse=True) == best.tolist()


def test_the_schedule_follows_from_the_rule_unless_it_is_named(store):
    rule = RULES["max"]
    assert ViewSampler(store).schedule == "random"
    assert ViewSampler(store, ferkd=rule).schedule == "surgical"
    assert list(ViewSampler(store, ferkd=rule, schedule="surgical")) == list(
        ViewSampler(store, ferkd=rule)
    )
    random = ViewSampler(store, ferkd=rule, schedule="random")
    assert [show[:2] for show in random] == [show[:2] for show in ViewSampler(store)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "easy-to-hard"}, "pass epochs="),
        ({"schedule": "hard-to-easy", "epochs": 0}, "epochs is 0, expected 1 to"),
        ({"schedule": "easy"}, "expected one of random, surgical, easy-to-hard, hard-to-easy"),
        ({"schedule": "surgical"}, "pass ferkd=FerKD"),
        ({"schedule": "surgical", "ferkd": FerKD(discard="mask")}, 'its discard being "replace"'),
        ({"budget": 0}, "budget is 0, expected a share of the images from 0.01 to 1"),
        ({"budget": 1.01}, "budget is 1.01"),
        ({"budget": -0.5}, "budget is -0.5"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"budget": 0.001}, "budget is 0.001"),
        ({"budget": 0.05}, "of 14 images leaves epochs without any"),
        ({"ferkd": EnsembleFerKD((FerKD(), FerKD()))}, "2 rules were given for 1 teachers"),
    ],
)
def test_schedules_that_cannot_be_are_refused(store, options, words):
    with pytest.raises(UsageError, match=words):
        ViewSampler(store, **options)


def test_a_curriculum_ends(store):
    sampler = ViewSampler(store, schedule="easy-to-hard", epochs=3)
    sampler.set_epoch(2)
    with pytest.raises(UsageError, match="epoch is 3, expected 0 to 2: this easy-to-hard"):
        sampler.set_epoch(3)


@pytest.mark.parametrize(
    ("budget", "p", "q"), [(0.5, 1, 2), (1 / 3, 1, 3), (2 / 3, 2, 3), (0.75, 3, 4), (0.37, 37, 100)]
)
def test_a_budget_shows_a_share_of_the_images(store, budget, p, q):
    sampler = ViewSampler(store, 2, budget=budget)
    whole = ViewSampler(store, 2)
    as_whole = [{show.image: show for show in epoch_of(whole, epoch)} for epoch in range(p + 1)]
    times = np.zeros(14, dtype=int)
    for epoch in range(q):
        shows = epoch_of(sampler, epoch)
        assert len(shows) == len(sampler)
        assert 14 * p // q <= len(shows) <= -(-14 * p // q)
        images = [show.image for show in shows]
        assert len(set(images)) == len(images)
        # What an image shows depends on how often it was shown, not on the epoch or who else is.
        assert all(show == as_whole[times[show.image]][show.image] for show in shows)
        times[images] += 1
    assert times.tolist() == [p] * 14
    assert list(ViewSampler(store, 2, budget=1)) == list(ViewSampler(store, 2))


@pytest.mark.parametrize(
    ("budget", "images"),
    [(0.5, None), (2 / 3, [0, 2, 3, 7, 8, 12, 13]), (0.37, None), (0.37, [0, 2, 3, 7, 8, 12, 13])],
)
@pytest.mark.parametrize("rule", [None, *RULES])
def test_a_budget_leaves_no_view_out(store, budget, rule, images):
    ferkd = RULES.get(rule)
    options = {"budget": budget, "ferkd": ferkd, "images": images}
    # No labels are read, and so none ahead.
    sampler = ViewSampler(store, 3, **options, seed=5, slab_bytes=0)
    passes = np.ones((14, NUM_VIEWS), dtype=bool)
    if ferkd is not None:
        topk = store.read(np.arange(14)[:, None], np.arange(NUM_VIEWS))
        passes = ferkd.apply(topk, store.targets[:, None]).action != Action.DISCARDED
    times, last = np.zeros((14, NUM_VIEWS), dtype=int), {}
    for epoch in range(12):
        for show in epoch_of(sampler, epoch):
            np.add.at(times[show.image], list(show.views), 1)
            left = int(passes[show.image].sum())
            if left >= 3:
                # Nor does one stand in two of the image's epochs running, where it need not.
                shared = set(last.get(show.image, ())) & set(show.views)
                assert len(shared) == (max(0, 6 - left) if show.image in last else 0)
            last[show.image] = show.views
        for row, ok in zip(times, passes, strict=True):
            assert not ok.any() or np.ptp(row[ok]) <= 1


@pytest.mark.parametrize("options", [{}, {"budget": 0.4}, {"budget": 0.4, "ferkd": RULES["max"]}])
def test_photos_of_another_pipeline_show_what_a_sampler_shows(store, options):
    sampler, join = ViewSampler(store, 2, **options), ViewJoin(store, 2, **options)
    for epoch in (0, 1, 7, 12):
        join.set_epoch(epoch)
        for show in epoch_of(sampler, epoch):
            assert join.shown(show.image)
            views = join.order.views(np.array([show.image]), join.epoch)
            assert tuple(views[0].tolist()) == show.views


def test_a_budget_of_some_images(store):
    some = [1, 4, 6, 9, 11]
    sampler = ViewSampler(store, images=some, budget=0.4)
    shown = [show.image for epoch in range(5) for show in epoch_of(sampler, epoch)]
    assert np.bincount(shown, minlength=14)[some].tolist() == [2] * 5


PLANS = {
    "curriculum": {"schedule": "easy-to-hard", "epochs": 9},
    "surgical curriculum": {"schedule": "hard-to-easy", "epochs": 9, "ferkd": RULES["max"]},
    "budget": {"budget": 2 / 3},
    "by class": {"ferkd": RULES["by class"]},
    "all": {"schedule": "hard-to-easy", "epochs": 9, "ferkd": RULES["max"], "budget": 0.6},
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
def test_any_plan_goes_on_in_the_middle_with_any_number_of_ranks(store, plan, before, after):
    options = {"views_per_image": 2, "seed": 4, **PLANS[plan]}
    whole = epoch_of(ViewSampler(store, **options), 7)
    old = ranks(store, before, **options)
    first = interleaved([list(itertools.islice(sampler_at(s, 7), 2)) for s in old])
    states = [json.loads(json.dumps(sampler.state_dict(2))) for sampler in old]
    assert all(state == states[0] for state in states)
    new = ranks(store, after, **options)
    for sampler in new:
        sampler.load_state_dict(states[0])
        sampler.set_epoch(sampler.epoch)
    joined = first + interleaved([list(sampler) for sampler in new])
    assert joined[: len(whole)] == whole
    assert joined[len(whole) :] == whole[: len(joined) - len(whole)]
    following = epoch_of(ViewSampler(store, **options), 8)
    assert interleaved([epoch_of(s, 8) for s in new])[: len(following)] == following


@pytest.mark.parametrize("plan", PLANS)
def test_workers_show_what_one_process_shows(store, photos, plan):
    def collected(workers):
        data = SoftLabelDataset(photos, store, ferkd=PLANS[plan].get("ferkd"))
        sampler = ViewSampler(data, 2, **PLANS[plan])
        sampler.set_epoch(3)
        loader = torch.utils.data.DataLoader(
            data, batch_size=4, sampler=sampler, num_workers=workers, collate_fn=list
        )
        rows = [labels for batch in loader for _, labels in batch]
        return [list(zip(row.image.tolist(), row.view.tolist(), strict=True)) for row in rows]

    expected = [[(show.image, view) for view in show.views] for show in at(store, plan)]
    assert collected(0) == collected(2) == expected


def at(store, plan):
    return epoch_of(ViewSampler(store, 2, **PLANS[plan]), 3)


def test_a_state_names_the_curriculum_and_the_budget(store):
    options = {"schedule": "easy-to-hard", "epochs": 3, "ferkd": FerKD()}
    state = json.loads(json.dumps(ViewSampler(store, **options).state_dict()))
    ViewSampler(store, **options).load_state_dict(state)
    for change in ({"epochs": 4}, {"schedule": "hard-to-easy"}, {"ferkd": FerKD(low=0.1)}):
        with pytest.raises(MismatchError, match=next(iter(change))):
            ViewSampler(store, **{**options, **change}).load_state_dict(state)
    state = ViewSampler(store, ferkd=RULES["by class"]).state_dict()
    own = RULES["by class"].by_class
    assert len(state["settings"]["ferkd"].pop("by_class")) == 32
    # A state of a time when rules had no thresholds by class.
    assert state["settings"] == ViewSampler(store, ferkd=RULES["max"]).order.settings()
    for by_class in (None, replace(own, top=[1] * 10)):
        changed = replace(RULES["by class"], by_class=by_class)
        told = ViewSampler(store, ferkd=RULES["by class"]).state_dict()
        with pytest.raises(MismatchError, match="by_class"):
            ViewSampler(store, ferkd=changed).load_state_dict(told)
    state = ViewSampler(store, budget=0.5).state_dict()
    assert state["settings"]["budget"] == "1/2"
    ViewSampler(store, budget=0.5).load_state_dict(json.loads(json.dumps(state)))


@pytest.fixture
def three(work, store, tmp_path):
    """Three teachers' stores: the same images, other images and orders."""
    keys = sorted(store.keys)
    b = make_store(tmp_path / "b.zarr", work.photos, keys[5:] + keys[:5], seed=8)
    c = make_store(tmp_path / "c.zarr", work.photos, keys[3:], seed=9)
    return store, b, c


@pytest.mark.parametrize("combine", ["all", "any"])
@pytest.mark.parametrize("confidence", ["max", "target"])
def test_each_teacher_of_an_ensemble_may_have_its_own_rule(three, combine, confidence):
    both = labelstore.ensemble(three[:2])
    lows = (0.01, 0.03) if confidence == "target" else (0.3, 0.5)
    rules = [
        FerKD(low, low, top, ensemble=combine, confidence=confidence)
        for low, top in zip(lows, (0.9, 0.7), strict=True)
    ]
    ferkd = EnsembleFerKD(tuple(rules))
    images, views = np.arange(14)[:, None], np.arange(NUM_VIEWS)
    discards = []
    for member, rule in zip(both.members, rules, strict=True):
        rows = member.index_of(both.keys)
        done = rule.apply(member.read(rows[:, None], views), both.targets[:, None], "uniform")
        discards.append((done.action == Action.DISCARDED).tolist())
    gone = all if combine == "all" else any
    passes = np.array(
        [
            [not gone(per_teacher) for per_teacher in zip(*rows, strict=True)]
            for rows in zip(*discards, strict=True)
        ]
    )
    applied = ferkd.apply(both.read(images, views), both.targets[:, None], "uniform")
    assert ((applied.action != Action.DISCARDED) == passes).all()
    sampler = ViewSampler(both, 2, ferkd=ferkd)
    shown = np.zeros_like(passes)
    for epoch in range(5):
        for show in epoch_of(sampler, epoch):
            if passes[show.image].any():
                shown[show.image, list(show.views)] = True
    some = passes.any(axis=1)
    assert (shown == passes)[some].all()
    state = json.loads(json.dumps(sampler.state_dict()))
    ViewSampler(both, 2, ferkd=ferkd).load_state_dict(state)
    swapped = EnsembleFerKD(tuple(reversed(rules)))
    with pytest.raises(MismatchError, match="ferkd"):
        ViewSampler(both, 2, ferkd=swapped).load_state_dict(state)
    with pytest.raises(UsageError, match="2 rules were given for 3 teachers"):
        ViewSampler(labelstore.ensemble([*three[:2], three[0]]), ferkd=ferkd)


@pytest.mark.parametrize("combine", ["all", "any", "mean"])
@pytest.mark.parametrize("confidence", ["max", "target"])
def test_an_ensemble_of_shared_images_is_scheduled(three, combine, confidence):
    shared = labelstore.ensemble(three, [3, 2, 1], images="intersection")
    assert shared.num_images == 11
    low = 0.01 if confidence == "target" else 0.4
    ferkd = FerKD(low, low, 0.8, ensemble=combine, confidence=confidence)
    topk = shared.read(np.arange(11)[:, None], np.arange(NUM_VIEWS))
    passes = ferkd.apply(topk, shared.targets[:, None], "uniform").action != Action.DISCARDED
    for schedule in ("surgical", *CURRICULA):
        sampler = ViewSampler(shared, 2, ferkd=ferkd, schedule=schedule, epochs=10)
        shown = np.zeros_like(passes)
        for epoch in range(10):
            shows = epoch_of(sampler, epoch)
            assert sorted(show.image for show in shows) == list(range(11))
            for show in shows:
                shown[show.image, list(show.views)] = True
        some = passes.any(axis=1)
        assert some.any()
        assert (shown == passes)[some].all()


def test_a_state_of_other_members_or_weights_is_refused(three):
    state = ViewSampler(labelstore.ensemble(three[:2])).state_dict()
    ViewSampler(labelstore.ensemble(three[:2])).load_state_dict(state)
    others = labelstore.ensemble(three[:2], [1, 2])
    with pytest.raises(MismatchError, match="store"):
        ViewSampler(others).load_state_dict(state)


def test_photos_of_shared_images_alone_are_enough(three, photos):
    shared = labelstore.ensemble(three, images="intersection")
    data = SoftLabelDataset(photos, shared)
    sampler = ViewSampler(data, images=[shared.keys[4]])
    (show,) = sampler
    assert show.image == 4
    pixels, labels = data[show]
    assert len(pixels) == 1
    assert labels.image.tolist() == [4]
    key = shared.keys[4]
    expected = [member.read([key], show.views).recover("uniform").dense() for member in three]
    got = shared.read([key], show.views).recover("uniform").dense()
    np.testing.assert_allclose(got, np.mean(expected, axis=0), atol=1e-6)


def test_probes_of_images_that_are_not_shared_are_left_out(work, store, photos, tmp_path):
    keys = list(store.keys)
    # The probed images are the first two of the store, which holds its keys in reverse.
    probed = make_anew(
        tmp_path / "p.zarr", work.photos, keys[::-1], seed=4, probe=lambda digest: digest
    )
    assert [entry["key"] for entry in probed.manifest.probe] == keys[:2]
    fewer = make_store(tmp_path / "q.zarr", work.photos, keys[1:], seed=5)
    shared = labelstore.ensemble([probed, fewer], images="intersection")
    assert [entry["key"] for entry in shared.manifest.probe] == keys[1:2]
    data = SoftLabelDataset(photos, shared, check_pixels="raise")
    assert len(data) == 13


def test_a_finished_epoch_of_a_budget_is_finished(store):
    old = ranks(store, 3, budget=0.5)
    state = old[0].state_dict(seen=3)
    assert state["position"] == 7
    for sampler in ranks(store, 2, budget=0.5):
        sampler.load_state_dict(state)
        assert len(sampler) == 0
        assert list(sampler) == []


def test_a_state_names_what_a_curriculum_is_sorted_by(store):
    options = {"schedule": "easy-to-hard", "epochs": 3}
    by_max, by_target = (FerKD(discard="keep", confidence=name) for name in ("max", "target"))
    state = ViewSampler(store, ferkd=by_max, **options).state_dict()
    with pytest.raises(MismatchError, match="ferkd"):
        ViewSampler(store, ferkd=by_target, **options).load_state_dict(state)
    other = ViewSampler(store, ferkd=by_target, **options)
    assert list(other) != list(ViewSampler(store, ferkd=by_max, **options))


def test_states_and_numbers_that_are_none(store):
    sampler = ViewSampler(store, 2, seed=np.int64(3))
    sampler.set_epoch(np.int64(2))
    state = json.loads(json.dumps(sampler.state_dict(seen=1)))
    sampler.load_state_dict(state)
    for change in ({"position": -5}, {"position": 10**6}, {"position": 1.5}, {"settings": None}):
        with pytest.raises(UsageError, match="state"):
            sampler.load_state_dict({**state, **change})
    with pytest.raises(UsageError, match="none of a sampler"):
        sampler.load_state_dict({})
    with pytest.raises(UsageError, match="epoch is -1"):
        sampler.load_state_dict({**state, "epoch": -1})
    for wrong in (lambda: sampler.set_epoch(1.5), lambda: ViewSampler(store, 2.0)):
        with pytest.raises(UsageError, match="whole number"):
            wrong()
    with pytest.raises(UsageError, match=r"budget is '0\.5'"):
        ViewSampler(store, budget="0.5")
