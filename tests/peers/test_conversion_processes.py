"""Several processes convert to the same store, refuse the same, and end with the one they serve."""

import contextlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from labelstore.errors import CorruptError, LabelError, StoreError
from labelstore.format.settings import StoreSettings
from labelstore.images import open_source
from labelstore.operations.convert import ConversionSettings, convert
from labelstore.peers.peer_labels import PeerOptions
from labelstore.storage.parallel.processes import Processes
from tests.peers import distillkit_files, ml_dr_files, relabel_files, sre2l_files
from tests.peers.own_files import CLASSES, photos, save_fkd, save_tinyvit
from tests.peers.photo_folders import make_photos
from tests.support.killed import in_child
from tests.support.stores import distributions, files_of


def _fkd(folder):
    save_fkd(folder / "files", photos(folder / "photos", 9), 6)


def _tinyvit(folder):
    save_tinyvit(folder / "files", [f"n{number % 3}/{number}" for number in range(9)], 4)


def _npz(folder):
    np.savez(folder / "files", probs=distributions(9, 5, CLASSES))
    (folder / "files.npz").rename(folder / "files")


def _of_photos(write):
    return lambda folder: write(folder / "files", make_photos(folder / "photos"))


FORMATS = {
    "fkd": _fkd,
    "tinyvit": _tinyvit,
    "ml-dr": _of_photos(ml_dr_files.write),
    "sre2l": _of_photos(sre2l_files.write),
    "relabel": _of_photos(lambda path, of: relabel_files.write(path, of, 7)),
    "distillkit": lambda folder: distillkit_files.write(folder / "files", distillkit_files.PLAIN),
    "npz": _npz,
}
OWN_CLASSES = {"fkd": CLASSES, "tinyvit": CLASSES, "relabel": relabel_files.CLASSES}


def converted(folder, output, format="fkd", workers=3, block_images=2, **more):
    pictures = folder / "photos"
    options = PeerOptions(
        num_classes=OWN_CLASSES.get(format),
        photos=open_source(pictures) if pictures.exists() else None,
        views=5 if format == "relabel" else None,
    )
    settings = ConversionSettings(store=StoreSettings(block_images=block_images))
    return convert(
        *(folder / "files", folder / output),
        format=format,
        options=options,
        settings=settings,
        workers=workers,
        **more,
    )


@pytest.mark.parametrize("format", FORMATS)
def test_the_store_is_that_of_one_process(tmp_path, format):
    FORMATS[format](tmp_path)
    converted(tmp_path, "one.zarr", format, workers=1)
    report = converted(tmp_path, "three.zarr", format)
    assert report.blocks_made >= 4
    assert files_of(tmp_path / "three.zarr") == files_of(tmp_path / "one.zarr")


def test_the_store_of_parquet_too(tmp_path):
    _fkd(tmp_path)
    converted(tmp_path, "one.parquet", workers=1)
    converted(tmp_path, "three.parquet")
    assert files_of(tmp_path / "three.parquet") == files_of(tmp_path / "one.parquet")


def test_what_is_refused_names_the_file_and_leaves_no_process(tmp_path):
    _fkd(tmp_path)
    next((tmp_path / "files").rglob("im_4.tar")).write_bytes(b"")
    with pytest.raises(CorruptError, match=r"im_4\.tar"):
        converted(tmp_path, "a.zarr")
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_is_told_and_the_next_run_goes_on(tmp_path):
    _fkd(tmp_path)

    def kill(images, views):
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(StoreError, match=r"has ended \(exit code -9.*fewer workers"):
        converted(tmp_path, "a.zarr", begin=lambda reader: kill)
    assert converted(tmp_path, "a.zarr").blocks_made >= 1
    converted(tmp_path, "one.zarr", workers=1)
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "one.zarr")


def test_processes_end_with_the_one_they_serve_and_hold_no_lock(tmp_path):
    _fkd(tmp_path)
    converted(tmp_path, "one.zarr", workers=1)

    def die(images, views):
        numbers = [str(child.pid) for child in multiprocessing.active_children()]
        (tmp_path / "numbers").write_text(" ".join(numbers))
        os.kill(os.getpid(), signal.SIGKILL)

    child = in_child(lambda: converted(tmp_path, "a.zarr", begin=lambda reader: die))
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert converted(tmp_path, "a.zarr").blocks_made >= 1
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "one.zarr")
    numbers = (tmp_path / "numbers").read_text().split()
    assert len(numbers) == 3
    end = time.monotonic() + 30
    while any(_is_running(number) for number in numbers):
        assert time.monotonic() < end
        time.sleep(0.01)


def _is_running(number):
    try:
        state = Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_errors_come_as_they_were_raised():
    def refuse(number):
        raise LabelError(f"{number} is no label.", block=number)

    with contextlib.closing(Processes(1, refuse)) as processes:
        for number in (3, 4):
            with pytest.raises(LabelError, match=f"{number} is no label") as caught:
                processes(number)
            assert caught.value.block == number
