"""Several teachers in one pass, several processes on one store, crops from the device."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import labelstore
from labelstore.errors import BusyError, MismatchError, SourceError, UsageError
from labelstore.format.settings import StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.producer.crops import cutter
from labelstore.producer.engines.local import LocalEngine
from labelstore.producer.generation import generate, generate_together
from labelstore.producer.precheck import check_request
from labelstore.producer.settings import LabelSettings, Output, RunOptions
from labelstore.storage import locks
from labelstore.store.writer import Share
from labelstore.teachers.device_memory import batch_that_fits
from labelstore.teachers.load import load_teacher
from labelstore.views.law import ViewLaw
from tests.support import commands
from tests.support.stores import few_photos, files_of

RECIPE = LabelSettings(5, StoreSettings(k=3, block_images=2))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seven photos, flat."""
    return few_photos(tmp_path_factory.mktemp("photos"), 7)


@pytest.fixture(scope="module")
def teachers():
    """Two networks, of one input size each."""
    return [
        load_teacher(f"timm:{name}", checkpoint="none", device="cpu", size=size)
        for name, size in (("test_vit", 160), ("test_resnet", 96))
    ]


def output(source, path, recipe=RECIPE):
    return Output(np.full(len(source), -1, np.int32), path, recipe)


def together(source, outputs, teachers):
    options = RunOptions(batch_size=8)
    return generate_together(source, outputs, LocalEngine(teachers, options), options=options)


def alone(source, teacher, path, **options):
    unknown = np.full(len(source), -1, np.int32)
    options = RunOptions(batch_size=8, **options)
    return generate(source, unknown, teacher, path, RECIPE, options=options)


def test_two_teachers_in_one_pass_make_the_stores_of_each_alone(
    photos, teachers, tmp_path, monkeypatch
):
    from labelstore.producer.crops import photos as reading

    source = FolderSource(photos)
    for number, teacher in enumerate(teachers):
        alone(source, teacher, tmp_path / f"alone{number}.zarr")
    decoded = []
    read_photo = reading.read_photo

    def counting(source, index):
        decoded.append(index)
        return read_photo(source, index)

    monkeypatch.setattr(reading, "read_photo", counting)
    outputs = [output(source, tmp_path / f"both{number}.zarr") for number in range(2)]
    reports = together(source, outputs, teachers)
    assert [report.views_made for report in reports] == [35, 35]
    assert len(decoded) == 7
    for number in range(2):
        assert files_of(tmp_path / f"both{number}.zarr") == files_of(
            tmp_path / f"alone{number}.zarr"
        )


def test_a_store_that_another_process_begins_meanwhile_is_no_other_store(
    photos, teachers, tmp_path
):
    """Between the look whether there is one, and the comparison with it."""
    source, path = FolderSource(photos), tmp_path / "one.zarr"
    facts = teachers[0].describe() | {"num_classes": None}
    asked = []

    def settings(num_classes):
        if not asked:
            alone(source, teachers[0], path)
        asked.append(num_classes)
        return RECIPE

    check_request(source, path, settings, facts)
    assert len(asked) == 2
    assert asked[1] == teachers[0].num_classes
    asked, other = [], LabelSettings(6, StoreSettings(k=3, block_images=2))
    shutil.rmtree(path)

    def others(num_classes):
        settings(num_classes)
        return other

    with pytest.raises(MismatchError, match=r"settings \(views.count: stored 5, asked for 6\)"):
        check_request(source, path, others, facts)


def test_stores_at_different_points_are_finished_together(photos, teachers, tmp_path):
    source = FolderSource(photos)
    outputs = [output(source, tmp_path / f"{number}.zarr") for number in range(2)]
    together(source, outputs, teachers)
    whole = [files_of(one.path) for one in outputs]
    for number, blocks in enumerate(([0, 2], [2, 3])):
        for block in blocks:
            (tmp_path / f"{number}.zarr" / "commits" / "c" / str(block) / "0").unlink()
    reports = together(source, outputs, teachers)
    assert [report.blocks_made for report in reports] == [2, 2]
    assert [files_of(one.path) for one in outputs] == whole


