"""Stores that grow: what was labelled stays to the bit, what is new is what the teacher says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli.main import main
from labelstore.errors import MismatchError, SourceError, UsageError
from labelstore.format.settings import StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.lifecycle.copy import copy
from labelstore.operations.lifecycle.grow import grow
from labelstore.operations.lifecycle.prune import prune
from labelstore.operations.lifecycle.subset import subset
from labelstore.operations.merge import merge
from labelstore.operations.repair import repair
from labelstore.operations.verify import verify
from labelstore.producer.generation import generate, generate_together, undecodable
from labelstore.producer.growth.growth import Growth
from labelstore.producer.growth.plan import plan_growth
from labelstore.producer.settings import LabelSettings, Output, RunOptions
from labelstore.store.lineage import lineage
from labelstore.teachers.load import load_teacher
from tests.support import commands
from tests.support.shards import chunks_of, turned_round
from tests.support.stores import few_photos, files_of, in_units, said_of_labels

OPTIONS = RunOptions(batch_size=8)
STORED = StoreSettings(k=3, quantizer="u16", prior_size=8, block_images=2, group_views=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five photos, flat."""
    return few_photos(tmp_path_factory.mktemp("photos"), 5)


@pytest.fixture(scope="module")
def teacher():
    """A small network."""
    return load_teacher("timm:test_resnet", checkpoint="none", device="cpu", size=96)


def labelled(photos, teacher, path, views=3, stored=STORED, options=OPTIONS):
    """A store of all photos of a folder."""
    source = FolderSource(photos)
    unknown = np.full(len(source), -1, np.int32)
    # Untrained, its distributions are flat: sharpened they have a few likely classes.
    settings = LabelSettings(views, stored, temperature=0.03)
    generate(source, unknown, teacher, path, settings, options=options)
    return labelstore.open(path)


