"""Indexes of shards that are kept: who uses them, and that none is believed that is not right."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
import time

import pytest

from labelstore.images.sources.choose import open_source

COUNT = 300


def write_shard(path, seed=0, **options):
    """A shard of random members, as WebDataset writes them; of each seed other names alone."""
    rng = random.Random(0)
    with tarfile.open(path, "w", **options) as archive:
        for number in range(COUNT):
            now = time.time() - 1000
            for field, data in (
                ("jpg", rng.randbytes(rng.choice([0, 1, 511, 512, 513, 9000]))),
                ("cls", str(number % 7).encode()),
            ):
                member = tarfile.TarInfo(f"{seed}{number:05}.{field}")
                member.size, member.mtime = len(data), now
                archive.addfile(member, io.BytesIO(data))
    os.utime(path, (time.time() - 100,) * 2)


def photos_of(source):
    return {key: source.read(n) for n, key in enumerate(source.keys)}


def photos_by_tarfile(path):
    with tarfile.open(path) as archive:
        return {
            member.name[:-4]: archive.extractfile(member).read()
            for member in archive
            if member.name.endswith(".jpg")
        }


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("LABELSTORE_CACHE", str(folder))
    return folder


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "a.tar"
    write_shard(path)
    return path


@pytest.fixture
def reads(monkeypatch):
    """The places that are read of any file, as the system is asked."""
    places = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda *asked: places.append(asked) or real(*asked))
    return places


def index_in(cache):
    (file,) = cache.rglob("*.index")
    return file


@pytest.mark.parametrize(
    "format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids="ugp".__getitem__
)
def test_what_is_kept_is_what_the_headers_say(tmp_path, cache, reads, format):
    path = tmp_path / "a.tar"
    write_shard(path, format=format)
    first = open_source(path)
    asked = len(reads)
    again = open_source(path)
    assert len(reads) - asked < 12 < asked
    for source in (first, again):
        assert photos_of(source) == photos_by_tarfile(path)
        assert source.numbers.tolist() == [number % 7 for number in range(COUNT)]
    # Each tells of all its photos, whatever an option makes of them.
    assert len(open_source(path, image_field="jpg")) == COUNT


def test_a_shard_that_was_changed_is_read_again(tmp_path, cache, shard):
    before = shard.stat()
    assert open_source(shard).keys[0] == "000000"
    # The same bytes and time, in the same file and then in another one.
    write_shard(tmp_path / "b.tar", seed=1)
    with shard.open("r+b") as file:
        file.write((tmp_path / "b.tar").read_bytes())
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert shard.stat().st_size == before.st_size
    assert open_source(shard).keys[0] == "100000"
    write_shard(tmp_path / "c.tar", seed=0)
    os.utime(tmp_path / "c.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    shutil.move(tmp_path / "c.tar", shard)
    assert open_source(shard).keys[0] == "000000"
    # One file for it, however often it changes.
    index_in(cache)


def test_one_that_is_being_written_is_not_kept(cache, shard):
    os.utime(shard)
    assert len(open_source(shard)) == COUNT
    assert not list(cache.rglob("*.index"))


def test_a_damaged_index_is_not_believed(cache, shard, reads):
    right = open_source(shard)
    file = index_in(cache)
    data = file.read_bytes()
    places = [*range(0, 60, 7), *range(60, len(data), len(data) // 25), len(data) - 1]
    for place in places:
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        reads.clear()
        assert open_source(shard).keys == right.keys
        # It was read anew, and is whole again.
        assert len(reads) > 12
        assert file.read_bytes() == data
    for length in (0, 10, 41, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        assert photos_of(open_source(shard)) == photos_of(right)


def test_a_foreign_index_is_not_believed(tmp_path, cache, shard):
    open_source(shard)
    file = index_in(cache)
    own = file.read_bytes()
    write_shard(tmp_path / "b.tar", seed=1)
    open_source(tmp_path / "b.tar")
    (other,) = set(cache.rglob("*.index")) - {file}
    # That of another shard, under this one's name.
    file.write_bytes(other.read_bytes())
    assert photos_of(open_source(shard)) == photos_by_tarfile(shard)
    assert file.read_bytes() == own
    # One that others may write; a link to one; a folder that others may write into.
    file.chmod(0o666)
    assert photos_of(open_source(shard)) == photos_by_tarfile(shard)
    assert file.stat().st_mode & 0o777 == 0o600
    file.rename(file.with_suffix(".moved"))
    file.symlink_to(file.with_suffix(".moved"))
    assert len(open_source(shard)) == COUNT
    assert not file.is_symlink()
    file.parent.chmod(0o777)
    assert photos_of(open_source(shard)) == photos_by_tarfile(shard)
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_takes_nothing_does_not_matter(tmp_path, monkeypatch, shard):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LABELSTORE_CACHE", str(tmp_path / "file"))
    assert photos_of(open_source(shard)) == photos_by_tarfile(shard)


def test_headers_that_are_not_plain_stand_among_plain_ones(tmp_path, cache):
    """Long names, other letters, large numbers, folders, links: by tarfile, the same."""
    path = tmp_path / "a.tar"
    rng = random.Random(5)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(400):
            kind = rng.choice(["plain"] * 30 + ["long", "letters", "folder", "link", "user"])
            name = f"{number:04}.jpg"
            prefix = {"long": "x" * 120, "letters": "é"}.get(kind, "")
            member = tarfile.TarInfo(prefix + name)
            data = rng.randbytes(rng.randrange(2000))
            if kind == "folder":
                member.type, data = tarfile.DIRTYPE, b""
            if kind == "link" and number:
                archive.addfile(tarfile.TarInfo(f"t{number}.jpg"), io.BytesIO())
                member.type, member.linkname, data = tarfile.LNKTYPE, f"t{number}.jpg", b""
            if kind == "user":
                member.uid = 8**7 + 1
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with tarfile.open(path) as archive:
        expected = {
            member.name[:-4]: archive.extractfile(member).read()
            for member in archive
            if not member.isdir()
        }
    assert photos_of(open_source(path)) == expected
