"""Slabs: the same labels, once a machine, within their bound, and never a torn or an old one."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import labelstore
from labelstore.errors import CorruptError, FallbackWarning, NotFoundError, StoreError
from labelstore.store.chunks.reader import BlockReader
from labelstore.store.slabs import shared_file
from labelstore.store.slabs.file_layout import Layout
from labelstore.store.slabs.slab_cache import SlabCache
from labelstore.store.writer import StoreWriter
from tests.support import commands
from tests.support.stores import make_planned, once, planned, written

make_planned, written = once(make_planned), once(written)

ROOMY = 2**26


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of the test's own for slabs."""
    monkeypatch.setenv("LABELSTORE_SLABS", str(tmp_path / "slabs"))
    yield tmp_path / "slabs"
    # Whatever a test did, the slabs of ended processes can be swept away.
    shared_file.sweep(tmp_path / "slabs")


def files_in(folder):
    return sorted(path.name for path in folder.glob("*"))


def bytes_in(folder):
    return sum(path.stat().st_size for path in folder.glob("*"))


def same(one, other):
    assert np.array_equal(one.indices, other.indices)
    assert np.array_equal(one.probs, other.probs)
    if other.prior is not None:
        for name in ("classes", "probs", "power"):
            assert np.array_equal(getattr(one.prior, name), getattr(other.prior, name))


def all_of(store, views):
    return store.read(np.flatnonzero(store.labelled())[:, None], views)


@pytest.mark.parametrize("prior_size", [0, 8])
@pytest.mark.parametrize("k", [1, 3])
def test_labels_are_those_of_the_store(tmp_path, suffix, prior_size, k, folder):
    make = make_planned if prior_size else written
    plain = make(tmp_path / f"s.{suffix}", k=k, group_views=4)[0]
    store = labelstore.open(plain.path, slab_bytes=ROOMY)
    store.slabs.read_ahead([0, 1])
    store.slabs.wait([0, 1])
    assert len(files_in(folder)) == 2 + (prior_size > 0)
    same(all_of(store, np.arange(6)), all_of(plain, np.arange(6)))
    for group, views in ((0, np.arange(4)), (1, np.arange(4, 6))):
        slab = store.slab(group)
        same(slab.read(np.arange(20)[:, None], views), all_of(plain, views))
        with pytest.raises(NotFoundError, match="this slab has views"):
            slab.read(0, (views[0] + 4) % 8)
    store.slabs.close()
    assert files_in(folder) == []
    same(all_of(store, np.arange(6)), all_of(plain, np.arange(6)))


def test_boxes_and_unreadable_images(tmp_path):
    rng = np.random.default_rng(0)
    boxes, flips = rng.integers(1, 30, (20, 6, 4)), rng.random((20, 6)) < 0.5
    written(tmp_path / "s.zarr", law=None, boxes=boxes, flips=flips, group_views=4)
    store = labelstore.open(tmp_path / "s.zarr", slab_bytes=ROOMY)
    slab = store.slab(0)
    found = store.views(np.arange(20)[:, None], np.arange(6))
    assert np.array_equal(found.box, boxes)
    assert np.array_equal(found.flip, flips)
    slab.close()


def test_labels_come_from_memory(tmp_path):
    """The files of the labels may be gone: a slab needs them no longer, all else is an error."""
    plain, _ = make_planned(tmp_path / "s.zarr")
    expected = all_of(plain, np.arange(4))
    store = labelstore.open(plain.path, slab_bytes=ROOMY)
    slab = store.slab(0)
    for file in (plain.path / "labels").rglob("0"):
        if file.is_file():
            file.unlink()
    same(all_of(store, np.arange(4)), expected)
    with pytest.raises(CorruptError, match="not what was committed"):
        store.read(0, 5)
    slab.close()
    with pytest.raises(CorruptError, match="not what was committed"):
        store.read(0, 0)


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_smaller_bound_makes_smaller_slabs(tmp_path, blocks, folder):
    _, indices, _ = written(tmp_path / "s.zarr", images=24_000, views=4, k=3, block_images=8192)
    one = labelstore.open(tmp_path / "s.zarr")
    size = one.slab(0).nbytes
    one.slabs.close()
    bound = 65536 + size * 8192 * (2 * blocks + 1) // 48_000
    store = labelstore.open(tmp_path / "s.zarr", slab_bytes=bound)
    store.slabs.read_ahead([0])
    store.slabs.wait([0])
    assert bytes_in(folder) <= bound
    held = store.slabs._slabs
    assert sum(slab.num_images for slab in held.values()) == 8192 * blocks
    rows = np.random.default_rng(0).integers(0, 24_000, (500, 1))
    assert np.array_equal(store.read(rows, np.arange(4)).indices, indices[rows[:, 0]])
    store.slabs.close()