@pytest.fixture(scope="module")
def first_three(photos, tmp_path_factory):
    """The folder of all but the second and the fourth photo."""
    folder = tmp_path_factory.mktemp("three") / "photos"
    folder.mkdir()
    for number, file in enumerate(sorted(photos.iterdir())):
        if number not in (1, 3):
            shutil.copy(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def old(first_three, teacher, tmp_path_factory):
    """Three photos, three views, in two blocks."""
    return labelled(first_three, teacher, tmp_path_factory.mktemp("old") / "old.zarr")


def codes_of(store, key, views):
    """All that is stored of an image, by array."""
    row = int(store.index_of(key))
    block, place = divmod(row, store.manifest.block_images)
    images, priors, of_views = store.block_codes(block)
    return {
        **{name: values[place].tolist() for name, values in (images | priors).items()},
        **{name: values[place, :views].tolist() for name, values in of_views.items()},
    }


def assert_same_views(a, b, keys, views):
    """What both of two stores hold of views is the same but for what float rounding may move.

    How many classes an image's labels keep goes with its list, which may be another.
    """
    for key in keys:
        for view in views:
            one, other = (store.read(key, view) for store in (a, b))
            both = (one.probs > 0) & (other.probs > 0)
            assert both[0]
            np.testing.assert_array_equal(one.indices[both], other.indices[both])
            np.testing.assert_allclose(one.probs[both], other.probs[both], atol=1e-4)


def test_more_views_of_more_photos(old, photos, teacher, tmp_path):
    report = grow(
        old, FolderSource(photos), teacher, tmp_path / "new.zarr", num_views=5, options=OPTIONS
    )
    new = labelstore.open(tmp_path / "new.zarr")
    assert (new.num_images, new.num_views) == (5, 5)
    assert report.views_made == 3 * 2 + 2 * 5
    assert new.keys[:3] == old.keys
    for key in old.keys:
        assert codes_of(new, key, 3) == codes_of(old, key, 3)
    whole = labelled(photos, teacher, tmp_path / "whole.zarr", views=5)
    assert_same_views(new, whole, old.keys, range(3, 5))
    assert_same_views(new, whole, new.keys[3:], range(5))
    assert codes_of(new, new.keys[4], 0) == codes_of(whole, new.keys[4], 0)  # their lists
    assert verify(new).whole
    origin = new.manifest.origin
    assert (origin["operation"], origin["stores"]) == ("grow", [old.id])
    assert origin["settings"]["views"] == [3, 5]


def test_a_store_with_units_grows_as_one_with_chunks_does(old, photos, teacher, tmp_path):
    units = in_units(old, tmp_path / "old.zarr", 1)
    paths = {}
    for name, store in (("chunks", old), ("units", units)):
        paths[name] = tmp_path / f"{name}.zarr"
        grow(store, FolderSource(photos), teacher, paths[name], num_views=5, options=OPTIONS)
    grown = {name: labelstore.open(path) for name, path in paths.items()}
    assert grown["units"].manifest.unit_images == 1
    assert said_of_labels(grown["units"]) == said_of_labels(grown["chunks"])
    assert verify(grown["units"]).whole


def test_more_photos_alone_copy_the_blocks_that_are_full(old, photos, teacher, tmp_path):
    report = grow(old, FolderSource(photos), teacher, tmp_path / "new.zarr", options=OPTIONS)
    new = labelstore.open(tmp_path / "new.zarr")
    assert (report.views_made, report.blocks_made, report.blocks_elsewhere) == (6, 3, 0)
    for key in old.keys:
        assert codes_of(new, key, 3) == codes_of(old, key, 3)
    again = grow(new, FolderSource(photos), teacher, tmp_path / "more.zarr", num_views=4)
    assert again.views_made == 5
    more = labelstore.open(tmp_path / "more.zarr")
    assert [step["operation"] for step in lineage(more.manifest)] == [
        "grow",
        "grow",
    ]


def test_what_stays_is_not_compressed_again(old, photos, teacher, tmp_path):
    # Three images in two blocks, three views in two groups, as another writer would lay them down.
    copy(old, tmp_path / "old.zarr")
    turned_round(tmp_path / "old.zarr")
    other, source = labelstore.open(tmp_path / "old.zarr"), FolderSource(photos)
    before = chunks_of(other.path)
    grow(other, source, teacher, tmp_path / "images.zarr", options=OPTIONS)
    grow(other, source, teacher, tmp_path / "views.zarr", num_views=5, options=OPTIONS)
    for name, chunks in chunks_of(tmp_path / "views.zarr").items():
        block = int(name.split("/c/")[1].split("/")[0])
        kept = [chunk in before.get(name, ()) for chunk in chunks]
        assert kept == [block == 0, False, False]
        if block == 0:
            assert (tmp_path / "images.zarr" / name).read_bytes() == (
                other.path / name
            ).read_bytes()
    for name in ("images.zarr", "views.zarr"):
        assert verify(tmp_path / name).whole
        for key in old.keys:
            assert codes_of(labelstore.open(tmp_path / name), key, 3) == codes_of(old, key, 3)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("old.zarr", StoreSettings(k=4, quantizer="ratio16", prior_size=8, top_p=0.95)),
        ("old.zarr", StoreSettings(k=3, quantizer="u8", prior_size=0)),
        ("old.zarr", StoreSettings(k=1, quantizer="fp32", prior_size=8)),
        ("old.parquet", STORED),
    ],
)
def test_every_way_to_store(name, stored, first_three, photos, teacher, tmp_path):
    old = labelled(first_three, teacher, tmp_path / name, stored=stored)
    grow(old, FolderSource(photos), teacher, tmp_path / f"new-{name}", num_views=5)
    new = labelstore.open(tmp_path / f"new-{name}")
    for key in old.keys:
        assert codes_of(new, key, 3) == codes_of(old, key, 3)
    whole = labelled(photos, teacher, tmp_path / f"whole-{name}", views=5, stored=stored)
    for key in whole.keys:
        for view in range(5):
            one, other = (store.read(key, view) for store in (new, whole))
            assert one.indices[0] == other.indices[0]
            np.testing.assert_allclose(one.probs[0], other.probs[0], atol=1e-2)


