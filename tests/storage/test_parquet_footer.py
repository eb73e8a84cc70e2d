"""Footers of Parquet: the numbers are pyarrow's, and hostile ones are errors and end nothing."""

from __future__ import annotations

import io
import random
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import labelstore
from labelstore.storage.parquet.footer import footer_of, row_groups
from labelstore.storage.parquet.pages import check_pages
from labelstore.storage.parquet.thrift import struct
from tests.support import commands
from tests.support.page_headers import claiming, pages_of
from tests.support.stores import make_planned, once

make_planned = once(make_planned)

FUZZED = """
import random, sys
import pyarrow as pa, pyarrow.parquet as pq
from labelstore.storage.parquet.footer import footer_of, row_groups

data = open(sys.argv[1], "rb").read()
size = int.from_bytes(data[-8:-4], "little") + 8
rng, met = random.Random(0), [0, 0]
for _ in range(int(sys.argv[2])):
    footer = bytearray(data[-size:-8])
    for _ in range(rng.choice((1, 1, 2, 5))):
        byte = rng.choice((0, 1, 2, 21, 127, 128, 255, rng.randrange(256)))
        footer[rng.randrange(len(footer))] = byte
    source = pa.BufferReader(data[:-size] + bytes(footer) + data[-8:])
    try:
        row_groups(footer_of(source))
        met[0] += 1
        pq.ParquetFile(source).read()
    except ValueError:
        met[1] += 1
    except Exception:
        pass  # Of pyarrow's own.
print(*met)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The Parquet files of a store."""
    path = tmp_path_factory.mktemp("made") / "s.parquet"
    make_planned(path)
    return sorted(path.rglob("*.parquet"))


def test_the_numbers_are_pyarrows(files):
    assert len(files) == 7
    for file in files:
        metadata = pq.ParquetFile(file).metadata
        found = row_groups(footer_of(pa.OSFile(str(file))))
        assert len(found) == metadata.num_row_groups
        for number, group in enumerate(found):
            theirs = metadata.row_group(number)
            assert group.rows == theirs.num_rows
            assert len(group.columns) == theirs.num_columns
            for place, column in enumerate(group.columns):
                chunk = theirs.column(place)
                assert column.name == chunk.path_in_schema.split(".")[0]
                assert column.values == chunk.num_values
                assert column.compressed == chunk.total_compressed_size
                assert column.uncompressed == chunk.total_uncompressed_size
                assert column.path == chunk.path_in_schema


def test_nulls_of_leaves():
    images = [{"bytes": b"x", "path": "a"}, {"bytes": b"x", "path": None}, None]
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": images}), sink)
    (group,) = row_groups(footer_of(pa.BufferReader(sink.getvalue())))
    assert [(column.path, column.nulls) for column in group.columns] == [
        ("image.bytes", 1),
        ("image.path", 2),
    ]


def test_many_row_groups_and_columns():
    table = pa.table({f"c{number}": np.arange(40) for number in range(40)})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=1)
    found = row_groups(footer_of(pa.BufferReader(sink.getvalue())))
    assert [(group.rows, len(group.columns)) for group in found] == [(1, 40)] * 40


LISTS = {"list": [[1, 2], [], None, [3]] * 500, "text": ["a", "b", None, "d" * 300] * 500}


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_pages_that_others_write_pass(compression, version, dictionary):
    numbers = np.arange(2000)
    table = pa.table({**LISTS, "n": numbers, "half": numbers.astype("f2"), "flag": numbers > 7})
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=700,
        compression=compression,
        data_page_version=version,
        data_page_size=500,
        write_batch_size=64,
        use_dictionary=dictionary,
        column_encoding=None if dictionary else {"text": "DELTA_BYTE_ARRAY"},
    )
    source = pa.BufferReader(sink.getvalue())
    columns = [column for group in row_groups(footer_of(source)) for column in group.columns]
    assert len(columns) == 15
    assert len(pages_of(sink.getvalue())) > 60
    assert (check_pages(source, columns) > 0) == dictionary


def test_pages_of_a_store_pass_and_claims_do_not(files):
    for file in files:
        data = file.read_bytes()
        columns = [
            c for group in row_groups(footer_of(pa.BufferReader(data))) for c in group.columns
        ]
        check_pages(pa.BufferReader(data), columns)
        for number in (2**31 - 1, -1):
            for forged in claiming(data, number).values():
                with pytest.raises(ValueError, match="page header"):
                    check_pages(pa.BufferReader(forged), columns)


def test_numbers_that_others_wrap_around():
    """Field 65,538 is field 2 to whom takes 16 bits; and of two the readers may differ."""
    assert struct(bytes.fromhex("150415060000"), 0, {1: {}, 2: {}}) == ({1: 2, 2: 3}, 5)
    for field in ("05848008" + "06", "05040a" + "0504" + "08"):
        with pytest.raises(ValueError, match="field of number"):
            struct(bytes.fromhex("1504" + field + "00"), 0, {1: {}, 2: {}})


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_hostile_footers_end_nothing(files, count):
    """In another process: pyarrow's own look at some of these aborts."""
    (file,) = [file for file in files if file.parent.name == "labels"][:1]
    done = commands.run([sys.executable, "-c", FUZZED, file, count])
    assert done.returncode == 0, done.stderr[-300:]
    read, refused = map(int, done.stdout.split())
    assert read > count / 40
    assert refused > 0


def test_a_store_with_hostile_footers_is_read_and_inspected(tmp_path):
    make_planned(tmp_path / "s.parquet")
    store = labelstore.open(tmp_path / "s.parquet")
    assert store.bytes_by_part()["labels/classes"] > 0
    rng = random.Random(1)
    code = (
        "import sys, labelstore\n"
        "from labelstore.errors import LabelStoreError\n"
        "for call in (lambda s: s.read(0, 0), lambda s: s.bytes_by_part()):\n"
        "    try:\n"
        "        call(labelstore.open(sys.argv[1]))\n"
        "    except LabelStoreError:\n"
        "        pass\n"
    )
    file = store.path / "labels/000000.parquet"
    whole = file.read_bytes()
    size = int.from_bytes(whole[-8:-4], "little") + 8
    for _ in range(4):
        broken = bytearray(whole)
        broken[-size + rng.randrange(size - 8)] ^= 1 << rng.randrange(8)
        file.write_bytes(broken)
        done = commands.run([sys.executable, "-c", code, store.path])
        file.write_bytes(whole)
        assert done.returncode == 0
