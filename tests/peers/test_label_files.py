"""Label files of a folder are found by name or number, and none is passed over unseen."""

import pytest

from labelstore.errors import CorruptError, FormatError, NotFoundError
from labelstore.peers.label_files import named_files, numbered_entries, require_all, require_folder


def made(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def test_numbers_have_one_name_each(tmp_path):
    """Not two of which one would be passed over: 01 is no number."""
    made(tmp_path, "b_10.t", "b_2.t", "b_0.t", "b_02.t", "b_+1.t", "b_²1.t", "b_1xt", "b_3.t.old")
    found = numbered_entries(tmp_path, "b_{}.t")
    assert [(number, file.name) for number, file in found.items()] == [
        (0, "b_0.t"),
        (2, "b_2.t"),
        (10, "b_10.t"),
    ]
    assert numbered_entries(tmp_path / "b_0.t", "b_{}.t") == {}
    with pytest.raises(CorruptError, match=r"has no b_1\.t, and 3 others up to number 10"):
        require_all(tmp_path, "b_{}.t", found)
    with pytest.raises(CorruptError, match=r"has no b_0\.t, and no others"):
        require_all(tmp_path, "b_{}.t", {})
    require_all(tmp_path, "b_{}.t", {0: tmp_path, 1: tmp_path})


def test_names_below_a_folder(tmp_path):
    made(tmp_path, "b/1.tar", "a/2.tar", "a/2.txt", "a/.3.tar")
    assert named_files(tmp_path, ".tar", "FKD") == ["a/2.tar", "b/1.tar"]
    with pytest.raises(FormatError, match=r"holds no \.pt files, expected ReLabel's"):
        named_files(tmp_path, ".pt", "ReLabel")


def test_what_is_no_folder(tmp_path):
    with pytest.raises(NotFoundError, match=r"there is no folder .*gone: give the folder of x\."):
        require_folder(tmp_path / "gone", "of x")
    with pytest.raises(FormatError, match=r"is no folder: give the folder of x\."):
        require_folder(made(tmp_path, "file") / "file", "of x")