def test_changed_photos_are_named_and_labelled_anew_where_asked(
    old, first_three, photos, teacher, tmp_path
):
    folder = shutil.copytree(photos, tmp_path / "photos")
    key = old.keys[1]
    with Image.open(folder / key) as image:
        turned = image.convert("RGB").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    turned.save(folder / key)
    source = FolderSource(folder)
    with pytest.raises(MismatchError, match=key) as refused:
        grow(old, source, teacher, tmp_path / "new.zarr", num_views=5)
    assert refused.value.arguments == ("relabel_changed",)
    assert not (tmp_path / "new.zarr").exists()
    report = grow(old, source, teacher, tmp_path / "new.zarr", num_views=5, relabel_changed=True)
    assert report.views_made == 2 * 2 + 3 * 5
    new = labelstore.open(tmp_path / "new.zarr")
    assert all(entry["key"] != key for entry in new.manifest.probe)
    whole = labelled(folder, teacher, tmp_path / "whole.zarr", views=5)
    assert_same_views(new, whole, [key], range(5))
    for other in (old.keys[0], old.keys[2]):
        assert codes_of(new, other, 3) == codes_of(old, other, 3)


def test_missing_photos_are_kept_and_get_no_views(old, photos, teacher, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / old.keys[0]).unlink()
    with pytest.raises(MismatchError, match=old.keys[0]):
        grow(old, FolderSource(folder), teacher, tmp_path / "more.zarr", num_views=4)
    report = grow(old, FolderSource(folder), teacher, tmp_path / "new.zarr")
    assert (report.num_images, report.views_made) == (5, 6)
    new = labelstore.open(tmp_path / "new.zarr")
    assert codes_of(new, old.keys[0], 3) == codes_of(old, old.keys[0], 3)
    assert new.manifest.origin["settings"]["missing"] == 1


