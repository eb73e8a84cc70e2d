"""Hostile inputs: no wrong label, no crash, no hang, no traceback, and no more memory than a bound.

The long set: ``pytest -m slow tests/faults/test_fuzz.py``, two million inputs by default; the
variables LABELSTORE_FUZZ_INPUTS and LABELSTORE_FUZZ_SEED say how many and which.
"""

from __future__ import annotations

import os
import random
import sys

import numpy as np
import pytest

from labelstore.errors import LabelStoreError
from labelstore.images.sources.choose import open_source
from tests.faults import fuzz_subjects, fuzzing, mutations
from tests.faults.fuzz_subjects import Change, make_files, subjects_of
from tests.support import commands

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bounds memory as Linux does")


def told(failures):
    return "\n".join(f"seed {seed}: {kind} {words}" for seed, kind, words in failures[:20])


def test_hundreds_of_inputs():
    failures, _ = fuzzing.fuzz(inputs=500, seed=0)
    assert not failures, told(failures)


@pytest.mark.slow
def test_millions_of_inputs(capsys):
    inputs = int(os.environ.get("LABELSTORE_FUZZ_INPUTS", "2000000"))
    seed = int(os.environ.get("LABELSTORE_FUZZ_SEED", "1000000"))
    failures, rate = fuzzing.fuzz(inputs, seed, children=os.cpu_count() or 1)
    with capsys.disabled():
        print(f"\n{inputs} inputs from seed {seed}, {rate:.0f} a second: {len(failures)} failures")
    assert not failures, told(failures)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed")
    make_files(folder)
    made = subjects_of(folder)
    for subject in made:
        subject.warm()
    return {subject.name: subject for subject in made}


def test_an_input_follows_from_its_seed(subjects):
    for subject in subjects.values():
        for seed in range(6):
            one, two = (subject.change(random.Random(seed)) for _ in range(2))
            assert (one.name, one.how, one._data) == (two.name, two.how, two._data)


def test_what_was_changed_is_put_back(subjects):
    for subject in subjects.values():
        for seed in range(10):
            change = subject.change(random.Random(seed))
            change.apply()
            change.restore()
        held = {name: (subject.root / name).read_bytes() for name in subject.files}
        assert held == subject.files


def test_changes_with_their_digests_come_through(subjects):
    """Else nothing but digests would be fuzzed: other values, signed, are read as other labels."""
    for name in (
        *("u8.zarr", "list-ratio16.zarr", "list-ratio16.parquet", "boxes-fp32.parquet"),
        *("list-ratio16.units.zarr", "boxes-fp16.units.zarr", "many-chunks.zarr"),
    ):
        subject = subjects[name]
        outcomes = set()
        for seed in range(400):
            change = subject.change(random.Random(seed))
            if not change.how.startswith("values"):
                continue
            change.apply()
            try:
                read = subject.read(change)
                outcomes.add("same" if subject.same(read, change) else "other")
            except Exception as error:
                outcomes.add(type(error).__name__)
            change.restore()
            if "other" in outcomes:
                break
        assert "other" in outcomes, name


def test_page_headers_are_reached(subjects):
    """Of every file of Parquet; and pyarrow is stopped by more than its checksums."""
    said = set()
    for name in ("list-ratio16.parquet", "bare-boxes-fp32.parquet", "photo_table"):
        subject, tables = subjects[name], set()
        for seed in range(600):
            change = subject.change(random.Random(seed))
            if change.how != "a page header":
                continue
            tables.add(change.name)
            change.apply()
            try:
                subject.read(change)
            except LabelStoreError as error:
                said |= {"header"} & set(str(error).split())
            change.restore()
        assert tables == {file for file in subject.files if file.endswith(".parquet")}
    assert said


def test_what_it_is_to_find_is_found(subjects, monkeypatch):
    """A reader that compares no digests, and one that raises what a parser raises."""
    subject = subjects["u8.zarr"]
    chunk = "labels/classes/c/0/0/0"
    shard = mutations.Shard(subject.files[chunk], 2)
    values = mutations.unpacked(shard.chunk(0), np.dtype("<u2"))
    other = shard.with_chunk(0, mutations.packed(values ^ 1))
    change = Change(subject.root, chunk, "other classes", other)

    def outcome():
        change.apply()
        try:
            return fuzzing._outcome(subject, change)
        finally:
            change.restore()

    assert outcome() is None
    reader = type(subject.store.reader)
    with monkeypatch.context() as patched:
        patched.setattr(reader, "_check_groups", lambda *_: None)
        patched.setattr(
            reader, "_are_wrong", lambda _self, _name, places, _chunks: np.zeros(len(places), bool)
        )
        assert outcome()[0] == "silent"
    for error, kind in ((KeyError("x"), "traceback"), (MemoryError(), "memory")):
        with monkeypatch.context() as patched:

            def fail(*_, error=error):
                raise error

            patched.setattr(reader, "_are_wrong", fail)
            assert outcome()[0] == kind


def test_a_photo_that_is_lost_is_found(subjects, monkeypatch):
    def outcome(subject, data):
        change = Change(subject.root, name, "bytes", data)
        change.apply()
        try:
            return fuzzing._outcome(subject, change)
        finally:
            change.restore()

    for subject in (subjects["tar"], subjects["photo_table"]):
        name, data = list(subject.files.items())[-1]
        assert outcome(subject, data) is None
        with monkeypatch.context() as patched:

            def without_the_first(root):
                source = open_source(root)
                source.keys = source.keys[1:]
                return source

            patched.setattr(fuzz_subjects, "open_source", without_the_first)
            assert outcome(subject, data)[0] == "silent"
    # A path in an extended header has no checksum: another name is another key, or no image's.
    name, data = list(subjects["tar"].files.items())[-1]
    path = "path=n4/é.jpg".encode()
    assert data.count(path) == 1
    for other in ("path=n4/è.jpg", "path=n4/é.jqg"):
        assert outcome(subjects["tar"], data.replace(path, other.encode())) is None


CHILD = """
import os, sys, time
from tests.faults import fuzzing
def try_one(subjects, seed):
    if seed == 3:
        os.abort()
    if seed == 5:
        time.sleep(60)
    return ("silent", "four") if seed == 4 else None
fuzzing.try_one = try_one
fuzzing.child(fuzzing.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
"""


def test_children_that_die_or_stand_still_are_followed_by_others(tmp_path, monkeypatch):
    program = tmp_path / "child.py"
    program.write_text(CHILD)
    monkeypatch.setattr(fuzzing, "__file__", str(program))
    monkeypatch.setattr(fuzzing, "HANG_SECONDS", 1.0)
    monkeypatch.setattr(fuzzing, "start", commands.start)
    monkeypatch.setattr(fuzzing, "make_files", lambda folder: None)
    failures, _ = fuzzing.fuzz(inputs=8, seed=1)
    assert [failure[:2] for failure in failures] == [(3, "crash"), (4, "silent"), (5, "hang")]


def test_one_input_again():
    command = [sys.executable, fuzzing.__file__, "--only", "7"]
    done = commands.run(command, env=fuzzing.ENVIRONMENT)
    assert done.stdout == "None\n", done.stderr
