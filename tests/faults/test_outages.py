"""Photos that cannot be read are not photos that cannot be decoded: only the latter are skipped."""

from __future__ import annotations

import io
import resource
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import labelstore
from labelstore.errors import DecodeError, SourceError
from labelstore.format.settings import StoreSettings
from labelstore.images.decoding import decode
from labelstore.images.sources.folder import FolderSource
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.teachers.load import load_teacher

RECIPE = LabelSettings(4, StoreSettings(k=2, block_images=2, group_views=2))


def teacher():
    return load_teacher("timm:test_resnet", checkpoint="none", device="cpu", size=32)


def jpeg(seed, size=(24, 20)):
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.jpg").write_bytes(jpeg(number))
    return folder


def run(folder, path, progress=None, source=None):
    source = source or FolderSource(folder)
    targets = np.full(len(source), -1, dtype=np.int32)
    return generate(
        source,
        targets,
        teacher(),
        path,
        RECIPE,
        progress=progress,
        options=RunOptions(batch_size=4, workers=1, on_error="skip"),
    )


class After:
    """Does something once so many views are labelled."""

    def __init__(self, views, action):
        self.left, self.action = views, action

    def resumed(self, images):
        pass

    def waited(self, seconds):
        pass

    def update(self, images, views):
        self.left -= views
        if self.left <= 0 < self.left + views:
            self.action()


def check_resumed(folder, path):
    """Some blocks are there, none lost a photo; the same call makes the others."""
    store = labelstore.open(path)
    assert 0 < len(store.missing_blocks()) < 6
    assert store.unreadable() == []
    assert run(folder, path).unreadable == {}
    store.refresh()
    assert store.complete
    assert store.labelled().all()


def test_the_folder_goes_away(photos, tmp_path, suffix):
    away, path = tmp_path / "away", tmp_path / f"s.{suffix}"
    with pytest.raises(SourceError, match=r"No such file.*It is not left out") as caught:
        run(photos, path, After(20, lambda: photos.rename(away)))
    assert not isinstance(caught.value, DecodeError)
    away.rename(photos)
    check_resumed(photos, path)


def test_no_more_files_may_be_opened(photos, tmp_path):
    """The blocks that are committed meanwhile need none: the limit meets the photos first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = tmp_path / "s.zarr"

    class Source(FolderSource):
        crowded = False

        def read(self, index):
            lacks = self.crowded and index >= 6
            resource.setrlimit(resource.RLIMIT_NOFILE, (3 if lacks else soft, hard))
            try:
                return super().read(index)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    source = Source(photos)
    # The probes look at all of the set before the first block is made.
    begun = After(8, lambda: setattr(source, "crowded", True))
    with pytest.raises(SourceError, match="Too many open files"):
        run(photos, path, begun, source)
    check_resumed(photos, path)


def test_a_dangling_link_is_not_skipped(photos, tmp_path):
    (photos / "05.jpg").unlink()
    (photos / "05.jpg").symlink_to(photos / "nowhere.jpg")
    with pytest.raises(SourceError, match=r"05.jpg .No such file"):
        run(photos, tmp_path / "s.zarr")


def test_a_photo_that_is_being_written_is_not_skipped(photos, tmp_path):
    class Source(FolderSource):
        times = 0

        def read(self, index):
            data = super().read(index)
            if index == 5:
                self.times += 1
                return data[: 200 * self.times]
            return data

    with pytest.raises(
        SourceError, match=r"05.jpg cannot be decoded, and read again it is another"
    ):
        run(photos, tmp_path / "s.zarr", source=Source(photos))


def test_what_cannot_be_decoded_is_skipped_with_its_reason(photos, tmp_path):
    (photos / "03.jpg").write_bytes(b"")
    (photos / "04.jpg").write_bytes(jpeg(4)[:200])
    (photos / "09.jpg").write_bytes(b"<html>not found</html>")
    report = run(photos, tmp_path / "s.zarr")
    assert list(report.unreadable) == ["03.jpg", "04.jpg", "09.jpg"]
    reasons = list(report.unreadable.values())
    assert "the file is empty" in reasons[0]
    assert "runcated" in reasons[1]
    assert "no image format" in reasons[2]
    # A store keeps no reasons; another run looks again, and says what has been mended.
    (photos / "04.jpg").write_bytes(jpeg(4))
    (photos / "09.jpg").unlink()
    source = FolderSource(photos)
    source.keys = tuple(sorted({*source.keys, "09.jpg"}))
    again = run(photos, tmp_path / "s.zarr", source=source).unreadable
    assert again["03.jpg"] == report.unreadable["03.jpg"]
    assert "labelstore repair --skipped" in again["04.jpg"]
    assert "No such file" in again["09.jpg"]


LACKING = """
import resource, sys
from pathlib import Path
from labelstore.errors import SourceError
from labelstore.images.decoding import decode

lack, photo = sys.argv[1], Path(sys.argv[2]).read_bytes()
if lack == "memory":
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 20 * 2**20,) * 2)
else:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    decode(photo, "photo")
except SourceError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("lack", ["memory", "files"])
def test_decoders_that_lack_something_say_nothing_of_the_photo(tmp_path, lack):
    broken = jpeg(0)[:-300]
    # What is whole needs no file; what is broken might have needed one.
    (tmp_path / "photo.jpg").write_bytes(broken if lack == "files" else jpeg(0, (6000, 5000)))
    # In a process of its own: what other tests have given back would be memory, too.
    done = subprocess.run(
        [sys.executable, "-c", LACKING, lack, str(tmp_path / "photo.jpg")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("SourceError ")
    assert "want of memory or files" in done.stdout
    with pytest.raises(DecodeError):
        decode(broken, "photo")
