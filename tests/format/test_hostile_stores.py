"""Stores from strangers, each opened in a process of its own: an error with a name, soon, and in
less than a gigabyte."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numcodecs import blosc

import labelstore
from labelstore.errors import CorruptError, StoreError
from labelstore.format.manifest import Manifest
from labelstore.operations.materialize import materialize
from labelstore.store.backends.zarr.metadata import array_layouts
from tests.format.hostile import manifest_file, manifest_of, outcome, outcomes, signed, write
from tests.support.page_headers import claiming
from tests.support.stores import written


def checked(data):
    return data + google_crc32c.value(data).to_bytes(4, "little")


def packed(codes):
    return checked(blosc.compress(codes.tobytes(), b"zstd", 9, typesize=codes.itemsize))


def forged(expected, size=20):
    """A header that promises ``expected`` bytes, of a file of ``size``."""
    head = b"\x02\x01\x91\x01" + np.array([expected, expected, 2**31 - 1], "<u4").tobytes()
    return checked((head + bytes(size))[:size])


def describe(path, name, **changes):
    """Change an array's description."""
    file = path / name / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(path, change):
    """Change the manifest and sign it."""
    document, body = manifest_of(path)
    change(body)
    body = signed(body)
    whole = body
    if path.suffix == ".zarr":
        whole = {**document, "attributes": {"labelstore": body}}
    manifest_file(path).write_text(json.dumps(whole))


HEADERS = {
    "images/status/c/0": 3,
    "images/digest/c/0": 24,
    "images/prior_probs/c/0/0": 12,
    "images/target/c/0": 24,
    "images/key/c/0": 64,
    "labels/classes/c/0/0/0": 36,
}


def test_headers_that_point_outside(tmp_path):
    whole, paths = write(tmp_path / "whole.zarr"), []
    for number, (name, count) in enumerate(HEADERS.items()):
        path = shutil.copytree(whole, tmp_path / f"{number}.zarr")
        data = forged(count)
        if name.startswith("labels"):
            data += checked(np.array([[0, len(data)], [0, len(data)]], "<u8").tobytes())
        (path / name).write_bytes(data)
        paths.append(path)
    for told in outcomes(paths):
        assert told.startswith("corrupt "), told
        assert "header" in told


HUGE = {
    "images": lambda body: body["images"].update(count=2**31 - 1),
    "blocks": lambda body: (body["images"].update(count=2**31 - 1), one_image_a_block(body)),
    "views": lambda body: body["views"].update(count=65536),
    "block": lambda body: body["layout"].update(block_images=2**31 - 1),
    "group": lambda body: body["layout"].update(group_views=2**31 - 1),
    "k": lambda body: body["labels"].update(k=2**30, num_classes=2**31 - 1),
    "list": lambda body: body["labels"].update(prior_size=1024, num_classes=2**31 - 1),
    "digests": lambda body: (
        body["views"].update(count=65536),
        body["layout"].update(group_views=1),
        one_image_a_block(body),
    ),
}


def one_image_a_block(body):
    body["layout"]["block_images"] = 1


def test_numbers_that_nothing_on_disk_accounts_for(tmp_path, suffix):
    whole, paths = write(tmp_path / f"whole.{suffix}"), [tmp_path / f"whole.{suffix}"]
    for name, change in HUGE.items():
        path = shutil.copytree(whole, tmp_path / f"{name}.{suffix}")
        rewrite(path, change)
        if suffix == "zarr":
            describe_all(path)
        paths.append(path)
    told = outcomes(paths)
    assert told[0] == "read"
    for name, line in zip(HUGE, told[1:], strict=True):
        assert line.split()[0] in ("corrupt", "incomplete"), (name, line)


def test_numbers_of_units_that_nothing_on_disk_accounts_for(tmp_path):
    whole = write(tmp_path / "whole.zarr", unit_images=2)
    paths = [whole]
    changes = {
        **HUGE,
        "unit": lambda body: body["layout"].update(unit_images=2**31 - 1),
        "units": lambda body: body["layout"].update(unit_images=1, block_images=2**31 - 1),
    }
    for name, change in changes.items():
        path = shutil.copytree(whole, tmp_path / f"{name}.zarr")
        rewrite(path, change)
        describe_all(path)
        paths.append(path)
    told = outcomes(paths)
    assert told[0] == "read"
    for name, line in zip(changes, told[1:], strict=True):
        assert line.split()[0] in ("corrupt", "incomplete"), (name, line)


