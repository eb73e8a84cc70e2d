"""Files that views were mixed with before they were labelled: the same in every run and process."""

from __future__ import annotations

import os
import shutil
import sys

import numpy as np
import pytest

import labelstore
from labelstore.errors import CorruptError, MismatchError
from labelstore.format.settings import StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.lifecycle.gc import gc
from labelstore.operations.lifecycle.parts import join_parts
from labelstore.operations.repair import repair
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.storage.partner_records import PARTNERS_NAME, PartnerRecords
from labelstore.store.mixed_views import PartnerFiles, RecordedFiles
from labelstore.store.writer import Share
from labelstore.teachers.load import load_teacher
from labelstore.testing.faults import trip
from labelstore.views.law import ViewLaw
from tests.support import commands
from tests.support.augmented import (
    StopAfter,
    StopError,
    exchange,
    small_photos,
    unlooked_partner,
)
from tests.support.killed import die_at
from tests.support.mixing_run import mixing_run
from tests.support.stores import few_photos, files_of

COUNT, BLOCK = 24, 12
ALONE, SHARED = RunOptions(batch_size=12), RunOptions(batch_size=12, share=Share(0, 2))
STORED = StoreSettings(k=5, quantizer="fp32", prior_size=0, block_images=BLOCK, group_views=2)
SETTINGS = LabelSettings(6, STORED, law=ViewLaw(seed=3, stages=("mixup-1-r1",)), temperature=0.1)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Small photos."""
    photos = few_photos(tmp_path_factory.mktemp("photos"), 5)
    return small_photos(photos, tmp_path_factory.mktemp("many"), COUNT)


@pytest.fixture(scope="module")
def teacher():
    """A small network."""
    return load_teacher("timm:test_resnet", checkpoint="none", device="cpu", size=64)


@pytest.fixture(scope="module")
def make(teacher):
    """Make a store of a folder, or go on with it."""

    def make(photos, path, options=ALONE):
        targets = np.full(COUNT, -1, np.int32)
        return generate(FolderSource(photos), targets, teacher, path, SETTINGS, options=options)

    return make


@pytest.fixture(scope="module")
def begun(many, teacher, tmp_path_factory):
    """A store whose first block is committed, and the key of a photo of the second one that the
    first one's views are mixed with and that no sample looks at."""
    path = tmp_path_factory.mktemp("begun") / "s.zarr"
    targets = np.full(COUNT, -1, np.int32)
    stop = StopAfter(BLOCK + 4)
    with pytest.raises(StopError):
        generate(FolderSource(many), targets, teacher, path, SETTINGS, options=ALONE, progress=stop)
    store = labelstore.open(path)
    assert store.missing_blocks() == [1]
    first, second = range(BLOCK), range(BLOCK, COUNT)
    return path, store.keys[unlooked_partner(store, np.arange(BLOCK), second, first)]


@pytest.fixture(scope="module")
def whole(many, make, tmp_path_factory):
    """The store's files when nothing interrupts it."""
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    make(many, path)
    return files_of(path)


@pytest.fixture
def own(many, begun, tmp_path):
    """Photos, a begun store, and the photo of it that is to be exchanged."""
    shutil.copytree(many, tmp_path / "photos")
    shutil.copytree(begun[0], tmp_path / "s.zarr")
    return tmp_path / "photos", tmp_path / "s.zarr", tmp_path / "photos" / begun[1]


@pytest.mark.parametrize("options", [ALONE, SHARED], ids=["alone", "shared"])
def test_a_photo_that_is_exchanged_before_it_is_labelled_is_noticed(own, make, whole, options):
    photos, path, photo = own
    gc([path])  # a record is nothing that was left behind
    before = exchange(photo)
    for _ in range(2):  # nothing of a run that was refused is believed by the next
        with pytest.raises(MismatchError, match=f"{photo.name}' is another file here") as caught:
            make(photos, path, options)
        assert "\n" not in str(caught.value)
        assert labelstore.open(path).missing_blocks() == [1]
    photo.write_bytes(before)
    assert make(photos, path, options).blocks_missing == 0
    left = files_of(path)
    assert {name for name in left.keys() ^ whole.keys() if not name.startswith(".lock")} == set()
    assert all(left[name] == data for name, data in whole.items())
    assert not (path / PARTNERS_NAME).exists()


