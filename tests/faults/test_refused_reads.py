"""What the system does not let anybody read is not called damaged, and is no traceback."""

from __future__ import annotations

import builtins
import contextlib
import errno
import multiprocessing
import os
import pathlib

import pytest

import labelstore
from labelstore.errors import CorruptError, StoreError
from labelstore.operations.materialize import materialize
from tests.support.stores import make_planned, once

make_planned = once(make_planned)


@pytest.fixture(params=["zarr", "parquet", "copy"])
def store(request, tmp_path):
    name = "zarr" if request.param == "copy" else request.param
    made, _ = make_planned(tmp_path / f"s.{name}")
    if request.param == "copy":
        materialize(made, tmp_path / "copy")
        return tmp_path / "copy"
    return made.path


def everything(path):
    store = labelstore.open(path)
    store.read(0, 0)
    assert store.keys
    assert store.missing_blocks() == []
    problems = [error for block in range(3) for error in store.check_block(block)]
    if problems:
        raise problems[0]


def refusal_of(path):
    try:
        everything(path)
    except StoreError as error:
        return error
    return None


def refusing(monkeypatch, refused, number):
    """Let the system refuse a file to every reader that opens it by name in Python."""

    def guard(call):
        def guarded(file, *args, **options):
            if isinstance(file, (str, os.PathLike)) and pathlib.Path(file) == refused:
                raise OSError(number, os.strerror(number), str(file))
            return call(file, *args, **options)

        return guarded

    monkeypatch.setattr(builtins, "open", guard(builtins.open))
    monkeypatch.setattr(pathlib.Path, "open", guard(pathlib.Path.open))
    monkeypatch.setattr(os, "open", guard(os.open))
    monkeypatch.setattr(os, "stat", guard(os.stat))


@pytest.mark.parametrize(
    # That too many files are open is met for real in test_outages.
    "number",
    [errno.EACCES, errno.EIO, pytest.param(errno.EMFILE, marks=pytest.mark.slow)],
)
def test_every_file(store, monkeypatch, number):
    everything(store)
    met = 0
    for file in sorted(path for path in store.rglob("*") if path.is_file()):
        with monkeypatch.context() as patched:
            refusing(patched, file, number)
            error = refusal_of(store)
        if error is not None:
            assert not isinstance(error, CorruptError), file
            assert os.strerror(number) in str(error), file
            assert "what is in it is not known" in str(error)
            met += 1
    # pyarrow opens its files itself.
    assert met > (1 if store.suffix == ".parquet" else 5)


@pytest.mark.skipif(not hasattr(os, "fork") or os.getuid() != 0, reason="needs another user")
def test_another_users_files(store):
    """With real rights: a reader that is nobody."""
    everything(store)
    files = sorted(path for path in store.rglob("*") if path.is_file())
    for folder in (store, *store.parents):
        folder.chmod(folder.stat().st_mode | 0o055)
    with nobody_reads(store) as ask:
        assert ask() == "None"
        outcomes = []
        for file in (*files, store):
            mode = file.stat().st_mode
            file.chmod(0)
            outcomes.append(ask())
            file.chmod(mode)
            assert outcomes[-1] in ("None", "Permission denied"), file
        assert outcomes.count("Permission denied") > len(outcomes) / 2
        assert ask() == "None"


@contextlib.contextmanager
def nobody_reads(store):
    """Asks a process that is nobody to open and read a store, again and again."""
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if not child:
        try:
            ours.close()
            os.setuid(65534)
            while theirs.recv():
                error = refusal_of(store)
                right = type(error) is StoreError and "Permission denied" in str(error)
                theirs.send("Permission denied" if right else repr(error))
        except BaseException as error:
            theirs.send(repr(error))
        finally:
            os._exit(0)
    theirs.close()

    def ask():
        ours.send(True)
        assert ours.poll(60)
        return ours.recv()

    try:
        yield ask
    finally:
        ours.send(False)
        os.waitpid(child, 0)
        ours.close()
