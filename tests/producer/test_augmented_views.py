"""Augmented views: in ``generate`` the teacher saw the very pixels that students see."""

from __future__ import annotations

import functools
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torchvision.transforms import v2

import labelstore
from labelstore.cli.main import main
from labelstore.errors import MismatchError, ReplayWarning, UsageError
from labelstore.format import manifest as manifests
from labelstore.format.versions import DRAFT_VERSION, VERSION_2
from labelstore.images import render
from labelstore.images.decoding import decode
from labelstore.images.sources.folder import FolderSource
from labelstore.operations import demo
from labelstore.operations.lifecycle.grow import grow
from labelstore.operations.lifecycle.prune import prune
from labelstore.operations.lifecycle.subset import subset
from labelstore.operations.materialize import materialize
from labelstore.operations.merge import merge
from labelstore.operations.recode import recode
from labelstore.operations.repair import repair
from labelstore.operations.verify import replay
from labelstore.producer.engines.local import LocalEngine
from labelstore.producer.generation import generate_together
from labelstore.producer.pixel_probe import make_probe, read_by_key, replay_probe
from labelstore.producer.settings import LabelSettings, Output, RunOptions
from labelstore.teachers.load import load_teacher
from labelstore.torch import HuggingFaceViews, SoftLabelDataset, WebDatasetViews
from labelstore.torch.dataset import Show
from labelstore.training.batches import Batches
from labelstore.views.law import ViewLaw
from tests.support import augmented, commands
from tests.support.augmented import STORED, require_labels
from tests.support.stores import few_photos, files_of

VIEWS = 4
labelled = functools.partial(augmented.labelled, views=VIEWS)
ALONE = ("jitter-0.4-0.4-0.2-0.1", "gray-0.5", "rotate-45", "blur-0.7", "solarize-0.6", "erase-0.7")
ALONE += ("ra-n2-m9", "ta-wide")

