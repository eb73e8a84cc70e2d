"""Pickles are read without being run: what labels are made of comes out, all else is refused."""

import builtins
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from labelstore.errors import CorruptError, FormatError
from labelstore.peers.pickles.safe_pickle import load_pickle, load_torch

ARRAYS = [
    np.arange(12, dtype=dtype).reshape(3, 4)
    for dtype in ("u1", "i2", "<i4", ">i4", "<i8", "f2", "<f4", ">f4", "f8")
]
ARRAYS += [
    np.array([True, False]),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros((0, 4), dtype=np.float32),
    np.array(3.5),
]
VALUES = [
    (7, [{"params": [(1, 2, 30, 40), (True,)], "prob": ([0.5, 0.25, 1e-9, 0.1, 0.05], [3, 999])}]),
    [None, True, False, 0, 255, 256, 65536, -1, -(2**31), 2**31, -(2**40), "text", "ü\n", b"b\xff"],
    {"a": [], 3: {}, "t": (), "o": OrderedDict(a=1)},
    [1.5] * 9,
    [np.float32(0.1), np.int64(-7), np.bool_(True)],
]


def same(left, right):
    if isinstance(right, np.ndarray):
        assert isinstance(left, np.ndarray)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    elif isinstance(right, (list, tuple)):
        assert type(left) is type(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)
    elif isinstance(right, dict):
        assert left.keys() == right.keys()
        same(list(left.values()), list(right.values()))
    else:
        assert left == right
        assert isinstance(right, (type(left), np.generic))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", [*ARRAYS, *VALUES], ids=lambda value: repr(value)[:30])
def test_what_labels_are_made_of_comes_out_as_it_went_in(value, protocol):
    same(load_pickle(pickle.dumps([value, value], protocol), "file"), [value, value])


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    ],
)
def test_tensors_come_out_as_arrays(tmp_path, dtype):
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype)
    parts = [
        tensor,
        tensor[1],
        tensor.permute(2, 0, 1),
        tensor[:, ::2],
        tensor[:0],
        tensor[0, 0, 1],
    ]
    torch.save(parts, tmp_path / "a.tar")
    same(load_torch(tmp_path / "a.tar"), [part.numpy() for part in parts])


def test_bfloat16_comes_out_as_float32(tmp_path):
    tensor = torch.randn(5, 7).to(torch.bfloat16)
    torch.save(tensor, tmp_path / "a.pt")
    same(load_torch(tmp_path / "a.pt"), tensor.float().numpy())


def test_a_file_of_torch_may_have_pickle_protocol_4(tmp_path):
    torch.save((3, [{"prob": ([0.5], [1])}]), tmp_path / "3.pth.tar", pickle_protocol=4)
    assert load_torch(tmp_path / "3.pth.tar") == (3, [{"prob": ([0.5], [1])}])


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments, state=None):
        self.made_of = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.made_of


class OfItself(list):
    pass