def test_what_one_pass_cannot_make_is_refused_before_anything_is_written(
    photos, teachers, tmp_path
):
    source = FolderSource(photos)
    first = output(source, tmp_path / "a.zarr")
    other = LabelSettings(5, StoreSettings(k=3, block_images=2), law=ViewLaw(seed=1))
    for second, words in (
        (output(source, tmp_path / "b.zarr", other), "differ in law"),
        (output(source, tmp_path / "a.zarr"), "two teachers write to one path"),
    ):
        with pytest.raises(UsageError, match=words):
            together(source, [first, second], teachers)
    with pytest.raises(UsageError, match="1 stores were asked of an engine of 2 teachers"):
        together(source, [first], teachers)
    assert not list(tmp_path.iterdir())


def test_crops_from_the_device_give_the_same_labels_and_the_manifest_says_so(
    photos, teachers, tmp_path
):
    source = FolderSource(photos)
    alone(source, teachers[0], tmp_path / "workers.zarr")
    alone(source, teachers[0], tmp_path / "device.zarr", resize="device")
    by_workers = labelstore.open(tmp_path / "workers.zarr")
    by_device = labelstore.open(tmp_path / "device.zarr")
    assert by_device.manifest.teacher["resize"] == "device"
    assert by_device.manifest.probe == by_workers.manifest.probe
    images = np.arange(7)[:, None]
    one, other = (store.read(images, np.arange(5)) for store in (by_workers, by_device))
    # Lists are summed over other runs of views, so that last bits may differ; labels may not.
    assert (one.indices == other.indices).all()
    np.testing.assert_allclose(one.probs, other.probs, atol=1e-3)
    with pytest.raises(MismatchError, match=r"teacher\.resize"):
        alone(source, teachers[0], tmp_path / "workers.zarr", resize="device")


def test_a_device_that_makes_other_pixels_is_refused(photos, teachers, tmp_path, monkeypatch):
    from labelstore.producer import probe

    resize_boxes = probe.resize_boxes
    monkeypatch.setattr(probe, "resize_boxes", lambda *given: resize_boxes(*given) ^ 1)
    source = FolderSource(photos)
    with pytest.raises(MismatchError, match="by 1 at most"):
        alone(source, teachers[0], tmp_path / "a.zarr", resize="device")


