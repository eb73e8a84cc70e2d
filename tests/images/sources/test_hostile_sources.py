"""Photos from strangers: contradictory footers, pipes and devices under their names."""

from __future__ import annotations

import io
import os
import signal
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelstore.errors import SourceError
from labelstore.images.sources.choose import open_source
from tests.support import commands
from tests.support.page_headers import claiming

PHOTOS = {f"n{number}/{number}.jpg": bytes([number + 1]) * 40 for number in range(4)}

FOOTERS = """
import random, sys
from labelstore.errors import LabelStoreError
from labelstore.images.sources.choose import open_source
file = sys.argv[1]
data = open(file, "rb").read()
size = int.from_bytes(data[-8:-4], "little") + 8
rng, met = random.Random(int(sys.argv[2])), [0, 0]
for _ in range(1500):
    footer = bytearray(data[-size:-8])
    for _ in range(rng.choice((1, 1, 2, 5))):
        byte = rng.choice((0, 1, 2, 21, 127, 128, 255, rng.randrange(256)))
        footer[rng.randrange(len(footer))] = byte
    with open(file, "wb") as broken:
        broken.write(data[:-size] + bytes(footer) + data[-8:])
    try:
        source = open_source(file)
        for row in range(len(source)):
            source.read(row)
        met[0] += 1
    except LabelStoreError:
        met[1] += 1
print(*met)
"""


