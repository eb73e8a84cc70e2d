"""Tar shards as programs make them, and as disks and networks leave them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_iterator

from labelstore.errors import MismatchError, SourceError
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.images.sources.choose import open_source
from tests.support import commands


def photo(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members, **options):
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def gnu_tar(folder, *arguments):
    subprocess.run(["tar", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def shard(tmp_path):
    """Twelve photos in one shard."""
    path = tmp_path / "shards" / "s.tar"
    path.parent.mkdir()
    write_tar(path, [(f"{n:04}.png", photo(n)) for n in range(12)])
    return path


def headers_of(path):
    with tarfile.open(path) as archive:
        return [(member.offset, member.offset_data) for member in archive.getmembers()]


class TestDamage:
    @pytest.mark.parametrize("byte", [0, 5, 124, 148, 156, 257])
    def test_a_flipped_byte_of_a_header(self, shard, byte):
        data = bytearray(shard.read_bytes())
        start = headers_of(shard)[7][0]
        data[start + byte] ^= 0xFF
        shard.write_bytes(data)
        with pytest.raises(SourceError, match=rf"s\.tar from byte {start} on"):
            open_source(shard.parent)

    def test_a_cut_anywhere_is_an_error_or_loses_nothing(self, shard):
        data = shard.read_bytes()
        end = headers_of(shard)[-1][1] + 2 * 512
        for length in sorted({*range(0, len(data), 211), *range(end, len(data), 512)}):
            shard.write_bytes(data[:length])
            if length >= end and length % 512 == 0:
                assert len(open_source(shard)) == 12
            else:
                with pytest.raises(SourceError, match=r"s\.tar.*(cut|no header)"):
                    open_source(shard)

    def test_zeros_in_place_of_a_header(self, shard):
        """As a disk leaves what was never written: the photos behind are still found."""
        data = bytearray(shard.read_bytes())
        start, offset = headers_of(shard)[3]
        data[start:offset] = bytes(512)
        shard.write_bytes(data)
        with pytest.raises(SourceError, match=rf"from byte {offset} on \(no header is there"):
            open_source(shard)

    @pytest.mark.parametrize(("first", "last"), [(3, 4), (3, 7), (0, 11), (0, 1), (10, 11)])
    def test_zeros_in_place_of_whole_members(self, shard, first, last):
        """As a copy leaves that went on over a bad place: they look like an archive's end."""
        data = bytearray(shard.read_bytes())
        places = headers_of(shard)
        start, stop = places[first][0], places[last][0]
        data[start:stop] = bytes(stop - start)
        shard.write_bytes(data)
        with pytest.raises(SourceError, match=rf"from byte {start} on \({stop - start} bytes"):
            open_source(shard)

    def test_something_behind_the_end(self, shard):
        shard.write_bytes(shard.read_bytes() + b"appended by mistake")
        with pytest.raises(SourceError, match="a header was cut"):
            open_source(shard)