def test_a_device_without_memory_for_crops_is_told(photos, teachers, tmp_path, monkeypatch):
    """As a GPU says it, on which the teacher and its batches left no room."""

    def resize_boxes(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(cutter, "resize_boxes", resize_boxes)
    with pytest.raises(SourceError, match=r"no memory on cpu to decode and cut .* smaller batch"):
        alone(FolderSource(photos), teachers[0], tmp_path / "a.zarr", resize="device")

    # What else goes wrong there is no want of memory.
    def fail(*given):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(cutter, "resize_boxes", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        alone(FolderSource(photos), teachers[0], tmp_path / "a.zarr", resize="device")


def test_a_compiled_teacher_is_filled_up_and_said(photos, tmp_path):
    teacher = load_teacher("timm:test_vit", checkpoint="none", device="cpu", size=160)
    source = FolderSource(photos)
    alone(source, teacher, tmp_path / "plain.zarr")
    shapes = []

    class Seen:
        def __init__(self, model):
            self.model = model

        def __call__(self, pixels):
            shapes.append(len(pixels))
            return self.model(pixels)

    # What torch.compile would put in its place.
    teacher._batch_size = 8
    teacher._model = Seen(teacher._model)
    alone(source, teacher, tmp_path / "filled.zarr")
    assert set(shapes) == {8}
    plain, filled = (labelstore.open(tmp_path / f"{name}.zarr") for name in ("plain", "filled"))
    assert filled.manifest.teacher["compiled"] is True
    np.testing.assert_allclose(
        plain.read(np.arange(7), 0).probs, filled.read(np.arange(7), 0).probs, atol=1e-5
    )


def test_batches_that_fit():
    gib = 2**30
    # 0.1 GiB a view after a fixed half: 0.7 x 40 GiB holds 275, of powers of two 256.
    assert batch_that_fits(40 * gib, int(1.3 * gib), int(3.7 * gib), 512) == 256
    assert batch_that_fits(400 * gib, int(1.3 * gib), int(3.7 * gib), 512) == 512
    assert batch_that_fits(gib, int(1.3 * gib), int(3.7 * gib), 512) == 2
    assert batch_that_fits(1, int(1.3 * gib), int(3.7 * gib), 512) == 1
    # The larger batch took less, by another algorithm: as much a view as it took, or more.
    assert batch_that_fits(40 * gib, int(3.7 * gib), int(3.2 * gib), 512) == 128


# Several processes

WORKER = """
import sys
import numpy as np
from labelstore.format.settings import StoreSettings
from labelstore.producer import LabelSettings, RunOptions, generate
from labelstore.images import FolderSource
from labelstore.teachers.load import load_teacher
from labelstore.store.writer import Share

photos, path, rank, world = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


class Tell:
    def resumed(self, images):
        pass

    def update(self, images, views):
        print(views, flush=True)

    def waited(self, seconds):
        pass


source = FolderSource(photos)
teacher = load_teacher("timm:test_vit", checkpoint="none", device="cpu", size=160)
report = generate(
    source, np.full(len(source), -1, np.int32), teacher, path,
    LabelSettings(5, StoreSettings(k=3, block_images=2)),
    options=RunOptions(batch_size=8, share=Share(rank, world)), progress=Tell(),
)
print("made", report.blocks_made, report.blocks_elsewhere, flush=True)
"""

needs_locks = pytest.mark.skipif(os.name == "nt", reason="file locks")


def start(photos, path, rank, world):
    arguments = [sys.executable, "-c", WORKER, photos, path, rank, world]
    return commands.start(arguments, stdout=subprocess.PIPE)


@needs_locks
def test_processes_share_a_store_and_take_over_from_one_that_is_killed(photos, teachers, tmp_path):
    source = FolderSource(photos)
    alone(source, teachers[0], tmp_path / "alone.zarr")
    path = tmp_path / "shared.zarr"
    killed, stays = (start(photos, path, rank, 2) for rank in range(2))
    killed.stdout.readline()  # a batch of its first block is done, the block is not
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    lines = stays.communicate(timeout=120)[0].splitlines()
    assert stays.returncode == 0
    made, elsewhere = map(int, lines[-1].split()[1:])
    assert made + elsewhere == 4
    assert made >= 3
    assert files_of(path) == files_of(tmp_path / "alone.zarr")
    assert sorted(file.name for file in path.iterdir() if file.name.startswith(".")) == [".lock"]


@needs_locks
def test_a_process_alone_and_processes_together_keep_out_of_each_others_way(
    photos, teachers, tmp_path
):

    source = FolderSource(photos)
    (tmp_path / "a.zarr").mkdir()
    with locks.shared_lock(tmp_path / "a.zarr"), pytest.raises(BusyError):
        alone(source, teachers[0], tmp_path / "a.zarr")
    with locks.exclusive_lock(tmp_path / "a.zarr"), pytest.raises(BusyError, match="single"):
        alone(source, teachers[0], tmp_path / "a.zarr", share=Share(0, 2))
    alone(source, teachers[0], tmp_path / "b.zarr")
    with pytest.raises(UsageError, match="delete it first"):
        alone(source, teachers[0], tmp_path / "b.zarr", share=Share(0, 2), overwrite=True)


@needs_locks
def test_an_error_of_one_of_several_writers_is_not_lost(tmp_path):

    with (
        locks.shared_lock(tmp_path),
        pytest.raises(ZeroDivisionError),
        locks.shared_lock(tmp_path),
    ):
        raise ZeroDivisionError
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock"]


@needs_locks
def test_a_claim_is_one_processes_and_lapses(tmp_path):

    first = locks.claim(tmp_path, 3)
    assert first is not None
    assert locks.claim(tmp_path, 3) is None
    other = locks.claim(tmp_path, 4)
    assert other is not None
    other.release(finished=True)
    first.release(finished=False)
    again = locks.claim(tmp_path, 3)
    assert again is not None
    again.release(finished=True)
    assert not (tmp_path / locks.CLAIMS_NAME / "3").exists()


def launched_as_torchrun_does(arguments):
    """What both processes print, and what they say beside it; each has torchrun's variables."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "labelstore", *arguments]
    started = []
    for rank in ("0", "1"):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        own |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
        started.append(commands.start(command, env={**os.environ, **own}, **pipes))
    printed = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    return tuple("".join(texts) for texts in zip(*printed, strict=True))


def launched_by_torchrun(arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    command += ["labelstore", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout, done.stderr


@needs_locks
@pytest.mark.parametrize(
    "launch",
    [launched_as_torchrun_does, pytest.param(launched_by_torchrun, marks=pytest.mark.slow)],
)
def test_two_launched_processes_make_the_store_of_one(photos, tmp_path, launch):
    common = ["generate", str(photos), "--teacher", "timm:test_vit", "--checkpoint", "none"]
    common += ["--views", "4", "--targets", "none", "--block-images", "2", "--device", "cpu"]
    one = [sys.executable, "-m", "labelstore", *common, "-o", str(tmp_path / "one.zarr"), "-q"]
    commands.run(one, check=True)
    two = [*common, "-o", str(tmp_path / "two.zarr"), "--json", "--log-json"]
    printed, said = launch(two)
    report = json.loads(printed)
    # The other process may have committed blocks before the one that reports has begun.
    parts = ("blocks_found", "blocks_made", "blocks_elsewhere")
    assert sum(report[part] for part in parts) == 4
    told = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert told[-1]["images"] == 7
    assert told[-1]["total_views"] == 28
    assert files_of(tmp_path / "two.zarr") == files_of(tmp_path / "one.zarr")


@needs_locks
@pytest.mark.slow
def test_processes_killed_two_hundred_times_make_the_same_store(photos, teachers, tmp_path, capsys):
    source = FolderSource(photos)
    alone(source, teachers[0], tmp_path / "alone.zarr")
    expected = files_of(tmp_path / "alone.zarr")
    rng = np.random.default_rng(0)
    deaths = rounds = 0
    # Forked from a process that has imported all and run nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "timm", "labelstore.producer.generation", "labelstore.teachers.load"]
    )
    while deaths < 200:
        path = tmp_path / f"{rounds}.zarr"
        rounds += 1
        for _ in range(12):
            running = [
                context.Process(target=quiet_share, args=(photos, path, rank, 2))
                for rank in range(2)
            ]
            for process in running:
                process.start()
            time.sleep(float(rng.uniform(0.05, 1.5)))
            victim = running[int(rng.integers(2))]
            if victim.is_alive():
                victim.kill()
                deaths += 1
            if rng.random() < 0.5:
                # The other one dies, too, and another pair goes on.
                time.sleep(float(rng.uniform(0, 0.3)))
                for process in running:
                    deaths += process.is_alive()
                    process.kill()
            for process in running:
                process.join(120)
        quiet_share(photos, path, 0, 2)
        assert files_of(path) == expected
        shutil.rmtree(path)
    with capsys.disabled():
        print(f" {deaths} deaths in {rounds} stores")


def quiet_share(photos, path, rank, world):
    import torch

    torch.set_num_threads(1)
    source = FolderSource(photos)
    teacher = load_teacher("timm:test_vit", checkpoint="none", device="cpu", size=160)
    alone(source, teacher, path, share=Share(rank, world))


MEMORY = """
import resource, sys
import numpy as np
import torch
from labelstore.format.settings import StoreSettings
from labelstore.producer import LabelSettings, RunOptions, generate
from labelstore.images import FolderSource
from labelstore.teachers.load import load_teacher

torch.set_num_threads(1)
source = FolderSource(sys.argv[1])
teacher = load_teacher("timm:test_vit", checkpoint="none", device="cpu", size=160)
generate(
    source, np.full(len(source), -1, np.int32), teacher, sys.argv[2],
    LabelSettings(int(sys.argv[3]), StoreSettings(block_images=1)),
    options=RunOptions(batch_size=16, workers=2),
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kilobytes of memory as Linux counts them")
def test_memory_does_not_grow_with_the_views_of_large_photos(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        small = Image.fromarray(rng.integers(0, 256, (75, 100, 3), dtype=np.uint8))
        small.resize((4000, 3000)).save(tmp_path / "photos" / f"{number}.jpg")
    mebibytes = []
    for views in (100, 300):
        command = [sys.executable, "-c", MEMORY, tmp_path / "photos", tmp_path / f"{views}.zarr"]
        done = subprocess.run([*command, str(views)], check=True, capture_output=True, text=True)
        mebibytes.append(float(done.stdout))
    with capsys.disabled():
        print(f" {mebibytes} MiB for 100 and 300 views of 4000x3000 photos")
    # All crops of a photo as floats would take 59 MiB for 200 views at this input size.
    assert abs(mebibytes[1] - mebibytes[0]) < 30
