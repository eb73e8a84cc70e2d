"""Every member of a manifest replaced by every kind of value: an error with a name, or a store."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import labelstore
from labelstore.errors import CorruptError, FormatError, LabelStoreError
from labelstore.operations.inspection.description import describe
from tests.format.hostile import manifest_file, manifest_of, signed, write

GOLDEN = Path(__file__).parent / "golden" / "v1"

HUGE = "\ue000"
"""Stands for 1e400, which JSON has and Python writes not."""

VALUES = (None, True, False, -1, 0, 1, 1.0, 1.5, HUGE, 10**400, 2**63, "", "x", [], {}, [None])
VALUES += ([[[]]], {"a": None}, "\ud800")


def places(document, path=()):
    """Paths of all members and elements."""
    if isinstance(document, dict):
        members = document.items()
    else:
        members = enumerate(document) if isinstance(document, list) else ()
    for name, value in members:
        yield (*path, name)
        yield from places(value, (*path, name))


def changes(body):
    """Changed manifests, and what was changed."""
    for path in places(body):
        for value in (*VALUES, "removed", "extra"):
            changed = copy.deepcopy(body)
            parent = changed
            for step in path[:-1]:
                parent = parent[step]
            held = parent[path[-1]]
            if value == "removed":
                del parent[path[-1]]
            elif value == "extra":
                if not isinstance(held, dict):
                    continue
                held["extra"] = 1
            elif type(held) is type(value) and held == value:
                continue
            else:
                parent[path[-1]] = value
            yield (*path, value if isinstance(value, str) else repr(value)[:20]), changed


def read(path):
    """What a user does with a store."""
    store = labelstore.open(path)
    store.missing_blocks()
    assert store.keys
    repr(store)
    describe(store)
    assert store.manifest.to_json()
    store.views(0, 0)
    store.read(np.arange(store.num_images)[:, None], np.arange(store.num_views))


def text_of(document):
    text = json.dumps(document, ensure_ascii=True)
    return text.replace('"\\ue000"', "1e400")


@pytest.mark.parametrize(
    "name",
    [
        "prior-ratio16.zarr",
        # Manifests are read by one piece, whatever holds them.
        pytest.param("prior-ratio16.parquet", marks=pytest.mark.slow),
        pytest.param("every-field.zarr", marks=pytest.mark.slow),
        pytest.param("every-field.parquet", marks=pytest.mark.slow),
    ],
)
def test_every_member(tmp_path, name):
    path = tmp_path / name
    shutil.copytree(GOLDEN / name, path)
    document, body = manifest_of(path)
    outcomes = {}
    for what, changed in changes(body):
        versions = [changed]
        if what[0] != "id":
            with contextlib.suppress(ValueError, TypeError):
                versions.append(signed(changed))
        for version in versions:
            whole = version
            if path.suffix == ".zarr":
                whole = {**document, "attributes": {"labelstore": version}}
            manifest_file(path).write_text(text_of(whole))
            outcomes[what] = error_of(read, path)
    # Another manifest has another id, so that what was committed is never its own.
    assert {type(error) for error in outcomes.values()} <= {CorruptError, FormatError}
    assert [str(error) for error in outcomes.values() if "--" in str(error)] == []
    assert len(outcomes) > 300


def error_of(call, *arguments):
    """The library's error that a call raises, None without; any other exception passes."""
    try:
        call(*arguments)
    except LabelStoreError as error:
        return error
    return None


DOCUMENTS = {
    "nested": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nan": b'{"attributes":{"labelstore":NaN}}',
    "twice": b'{"attributes":{"labelstore":{}},"attributes":{"labelstore":{}}}',
    "utf-16": '{"attributes":{}}'.encode("utf-16"),
    "bytes": b'{"\xff":1}',
    "list": b"[]",
    "null": b"null",
    "text": b'"labelstore"',
    "empty": b"",
    "half a character": b'{"format":"labelstore","\\ud800":1}',
    "digits": b'{"format":' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("data", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_that_are_no_manifest(tmp_path, suffix, data):
    path = write(tmp_path / f"a.{suffix}")
    manifest_file(path).write_bytes(data)
    with pytest.raises((CorruptError, FormatError)):
        labelstore.open(path)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_every_member_of_an_arrays_description(tmp_path, every):
    path = write(tmp_path / "a.zarr")
    refused = 0
    for name in ("images/key", "labels/classes", "commits"):
        file = path / name / "zarr.json"
        whole = file.read_text()
        # With 4, each member gets another fourth of the values.
        for what, changed in itertools.islice(changes(json.loads(whole)), 0, None, every):
            file.write_text(text_of(changed))
            error = error_of(lambda: labelstore.open(path).read(0, 0))
            if error is None:
                # How it was written, and what it says beside the array.
                free = {"attributes", "dimension_names", "storage_transformers", "clevel"}
                free |= {"shuffle", "blocksize", "configuration", "extra", "index_location"}
                assert free.intersection(map(str, what)), (name, what)
                continue
            assert type(error) is CorruptError, (name, what)
            assert "--" not in str(error)
            refused += 1
        file.write_text(whole)
    assert refused > 800 / every