COMPOSITIONS = [
    # All of them are parts of those that follow.
    *(pytest.param((stage,), id=stage, marks=pytest.mark.slow) for stage in ALONE),
    *(
        pytest.param(stages, id=" ".join(stages))
        for stages in (
            ("ra-n2-m9", "erase-0.25"),
            ("jitter-0.4-0.4-0.2-0.1-p0.8", "gray-0.2", "blur-0.5", "solarize-0.2"),
            ("rotate-15", "jitter-0.4", "ta-wide", "erase-1"),
        )
    ),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photos, flat."""
    return few_photos(tmp_path_factory.mktemp("photos"), 3)


@pytest.fixture(scope="module")
def teacher():
    """A small network."""
    return load_teacher("timm:test_resnet", checkpoint="none", device="cpu", size=64)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """EfficientNet-Lite0 with its real weights."""
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    demo.place_teacher("tf_efficientnet_lite0", path)
    return load_teacher("timm:tf_efficientnet_lite0", checkpoint=str(path), device="cpu")


@pytest.mark.parametrize("stages", COMPOSITIONS)
def test_the_teacher_saw_the_students_pixels(photos, teacher, tmp_path, stages):
    store = labelled(photos, teacher, tmp_path / "s.zarr", stages)
    plain = labelled(photos, teacher, tmp_path / "plain.zarr", ())
    views = np.arange(VIEWS)
    a, b = store.views(range(3), 0), plain.views(range(3), 0)
    np.testing.assert_array_equal(a.box, b.box)
    source = FolderSource(photos)
    data = SoftLabelDataset(source, store, normalize=None, check_pixels="raise")
    unchanged = SoftLabelDataset(source, plain, normalize=None)
    changed = 0
    for image in range(3):
        pixels, _ = data[Show(image, tuple(range(VIEWS)))]
        require_labels(store, teacher, image, views, pixels)
        crops, _ = unchanged[Show(image, tuple(range(VIEWS)))]
        others = (pixels != crops).flatten(1).any(1).numpy()
        shown = store.views(image, views)
        asked = np.any([(stage.operation > 0).any(1) for stage in shown.stages], axis=0)
        # What the parameters leave as it is has the crop's pixels.
        assert not others[~asked].any()
        changed += int(others.sum())
    assert changed


@pytest.mark.slow  # test_mixed_views has one of stages that are mixed besides
def test_a_real_teacher_saw_the_students_pixels(photos, lite0, tmp_path):
    stages = ("ra-n2-m9", "jitter-0.4-0.4-0.4-0.1", "erase-0.5")
    store = labelled(photos, lite0, tmp_path / "s.parquet", stages, temperature=1.0)
    data = SoftLabelDataset(FolderSource(photos), store, normalize=None, check_pixels="raise")
    for image in range(3):
        pixels, _ = data[Show(image, tuple(range(VIEWS)))]
        require_labels(store, lite0, image, np.arange(VIEWS), pixels, temperature=1.0)
    replayed = replay(store, FolderSource(photos), lite0, 0.5)
    assert replayed.agrees


def test_joins_and_batches_show_the_same_pixels_without_another_argument(photos, teacher, tmp_path):
    store = labelled(photos, teacher, tmp_path / "s.zarr", ("ta-wide", "erase-0.7"))
    source = FolderSource(photos)
    data = SoftLabelDataset(source, store, normalize=None)
    web = WebDatasetViews(store, 2, normalize=None, check_pixels="raise")
    hub = HuggingFaceViews(store, 2, normalize=None, check_pixels="raise", key_column="key")
    for join in (web, hub):
        join.set_epoch(1)
    for image, key in enumerate(store.keys):
        views = web.order.views(np.array([image]), 1)[0]
        expected, _ = data[Show(image, tuple(views.tolist()))]
        encoded = (photos / key).read_bytes()
        name, suffix = key.rsplit(".", 1)
        pixels, labels = web({"__key__": name, suffix: encoded})
        assert torch.equal(pixels, expected)
        assert labels.view.tolist() == views.tolist()
        rows = hub({"key": [key], "image": [Image.open(photos / key)]})
        assert torch.equal(rows["pixels"][0], expected)
    size, interpolation = teacher.preprocessing.input_size, teacher.preprocessing.interpolation
    for batch in Batches(store, 3, 2).epoch(0):
        assert [stage.operation.shape for stage in batch.stages] == [(6, 1), (6, 1)]
        for row, (image, view) in enumerate(zip(batch.images, batch.views, strict=True)):
            photo = decode((photos / store.keys[image]).read_bytes(), store.keys[image])
            shown = store.views(image, [view])
            for ours, theirs in zip(shown.stages, batch.stages, strict=True):
                np.testing.assert_array_equal(ours.values[0], theirs.values[row])
            expected, _ = data[Show(int(image), (int(view),))]
            pixels = render(photo, shown, size, interpolation)
            np.testing.assert_array_equal(pixels[0], expected[0].permute(1, 2, 0).numpy())


def test_a_transform_of_the_students_own_comes_after(photos, teacher, tmp_path):
    store = labelled(photos, teacher, tmp_path / "s.zarr", ("solarize-1",))
    source = FolderSource(photos)
    seen = []

    def own(image):
        seen.append(np.asarray(image))
        return v2.functional.pil_to_tensor(image)

    SoftLabelDataset(source, store, transform=own)[Show(0, (1,))]
    pixels, _ = SoftLabelDataset(source, store, normalize=None)[Show(0, (1,))]
    np.testing.assert_array_equal(seen[0], pixels[0].permute(1, 2, 0).numpy())


def test_a_reduced_photo_has_its_stages(photos, teacher, tmp_path):
    large = tmp_path / "large"
    large.mkdir()
    Image.open(next(photos.iterdir())).convert("RGB").resize((1600, 1200)).save(large / "a.jpg")
    store = labelled(large, teacher, tmp_path / "s.zarr", ("solarize-1",))
    source = FolderSource(large)
    whole = SoftLabelDataset(source, store, normalize=None)[Show(0, (0, 1))][0]
    reduced = SoftLabelDataset(source, store, normalize=None, decode="reduced")[Show(0, (0, 1))][0]
    # Nearly the same; without solarization half of the values would be inverted.
    assert (whole.float() - reduced.float()).abs().mean() < 20


def test_several_teachers_of_other_sizes_label_the_same_views(photos, teacher, tmp_path):
    larger = load_teacher("timm:test_vit", checkpoint="none", device="cpu", size=80)
    source = FolderSource(photos)
    settings = LabelSettings(
        2, STORED, law=ViewLaw(stages=("ra-n2-m9", "erase-1")), temperature=0.1
    )
    targets = np.full(3, -1, np.int32)
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    options = RunOptions(batch_size=4)
    with LocalEngine([teacher, larger], options) as engine:
        outputs = [Output(targets, path, settings) for path in paths]
        generate_together(source, outputs, engine, options=options)
    for path, network in zip(paths, (teacher, larger), strict=True):
        store = labelstore.open(path)
        data = SoftLabelDataset(source, store, normalize=None, check_pixels="raise")
        for image in range(3):
            pixels, _ = data[Show(image, (0, 1))]
            require_labels(store, network, image, [0, 1], pixels)
    merge(paths, tmp_path / "both.zarr")
    both = labelstore.open(tmp_path / "both.zarr")
    assert both.law == settings.law
    np.testing.assert_array_equal(
        both.views(1, 1).stages[1].values, store.views(1, 1).stages[1].values
    )


def test_the_probe_has_every_operation_and_notices_another_pillow(photos, monkeypatch):
    law = ViewLaw(seed=3, stages=("ra-n2-m9", "gray-0.1"))
    shape = ((32, 32), "bilinear")
    source = FolderSource(photos)
    probe = make_probe(source, shape, law, 100)
    views = [
        law(labelstore.views.hash_keys([entry["key"]])[0], entry["view"], 500, 375)
        for entry in probe
    ]
    codes = {(n, int(c)) for view in views for n, s in enumerate(view.stages) for c in s.operation}
    assert len(codes) == 14 + 2
    # Without stages it is what it always was.
    plain = make_probe(source, shape, ViewLaw(seed=3), 100)
    assert [entry["view"] for entry in plain] == [0, 1] * 3
    assert replay_probe(probe, read_by_key(source), law, shape)[0] == []
    from labelstore.images import stages

    monkeypatch.setitem(stages.OPERATIONS, "equalize", lambda view, _: view)
    assert replay_probe(probe, read_by_key(source), law, shape)[0]


def test_a_copy_and_a_part_keep_their_stages_or_are_refused(photos, teacher, tmp_path):
    store = labelled(photos, teacher, tmp_path / "s.zarr", ("ta-wide", "erase-0.7"))
    materialize(store, tmp_path / "copy")
    recode(store, tmp_path / "recoded.parquet")
    subset(store, tmp_path / "part.zarr", images=[2, 0], views=range(2))
    for other in ("copy", "recoded.parquet", "part.zarr"):
        held = labelstore.open(tmp_path / other)
        image = int(held.index_of(store.keys[2]))
        assert held.law == store.law
        for ours, theirs in zip(held.views(image, 1).stages, store.views(2, 1).stages, strict=True):
            np.testing.assert_array_equal(ours.values, theirs.values)
        np.testing.assert_array_equal(held.read(image, 1).probs, store.read(2, 1).probs)
    with pytest.raises(UsageError, match="cannot be stored as boxes"):
        subset(store, tmp_path / "later.zarr", views=range(1, 3))
    assert not (tmp_path / "later.zarr").exists()
    before = files_of(tmp_path / "s.zarr")
    with pytest.raises(UsageError, match="cannot be stored as boxes"):
        prune(tmp_path / "s.zarr", views=range(1, 3))
    assert files_of(tmp_path / "s.zarr") == before


def test_stores_of_other_stages_are_not_merged(photos, teacher, tmp_path):
    labelled(photos, teacher, tmp_path / "a.zarr", ("ta-wide",))
    labelled(photos, teacher, tmp_path / "b.zarr", ())
    with pytest.raises(MismatchError, match="augment ta-wide"):
        merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "both.zarr")


def test_stages_are_not_made_on_the_device(photos, teacher, tmp_path):
    with pytest.raises(UsageError, match="done by workers"):
        labelled(photos, teacher, tmp_path / "s.zarr", ("ta-wide",), resize="device")
    assert not (tmp_path / "s.zarr").exists()


def test_a_store_that_was_begun_as_a_draft_is_gone_on_with(photos, teacher, tmp_path, monkeypatch):
    path, stages = tmp_path / "s.zarr", ("gray-0.2", "erase-0.5")
    with monkeypatch.context() as patch:
        # As labelstore wrote before version 2 was frozen.
        patch.setattr(manifests, "VERSION_2", DRAFT_VERSION)
        labelled(photos, teacher, path, stages)
    whole = files_of(path)
    (path / "commits/c/1/0").unlink()
    store = labelled(photos, teacher, path, stages)
    assert store.complete
    assert store.manifest.format_version == DRAFT_VERSION
    assert files_of(path) == whole
    (path / "labels/top_prob/c/0/0").write_bytes(b"")
    repair(path, FolderSource(photos), teacher, options=RunOptions(batch_size=4))
    assert files_of(path) == whole
    few = subset(path, tmp_path / "few.zarr", images=[0])
    assert labelstore.open(few.path).manifest.format_version == VERSION_2


def run(*arguments):
    command = [sys.executable, "-m", "labelstore", *map(str, arguments)]
    return commands.run(command)


def told_here(*arguments):
    """The same in this process, of a command that writes no store."""
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_from_the_command_line(photos, tmp_path):
    teacher = ("--teacher", "timm:test_resnet", "--checkpoint", "none", "--device", "cpu")
    common = ("generate", photos, *teacher, "--size", 64, "--targets", "none", "--views", 3)
    common = (*common, "-o", tmp_path / "s.zarr")
    stages = ("--augment", "jitter-0.4", "--augment", "ra-n2-m9", "--augment", "erase-0.25")
    done = run(*common, *stages)
    assert done.returncode == 0, done.stderr
    store = labelstore.open(tmp_path / "s.zarr")
    assert [str(stage) for stage in store.law.stages] == list(stages[1::2])
    assert store.manifest.to_json()["format_version"] == VERSION_2
    other = run(*common, *stages[:4], "--json")
    assert other.returncode == 1
    assert json.loads(other.stdout)["error"]["kind"] == "mismatch"
    wrong = told_here(*common[:-1], tmp_path / "t.zarr", "--augment", "shuffle-0.2")
    assert (wrong.exit_code, "shuffle-0.2" in wrong.stderr) == (2, True)
    device = told_here(*common[:-1], tmp_path / "t.zarr", *stages, "--resize", "device")
    assert (device.exit_code, "done by workers" in " ".join(device.stderr.split())) == (2, True)
    assert not (tmp_path / "t.zarr").exists()
    told = told_here("inspect", tmp_path / "s.zarr")
    assert "jitter-0.4, ra-n2-m9, erase-0.25" in " ".join(told.stdout.split())
    sheet = ("--save", tmp_path / "sheet.png")
    drawn = run("show", tmp_path / "s.zarr", 0, "--photos", photos, *sheet)
    assert drawn.returncode == 0, drawn.stderr
    shown = json.loads(told_here("show", tmp_path / "s.zarr", 0, "--json").stdout)["views"][0]
    asked = [stage[shown["view"]] for stage in store.views(0, range(3)).stages]
    pairs = [pair for stage in asked for pair in zip(stage.operation, stage.values, strict=True)]
    steps = [(asked[0].names[code], values.tolist()) for code, values in pairs if code]
    assert [(step["name"], step["values"]) for step in shown["operations"]] == steps
    assert steps[0][0] in drawn.stdout
    fresh = tmp_path / "second.zarr"
    second = run(*common[:-4], "--views-from", tmp_path / "s.zarr", "-o", fresh)
    assert second.returncode == 0, second.stderr
    assert labelstore.open(fresh).law == store.law


def test_another_teacher_labels_mixed_views_of_more_photos(photos, tmp_path):
    both, fewer, names = tmp_path / "both", tmp_path / "fewer", sorted(photos.iterdir())
    for folder, chosen in ((both, names), (fewer, names[1:])):
        for number, photo in enumerate(chosen, len(names) - len(chosen)):
            # What is new stands before what was there.
            (folder / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, folder / f"class{number % 2}" / photo.name)
    classes = tmp_path / "classes.csv"
    classes.write_text("class0,5\nclass1,7\n")
    teacher = ("--teacher", "timm:test_resnet", "--checkpoint", "none", "--device", "cpu")
    common = (*teacher, "--size", 32, "--class-map", classes, "--prior-size", 0)
    old, new = tmp_path / "old.zarr", tmp_path / "new.zarr"
    done = run("generate", fewer, *common, "--views", 2, "--augment", "mixup-0.8", "-o", old)
    assert done.returncode == 0, done.stderr
    done = run("generate", both, *common, "--views-from", old, "-o", new)
    assert done.returncode == 0, done.stderr
    old, new = labelstore.open(old), labelstore.open(new)
    assert new.law == old.law
    assert new.keys[:2] == old.keys
    assert new.targets.tolist() == [5 if "class0" in key else 7 for key in new.keys]
    rows, views = np.arange(2)[:, None], np.arange(2)
    assert np.array_equal(new.read(rows, views).indices, old.read(rows, views).indices)
    np.testing.assert_allclose(new.read(rows, views).probs, old.read(rows, views).probs, atol=1e-2)


def test_a_store_grows_by_photos_and_views_with_its_stages(photos, teacher, tmp_path):
    stages = ("ra-n2-m9", "erase-0.5")
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for photo in sorted(photos.iterdir())[:2]:
        shutil.copy(photo, fewer)
    labelled(fewer, teacher, tmp_path / "old.zarr", stages, views=2)
    source, new = FolderSource(photos), tmp_path / "new.zarr"
    grow(tmp_path / "old.zarr", source, teacher, new, num_views=VIEWS)
    store = labelstore.open(new)
    assert (store.num_views, store.manifest.format_version) == (VIEWS, VERSION_2)
    data = SoftLabelDataset(source, store, normalize=None, check_pixels="raise")
    for image in range(3):
        pixels, _ = data[Show(image, tuple(range(VIEWS)))]
        require_labels(store, teacher, image, np.arange(VIEWS), pixels)


def test_a_damaged_block_is_made_again_with_its_stages(photos, teacher, tmp_path):
    store = labelled(photos, teacher, tmp_path / "s.zarr", ("ta-wide", "erase-0.5"))
    before = files_of(tmp_path / "s.zarr")
    shard = next(name for name in before if name.startswith("labels/top_prob/c/0"))
    (tmp_path / "s.zarr" / shard).write_bytes(b"")
    found, report = repair(store, FolderSource(photos), teacher, options=RunOptions(batch_size=4))
    assert (found.whole, report.blocks_made) == (False, 1)
    assert files_of(tmp_path / "s.zarr") == before


def test_an_ensemble_shows_the_stages_of_its_members(photos, teacher, tmp_path):
    a = labelled(photos, teacher, tmp_path / "a.zarr", ("ta-wide",))
    b = labelled(photos, teacher, tmp_path / "b.zarr", ("ta-wide",), temperature=0.2)
    both = SoftLabelDataset(FolderSource(photos), labelstore.ensemble([a, b]), normalize=None)
    one = SoftLabelDataset(FolderSource(photos), a, normalize=None)
    assert torch.equal(both[Show(1, (0, 2))][0], one[Show(1, (0, 2))][0])


def test_a_student_is_told_where_a_stage_has_other_pixels(photos, teacher, tmp_path, monkeypatch):
    from labelstore.images import stages

    store = labelled(photos, teacher, tmp_path / "s.zarr", ("solarize-1",))
    monkeypatch.setitem(stages.OPERATIONS, "solarize", lambda view, _: view)
    with pytest.warns(ReplayWarning, match="other pixels here than the teacher saw"):
        SoftLabelDataset(FolderSource(photos), store)
    (tmp_path / "s.zarr" / "commits" / "c" / "1" / "0").unlink()
    with pytest.raises(MismatchError, match="begun with other pixels"):
        labelled(photos, teacher, tmp_path / "s.zarr", ("solarize-1",))