class TestWhatTarMakes:
    def test_joined_archives(self, shard):
        """All of them, as ``tar -i`` lists them."""
        other = shard.with_name("other")
        write_tar(other, [(f"b/{n}.png", photo(50 + n)) for n in range(3)])
        shard.write_bytes(shard.read_bytes() + other.read_bytes())
        listed = subprocess.run(["tar", "-tif", shard], capture_output=True, text=True, check=True)
        names = {name.removesuffix(".png") for name in listed.stdout.split()}
        source = open_source(shard)
        assert set(source.keys) == names
        assert len(names) == 15
        assert source.read(14) == photo(52)

    @pytest.mark.parametrize("kind", ["v7", "ustar", "gnu", "oldgnu", "posix"])
    def test_every_format_of_gnu_tar(self, tmp_path, kind):
        """Long names, links of both kinds, folders and a device beside the photos."""
        folder = tmp_path / "photos"
        deep = folder / ("long-" * 11) if kind == "v7" else folder / ("long-" * 18) / ("x" * 80)
        deep.mkdir(parents=True)
        (deep / "1.png").write_bytes(photo(1))
        (folder / "a").mkdir()
        (folder / "a" / "2.png").write_bytes(photo(2))
        (folder / "a" / "2.cls").write_text("7")
        os.link(folder / "a" / "2.png", folder / "a" / "3.png")
        os.symlink("../a/2.png", folder / "a" / "4.png")
        if kind != "v7":
            os.mkfifo(folder / "pipe")
        if kind in ("gnu", "posix"):
            (folder / "a" / "größe.png").write_bytes(photo(3))
        gnu_tar(folder, "--format", kind, "--sort=name", "-cf", "../s.tar", ".")
        source = open_source(tmp_path / "s.tar")
        files = sorted(path for path in folder.rglob("*.png"))
        keys = [str(path.relative_to(folder)).removesuffix(".png") for path in files]
        assert source.keys == tuple(sorted(keys))
        for path, key in zip(files, keys, strict=True):
            assert source.read(source.keys.index(key)) == path.read_bytes()

    def test_the_members_of_webdataset(self, tmp_path):
        """Its own writer and reader agree on keys, images and classes."""
        path = tmp_path / "w.tar"
        with webdataset.TarWriter(str(path)) as sink:
            for n in range(4):
                sink.write({"__key__": f"d/{n}", "input.png": photo(n), "cls": n, "x.json": {}})
        source = open_source(path)
        with open(path, "rb") as file:
            members = ({**member, "__url__": ""} for member in tar_file_iterator(file))
            read = {sample["__key__"]: sample for sample in group_by_keys(members)}
        assert set(source.keys) == set(read)
        for number, key in enumerate(source.keys):
            assert source.read(number) == read[key]["input.png"]
            assert source.numbers[number] == int(read[key]["cls"])
        assert source.passed_over.count == 4
        assert source.passed_over.first[0] == "d/0.x.json"

    def test_a_sparse_file_is_refused_by_name(self, tmp_path):
        with open(tmp_path / "a.png", "wb") as file:
            file.write(photo(0))
            file.truncate(2**20)
        for kind in ("gnu", "posix"):
            gnu_tar(tmp_path, "--format", kind, "--sparse", "-cf", f"{kind}.tar", "a.png")
            with pytest.raises(SourceError, match=r"'a\.png' in .* a sparse file"):
                open_source(tmp_path / f"{kind}.tar")

    def test_a_sparse_file_beside_photos_is_stepped_over(self, tmp_path):
        with open(tmp_path / "a.bin", "wb") as file:
            for part in range(40):
                file.seek(part * 2**16)
                file.write(b"data")
        (tmp_path / "b.png").write_bytes(photo(1))
        for kind in ("gnu", "posix"):
            gnu_tar(tmp_path, "--format", kind, "-S", "-cf", f"{kind}.tar", "a.bin", "b.png")
            source = open_source(tmp_path / f"{kind}.tar")
            assert source.keys == ("b",)
            assert source.read(0) == photo(1)

    def test_a_link_that_leads_out_of_the_shard(self, tmp_path):
        os.symlink("/etc/hostname", tmp_path / "a.png")
        gnu_tar(tmp_path, "-cf", "s.tar", "a.png")
        with pytest.raises(SourceError, match=r"'a\.png' in .* a symbolic link to '/etc/hostname'"):
            open_source(tmp_path / "s.tar")

    @pytest.mark.parametrize("program", ["gzip", "zstd", "bzip2"])
    def test_compressed_shards_are_refused(self, shard, program):
        with open(shard.with_suffix(".out"), "wb") as out:
            subprocess.run([program, "-c", shard], stdout=out, check=True)
        packed = shard.with_suffix(".out").rename(shard)
        with pytest.raises(SourceError, match=rf"is compressed \({program}\).*unpack it"):
            open_source(packed)
        packed = packed.rename(shard.with_name("s.tar.gz"))
        for path in (packed, packed.parent):
            with pytest.raises(SourceError, match=r"s\.tar\.gz.* compressed archive"):
                open_source(path)