def describe_all(path):
    """Let the arrays' descriptions say what the manifest implies."""
    for name, layout in array_layouts(Manifest.from_json(manifest_of(path)[1], "a")).items():
        file = path / name / "zarr.json"
        if not file.exists():
            continue
        document = json.loads(file.read_text())
        grid = document["chunk_grid"]["configuration"]
        grid["chunk_shape"] = list(layout.shards or layout.chunks)
        codec = document["codecs"][0]
        if codec["name"] == "sharding_indexed":
            codec["configuration"]["chunk_shape"] = list(layout.chunks)
        describe(path, name, **{**document, "shape": list(layout.shape)})


def test_chunks_that_expand(tmp_path):
    whole, paths = write(tmp_path / "whole.zarr"), []
    data = packed(np.zeros(400_000_000, "u1"))
    for number, name in enumerate(HEADERS):
        path = shutil.copytree(whole, tmp_path / f"{number}.zarr")
        (path / name).write_bytes(data)
        paths.append(path)
    for told in outcomes(paths):
        assert told.startswith("corrupt "), told


def test_a_block_of_a_huge_chunk(tmp_path):
    """Sound in all it says: the chunk of three images is as large as the manifest makes it."""
    path = write(tmp_path / "a.zarr", block_images=6)
    rewrite(path, lambda body: body["layout"].update(block_images=400_000_000))
    for name in ("images/size", "images/status", "images/digest"):
        rest = [2] if name == "images/size" else []
        grid = {"name": "regular", "configuration": {"chunk_shape": [400_000_000, *rest]}}
        describe(path, name, chunk_grid=grid)
    (path / "images/status/c/0").write_bytes(packed(np.zeros(400_000_000, "u1")))
    assert outcome(path).startswith("corrupt ")


def test_a_dictionary_of_one_long_key(tmp_path):
    path = write(tmp_path / "a.parquet")
    rows = 4000
    table = pa.table(
        {
            "image": pa.array(np.arange(rows, dtype=np.int32)),
            "key": pa.DictionaryArray.from_arrays(
                np.zeros(rows, dtype=np.int32), pa.array(["k" * 1_000_000])
            ),
            "target": pa.array(np.zeros(rows, dtype=np.int32)),
        }
    )
    pq.write_table(table, path / "images.parquet", compression="zstd")
    rewrite(path, lambda body: body["images"].update(count=rows))
    assert "two images have the same key" in outcome(path)


def test_page_headers_that_claim_gigabytes(tmp_path):
    """All else is as it was: pyarrow would take what a header says before it reads on."""
    whole, paths = write(tmp_path / "whole.parquet"), []
    for name in ("labels/000001.parquet", "measured/000000.parquet", "images.parquet"):
        forged = claiming((whole / name).read_bytes())
        chosen = ("top_class", "rest_probs", "digest", "prior_probs", "key")
        for (column, claim), data in forged.items():
            if column.split(".")[0] not in chosen or (claim == "values" and len(paths) > 3):
                continue
            path = shutil.copytree(whole, tmp_path / f"{len(paths)}.parquet")
            (path / name).write_bytes(data)
            paths.append(path)
    assert len(paths) > 8
    for told in outcomes(paths):
        assert told.startswith("corrupt "), told
        assert "page header" in told


