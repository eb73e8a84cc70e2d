"""Which files a source is: patterns, snapshots, splits, and what lies beside the photos."""

from __future__ import annotations

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from labelstore.errors import MismatchError, NotFoundError, SourceError, UsageError
from labelstore.images.ground_truth.targets import class_pairs, resolve_targets
from labelstore.images.sources.choose import check_outside, open_source
from labelstore.images.sources.folder import FolderSource
from labelstore.images.sources.parquet import ParquetSource
from labelstore.images.sources.patterns import expand_braces
from labelstore.images.sources.tar import TarSource


def photo(seed):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (seed % 256, 100, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, *keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key in keys:
            entry = tarfile.TarInfo(f"{key}.png")
            entry.size = len(photo(0))
            archive.addfile(entry, io.BytesIO(photo(0)))


def write_parquet(path, *keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pa.array([{"bytes": photo(0), "path": key} for key in keys])
    pq.write_table(pa.table({"image": rows}), path)


def write_photos(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photo(0))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a-{0..2}.tar", ["a-0.tar", "a-1.tar", "a-2.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{b,a}-{1..0}", ["b-1", "b-0", "a-1", "a-0"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_brace_lists_are_the_shells(pattern, names):
    assert expand_braces(pattern) == names


def test_brace_lists_are_bounded():
    with pytest.raises(UsageError, match="names"):
        expand_braces("{0..999999999}")
    with pytest.raises(UsageError, match="over 1000000"):
        expand_braces("{0..9999}{0..9999}")


class TestPatterns:
    def test_globs_and_brace_lists_of_shards(self, tmp_path, monkeypatch):
        for n in range(12):
            write_tar(tmp_path / f"train-{n:03}.tar", f"t{n}")
        write_tar(tmp_path / "val-000.tar", "v0")
        source = open_source(f"{tmp_path}/train-*.tar")
        assert isinstance(source, TarSource)
        assert len(source) == 12
        assert open_source(f"{tmp_path}/train-{{002..004}}.tar").keys == ("t2", "t3", "t4")
        assert len(open_source(f"{tmp_path}/*-00[01].tar")) == 3
        monkeypatch.chdir(tmp_path)
        assert len(open_source("train-{000..011}.tar")) == 12
        with pytest.raises(NotFoundError, match=r"no file train-012\.tar"):
            open_source("train-{000..012}.tar")
        with pytest.raises(NotFoundError, match="no file"):
            open_source("test-*.tar")
        with pytest.raises(SourceError, match="names no shards"):
            open_source("*.jpg")

    def test_a_folder_whose_name_looks_like_a_pattern(self, tmp_path):
        write_photos(tmp_path / "a[1]{b}", "1.png")
        assert isinstance(open_source(tmp_path / "a[1]{b}"), FolderSource)


class TestFolders:
    def test_the_snapshot_of_a_hub(self, tmp_path):
        (tmp_path / "README.md").write_text("x")
        (tmp_path / ".git").mkdir()
        for n in range(2):
            write_parquet(tmp_path / "data" / f"train-{n:05}-of-00002.parquet", f"{n}.png")
        source = open_source(tmp_path)
        assert isinstance(source, ParquetSource)
        assert source.keys == ("0.png", "1.png")
        assert source.passed_over.first == ["README.md"]

    @pytest.mark.parametrize(
        "other",
        [
            "data/validation-00000-of-00001.parquet",
            "data/test-0.parquet",
            "data/val/0.parquet",
            "data/imagenet-val_000.parquet",
        ],
    )
    def test_shards_of_several_splits_are_told_apart(self, tmp_path, other):
        write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", "0.png")
        write_parquet(tmp_path / other, "1.png")
        with pytest.raises(SourceError, match=r"2 splits .*give those of one, such as .*train-\*"):
            open_source(tmp_path)
        assert open_source(f"{tmp_path}/data/train-*.parquet").keys == ("0.png",)

    def test_shards_and_a_picture(self, tmp_path):
        write_tar(tmp_path / "0.tar", "a")
        write_photos(tmp_path, "preview.png")
        with pytest.raises(SourceError, match=r"pictures \(such as 'preview.png'\) and shards"):
            open_source(tmp_path)
        assert open_source(f"{tmp_path}/*.tar").keys == ("a",)

    def test_photos_with_a_table_or_an_archive_elsewhere(self, tmp_path):
        write_photos(tmp_path, "1.png")
        write_parquet(tmp_path / "metadata.parquet", "x")
        assert open_source(tmp_path).keys == ("1.png",)
        write_photos(tmp_path / "b", "cat/1.png")
        write_tar(tmp_path / "b" / "copy.tar", "a")
        source = open_source(tmp_path / "b")
        assert source.keys == ("cat/1.png",)
        assert str(source.passed_over) == "1 other file passed over: 1 '.tar' ('copy.tar')"

    def test_tables_beside_shards(self, tmp_path):
        """As img2dataset leaves them: the tar is the photos."""
        write_tar(tmp_path / "0.tar", "a")
        write_parquet(tmp_path / "0.parquet", "x")
        source = open_source(tmp_path)
        assert isinstance(source, TarSource)
        assert source.passed_over.first == ["0.parquet"]

    def test_what_is_passed_over_is_named(self, tmp_path):
        write_photos(tmp_path, "a.png", *(f"{n:02}.txt" for n in range(14)), "LICENSE", "x.jxl")
        passed_over = open_source(tmp_path).passed_over
        assert passed_over.to_json() == {
            "count": 16,
            "suffixes": {".txt": 14, "": 1, ".jxl": 1},
            "first": [f"{n:02}.txt" for n in range(10)],
        }
        assert "14 '.txt', 1 without suffix, 1 '.jxl' ('00.txt'" in str(passed_over)

    def test_stores_in_the_folder_of_photos(self, tmp_path):
        write_photos(tmp_path / "photos", "a.png")
        (tmp_path / "link").symlink_to(tmp_path / "photos")
        source = open_source(tmp_path / "photos")
        for path in ("photos/s.zarr", "photos", "photos/../photos/deep/s.zarr", "link/s.zarr"):
            with pytest.raises(UsageError, match="in the photos' folder"):
                check_outside(source, tmp_path / path)
        for path in ("s.zarr", "photos.zarr", "photos/../s.zarr"):
            check_outside(source, tmp_path / path)


class TestClasses:
    def test_folders_called_by_numbers(self, tmp_path):
        """Sorted as text, 10 comes before 2: nobody is to guess what was meant."""
        write_photos(tmp_path / "a", *(f"{n}/x.png" for n in range(12)))
        source = open_source(tmp_path / "a")
        with pytest.raises(MismatchError, match=r"'10' comes at place 2 .*a class map"):
            resolve_targets(source, num_classes=12, class_names=None)
        mapped = {str(n): n for n in range(12)}
        targets = resolve_targets(source, num_classes=12, class_names=None, class_map=mapped)
        assert class_pairs(source, targets) == mapped
        write_photos(tmp_path / "b", *(f"{n:02}/x.png" for n in range(12)))
        padded = resolve_targets(open_source(tmp_path / "b"), num_classes=12, class_names=None)
        assert padded.tolist() == list(range(12))
        write_photos(tmp_path / "c", *(f"{n}/x.png" for n in range(1, 4)))
        with pytest.raises(MismatchError, match="'1' comes at place 0"):
            resolve_targets(open_source(tmp_path / "c"), num_classes=3, class_names=None)

    def test_the_folder_above_the_splits(self, tmp_path):
        write_photos(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png")
        source = open_source(tmp_path)
        with pytest.raises(MismatchError, match=r"train/ and val/, which are splits.*/train"):
            resolve_targets(source, num_classes=2, class_names=None)
        names = {"num_classes": 3, "class_names": ("train", "val", "bus")}
        assert resolve_targets(source, **names).tolist() == [0, 0, 1]
        classes = {"train": 1, "val": 0}
        mapped = resolve_targets(source, num_classes=2, class_names=None, class_map=classes)
        assert mapped.tolist() == [1, 1, 0]

    def test_names_of_another_normal_form(self, tmp_path):
        write_photos(tmp_path, "cafe\N{COMBINING ACUTE ACCENT}/1.png")
        source = open_source(tmp_path)
        composed = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
        with pytest.raises(MismatchError, match="Unicode's NFC and NFD"):
            resolve_targets(source, num_classes=1, class_names=None, class_map={composed: 0})
        with pytest.raises(MismatchError, match="Unicode's NFC and NFD"):
            resolve_targets(source, num_classes=2, class_names=("tea", composed))


def test_a_flat_folder_is_listed_without_a_look_at_each_file(tmp_path, monkeypatch):
    write_photos(tmp_path, *(f"{number}.png" for number in range(50)))
    looks = []
    real = os.stat
    monkeypatch.setattr(
        os, "stat", lambda *args, **named: looks.append(args) or real(*args, **named)
    )
    assert len(open_source(tmp_path)) == 50
    assert len(looks) < 25