def test_images_without_labels_stay_without_until_they_are_mended(photos, teacher, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    names = sorted(os.listdir(folder))
    for name in names[:2]:  # a whole block
        (folder / name).write_bytes(b"no image")
    skip = RunOptions(batch_size=8, on_error="skip")
    old = labelled(folder, teacher, tmp_path / "old.zarr", options=skip)
    source = FolderSource(folder)
    report = grow(old, source, teacher, tmp_path / "new.zarr", num_views=5)
    assert report.views_made == 3 * 2
    new = labelstore.open(tmp_path / "new.zarr")
    assert new.unreadable() == names[:2]
    assert verify(new).whole
    shutil.copy(photos / names[1], folder / "0.jpg")  # before all others in the folder
    grow(new, FolderSource(folder), teacher, tmp_path / "more.zarr")
    more = labelstore.open(tmp_path / "more.zarr")
    source = FolderSource(folder)
    assert list(undecodable(more, source)) == more.unreadable() == names[:2]
    shutil.copy(photos / names[0], folder / names[0])
    _, made = repair(more, source, teacher, skipped=True, options=skip)
    assert list(made.unreadable) == labelstore.open(more.path).unreadable() == names[1:2]
    for key in names[2:]:
        assert codes_of(labelstore.open(more.path), key, 5) == codes_of(more, key, 5)
    (folder / "0.jpg").unlink()
    source = FolderSource(folder)
    report = grow(old, source, teacher, tmp_path / "mended.zarr", num_views=5, relabel_changed=True)
    assert report.views_made == 3 * 2 + 5
    assert labelstore.open(tmp_path / "mended.zarr").unreadable() == names[1:2]


def test_what_cannot_grow_is_refused(old, first_three, photos, teacher, tmp_path):
    source, path = FolderSource(photos), tmp_path / "new.zarr"
    with pytest.raises(UsageError, match="ask for as many or more"):
        grow(old, source, teacher, path, num_views=2)
    with pytest.raises(UsageError, match="never written again"):
        grow(old, source, teacher, old.path, num_views=5)
    with pytest.raises(UsageError, match="another format"):
        grow(old, source, teacher, tmp_path / "new.parquet", num_views=5)
    with pytest.raises(UsageError, match="has all images"):
        grow(old, FolderSource(first_three), teacher, path)
    with pytest.raises(MismatchError, match="ground truth of 3 images"):
        grow(old, source, teacher, path, num_views=5, targets=np.zeros(5, np.int32))
    other = load_teacher("timm:test_resnet", checkpoint="none", device="cpu", size=128)
    with pytest.raises(MismatchError, match="input_size"):
        grow(old, source, other, path, num_views=5)
    assert not path.exists()
    with pytest.raises(MismatchError, match="let it grow into a new store") as refused:
        labelled(first_three, teacher, old.path, views=5)
    assert refused.value.arguments == ("grow",)


def test_a_grown_store_is_repaired_as_it_grew(old, photos, teacher, tmp_path):
    grow(old, FolderSource(photos), teacher, tmp_path / "grown.zarr", num_views=4, options=OPTIONS)
    path = tmp_path / "new.zarr"
    grow(tmp_path / "grown.zarr", FolderSource(photos), teacher, path, num_views=5, options=OPTIONS)
    new, before = labelstore.open(path), files_of(path)
    kept = {key: codes_of(new, key, 5) for key in new.keys}
    shard = next(file for file in path.glob("labels/top_prob/c/1/**/*") if file.is_file())
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    (path / "commits/c/2/0").unlink()
    # The folder has the photos in another order than the store, and one more.
    folder = shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(next(photos.iterdir()), folder / "another.jpg")
    report, made = repair(path, FolderSource(folder), teacher, options=OPTIONS)
    assert {problem.block for problem in report.problems} == {1, 2}
    assert (made.blocks_made, made.blocks_found) == (2, 1)
    new = labelstore.open(path)
    assert verify(new).whole
    # The third image's list is of three views, the fourth's of four.
    for key in new.keys:
        codes = codes_of(new, key, 5)
        for name in ("images/prior_classes", "images/status", "images/digest", "labels/classes"):
            assert codes[name] == kept[key][name]
    after = files_of(path)
    assert {name for name in before if before[name] != after[name]} <= {
        name for name in before if "/c/1/" in name or "/c/2/" in name
    }


def test_who_does_not_fit_a_grown_store_repairs_nothing(old, photos, teacher, tmp_path):
    path = tmp_path / "new.zarr"
    grow(old, FolderSource(photos), teacher, path, options=OPTIONS)
    (path / "commits/c/0/0").unlink()
    before = files_of(path)
    (tmp_path / "other").mkdir()
    shutil.copy(next(photos.iterdir()), tmp_path / "other/none_of_its.jpg")
    with pytest.raises(MismatchError, match="has other images"):
        repair(path, FolderSource(tmp_path / "other"), teacher)
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / old.keys[0]).unlink()
    with pytest.raises(SourceError, match="restore it there"):
        repair(path, FolderSource(folder), teacher)
    assert files_of(path) == before
    other = load_teacher("timm:test_resnet", checkpoint="none", device="cpu", size=128)
    with pytest.raises(MismatchError, match="input size"):
        repair(path, FolderSource(photos), other)
    assert files_of(path) == before
    halves = [tmp_path / f"{n}.zarr" for n in range(2)]
    for half in halves:
        labelled(photos, teacher, half)
    merge(halves, tmp_path / "mean.zarr")
    with pytest.raises(MismatchError, match="made by labelstore merge"):
        repair(tmp_path / "mean.zarr", FolderSource(photos), teacher)


@pytest.mark.parametrize("part", ["subset", "pull", "prune"])
def test_parts_grow_and_are_repaired(old, first_three, photos, teacher, tmp_path, part):
    path = tmp_path / "part.zarr"
    if part == "prune":
        shutil.copytree(old.path, path)
        prune(path, images=old.keys[1:])
    else:
        {"subset": subset, "pull": copy}[part](old, path, images=old.keys[1:])
    (path / "commits/c/0/0").unlink()
    repair(path, FolderSource(first_three), teacher, options=OPTIONS)
    assert_same_views(labelstore.open(path), old, old.keys[1:], range(3))
    grow(path, FolderSource(photos), teacher, tmp_path / "new.zarr", num_views=4, options=OPTIONS)
    new = labelstore.open(tmp_path / "new.zarr")
    assert (new.num_images, new.num_views) == (5, 4)


