"""The producer on real photos with a real teacher, and what it refuses."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import labelstore
from labelstore.errors import LabelStoreError, MismatchError, SourceError, UsageError
from labelstore.format.settings import StoreSettings
from labelstore.images.decoding import decode
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.images.pixels import cut
from labelstore.images.sources.folder import FolderSource
from labelstore.operations import demo
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.teachers.load import load_teacher
from labelstore.teachers.top_k import top_k
from labelstore.views.law import ViewLaw
from tests.support import commands


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The 20 photos in ImageNet's class folders."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    assert demo.place_photos(folder) == 20
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """EfficientNet-Lite0's real weights."""
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    demo.place_teacher("tf_efficientnet_lite0", path)
    return path


@pytest.fixture(scope="module")
def teacher(checkpoint):
    return load_teacher("timm:tf_efficientnet_lite0", checkpoint=str(checkpoint), device="cpu")


@pytest.fixture
def small(tmp_path, photos):
    """Three photos in a flat folder."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in ("00", "01", "02"):
        (photo,) = photos.rglob(f"imagenet_{number}.jpg")
        shutil.copy(photo, folder)
    return folder


def untrained(size=32, **options):
    return load_teacher("timm:test_resnet", checkpoint="none", device="cpu", size=size, **options)


def unknown(source):
    return np.full(len(source), -1, dtype=np.int32)


def make(folder, path, teacher=None, **options):
    recipe = options.pop("recipe", LabelSettings(6, StoreSettings(k=3, block_images=1)))
    progress = options.pop("progress", None)
    source = FolderSource(folder)
    return generate(
        source,
        unknown(source),
        teacher or untrained(),
        path,
        recipe,
        options=RunOptions(**options),
        progress=progress,
    )


def files_of(path):
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def test_every_label_is_what_the_teacher_says_of_that_very_view(photos, teacher, tmp_path):
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    from labelstore.torch import SoftLabelDataset, ViewSampler, collate_views

    source = FolderSource(photos)
    targets = resolve_targets(
        source, num_classes=teacher.num_classes, class_names=teacher.class_names
    )
    views, k = 2, 10
    recipe = LabelSettings(views, StoreSettings(k=k, quantizer="u8", prior_size=0))
    report = generate(source, targets, teacher, tmp_path / "s.zarr", recipe)
    assert (report.views_made, report.unreadable) == (20 * views, {})
    store = labelstore.open(tmp_path / "s.zarr")
    assert store.complete

    data = SoftLabelDataset(ImageFolder(photos), store, normalize=None, check_pixels="raise")
    loader = DataLoader(
        data,
        batch_size=2,
        sampler=ViewSampler(store, views_per_image=views),
        collate_fn=collate_views,
    )
    seen = set()
    for images, target in loader:
        logits = teacher.logits(images.permute(0, 2, 3, 1).numpy())
        exact = torch.softmax(logits.double(), -1)
        classes = target.indices
        stored = target.base[:, None] + target.weights
        assert torch.allclose(stored.sum(-1) + target.base * (1000 - k), torch.ones(len(stored)))
        live = exact.gather(1, classes).float()
        # u8's steps are below 1.6 % of a value of 1/2; the top one is exact to 1e-5. Batches of
        # another size move a CPU's convolutions by about 1e-6.
        assert (stored[:, 0] - live[:, 0]).abs().max() < 3e-5
        assert ((stored - live).abs() <= 0.01 * live.sqrt() + 1e-5).all()
        # The k stored classes are the k largest, but where neighbours are equal to within noise.
        largest = exact.topk(k).values.float()
        assert (live - largest).abs().max() < 1e-4
        seen |= set(zip(target.image.tolist(), target.view.tolist(), strict=True))
    assert len(seen) == 20 * views
    assert float(np.mean(store.read(range(20), 0).indices[:, 0] == store.targets)) >= 0.5


def test_labels_follow_the_view_law_and_the_temperature(small, tmp_path):
    teacher = untrained()
    law = ViewLaw(seed=7, scale=(0.2, 0.9), flip=0.25)
    recipe = LabelSettings(
        5, StoreSettings(k=4, quantizer="fp32", prior_size=16), law=law, temperature=0.5
    )
    make(small, tmp_path / "s.zarr", teacher, recipe=recipe)
    store = labelstore.open(tmp_path / "s.zarr")
    for image, key in enumerate(store.keys):
        photo = decode((small / key).read_bytes(), key)
        views = store.views(image, np.arange(5))
        pixels = np.stack(
            [
                cut(photo, box.tolist(), bool(flip), (32, 32), teacher.preprocessing.interpolation)
                for box, flip in zip(views.box, views.flip, strict=True)
            ]
        )
        classes, probs = top_k(teacher.logits(pixels), 4, 0.5)
        got = store.read(image, np.arange(5))
        assert np.array_equal(got.indices, classes)
        np.testing.assert_allclose(got.probs, probs, atol=1e-6)


def test_resuming_makes_the_same_bytes_and_a_finished_store_is_left_alone(small, tmp_path):
    make(small, tmp_path / "whole.zarr")
    whole = files_of(tmp_path / "whole.zarr")

    class StopError(Exception):
        pass

    class StopAfter:
        def __init__(self, images):
            self.left = images

        def resumed(self, images):
            assert images == 0

        def update(self, images, views):
            self.left -= images
            if self.left < 0:
                raise StopError

        def waited(self, seconds):
            assert seconds >= 0

    path = tmp_path / "part.zarr"
    with pytest.raises(StopError):
        make(small, path, progress=StopAfter(1))
    assert labelstore.open(path).missing_blocks() == [1, 2]
    report = make(small, path)
    assert (report.blocks_found, report.blocks_made) == (1, 2)
    assert files_of(path) == whole

    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    report = make(small, path)
    assert (report.blocks_made, report.views_made) == (0, 0)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_a_store_goes_on_in_the_blocks_and_groups_that_it_was_begun_with(small, tmp_path):
    path = tmp_path / "s.zarr"
    make(small, path, recipe=LabelSettings(6, StoreSettings(k=3, block_images=2, group_views=2)))
    before = files_of(path)
    (commit,) = (file for file in (path / "commits/c/0").rglob("*") if file.is_file())
    commit.unlink()
    report = make(small, path, recipe=LabelSettings(6, StoreSettings(k=3)))
    assert report.views_made == 2 * 6
    assert files_of(path) == before
    store = make(small, tmp_path / "new.zarr", recipe=LabelSettings(6, StoreSettings(k=3)))
    assert labelstore.open(store.path).manifest.group_views == 6


def test_other_settings_are_refused_by_name_until_overwrite(small, tmp_path):
    path = tmp_path / "s.zarr"
    make(small, path)
    with pytest.raises(MismatchError, match=r"views.law.seed: stored 0, asked for 1"):
        make(
            small,
            path,
            recipe=LabelSettings(6, StoreSettings(k=3, block_images=1), law=ViewLaw(seed=1)),
        )
    with pytest.raises(MismatchError, match=r"labels.k: stored 3, asked for 2"):
        make(small, path, recipe=LabelSettings(6, StoreSettings(k=2, block_images=1)))
    with pytest.raises(MismatchError, match=r"teacher.input_size"):
        make(small, path, untrained(size=48))
    make(small, path, recipe=LabelSettings(6, StoreSettings(k=2, block_images=1)), overwrite=True)
    assert labelstore.open(path).k == 2


def test_another_data_set_is_refused_also_under_the_same_names(small, tmp_path):
    path = tmp_path / "s.zarr"
    with pytest.raises(LabelStoreError, match="needs an image"):
        make(small, path, progress=Interrupt())
    other = tmp_path / "other"
    shutil.copytree(small, other)
    (other / "more.jpg").write_bytes(next(small.iterdir()).read_bytes())
    with pytest.raises(MismatchError, match="another data set"):
        make(other, path)
    (other / "more.jpg").unlink()
    names = sorted(file.name for file in other.iterdir())
    (other / names[0]).write_bytes((small / names[1]).read_bytes())
    with pytest.raises(MismatchError, match="with other pixels"):
        make(other, path)


class Interrupt:
    def __init__(self):
        self.images = 0

    def resumed(self, images):
        pass

    def update(self, images, views):
        self.images += images
        if self.images >= 2:
            raise UsageError("the test stops: it needs an image more")

    def waited(self, seconds):
        pass


def test_unreadable_images_stop_the_run_or_are_skipped_and_listed(small, tmp_path):
    names = sorted(file.name for file in small.iterdir())
    (small / names[1]).write_bytes((small / names[1]).read_bytes()[:3000])
    path = tmp_path / "s.zarr"
    with pytest.raises(SourceError, match=rf"{names[1]}.*on_error='skip'"):
        make(small, path)
    assert labelstore.open(path).missing_blocks() == [1, 2]
    report = make(small, path, on_error="skip")
    assert list(report.unreadable) == [names[1]]
    assert "cannot decode" in report.unreadable[names[1]]
    store = labelstore.open(path)
    assert store.complete
    assert store.labelled().tolist() == [True, False, True]
    assert store.read([0, 2], 3).probs.shape == (2, 3)
    with pytest.raises(LabelStoreError, match="could not be decoded"):
        store.read(1, 0)


def test_each_photo_is_decoded_once(small, tmp_path, monkeypatch):
    from labelstore.producer.crops import photos as reading

    decoded = []
    read_photo = reading.read_photo

    def counting(source, index):
        decoded.append(index)
        return read_photo(source, index)

    monkeypatch.setattr(reading, "read_photo", counting)
    make(
        small,
        tmp_path / "s.zarr",
        recipe=LabelSettings(100, StoreSettings(k=2)),
        batch_size=7,
        workers=3,
    )
    assert len(decoded) == len(set(decoded)) == 3


def test_hard_and_smoothing_labels(small, tmp_path):
    for label_type in ("hard", "smoothing"):
        path = tmp_path / f"{label_type}.zarr"
        make(
            small,
            path,
            recipe=LabelSettings(4, StoreSettings(k=1, prior_size=0), label_type=label_type),
        )
        store = labelstore.open(path)
        topk = store.read(0, np.arange(4))
        soft = topk.as_type(store.manifest.label_type)
        at_top = soft.probability(topk.indices[:, 0])
        np.testing.assert_allclose(at_top, 1.0 if label_type == "hard" else topk.confidence)
    with pytest.raises(UsageError, match="stores one class"):
        make(
            small,
            tmp_path / "x.zarr",
            recipe=LabelSettings(4, StoreSettings(k=3), label_type="hard"),
        )


def test_impossible_requests(small, tmp_path):
    with pytest.raises(UsageError, match="k is 1001, expected 1 to 1000"):
        make(small, tmp_path / "s.zarr", recipe=LabelSettings(2, StoreSettings(k=1001)))
    with pytest.raises(UsageError, match="batch size"):
        make(small, tmp_path / "s.zarr", batch_size=0)
    assert not (tmp_path / "s.zarr").exists()


def command(folder, path, views):
    return [
        *(sys.executable, "-m", "labelstore", "generate", str(folder)),
        *("--teacher", "timm:test_resnet", "--checkpoint", "none", "--device", "cpu"),
        *("--targets", "none", "--views", str(views), "--top-k", "3", "--block-images", "1"),
        *("--batch-size", "4", "--size", "32", "--quiet", "-o", str(path)),
    ]


def blocks_of(path):
    """How many blocks of a store are committed."""
    return len(list((path / "commits" / "c").glob("*")))


def wait_for_blocks(process, path, count):
    """Until so many blocks are committed, or the process has ended."""
    while process.poll() is None and blocks_of(path) < count:
        time.sleep(0.005)


def kill_and_resume(folder, tmp_path, kills, views, seed):
    """Kill the real command at random moments of its work, and let it go on."""
    whole, path = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    process = commands.start(command(folder, whole, views))
    wait_for_blocks(process, whole, 1)
    start = time.monotonic()
    assert process.wait() == 0
    blocks = blocks_of(whole)
    block_seconds = (time.monotonic() - start) / (blocks - 1)
    expected = files_of(whole)
    chance, deaths = random.Random(seed), 0
    for _ in range(3 * kills):
        if deaths == kills:
            break
        before = blocks_of(path)
        process = commands.start(command(folder, path, views))
        wait_for_blocks(process, path, min(before + chance.randint(1, 2), blocks - 1))
        time.sleep(chance.uniform(0.0, 1.0) * block_seconds)
        process.send_signal(signal.SIGKILL)
        deaths += process.wait() == -signal.SIGKILL
        if process.returncode == 0:
            # It had gone on to the end before: begin anew.
            assert files_of(path) == expected
            shutil.rmtree(path)
    commands.run(command(folder, path, views), check=True)
    assert files_of(path) == expected
    assert deaths == kills


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_run_resumes_to_the_same_bytes(small, tmp_path):
    kill_and_resume(small, tmp_path, kills=2, views=60, seed=0)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_run_killed_twenty_times_resumes_to_the_same_bytes(photos, tmp_path):
    kill_and_resume(photos, tmp_path, kills=20, views=64, seed=1)


def test_the_manifest_says_what_the_labels_mean(small, tmp_path):
    make(small, tmp_path / "s.zarr")
    manifest = labelstore.open(tmp_path / "s.zarr").manifest
    teacher = manifest.teacher
    assert (teacher["spec"], teacher["untrained"]) == ("timm:test_resnet", True)
    assert teacher["input_size"] == [32, 32]
    assert len(teacher["weights_digest"]) == 32
    assert {"labelstore", "torch", "timm", "Pillow"} <= set(manifest.producer)
    assert len(manifest.probe) == 6
    assert Path(manifest.probe[0]["key"]).suffix == ".jpg"