KILLED = """
import os, pathlib, signal, torch

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        if list(pathlib.Path(os.environ.get("WATCHED", "none"), "commits", "c").glob("*")):
            os.kill(os.getpid(), signal.SIGKILL)
        return 9 * x.mean((2, 3)) * self.scale

def make():
    half = (0.5, 0.5, 0.5)
    return Mean().eval(), {
        "input_size": (8, 8), "mean": half, "std": half, "interpolation": "bicubic",
    }
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_from_the_command_line_after_a_kill(many, tmp_path):
    photos, path = tmp_path / "photos", tmp_path / "s.zarr"
    shutil.copytree(many, photos)
    (tmp_path / "killed_one.py").write_text(KILLED)

    def run(**more):
        command = [
            *(sys.executable, "-m", "labelstore", "generate", str(photos), "-o", str(path)),
            *("--teacher", "python:killed_one:make", "--device", "cpu", "--targets", "none"),
            *("--views", "6", "--top-k", "1", "--block-images", str(BLOCK), "--quiet"),
            *("--batch-size", "2", "--augment", "mixup-1-r1"),
        ]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), **more}
        return commands.run(command, env=environment)

    assert run(WATCHED=str(path)).returncode == -9
    store = labelstore.open(path)
    assert store.missing_blocks() == [1]
    first, second = range(BLOCK), range(BLOCK, COUNT)
    photo = photos / store.keys[unlooked_partner(store, np.arange(BLOCK), second, first)]
    before = exchange(photo)
    refused = run()
    assert refused.returncode == 1
    told = " ".join(refused.stderr.split())
    assert f"the photo '{photo.name}' is another file here" in told
    assert "Traceback" not in told
    photo.write_bytes(before)
    assert run().returncode == 0
    assert labelstore.open(path).missing_blocks() == []
    assert not (path / PARTNERS_NAME).exists()


def test_of_two_that_mix_different_files_one_is_refused_before_it_commits(tmp_path):
    def process():
        files = PartnerFiles(("a", "b", "c"))
        return files, RecordedFiles(files, PartnerRecords(tmp_path, "id"))

    (one, of_one), (other, of_other) = process(), process()
    one.require({0: 5, 1: 6})
    other.require({1: 7, 2: 8}, [2])
    of_one.write(together=True)
    with pytest.raises(MismatchError, match="'b' is another file"):
        of_other.write(together=True)
    # What it had read counts for nobody.
    assert len(list((tmp_path / PARTNERS_NAME).iterdir())) == 1
    third, of_third = process()
    of_third.learn()
    third.require({0: 5, 1: 6, 2: 9})
    of_third.clear()
    assert not list(tmp_path.iterdir())


def test_a_damaged_record_is_named_and_may_be_deleted(own, make, whole):
    photos, path, _ = own
    (record,) = (path / PARTNERS_NAME).iterdir()
    data = record.read_bytes()
    for damaged in (data[:-16], data[:10], b"", data[:60] + bytes([data[60] ^ 1]) + data[61:]):
        record.write_bytes(damaged)
        with pytest.raises(CorruptError, match=f"{record.name} is damaged .* delete it") as caught:
            make(photos, path)
        assert "\n" not in str(caught.value)
    record.unlink()
    make(photos, path)
    assert files_of(path) == whole


def test_records_of_a_store_that_was_completed_are_compared_and_deleted(own, make, whole, begun):
    """As a run leaves them that dies behind its last commit, or sees that another differed."""
    photos, path, photo = own
    records = shutil.copytree(path / PARTNERS_NAME, photos.parent / "records")
    before = exchange(photo)
    shutil.rmtree(path / PARTNERS_NAME)
    make(photos, path)
    shutil.copytree(records, path / PARTNERS_NAME)
    with pytest.raises(MismatchError, match=f"{photo.name}' is another file here"):
        make(photos, path)
    photo.write_bytes(before)
    shutil.rmtree(path)
    shutil.copytree(begun[0], path)
    make(photos, path)
    shutil.copytree(records, path / PARTNERS_NAME)
    assert make(photos, path).blocks_made == 0
    assert files_of(path) == whole


def test_parts_that_were_mixed_with_different_files_are_refused(own, many, teacher, make, whole):
    photos, path, photo = own
    other, joined = path.with_name("other.zarr"), path.with_name("joined.zarr")
    begin = shutil.copytree(path, other)
    shutil.rmtree(begin / PARTNERS_NAME)
    before = exchange(photo)
    make(photos, other)
    # As the machine leaves it that has made the second block alone.
    for file in [*other.glob("commits/c/0/0"), *other.glob("commits/c/0.0")]:
        file.unlink()
    assert labelstore.open(other).missing_blocks() == [0]
    with pytest.raises(MismatchError, match=f"{photo.name}' is another file here"):
        join_parts([path, other], joined)
    photo.write_bytes(before)
    # Of one part alone what is known goes on.
    again = shutil.copytree(path, path.with_name("again.zarr"))
    join_parts([path, again], joined)
    exchange(photo)
    with pytest.raises(MismatchError, match=f"{photo.name}' is another file here"):
        make(photos, joined)
    photo.write_bytes(before)
    make(photos, joined)
    assert files_of(joined) == whole


def test_repair_compares_the_photos_of_the_block_that_it_makes_anew(own, make, teacher, whole):
    photos, path, _ = own
    make(photos, path)
    shard = next(name for name in whole if name.startswith("labels/top_prob/c/0"))
    (path / shard).write_bytes(b"")
    store = labelstore.open(path)
    first, second = range(BLOCK), range(BLOCK, COUNT)
    photo = photos / store.keys[unlooked_partner(store, np.arange(COUNT), first, second)]
    before = exchange(photo)
    with pytest.raises(MismatchError, match=f"{photo.name}' is another file here"):
        repair(path, FolderSource(photos), teacher, options=ALONE)
    photo.write_bytes(before)
    repair(path, FolderSource(photos), teacher, options=ALONE)
    assert files_of(path) == whole


forking = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture(
    params=[
        pytest.param("die-before", marks=forking),
        # What it leaves, to die before the next step leaves.
        pytest.param("die-after", marks=[*forking, pytest.mark.slow]),
    ]
)
def fault(request):
    return request.param


def test_a_record_is_there_before_its_block(tmp_path, suffix, fault):
    """Wherever a run is killed; and it is gone on with to the same files."""
    undisturbed = tmp_path / f"whole.{suffix}"
    with trip() as steps:
        mixing_run(undisturbed)
    expected = files_of(undisturbed)
    assert not (undisturbed / PARTNERS_NAME).exists()
    deaths = seen = 0
    for step in range(7, steps.taken + 1, 29 if suffix == "zarr" else 7):
        path = tmp_path / f"{step}.{suffix}"
        deaths += die_at(step, fault, lambda at=path: mixing_run(at))
        if (path / PARTNERS_NAME).exists():
            store = labelstore.open(path)
            files = PartnerFiles(store.keys)
            RecordedFiles(files, PartnerRecords(path, store.manifest.id)).learn()
            if store.missing_blocks() == [1]:
                seen += 1
                for image in (3, 4):
                    with pytest.raises(MismatchError):
                        files.require({image: 99})
        mixing_run(path)
        assert files_of(path) == expected
    assert deaths > 4
    assert seen


def test_a_kill_at_any_step_of_a_record_loses_and_damages_none(tmp_path, fault):
    def record(path):
        files = PartnerFiles(("a", "b"))
        records = RecordedFiles(files, PartnerRecords(path, "id"))
        files.require({0: 5})
        records.write(together=True)
        files.require({1: 6})
        records.write(together=True)
        records.clear()

    (tmp_path / "all").mkdir()
    with trip() as steps:
        record(tmp_path / "all")
    assert steps.taken > 8
    for step in range(1, steps.taken + 1):
        path = tmp_path / str(step)
        path.mkdir()
        assert die_at(step, fault, lambda at=path: record(at))
        files = PartnerFiles(("a", "b"))
        RecordedFiles(files, PartnerRecords(path, "id")).learn()
        record(path)
        assert [p.name for p in path.rglob("*") if not p.name.endswith(".partial")] in (
            [],
            [PARTNERS_NAME],
        )