class TestNames:
    def test_a_name_that_is_not_utf8(self, tmp_path):
        path = tmp_path / "s.tar"
        write_tar(path, [("caf\udce9/1.png", photo(0))], format=tarfile.GNU_FORMAT)
        with pytest.raises(SourceError, match=r"b'caf\\xe9/1' in .*s\.tar is not valid UTF-8"):
            open_source(path)

    def test_several_images_of_a_sample(self, tmp_path):
        path = tmp_path / "s.tar"
        names = ("input.png", "target.png", "cls")
        members = [(f"{n}.{name}", b"1" if name == "cls" else photo(n))
                   for n in range(3) for name in names]  # fmt: skip
        write_tar(path, members)
        with pytest.raises(SourceError, match=r"'0' has several images.*image_field"):
            open_source(path)
        source = open_source(path, image_field="input.png")
        assert source.keys == ("0", "1", "2")
        assert source.read(1) == photo(1)
        assert source.passed_over.suffixes == {".png": 3}

    def test_dots_in_names(self, tmp_path):
        """WebDataset ends the key at the first dot; here it is said."""
        path = tmp_path / "s.tar"
        write_tar(path, [(f"a/2019.01.{n:02}.png", photo(n)) for n in range(1, 4)])
        with pytest.raises(SourceError, match=r"'a/2019' has several images.*first dot"):
            open_source(path)

    def test_masks_are_not_taken_for_photos(self, tmp_path):
        path = tmp_path / "s.tar"
        write_tar(path, [("1.png", photo(1)), ("1.mask.png", photo(9)), ("2.mask.png", photo(8))])
        with pytest.raises(SourceError, match=r"'png' of '1', 'mask\.png' of '2'"):
            open_source(path)
        source = open_source(path, image_field="png")
        assert source.keys == ("1",)
        assert source.passed_over.count == 2

    def test_a_sample_without_its_class(self, tmp_path):
        path = tmp_path / "s.tar"
        write_tar(path, [("a/1.png", photo(1)), ("a/1.cls", b"3"), ("a/2.png", photo(2))])
        with pytest.raises(MismatchError, match=r"'a/2', which has no \.cls"):
            resolve_targets(open_source(path), num_classes=5, class_names=None)
        write_tar(path, [("1.png", photo(1)), ("1.cls", b"3"), ("2.png", b"x"), ("2.cls", b"-1")])
        found = resolve_targets(open_source(path), num_classes=5, class_names=None)
        assert found.tolist() == [3, -1]

    def test_two_classes_for_one_key(self, tmp_path):
        write_tar(tmp_path / "a.tar", [("1.png", photo(1)), ("1.cls", b"3")])
        write_tar(tmp_path / "b.tar", [("2.png", photo(2)), ("1.cls", b"4")])
        with pytest.raises(SourceError, match="the class '4' and another shard '3'"):
            open_source(tmp_path)


def test_more_shards_than_files_may_be_open(tmp_path):
    """In a process of its own: 100 shards, 40 descriptors more than it starts with."""
    (tmp_path / "shards").mkdir()
    for n in range(100):
        write_tar(tmp_path / "shards" / f"{n:03}.tar", [(f"{n}.png", photo(n)), (f"{n}.cls", b"3")])
    code = (
        "import os, resource, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from labelstore.images.sources.choose import open_source\n"
        "import labelstore.images.sources.source_files as files\n"
        "limit = len(os.listdir('/proc/self/fd')) + files._OPEN_FILES + 16\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))\n"
        "source = open_source(sys.argv[1])\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    for _ in range(3):\n"
        "        sizes = list(pool.map(lambda n: len(source.read(n)), range(len(source))))\n"
        "print(len(sizes), min(sizes), len(os.listdir('/proc/self/fd')) <= limit - 10)\n"
    )
    done = commands.run([sys.executable, "-c", code, tmp_path / "shards"])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.split()[0::2] == ["100", "True"]