def test_the_bound_holds_over_all_epochs(tmp_path, folder):
    _, indices, _ = written(tmp_path / "s.zarr", images=512, views=16, group_views=2)
    one = labelstore.open(tmp_path / "s.zarr")
    size = one.slab(0).nbytes
    one.slabs.close()
    store = labelstore.open(tmp_path / "s.zarr", slab_bytes=2 * size)
    for group in range(7):
        store.slabs.read_ahead([group, group + 1])
        store.slabs.wait([group])
        views = np.arange(2 * group, 2 * group + 2)
        assert np.array_equal(store.read(np.arange(512)[:, None], views).indices, indices[:, views])
        assert size <= bytes_in(folder) <= 2 * size
        store.slabs.wait([group + 1])
        assert bytes_in(folder) == 2 * size
    store.slabs.close()
    assert files_in(folder) == []


class SlowReads:
    """Chunks are read one by one, with a pause before each; counts them."""

    def __init__(self, monkeypatch):
        self.places, read_runs = [], BlockReader.read_runs

        def slow(reader, blocks, group):
            for block in blocks:
                time.sleep(0.02)
                self.places.append((block, group))
                yield from read_runs(reader, range(block, block + 1), group)

        monkeypatch.setattr(BlockReader, "read_runs", slow)

    def until_first(self):
        while not self.places:
            time.sleep(0.001)


def test_closing_leaves_nothing_of_a_slab_that_is_being_made(tmp_path, monkeypatch, folder):
    written(tmp_path / "s.zarr", images=640, views=4, block_images=8)
    store = labelstore.open(tmp_path / "s.zarr", slab_bytes=ROOMY)
    reads = SlowReads(monkeypatch)
    store.slabs.read_ahead([0])
    reads.until_first()
    assert files_in(folder) != []
    store.slabs.close()
    assert files_in(folder) == []
    assert len(reads.places) < store.manifest.num_blocks
    assert same_labels_as_plain(store, tmp_path / "s.zarr")


def same_labels_as_plain(store, path):
    rows, columns = np.arange(0, 640, 37)[:, None], np.arange(4)
    one, other = store.read(rows, columns), labelstore.open(path).read(rows, columns)
    return np.array_equal(one.indices, other.indices) and np.array_equal(one.probs, other.probs)


def test_a_slab_that_a_new_plan_wants_too_is_made_once(tmp_path, monkeypatch, folder):
    written(tmp_path / "s.zarr", images=160, views=6, group_views=2, block_images=8)
    store = labelstore.open(tmp_path / "s.zarr", slab_bytes=ROOMY)
    reads = SlowReads(monkeypatch)
    store.slabs.read_ahead([0, 1])
    reads.until_first()
    store.slabs.read_ahead([2, 0])
    store.slabs.wait([0, 2])
    assert sorted(store.slabs._slabs) == [0, 2]
    assert sorted(reads.places) == [(block, group) for block in range(20) for group in (0, 2)]
    store.slabs.close()
    assert files_in(folder) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_has_failed(tmp_path, monkeypatch, folder):
    written(tmp_path / "s.zarr", images=160, views=4, block_images=8)
    store = labelstore.open(tmp_path / "s.zarr", slab_bytes=ROOMY)

    def broken(reader, blocks, group):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(BlockReader, "read_runs", broken)
        store.slabs.read_ahead([0])
        store.slabs.wait([0])
    assert files_in(folder) == []
    assert store.read(5, 1).indices.shape == (3,)
    store.slabs.close()


