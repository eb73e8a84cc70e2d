"""Files of torch.save that differ in their arrays alone are read as each is alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labelstore.errors import CorruptError
from labelstore.peers.pickles.machine import traced
from labelstore.peers.pickles.safe_pickle import TorchFiles, load_torch
from labelstore.peers.pickles.torch_zip import TorchZip
from tests.peers.test_safe_pickle import same

RNG = np.random.default_rng(0)


def fkd(kind, views=40):
    """What FKD saves of an image."""
    coords, flips = RNG.random((views, 4)).astype(kind), RNG.random(views) < 0.5
    labels = RNG.random((views, 2, 5)).astype(kind)
    return [coords, flips, torch.from_numpy(labels) if kind is np.float32 else labels]


def saved(path, value):
    torch.save(value, path)
    return path


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
def test_files_of_one_form_are_what_they_are_alone(tmp_path, kind):
    paths = [saved(tmp_path / f"{number}.tar", fkd(kind)) for number in range(5)]
    files = TorchFiles()
    for path in paths:
        same(files.load(path), load_torch(path))
    assert len(files._forms) == 1
    data = [TorchZip(path.read_bytes()).read("data.pkl") for path in paths]
    assert all(files._forms[0].holes_in(pickle) is not None for pickle in data)


VALUES = [
    {"a": np.arange(40.0), 3: [torch.arange(30), torch.ones(2, 3).half()], "t": (1, None)},
    [np.asfortranarray(np.arange(60.0).reshape(3, 20)), np.arange(24, dtype=">i4")],
    # What has no form of arrays alone: long names, parts of memory, other orders of axes.
    {"a name of many letters": np.arange(40.0)},
    [torch.arange(12.0).reshape(3, 4).T, torch.arange(50)[3:9], torch.arange(9.0)[::2]],
    [torch.ones(3, dtype=torch.bfloat16), np.float32(0.25), torch.zeros(0, 4)],
    ["a text of many letters", np.arange(40)],
    np.arange(500),
    torch.tensor(3.0),
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_whatever_is_in_a_file(tmp_path, value):
    files, path = TorchFiles(), saved(tmp_path / "a.tar", value)
    other = saved(tmp_path / "b.tar", fkd(np.float16))
    for _ in range(3):
        same(files.load(path), load_torch(path))
        same(files.load(other), load_torch(other))


def test_files_of_many_forms(tmp_path):
    files = TorchFiles()
    for views in [*range(20, 40), *range(20, 40)]:
        path = saved(tmp_path / f"{views}.tar", fkd(np.float32, views))
        same(files.load(path), load_torch(path))


def outcome(load, path):
    try:
        return load(path)
    except CorruptError as error:
        return str(error)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_damaged_files_say_what_they_say_alone(tmp_path, kind):
    files = TorchFiles()
    files.load(saved(tmp_path / "a.tar", fkd(kind)))
    whole = saved(tmp_path / "b.tar", fkd(kind)).read_bytes()
    path = tmp_path / "c.tar"
    for place in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        same(outcome(files.load, path), outcome(load_torch, path))
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        same(outcome(files.load, path), outcome(load_torch, path))


def test_every_byte_of_a_pickle_counts(tmp_path):
    # As it is after the checksum: pickles that someone made.
    files = TorchFiles()
    files.load(saved(tmp_path / "a.tar", fkd(np.float16, 20)))
    (form,) = files._forms
    records = TorchZip((tmp_path / "a.tar").read_bytes())
    whole = records.read("data.pkl")
    _, holes = traced(whole)
    inside = {place for start, end in holes for place in range(start, end)}
    for place in range(len(whole)):
        broken = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        assert (form.holes_in(broken) is not None) == (place in inside), place
    for broken in (whole + b".", whole[:-1], whole[: holes[0][0] - 2], b""):
        assert form.holes_in(broken) is None