HOSTILE = {
    "a system call": Calls(os.system, "touch executed"),
    "eval": Calls(eval, "open('executed', 'w')"),
    "a subprocess": Calls(subprocess.Popen, ("touch", "executed")),
    "getattr": Calls(builtins.getattr, "a", "upper"),
    "an import": Calls(builtins.__import__, "os"),
    "NumPy's own loader": Calls(np.load, "executed", None, True),
    "torch's own loader": Calls(torch.load, "executed"),
    "a class": OfItself([1]),
    "objects in an array": np.array([Calls(os.system, "touch executed")], dtype=object),
    "a record array": np.zeros(2, dtype=[("a", "f4")]),
    "text in an array": np.array(["a"]),
    "a set": {1, 2},
    "a complex number": 1j,
    "a tuple as a key": {(1, 2): 3},
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", HOSTILE)
def test_all_else_is_refused_and_nothing_is_run(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorruptError, match=r"evil\.bin cannot be read") as caught:
        load_pickle(pickle.dumps([HOSTILE[name]], protocol), "evil.bin")
    assert "\n" not in str(caught.value)
    torch.save([HOSTILE[name]], tmp_path / "evil.tar", pickle_protocol=protocol)
    with pytest.raises(CorruptError, match=r"evil\.tar cannot be read"):
        load_torch(tmp_path / "evil.tar")
    assert not (tmp_path / "executed").exists()


def binary(text):
    return text.encode("latin-1")


RAW = {
    "a name through the registry": b"\x80\x02\x82\x01.",
    "an instance": b"\x80\x02(ios\nsystem\n.",
    "an object": b"\x80\x02(cos\nsystem\no.",
    "a new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "a memo of four billion": b"\x80\x02Nr\xff\xff\xff\xff.",
    "text of four gigabytes": b"\x80\x02X\xff\xff\xff\xffa.",
    "text beyond all memory": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
    "bytes beyond all memory": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.",
    "an attribute of an allowed module": b"\x80\x02cnumpy\ncore.multiarray\n.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93.",
    "a call of a call": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf-8\x86R.",
    "a state of a list": b"\x80\x02](K\x01tb.",
    "no end": b"\x80\x02]",
    "nothing": b"",
    "two values": b"\x80\x02]].",
    "no value": b"\x80\x02.",
    "a mark alone": b"\x80\x02(.",
    "members without a mark": b"\x80\x02]K\x01e.",
    "an old protocol": b"(lp0\n.",
    "memory in no file of torch": b"\x80\x02X\x01\x00\x00\x00aQ.",
}


@pytest.mark.parametrize("name", RAW)
def test_instructions_that_no_label_needs_are_refused(name):
    big = RAW[name].startswith(b"\x80\x02Nr")
    if big:
        # A place in the memo costs one entry here, whatever its number.
        assert load_pickle(RAW[name], "file") is None
        return
    with pytest.raises(CorruptError, match="file cannot be read"):
        load_pickle(RAW[name], "file")


def test_an_array_is_no_larger_than_the_file():
    data = pickle.dumps(np.zeros((2, 3), dtype=np.float32), 4)
    assert data.count(b"K\x02K\x03\x86") == 1
    for shape in (b"J\xff\xff\xff\x7fK\x01\x86", b"K\x02K\x04\x86", b"K\x02J\xff\xff\xff\xff\x86"):
        with pytest.raises(CorruptError):
            load_pickle(data.replace(b"K\x02K\x03\x86", shape), "file")


def test_a_tensor_is_no_larger_than_its_memory(tmp_path):
    torch.save(torch.zeros(1).expand(1000, 1000), tmp_path / "a.pt")
    with pytest.raises(CorruptError, match="larger than its memory"):
        load_torch(tmp_path / "a.pt")


def test_names_within_names_take_no_time():
    # Each tuple holds the last one twice: who hashed or walked it would do so 2**60 times.
    nest = b"\x80\x02](K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 60
    assert len(load_pickle(nest + b"e.", "file")) == 61
    with pytest.raises(CorruptError, match="neither text nor an integer"):
        load_pickle(nest + b"}h\x00K\x01se.", "file")


def saved(tmp_path):
    parts = [np.ones((5, 4), dtype=np.float32), np.ones(5, dtype=bool), torch.ones(5, 2, 5)]
    torch.save(parts, tmp_path / "a.tar")
    return (tmp_path / "a.tar").read_bytes()


def test_every_cut_and_many_flipped_bytes_are_errors_that_name_the_file(tmp_path):
    data, path = saved(tmp_path), tmp_path / "b.tar"
    whole = load_torch(tmp_path / "a.tar")
    for end in range(0, len(data), 37):
        path.write_bytes(data[:end])
        with pytest.raises(CorruptError, match=r"b\.tar cannot be read"):
            load_torch(path)
    named, rng = [], np.random.default_rng(0)
    for place in rng.integers(0, len(data), 300).tolist():
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        try:
            value = load_torch(path)
        except CorruptError as error:
            named.append("b.tar" in str(error))
        else:
            # Fill between records, dates and the like: the checksum guards all that is a label.
            same(value, whole)
    assert len(named) > 50
    assert all(named)


def test_what_is_no_zip_of_torch_is_told(tmp_path):
    path = tmp_path / "a.tar"
    torch.save([1], path, _use_new_zipfile_serialization=False)
    with pytest.raises(FormatError, match=r"before 1\.6"):
        load_torch(path)
    path.write_bytes(b"no zip")
    with pytest.raises(CorruptError, match="no zip"):
        load_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", b"")
    with pytest.raises(CorruptError, match=r"no data\.pkl"):
        load_torch(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps([0.0] * 1000, 2))
    with pytest.raises(CorruptError, match="compressed"):
        load_torch(path)
    path.unlink()
    with pytest.raises(CorruptError, match=r"a\.tar cannot be read"):
        load_torch(path)
    os.mkfifo(path)
    with pytest.raises(CorruptError, match="pipe"):
        load_torch(path)


def test_it_needs_no_torch():
    code = "import sys, labelstore.peers.pickles.safe_pickle; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
