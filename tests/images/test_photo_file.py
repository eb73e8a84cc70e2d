"""What is known of a photo's file: the same pixels as everywhere, its header, its faults."""

from __future__ import annotations

import pytest
from PIL import Image

import labelstore
from labelstore.errors import SourceError
from labelstore.images.decoding import decode
from labelstore.images.photo_file import (
    fault_of,
    has_several_frames,
    is_same_size,
    read_photo,
    read_size,
)
from tests.support.faulty_photos import ORIENTATION, picture


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_pixels_size_and_turning_of_every_orientation(suffix, tmp_path):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        picture(orientation, 50, 30).save(tmp_path / f"{orientation}.{suffix}", exif=exif)
    source = labelstore.open_source(tmp_path)
    for index in range(8):
        file = read_photo(source, index)
        assert file.photo.tobytes() == decode(file.data, "").tobytes()
        assert read_size(file.data, "") == file.photo.size
        assert (file.header.width, file.header.height) == file.photo.size
        assert file.header.turned == (index > 0), index


def test_a_photo_that_changes_while_it_is_read_is_not_known(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"half a photo")
    source = labelstore.open_source(tmp_path)

    class Growing:
        keys, path_of = source.keys, source.path_of

        def read(self, index):
            with (tmp_path / "a.jpg").open("ab") as file:
                file.write(b"more")
            return source.read(index)

    with pytest.raises(SourceError, match="read again it is another"):
        read_photo(Growing(), 0)
    file = read_photo(source, 0)
    assert (file.photo, fault_of(file)) == (None, "no-image")


def test_frames(tmp_path):
    first, second = picture(1).convert("P"), picture(2).convert("P")
    for name, more in (("one.gif", []), ("two.gif", [second]), ("two.tif", [second])):
        first.save(tmp_path / name, save_all=True, append_images=more)
    picture(1).save(tmp_path / "one.jpg")
    found = {
        path.name: has_several_frames(path.read_bytes(), Image.registered_extensions()[path.suffix])
        for path in sorted(tmp_path.iterdir())
    }
    assert found == {"one.gif": False, "one.jpg": False, "two.gif": True, "two.tif": True}


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.gif", "a.webp", "a.tif"])
def test_a_file_cut_at_any_of_its_first_bytes_has_a_kind(name, tmp_path):
    picture(1, 8, 8).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    source = labelstore.open_source(tmp_path)
    kinds = set()
    for length in range(40):
        (tmp_path / name).write_bytes(whole[:length])
        kinds.add(fault_of(read_photo(source, 0)))
    assert {"empty", "no-image"} <= kinds <= {"empty", "no-image", "damaged", "truncated"}
    assert len(kinds) > 2


def test_unknown_sizes_pass():
    assert is_same_size((3, 4), (-1, -1))
    assert is_same_size((3, 4), (3, 4))
    assert not is_same_size((4, 3), (3, 4))