def test_a_copy_of_one_long_key(tmp_path):
    keys = [f"{number}" for number in range(199)] + ["k" * 1_000_000]
    store, _, _ = written(tmp_path / "a.zarr", images=200, views=2, keys=keys)
    with pytest.raises(StoreError, match="a key of 1,000,000 characters"):
        materialize(store, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def pipe(file):
    os.mkfifo(file)


def listener(file):
    here = Path.cwd()
    os.chdir(file.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(file.name)
    finally:
        os.chdir(here)


def device(file):
    file.symlink_to("/dev/zero")


def outside(file):
    root = next(folder for folder in file.parents if folder.suffix in (".zarr", ".parquet"))
    held = root.parent / f"elsewhere-{root.name}"
    shutil.copy(root.parent / f"whole{root.suffix}" / file.relative_to(root), held)
    file.symlink_to(held)


def folder(file):
    file.mkdir()


def loop(file):
    file.symlink_to(file)


FILES = {
    "zarr": [
        "zarr.json",
        "images/key/zarr.json",
        "images/key/c/0",
        "images/status/c/0",
        "labels/classes/c/0/0/0",
        "commits/c/0/0",
    ],
    "parquet": [
        "manifest.json",
        "images.parquet",
        "measured/000000.parquet",
        "labels/000000.parquet",
        "commits/000000.npy",
    ],
}


def test_what_is_no_file_of_the_store(tmp_path, suffix):
    whole, paths = write(tmp_path / f"whole.{suffix}"), {}
    for kind in (pipe, listener, device, outside, folder, loop):
        for name in FILES[suffix]:
            case = f"{kind.__name__} for {name}"
            paths[case] = shutil.copytree(whole, tmp_path / f"{len(paths)}.{suffix}")
            (paths[case] / name).unlink()
            kind(paths[case] / name)
    # In one process: each would import all anew.
    for case, told in zip(paths, outcomes(paths.values()), strict=True):
        assert told.startswith("corrupt "), (case, told)


def test_a_pipe_in_a_copy(tmp_path):
    store = labelstore.open(write(tmp_path / "a.zarr"))
    materialize(store, tmp_path / "copy")
    assert outcome(tmp_path / "copy") == "read"
    (tmp_path / "copy/labels/classes.npy").unlink()
    os.mkfifo(tmp_path / "copy/labels/classes.npy")
    assert outcome(tmp_path / "copy").startswith("corrupt ")
    (tmp_path / "copy/labels/classes.npy").unlink()
    np.savez(tmp_path / "copy/labels/classes.npz", np.zeros(3))
    (tmp_path / "copy/labels/classes.npz").rename(tmp_path / "copy/labels/classes.npy")
    assert outcome(tmp_path / "copy").startswith("corrupt ")


def test_a_snapshot_of_the_hub(tmp_path, suffix):
    """Its files are links to blobs beside it, as the hub's own cache makes them."""
    store = write(tmp_path / f"a.{suffix}")
    cache = tmp_path / "hub" / "datasets--owner--repo"
    snapshot = cache / "snapshots" / "0123" / f"a.{suffix}"
    (cache / "blobs").mkdir(parents=True)
    for number, file in enumerate(path for path in store.rglob("*") if path.is_file()):
        blob = cache / "blobs" / f"{number:040}"
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(store)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert outcome(snapshot) == "read"


COMMITS = {
    "archive": lambda file, row: np.savez(file, row),
    "objects": lambda file, row: np.save(file, row.astype(object), allow_pickle=True),
    "floats": lambda file, row: np.save(file, row.astype(float)),
    "shape": lambda file, row: np.save(file, row[None]),
    "big-endian": lambda file, row: np.save(file, row.astype(">u8")),
}


@pytest.mark.parametrize("change", COMMITS.values(), ids=COMMITS)
def test_commit_rows_of_other_kinds(tmp_path, change):
    path = write(tmp_path / "a.parquet")
    file = path / "commits/000000.npy"
    row = np.load(file)
    with file.open("wb") as opened:
        change(opened, row)
    with pytest.raises(CorruptError, match=r"000000.npy cannot be read"):
        labelstore.open(path).missing_blocks()


def tables(path, name):
    opened = pq.ParquetFile(path / name)
    return [opened.read_row_group(group) for group in range(opened.num_row_groups)]


def put(path, name, groups):
    with pq.ParquetWriter(path / name, groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)


def replaced(table, column, values):
    place = table.column_names.index(column)
    return table.set_column(place, column, pa.array(values, table.schema.field(column).type))


def shifted(column):
    return lambda groups: [
        replaced(groups[0], column, np.roll(groups[0][column].to_numpy(), 1)),
        *groups[1:],
    ]


ROWS = {
    "images.parquet": shifted("image"),
    "images.parquet, one more": lambda groups: [pa.concat_tables([groups[0], groups[0][:1]])],
    "measured/000001.parquet": shifted("image"),
    "labels/000000.parquet": shifted("image"),
    "labels/000001.parquet": shifted("view"),
    "labels/000001.parquet, groups": lambda groups: groups[::-1],
    "labels/000001.parquet, more": lambda groups: [*groups, groups[0]],
    "labels/000001.parquet, less": lambda groups: groups[:1],
    "labels/000001.parquet, column": lambda groups: [
        group.append_column("label", group["top_class"]) for group in groups
    ],
    "labels/000001.parquet, null": lambda groups: [
        replaced(groups[0], "view", [None] * len(groups[0])),
        *groups[1:],
    ],
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_sql_would_join_elsewhere(tmp_path, case):
    path, name = write(tmp_path / "a.parquet"), case.split(",")[0]
    put(path, name, ROWS[case](tables(path, name)))
    store = labelstore.open(path)
    with pytest.raises(CorruptError, match=name.split("/")[0].split(".")[0]):
        _ = store.keys, store.labelled(), store.read(np.arange(6)[:, None], np.arange(4))
    if not name.startswith("images"):
        assert store.check_block(int(name[-9])) != []


@pytest.mark.parametrize(
    "name", ["labels/000002.parquet", "labels/copy.parquet", "measured/x.parquet", "commits/9.npy"]
)
def test_files_that_sql_would_read_along(tmp_path, name):
    path = write(tmp_path / "a.parquet")
    folder = name.split("/")[0]
    shutil.copy(next((path / folder).iterdir()), path / name)
    with pytest.raises(CorruptError, match="SQL would read them"):
        labelstore.open(path).missing_blocks()
    (path / name).rename(path / f"{name}.partial")
    assert labelstore.open(path).missing_blocks() == []