def read_in_child(store, queue):
    topk = store.read(np.arange(20)[:, None], np.arange(4))
    queue.put((topk.indices, topk.prior.probs))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_other_processes_use_the_same_memory(tmp_path, method, folder):
    plain, _ = make_planned(tmp_path / "s.zarr")
    expected = plain.read(np.arange(20)[:, None], np.arange(4))
    store = labelstore.open(plain.path, slab_bytes=ROOMY)
    store.slabs.read_ahead([0])
    store.slabs.wait([0])
    held = files_in(folder)
    # The child can have read them nowhere else.
    for part in ("labels/classes/c", "images/prior_classes/c"):
        (plain.path / part).rename(plain.path / f"{part}-gone")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=read_in_child, args=(store, queue))
    process.start()
    indices, probs = queue.get(timeout=60)
    process.join()
    assert np.array_equal(indices, expected.indices)
    assert np.array_equal(probs, expected.prior.probs)
    assert files_in(folder) == held
    store.slabs.close()
    assert files_in(folder) == []


MAKE = """
import sys, time, labelstore
store = labelstore.open(sys.argv[1], slab_bytes=2**26)
while not __import__("os").path.exists(sys.argv[2]):
    time.sleep(0.001)
slab = store.slab(0)
print(slab.path.stat().st_ino, store.read(3, 2).indices.tolist(), flush=True)
sys.stdin.read()
"""