def test_a_plan_compares_a_sample_of_the_files_and_says_so(old, photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    changed = folder / old.keys[1]
    Image.new("RGB", (50, 40)).save(changed)
    source, path = FolderSource(folder), tmp_path / "new.zarr"
    with pytest.raises(MismatchError, match=re.escape(repr(old.keys[1]))):
        Growth.of(old, source, path, sampled=True)
    with pytest.MonkeyPatch.context() as patch:
        # Both ends are among them.
        patch.setattr("labelstore.producer.growth.known_photos.SAMPLED", 2)
        growth = Growth.of(old, source, path, sampled=True)
        assert (growth.compared, growth.plan.added) == (2, 2)
    with pytest.raises(MismatchError, match="other files"):
        Growth.of(old, source, path)


def test_a_plan_is_a_function_of_two_tables():
    plan = plan_growth(
        ["b", "a", "c", "e"],
        np.array([True, True, False, True]),
        3,
        ["a", "b", "c", "d"],
        5,
        np.array([1]),
    )
    assert plan.keys == ("b", "a", "c", "e", "d")
    assert plan.places.tolist() == [1, 0, 2, -1, 3]
    assert plan.first_views.tolist() == [3, 0, 5, 3, 0]
    assert (plan.added, plan.views) == (1, 2 + 5 + 2 + 5)
    assert plan.missing.tolist() == plan.unmakeable.tolist() == [3]


def command(photos, old, path, *more):
    """The arguments of a run that grows a store."""
    return [
        *(sys.executable, "-m", "labelstore", "generate", photos, "--grow", old, "-o", path),
        *("--teacher", "timm:test_resnet", "--checkpoint", "none", "--size", "96"),
        *("--device", "cpu", "--targets", "none", "--batch-size", "8", *more),
    ]


def test_the_command_tells_before_it_does(old, photos, tmp_path):
    path = tmp_path / "new.zarr"
    told = commands.run(
        command(photos, old.path, path, "--views", "5", "--dry-run", "--json"), check=True
    )
    document = json.loads(told.stdout)
    assert (document["kept"], document["added"], document["views"]) == (3, 2, 16)
    assert not path.exists()
    refused = commands.run(command(photos, old.path, path, "--seed", "1"))
    assert refused.returncode == 2
    assert "--seed is 1" in refused.stderr
    assert not path.exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--teacher", "timm:test_vit", "-o", "b.zarr"), "grow one by one"),
        (("--engine", "ray"), "leave --engine out"),
    ],
)
def test_runs_in_which_nothing_grows_are_refused(old, photos, tmp_path, more, told):
    path = tmp_path / "new.zarr"
    done = CliRunner().invoke(main, [*map(str, command(photos, old.path, path)[3:]), *more])
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())
    assert not path.exists()


class Elsewhere:
    """An engine of another kind."""

    def __init__(self, teacher):
        self.teachers = [teacher]


def test_another_engine_is_refused(old, photos, teacher, tmp_path):
    path = tmp_path / "new.zarr"
    growth = Growth.of(old, FolderSource(photos), path)
    settings = LabelSettings.of_manifest(old.manifest)
    output = Output(growth.targets(), path, settings, growth=growth)
    with pytest.raises(UsageError, match="take that one"):
        generate_together(growth.source, [output], Elsewhere(teacher))
    assert not path.exists()


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(old, photos, teacher, tmp_path):
    source = FolderSource(photos)
    grow(old, source, teacher, tmp_path / "whole.zarr", num_views=40, options=OPTIONS)
    path = tmp_path / "new.zarr"
    arguments = command(photos, old.path, path, "--views", "40", "--quiet")
    run = commands.start(arguments)
    started = time.monotonic()
    while not list(path.glob("commits/c/*/0")):
        assert run.poll() is None
        assert time.monotonic() - started < 120
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert labelstore.open(path).missing_blocks()
    commands.run(arguments, check=True)
    assert files_of(path) == files_of(tmp_path / "whole.zarr")


@pytest.mark.slow
def test_two_processes_grow_one_store(old, photos, teacher, tmp_path):
    source = FolderSource(photos)
    grow(old, source, teacher, tmp_path / "whole.zarr", num_views=5, options=OPTIONS)
    path = tmp_path / "new.zarr"
    arguments = command(photos, old.path, path, "--views", "5")
    launches = [
        {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        for rank in range(2)
    ]
    runs = [commands.start(arguments, env=launch) for launch in launches]
    assert [run.wait(120) for run in runs] == [0, 0]
    new = labelstore.open(path)
    assert new.complete
    assert new.id == labelstore.open(tmp_path / "whole.zarr").id
    for key in old.keys:
        assert codes_of(new, key, 3) == codes_of(old, key, 3)