def tar_of(photos, path):
    with tarfile.open(path, "w") as archive:
        for name, data in photos.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def parquet_of(photos, path):
    images = [{"bytes": data, "path": name} for name, data in photos.items()]
    table = pa.table({"image": images, "label": ["a", "b"] * (len(photos) // 2)})
    pq.write_table(table, path, row_group_size=2)


def test_hostile_footers_end_nothing(tmp_path):
    """In another process: pyarrow's own look at some of these aborts."""
    parquet_of(PHOTOS, tmp_path / "x.parquet")
    done = commands.run([sys.executable, "-c", FOOTERS, tmp_path / "x.parquet", "0"])
    assert done.returncode == 0, done.stderr[-500:]
    read, refused = map(int, done.stdout.split())
    assert read > 50
    assert refused > 50


BOUNDED = """
import resource, sys, time
from pathlib import Path

def memory(name):
    # In bytes, of this process.
    status = Path("/proc/self/status").read_text().splitlines()
    (found,) = [line.split()[1] for line in status if line.startswith(name)]
    return int(found) * 1024

# Besides what imports have taken; and not ru_maxrss: that begins with what the process had that
# started this one.
begun, limit = memory("VmRSS:"), memory("VmSize:") + 2**31
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from labelstore.errors import LabelStoreError
from labelstore.images.sources.choose import open_source
for file in sys.argv[1:]:
    started, told = time.monotonic(), "read"
    try:
        source = open_source(file)
        source.read(0)
        source.read(len(source) - 1)
    except LabelStoreError as error:
        told = f"{error.kind} {error}"
    assert time.monotonic() - started < 10, file
    assert memory("VmHWM:") - begun < 7 * 2**27, file
    print(told, flush=True)
"""


def bounded(paths):
    """What a process that never holds a gigabyte says of sources: ``read``, or an error's kind and
    words."""
    done = commands.run([sys.executable, "-c", BOUNDED, *paths])
    told = done.stdout.splitlines()
    assert done.returncode == 0, (paths[len(told)], done.stderr[-500:])
    return told


def test_page_headers_that_claim_gigabytes(tmp_path):
    rows = range(2000)
    images = [{"bytes": b"%d" % (row % 7) * 40, "path": f"n/{row}.jpg"} for row in rows]
    table = pa.table({"image": images, "label": [row % 3 for row in rows]})
    whole = tmp_path / "whole.parquet"
    pq.write_table(table, whole, row_group_size=1000, write_page_checksum=True)
    paths = [whole]
    for (column, claim), data in claiming(whole.read_bytes()).items():
        paths.append(tmp_path / f"{column}-{claim}.parquet")
        paths[-1].write_bytes(data)
    told = bounded(paths)
    assert len(told) == 10
    assert told[0] == "read"
    for line in told[1:]:
        assert line.startswith("source "), line
        assert "page header" in line


@pytest.mark.parametrize("column", ["bytes", "path", "label"])
def test_a_dictionary_of_one_long_value(tmp_path, column):
    """A megabyte that thousands of rows stand for, in some kilobytes."""
    rows = 3000
    places = pa.array([0] * rows, pa.int32())
    long = pa.DictionaryArray.from_arrays(places, pa.array([b"x" * 1_000_000]))
    if column != "bytes":
        long = long.cast(pa.dictionary(pa.int32(), pa.string()))
    parts = {
        "bytes": pa.array([b"%d" % row for row in range(rows)]),
        "path": pa.array([f"n/{row}.jpg" for row in range(rows)]),
        "label": pa.array(["a"] * rows),
        column: long,
    }
    image = pa.StructArray.from_arrays([parts["bytes"], parts["path"]], ["bytes", "path"])
    file = tmp_path / "a.parquet"
    table = pa.table({"image": image, "label": parts["label"]})
    pq.write_table(table, file, compression="zstd", store_schema=False)
    assert file.stat().st_size < 50_000
    (told,) = bounded([file])
    assert told.startswith("source "), told
    assert "when decompressed" in told


@pytest.mark.parametrize("column", ["path", "label"])
def test_text_that_is_not_utf8(tmp_path, column):
    parquet_of({"n/QQQ.jpg": b"x", "n/1.jpg": b"y"}, tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    old, new = (b"QQQ", b"Q\xffQ") if column == "path" else (b"label", b"la\xffel")
    (tmp_path / "x.parquet").write_bytes(data.replace(old, new))
    with pytest.raises(SourceError, match=r"x\.parquet.*not valid UTF-8"):
        open_source(tmp_path / "x.parquet")


@pytest.fixture
def alarm():
    """An end to waiting for a pipe."""

    def stop(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


SPECIAL = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "device": lambda file: file.symlink_to("/dev/zero"),
    "itself": lambda file: file.symlink_to(file),
    "nothing": lambda file: file.symlink_to(file.with_name("gone")),
}


def read_all(path):
    source = open_source(path)
    return {key: source.read(row) for row, key in enumerate(source.keys)}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize(("suffix", "write"), [(".tar", tar_of), (".parquet", parquet_of)])
@pytest.mark.parametrize("others", [True, False], ids=["beside shards", "alone"])
@pytest.mark.usefixtures("alarm")
def test_what_is_no_file_under_a_shards_name(tmp_path, special, suffix, write, others):
    """It is refused, by name: its photos must not be left out in silence."""
    if others:
        write(PHOTOS, tmp_path / f"0{suffix}")
    file = tmp_path / f"1{suffix}"
    SPECIAL[special](file)
    places = [tmp_path, tmp_path / f"*{suffix}"]
    if special == "folder" and not others:
        # As Spark names folders of shards: this one holds none.
        places = []
    for place in places:
        with pytest.raises(SourceError, match=rf"1\{suffix}"):
            read_all(place)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
@pytest.mark.parametrize("special", [name for name in SPECIAL if name != "folder"])
@pytest.mark.usefixtures("alarm")
def test_what_is_no_file_under_a_photos_name(tmp_path, special):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(b"x")
    SPECIAL[special](tmp_path / "a" / "1.jpg")
    source = open_source(tmp_path)
    assert source.keys == ("a/0.jpg", "a/1.jpg")
    assert source.read(0) == b"x"
    with pytest.raises(SourceError, match=r"cannot read the image .*1\.jpg"):
        source.read(1)


@pytest.mark.parametrize(("suffix", "write"), [(".tar", tar_of), (".parquet", parquet_of)])
def test_links_to_files_elsewhere_are_read(tmp_path, suffix, write):
    """As a hub's cache and a folder of links to photos have them."""
    for folder in ("blobs", "shards", "photos"):
        (tmp_path / folder).mkdir()
    write(PHOTOS, tmp_path / "blobs" / "shard")
    (tmp_path / "blobs" / "photo").write_bytes(b"x")
    (tmp_path / "shards" / f"0{suffix}").symlink_to("../blobs/shard")
    (tmp_path / "photos" / "0.jpg").symlink_to("../blobs/photo")
    assert sorted(read_all(tmp_path / "shards").values()) == sorted(PHOTOS.values())
    assert read_all(tmp_path / "photos") == {"0.jpg": b"x"}


def test_a_size_of_many_digits_in_an_extended_header(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("0.jpg")
        member.pax_headers = {"comment": "7" * 5000}
        archive.addfile(member)
    data = (tmp_path / "0.tar").read_bytes()
    assert data.count(b"comment=") == 1
    # A longer value, for a shorter name: the record is as long as before.
    (tmp_path / "0.tar").write_bytes(data.replace(b"comment=", b"size=777"))
    with pytest.raises(SourceError, match="an extended header says '7"):
        open_source(tmp_path / "0.tar")


def test_a_stump_of_zeros_ends_no_archive(tmp_path):
    """A file that was cut in a hole of the disk: its last photos must not be lost in silence."""
    tar_of(PHOTOS, tmp_path / "0.tar")
    whole = (tmp_path / "0.tar").read_bytes()
    end = 4 * 1024
    (tmp_path / "0.tar").write_bytes(whole[: 2 * 1024] + bytes(400))
    with pytest.raises(SourceError, match="cut between members"):
        open_source(tmp_path)
    (tmp_path / "0.tar").write_bytes(whole[:end] + bytes(512))
    assert read_all(tmp_path).keys() == {"n0/0", "n1/1", "n2/2", "n3/3"}
    # Two photos taken out, the zeros at the end still there: no whole number of blocks is left.
    for left in (whole[:end] + bytes(512 + 400), whole[: 2 * 1024] + bytes(4176)):
        (tmp_path / "0.tar").write_bytes(left)
        with pytest.raises(SourceError, match="ends within a block"):
            open_source(tmp_path)