def test_many_processes_make_one(tmp_path, folder):
    store, _, _ = written(tmp_path / "s.zarr", images=600, views=4)
    go = tmp_path / "go"
    started = [
        commands.start(
            [sys.executable, "-c", MAKE, store.path, go],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    go.touch()
    said = {process.stdout.readline() for process in started}
    assert len(said) == 1
    assert said.pop().split(" ", 1)[1].strip() == str(store.read(3, 2).indices.tolist())
    assert len(files_in(folder)) == 1
    # One that is killed and one that ends: the third still reads; the last one takes it away.
    started[0].kill()
    started[0].wait()
    started[1].communicate("")
    assert len(files_in(folder)) == 1
    started[2].communicate("")
    assert files_in(folder) == []
    started[0].communicate()


KILLED = """
import sys, time, labelstore
from labelstore.store.slabs import shared_file
put, stage = shared_file.SharedFileWriter.put, sys.argv[2]
def slow(self, name, row, values):
    put(self, name, row, values)
    if stage == "filling" and name == "labels/classes":
        print("now", flush=True)
        time.sleep(60)
shared_file.SharedFileWriter.put = slow
if stage == "publishing":
    def stop(*arguments):
        print("now", flush=True)
        time.sleep(60)
    shared_file.local_files.publish = stop
store = labelstore.open(sys.argv[1], slab_bytes=2**26)
store.slab(0)
if stage == "done":
    print("now", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("stage", ["filling", "publishing", "done"])
def test_killed_while_it_makes_one(tmp_path, folder, stage):
    plain, _ = make_planned(tmp_path / "s.zarr")
    command = [sys.executable, "-c", KILLED, plain.path, stage]
    with commands.start(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "now\n"
        store = labelstore.open(plain.path, slab_bytes=ROOMY)
        if stage != "done":
            # What is not whole is nobody's slab.
            assert shared_file.find(folder, store.slabs._layouts.layout(0, 3)) is None
        process.send_signal(signal.SIGKILL)
    assert len(files_in(folder)) == 1
    slab = store.slab(0)
    same(all_of(store, np.arange(4)), all_of(plain, np.arange(4)))
    assert files_in(folder) == [slab.path.name]
    slab.close()
    assert files_in(folder) == []


def test_what_dead_processes_left_is_swept_away(tmp_path, folder):
    old, _, _ = written(tmp_path / "old.zarr", seed=3)
    command = [sys.executable, "-c", KILLED, old.path, "done"]
    with commands.start(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        new, _, _ = written(tmp_path / "new.zarr")
        kept = new.slab(0)
        assert len(files_in(folder)) == 2
        process.kill()
    again = new.slabs._make_file(1, 3)
    assert files_in(folder) == sorted([kept.path.name, again.path.name])
    again.close()
    kept.close()


def test_a_block_that_was_made_again_makes_another_slab(tmp_path, folder):
    """The store's id stays the same: commits tell the old labels from the new ones."""
    before, _ = make_planned(tmp_path / "s.zarr")
    before.slabs.slab_bytes = ROOMY
    old = before.slab(0)
    manifest, keys, targets, data, _ = planned()
    before._backend.open_for_writing(manifest)
    before._backend.withdraw_commit(1)
    with StoreWriter(before.path, manifest, keys, targets) as writer:
        block = data(1)
        writer.write_block(1, type(block)(**{**vars(block), "probs": block.probs * 0.5}))
    after = labelstore.open(before.path, slab_bytes=ROOMY)
    assert after.manifest.id == before.manifest.id
    expected = labelstore.open(before.path).read(np.arange(20)[:, None], np.arange(4))
    # Not even where the old one is in memory is it taken for the new one.
    same(after.read(np.arange(20)[:, None], np.arange(4)), expected)
    new = after.slab(0)
    assert new.path != old.path
    same(after.read(np.arange(20)[:, None], np.arange(4)), expected)
    before.refresh()
    same(before.read(np.arange(20)[:, None], np.arange(4)), expected)
    new.close()


@pytest.mark.parametrize("damage", ["shorter", "longer", "header", "empty", "another's"])
def test_a_file_that_is_not_the_slab_is_not_taken(tmp_path, folder, damage):
    plain, _ = make_planned(tmp_path / "s.zarr")
    store = labelstore.open(plain.path, slab_bytes=ROOMY)
    layout = store.slabs._layouts.layout(0, 3)
    held = store.slabs._make_file(0, 3)
    whole = held.path.read_bytes()
    held.close()
    parts = {
        "shorter": whole[:-1],
        "longer": whole + b"\0",
        "header": whole[:30] + b"!" + whole[31:],
        "empty": b"",
        "another's": Layout("x", {}, layout.arrays).header + whole[len(layout.header) :],
    }
    folder.mkdir(exist_ok=True)
    (folder / layout.name).write_bytes(parts[damage])
    assert shared_file.find(folder, layout) is None
    slab = store.slab(0)
    same(all_of(store, np.arange(4)), all_of(plain, np.arange(4)))
    slab.close()


def test_damage_is_told_by_the_reads_that_it_concerns(tmp_path, suffix, folder):
    plain, _ = make_planned(tmp_path / f"s.{suffix}")
    expected = plain.read(np.arange(8)[:, None], np.arange(4))
    name = "labels/classes/c/1/0/0" if suffix == "zarr" else "labels/000001.parquet"
    file = plain.path / name
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    store = labelstore.open(plain.path, slab_bytes=ROOMY)
    store.slabs.read_ahead([0])
    store.slabs.wait([0])
    same(store.read(np.arange(8)[:, None], np.arange(4)), expected)
    with pytest.raises(CorruptError):
        store.read(9, 0)
    with pytest.raises(CorruptError):
        store.slab(0)
    assert [name for name in files_in(folder) if name.endswith(".partial")] == []
    store.slabs.close()


def test_where_there_is_no_room(tmp_path, monkeypatch):
    plain, _ = make_planned(tmp_path / "s.zarr")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LABELSTORE_SLABS", str(tmp_path / "file"))
    store = labelstore.open(plain.path, slab_bytes=ROOMY)
    store.slabs.read_ahead([0])
    with pytest.warns(FallbackWarning, match="cannot be read ahead"):
        store.slabs.wait([0])
    same(all_of(store, np.arange(6)), all_of(plain, np.arange(6)))


def test_a_worker_gives_up_the_slab_of_the_epoch_before(tmp_path, folder):
    """A process that did not plan the epochs finds slabs as they come, and lets old ones go."""
    _, indices, _ = written(tmp_path / "s.zarr", views=6, group_views=2)
    main = labelstore.open(tmp_path / "s.zarr", slab_bytes=ROOMY)
    worker = labelstore.open(tmp_path / "s.zarr", slab_bytes=ROOMY)
    for group in range(3):
        main.slabs.read_ahead([group])
        main.slabs.wait([group])
        for _ in range(60):
            assert np.array_equal(worker.read(3, 2 * group).indices, indices[3, 2 * group])
        # It was looked for anew after a moment.
        time.sleep(0.3)
        for _ in range(60):
            worker.read(3, 2 * group)
        assert list(worker.slabs._slabs) == [group]
        assert len(files_in(folder)) == 1
    main.slabs.close()
    worker.slabs.close()
    assert files_in(folder) == []


USES = """
import sys, time, labelstore
store = labelstore.open(sys.argv[1], slab_bytes=2**26)
store.read(3, 0)
print(*store.slabs._slabs, flush=True)
time.sleep(300)
"""


def test_closing_deletes_what_killed_workers_were_the_last_to_have(tmp_path, folder):
    written(tmp_path / "s.zarr", views=6, group_views=2)
    store = labelstore.open(tmp_path / "s.zarr", slab_bytes=ROOMY)
    store.slabs.read_ahead([0])
    store.slabs.wait([0])
    command = [sys.executable, "-c", USES, store.path]
    with commands.start(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline() == "0\n"
        # The next epoch's: the worker still has that of the one before.
        store.slabs.read_ahead([1])
        store.slabs.wait([1])
        assert len(files_in(folder)) == 2
        worker.kill()
    assert len(files_in(folder)) == 2
    store.slabs.close()
    assert files_in(folder) == []


def test_the_folder_of_another_user_is_not_entered(tmp_path, monkeypatch):
    store, _, _ = written(tmp_path / "s.zarr")
    real = os.getuid()
    folder = tmp_path / "theirs"
    folder.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: real + 1)
    slabs = SlabCache(store.reader, store._decoder, ROOMY, folder)
    with pytest.raises(labelstore.errors.StoreError, match="another user"):
        slabs.get(0)


def planted(kind, path):
    """What another user, or an accident, may have put under a slab's name."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(path.with_name("elsewhere"))
        path.with_name("elsewhere").write_bytes(b"theirs")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            # Such a name is short at most.
            here = os.open(path.parent, os.O_RDONLY)
            made.bind(f"/proc/self/fd/{here}/s")
            os.close(here)
        path.with_name("s").rename(path)
    else:
        path.write_bytes(bytes(2**20))
        if kind == "theirs":
            os.chown(path, 65534, 65534)
        else:
            path.chmod(0o666)


KINDS = ["pipe", "link", "writable"]
KINDS += ["socket"] if sys.platform == "linux" else []
KINDS += ["theirs"] if hasattr(os, "getuid") and os.getuid() == 0 else []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("partial", [True, False])
def test_what_was_planted_is_neither_trusted_nor_waited_for(tmp_path, folder, kind, partial):
    plain, _ = make_planned(tmp_path / "s.zarr")
    store = labelstore.open(plain.path, slab_bytes=ROOMY)
    layout = store.slabs._layouts.layout(0, 3)
    folder.mkdir(mode=0o700)
    path = folder / (layout.name + (".partial" if partial else ""))
    planted(kind, path)
    if kind not in ("pipe", "socket"):
        # As somebody does who waits for the moment.
        lock = os.open(path, os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert shared_file.find(folder, layout) is None
    assert shared_file.used(folder, layout.prefix, besides="nothing") == 0
    slab = store.slab(0)
    state = slab.path.lstat()
    assert stat.S_ISREG(state.st_mode)
    assert (state.st_uid, stat.S_IMODE(state.st_mode)) == (os.getuid(), 0o600)
    if kind not in ("pipe", "socket"):
        os.pwrite(lock, bytes([7]) * 2**20, 0)
        os.close(lock)
    same(all_of(store, np.arange(4)), all_of(plain, np.arange(4)))
    slab.close()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_folder_that_others_may_write_into_is_refused(tmp_path, folder, mode):
    plain, _ = make_planned(tmp_path / "s.zarr")
    folder.mkdir()
    folder.chmod(mode)
    store = labelstore.open(plain.path, slab_bytes=ROOMY)
    with pytest.raises(StoreError, match="chmod go-w"):
        store.slab(0)
    store.slabs.read_ahead([0])
    with pytest.warns(FallbackWarning, match="chmod go-w"):
        store.slabs.wait([0])
    same(all_of(store, np.arange(4)), all_of(plain, np.arange(4)))
    assert files_in(folder) == []
    folder.chmod(0o700)
    store.slab(0).close()


def test_a_place_of_all_users_gets_a_folder_of_this_user(tmp_path, folder):
    """Another's folder, or a link, that has the name first does not keep slabs away."""
    plain, _ = make_planned(tmp_path / "s.zarr")
    folder.mkdir()
    folder.chmod(0o1777)
    own = f"labelstore-{os.getuid()}"
    (folder / own).mkdir()
    (folder / own).chmod(0o777)
    (folder / f"{own}-1").symlink_to(tmp_path)
    slabs = [labelstore.open(plain.path, slab_bytes=ROOMY).slab(0) for _ in range(2)]
    assert {slab.path.parent for slab in slabs} == {folder / f"{own}-2"}
    assert stat.S_IMODE((folder / f"{own}-2").stat().st_mode) == 0o700
    for slab in slabs:
        slab.close()


def test_slabs_that_are_asked_for_keep_to_the_bound(tmp_path, folder):
    written(tmp_path / "s.zarr", images=512, views=16, group_views=2)
    one = labelstore.open(tmp_path / "s.zarr")
    size = one.slab(0).nbytes
    one.slabs.close()
    store = labelstore.open(tmp_path / "s.zarr", slab_bytes=2 * size)
    first, _ = store.slab(0), store.slab(1)
    with pytest.raises(StoreError, match="close a slab"):
        store.slab(2)
    assert bytes_in(folder) == 2 * size
    first.close()
    store.slab(2)
    assert bytes_in(folder) == 2 * size
    store.slabs.close()


HOLDS_ALL = """
import sys, labelstore
store = labelstore.open(sys.argv[1], slab_bytes=2**26)
held = [store.slab(group) for group in range(store.manifest.num_groups)]
print("ready", flush=True)
sys.stdin.read()
"""


def test_threads_share_the_slabs_of_another_process(tmp_path, folder):
    _, indices, _ = written(tmp_path / "s.zarr", images=64, views=64, group_views=2)
    command = [sys.executable, "-c", HOLDS_ALL, str(tmp_path / "s.zarr")]
    holder = commands.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "ready\n"
    store = labelstore.open(tmp_path / "s.zarr", slab_bytes=2**26)
    interval = sys.getswitchinterval()

    def work(seed):
        rng = np.random.default_rng(seed)
        for turn in range(600):
            # All threads leave a group behind at about the same time.
            group = turn // 45 % 32
            views, images = rng.integers(2 * group, 2 * group + 2, 8), rng.integers(0, 64, 8)
            assert np.array_equal(store.read(images, views).indices, indices[images, views])
        return True

    try:
        sys.setswitchinterval(1e-5)
        with ThreadPoolExecutor(6) as threads:
            assert all(threads.map(work, range(6)))
    finally:
        sys.setswitchinterval(interval)
        holder.communicate("")
        store.slabs.close()


FORK_WHILE_A_THREAD_COMPUTES = """
import os, signal, threading, time
from labelstore.store.slabs import shared_file  # what forked processes do
from labelstore.store.slabs.file_layout import Layout
begun = threading.Event()
class Slow(list):
    def __iter__(self):
        begun.set()
        time.sleep(60)
        return super().__iter__()
threading.Thread(target=lambda: Layout("slow", {}, Slow()).nbytes, daemon=True).start()
begun.wait()
child = os.fork()
if not child:
    os._exit(0 if Layout("own", {}, []).nbytes else 1)
until = time.monotonic() + 10
while os.waitpid(child, os.WNOHANG) == (0, 0):
    if time.monotonic() > until:
        os.kill(child, signal.SIGKILL)
        print("hangs")
        break
    time.sleep(0.01)
else:
    print("goes on")
"""


def test_a_fork_while_a_thread_looks_at_a_layout():
    """The worker does not wait for the thread, which it does not have."""
    script = [sys.executable, "-c", FORK_WHILE_A_THREAD_COMPUTES]
    assert subprocess.run(script, capture_output=True, text=True).stdout == "goes on\n"
