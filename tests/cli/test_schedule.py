"""``labelstore schedule`` over real stores, against what a sampler then shows."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import labelstore
from labelstore.cli.main import main
from labelstore.errors import LabelError, NotFoundError, UsageError
from labelstore.labels.actions import Action
from labelstore.labels.ferkd import EnsembleFerKD, FerKD
from labelstore.operations.schedule import dry_run
from labelstore.torch import ViewSampler
from labelstore.views.law import ViewLaw
from tests.support import commands
from tests.support.stores import make_planned, once

make_planned = once(make_planned)

V = 12
# Of twelve views: two too hard, one to calibrate, six kept, three too easy.
CONFIDENCE = (0.1, 0.15, 0.25, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.96, 0.97, 0.99)


def make(path, images=10, shift=0, group_views=None, **options):
    """Image 4 keeps two views, image 5 none; the views of the others stand in turned orders."""
    top = np.stack([np.roll(CONFIDENCE, row + shift) for row in range(images)])
    top[4, 2:] = 0.99
    top[4, :2] = 0.5
    top[5] = 0.01
    probs = np.stack([top, np.minimum(1 - top, top) / 2], axis=-1)
    indices = np.tile(np.array([3, 1]), (images, V, 1))
    sides = np.full(images, 50)
    options.setdefault("targets", np.full(images, 3))
    options.setdefault("keys", [f"{row}.jpg" for row in range(images)])
    return labelstore.write(
        path,
        indices,
        probs,
        10,
        quantizer="fp32",
        law=ViewLaw(7),
        widths=sides,
        heights=sides,
        block_images=4,
        **options,
    )


@pytest.fixture
def store(tmp_path, suffix):
    return make(tmp_path / f"a.{suffix}")


def schedule(*arguments, code=0):
    done = CliRunner().invoke(main, ["schedule", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_json_is_the_dry_run(store):
    done = schedule(
        store.path, "--json", "--low", 0.2, "--views-per-image", 2, "--epochs", 4, "--seed", 3
    )
    found = json.loads(done.stdout)
    rule = FerKD(low=0.2)
    assert found == dry_run(store, rule, views_per_image=2, epochs=4, seed=3)
    assert found["settings"]["schedule"] == "surgical"
    assert found["settings"]["rules"][0]["low"] == 0.2


def test_counts_are_what_the_rule_decides(store):
    plane = store.confidence()
    found = dry_run(store, views_per_image=3, epochs=2)
    action = FerKD().decide(plane)
    (rule,) = found["rules"]
    assert rule["source"] == str(store.path)
    discarded = action == Action.DISCARDED
    counts = {
        "discarded_low": (discarded & (plane < 0.5)).sum(),
        "calibrated": (action == Action.CALIBRATED).sum(),
        "kept": (action == Action.KEPT).sum(),
        "discarded_high": (discarded & (plane > 0.5)).sum(),
    }
    for name, count in counts.items():
        assert rule[name] == {"count": count, "share": count / plane.size}
        assert count > 0
    assert found["together"]["discarded"]["count"] == discarded.sum()
    left = (~discarded).sum(axis=1)
    assert sorted(left.tolist()) == [0, 2] + [7] * 8
    assert found["views_left"] == {
        "min": 0, "q1": 7, "median": 7, "q3": 7, "max": 7, "mean": left.mean()
    }  # fmt: skip
    assert (found["images_without"], found["images_with_too_few"]) == (1, 1)
    # Two are left of image 4, three of image 5 (its most confident) are shown again and again.
    lasting = {"min": 0, "q1": 2, "median": 2, "q3": 2, "max": 2}
    assert found["epochs_without_repeat"] == lasting
    assert found["images_that_repeat"] == 2
    assert dry_run(store, views_per_image=3, epochs=3)["images_that_repeat"] == 10
    assert dry_run(store, views_per_image=3)["images_that_repeat"] is None


@pytest.mark.parametrize("direction", ["easy-to-hard", "hard-to-easy"])
@pytest.mark.parametrize("epochs", [1, 3, 4, 8])
def test_a_curriculum_repeats_in_the_images_that_were_foretold(store, direction, epochs):
    found = dry_run(store, views_per_image=2, schedule=direction, epochs=epochs)
    sampler = ViewSampler(store, 2, ferkd=FerKD(), schedule=direction, epochs=epochs)
    shown = {image: [] for image in range(10)}
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for show in sampler:
            shown[show.image] += show.views
    repeating = sum(len(set(views)) < len(views) for views in shown.values())
    assert found["images_that_repeat"] == repeating
    assert found["epoch"]["groups"] == found["epoch"]["of_groups"]
    assert found["epoch"]["read_ahead"] == 1


@pytest.mark.parametrize("budget", [1.0, 0.5, 1 / 3])
def test_a_random_schedule_repeats_when_its_views_are_used_up(store, budget):
    for epochs in (6, 7, 12, 13, 18, 20):
        found = dry_run(store, views_per_image=2, schedule="random", epochs=epochs, budget=budget)
        # Six of these epochs show all twelve views; a budget shows an image in fewer epochs.
        assert found["epochs_without_repeat"]["max"] == 6
        assert found["images_that_repeat"] == (10 if epochs * budget > 6 + 1e-9 else 0)
        sampler = ViewSampler(store, 2, budget=budget)
        assert found["epoch"]["images"] == len(sampler)
        assert found["epoch"]["views"] == 2 * len(sampler)


def test_groups_and_bytes_of_an_epoch(tmp_path, suffix):
    # Twelve views in three groups of four.
    store, _ = make_planned(tmp_path / f"a.{suffix}", views=12)
    sizes = store.bytes_by_part()
    labels = sum(size for part, size in sizes.items() if part.startswith("labels/"))
    assert labels > 0
    for m, groups in ((1, 1), (4, 1), (6, 2), (12, 3)):
        found = dry_run(store, views_per_image=m, schedule="random")["epoch"]
        assert (found["groups"], found["of_groups"]) == (groups, 3)
        assert found["label_bytes"] == round(labels * groups / 3)


@pytest.mark.parametrize("epochs", [None, 3, 40])
@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_a_surgical_epoch_lies_where_a_sampler_finds_it(tmp_path, epochs, budget):
    store, _ = make_planned(tmp_path / "a.zarr", images=60, views=24)
    rule = FerKD(low=0.3, middle=0.4, top=0.8)
    found = dry_run(store, rule, views_per_image=2, epochs=epochs, budget=budget)["epoch"]
    passes = rule.decide(store.confidence()) != Action.DISCARDED
    some = np.flatnonzero(passes.any(axis=1))
    sampler = ViewSampler(store, 2, images=some, ferkd=rule)
    # An epoch without a budget shows every image for the same time.
    length = 24 if epochs is None else int(np.ceil(epochs * budget))
    groups = []
    for epoch in np.arange(8) * length // 8:
        sampler.set_epoch(int(epoch))
        groups.append(len({view // 4 for show in sampler for view in show.views}))
    assert found["groups"] == np.mean(groups)
    assert found["groups"] > 2
    sizes = store.slab(0)
    assert found["slab_bytes"] == pytest.approx(
        sizes.bytes_per_label * 60 * 4 * found["groups"], rel=0, abs=20_000 * found["groups"]
    )
    store.slabs.close()


def test_how_much_is_read_ahead_into_the_bound(tmp_path, monkeypatch):
    store, _ = make_planned(tmp_path / "a.zarr", images=60, views=24)
    rule = FerKD(low=0.3, middle=0.4, top=0.8)
    shares = {}
    whole = dry_run(store, rule, epochs=40)["epoch"]
    for room in (0.1, 0.5, 0.9, 1.1):
        bound = int(whole["slab_bytes"] * 6 / whole["groups"] * room)
        monkeypatch.setattr("labelstore.operations.schedule.SLAB_BYTES", bound)
        shares[room] = dry_run(store, rule, epochs=40)["epoch"]["read_ahead"]
    assert shares[0.1] < shares[0.5] < shares[0.9] <= shares[1.1] == whole["read_ahead"] == 1
    # The most wanted groups are held.
    assert shares[0.5] > 0.5


@pytest.fixture
def pair(tmp_path):
    one = make(tmp_path / "a.zarr")
    two = make(tmp_path / "b.zarr", images=8, shift=3)
    return one, two


@pytest.mark.parametrize("combine", ["all", "any", "mean"])
def test_an_ensemble_of_shared_images(pair, combine):
    paths = [store.path for store in pair]
    failed = schedule(*paths, "--json", code=1)
    assert "only" in json.loads(failed.stdout)["error"]["message"]
    done = schedule(*paths, "--images", "intersection", "--ensemble", combine, "--json")
    found = json.loads(done.stdout)
    both = labelstore.ensemble(pair, images="intersection")
    rule = FerKD(ensemble=combine)
    applied = rule.apply(both.read(np.arange(8)[:, None], np.arange(V)), both.targets[:, None])
    counts = np.bincount(applied.action.ravel(), minlength=3)
    for action, name in ((0, "kept"), (1, "calibrated"), (2, "discarded")):
        assert found["together"][name]["count"] == counts[action]
    sources = [entry["source"] for entry in found["rules"]]
    assert sources == (["mean label"] if combine == "mean" else [str(path) for path in paths])
    for entry in found["rules"]:
        assert sum(part["count"] for name, part in entry.items() if name != "source") == 8 * V
    assert [store["weight"] for store in found["stores"]] == [0.5, 0.5]


def test_a_rule_for_each_teacher(pair):
    both = labelstore.ensemble(pair, images="intersection")
    rules = (FerKD(low=0.2), FerKD(top=0.6))
    found = dry_run(both, EnsembleFerKD(rules))
    for entry, rule, member in zip(found["rules"], rules, pair, strict=True):
        action = rule.decide(member.confidence()[:8])
        assert entry["kept"]["count"] == (action == Action.KEPT).sum()
    assert len(found["settings"]["rules"]) == 2


def test_the_terminal_shows_every_part(store):
    shown = schedule(store.path, "--views-per-image", 2, "--epochs", 4).stdout
    lines = shown.splitlines()

    def row(*words):
        return any(all(word in line for word in words) for line in lines)

    assert row("10 images x 12 views")
    assert row("low 0.15, middle 0.3, top 0.95, by the largest probability")
    assert row("discarded (too hard)", "28", "23.33%")
    assert row("calibrated", "8", "6.67%")
    assert row("discarded (too easy)", "34", "28.33%")
    assert row("views left of an image", "0", "7")
    assert row("epochs at 2 views", "1", "3")
    assert row("1 image without a view left: the easiest shown")
    assert row("10 of 10 images must show a view again within 4 epochs")
    assert row("shows 20 views: 2 views of 10 images (surgical)")
    assert row("lies in", "of labels", "in memory")
    assert not row("chunk by chunk")
    assert "\x1b" not in shown
    random = schedule(store.path, "--schedule", "random").stdout
    assert "shows all views" in random


def test_a_store_that_is_still_being_made(tmp_path):
    store, _ = make_planned(tmp_path / "a.zarr", blocks=(0, 2))
    found = dry_run(store)
    assert (found["images"], found["labelled_images"], found["missing_blocks"]) == (20, 12, 1)
    assert sum(part["count"] for part in found["together"].values()) == 12 * 6
    assert "incomplete: 1 block missing" in schedule(store.path).stdout
    empty, _ = make_planned(tmp_path / "b.zarr", blocks=())
    with pytest.raises(NotFoundError, match="no labelled image"):
        dry_run(empty)


def test_mistakes(store, tmp_path):
    assert "--epochs" in schedule(store.path, "--schedule", "easy-to-hard", code=2).stderr
    assert "expected 1 to 12" in schedule(store.path, "--views-per-image", 13, code=2).stderr
    assert "budget is 2.0" in schedule(store.path, "--budget", 2, code=2).stderr
    assert "no store" in schedule(tmp_path / "absent.zarr", code=1).stderr
    bare = make(tmp_path / "bare.zarr", targets=np.full(10, -1))
    done = schedule(bare.path, "--confidence", "target", code=1)
    assert "needs the ground truth" in done.stderr
    with pytest.raises(LabelError):
        dry_run(bare, FerKD(confidence="target"))
    for change in ({"schedule": "easy"}, {"epochs": 0}, {"views_per_image": 0}):
        with pytest.raises(UsageError, match=next(iter(change)).split("_")[0]):
            dry_run(store, **change)


def test_in_a_shell(store):
    done = commands.run(
        [sys.executable, "-m", "labelstore", "schedule", str(store.path), "--json"],
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == dry_run(store)
