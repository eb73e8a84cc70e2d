"""The only way in which pickles are read here: a machine that can make plain values, and no more.

Other projects keep labels in pickles, and ``pickle.load`` of a stranger's file runs whatever it
says. This one is no restricted ``pickle``: it knows the instructions that lists, numbers, text,
arrays and tensors are written with, and five constructors of its own. Nothing is imported and no
function that a file names is ever called, so that there is nothing to get around. What is made is
bounded by the file's size: an array has no more bytes than the file has for it.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.errors import FormatError
from labelstore.storage.untrusted import open_descriptor, parsed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["MEND", "load_pickle", "load_torch", "read_bytes"]

MEND = "get it anew from where it came"

_MOST_BYTES = 1 << 30
"""Of a file: a label file of an image, or of a batch, has a few megabytes."""

_ELEMENT_TYPES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])\Z")
"""NumPy types that labels have: booleans, integers, floats."""

_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
"""torch's names of what a tensor's memory holds -> NumPy's."""


def load_pickle(data: bytes, where: Path | str) -> Any:
    """The value of a pickle of plain values and NumPy arrays, of protocol 2 to 5.

    Args:
        data: the pickle. where: what errors call it.

    Returns:
        lists, tuples, dicts with keys of text or integers, text, bytes, numbers, None and arrays of
        booleans, integers and floats.

    Raises:
        CorruptError: it is damaged, or holds anything else, such as the name of a function.
    """
    with parsed(where, MEND):
        return _Machine(data, None).run()


def load_torch(path: Path | str) -> Any:
    """The value of a file of ``torch.save``; tensors as arrays, bfloat16 as float32.

    Raises:
        CorruptError: it is damaged, cut off, or holds anything but what ``load_pickle`` says and
            dense tensors on any device. FormatError: it is of a torch before 1.6, which wrote no
            zip. FileNotFoundError and other OSErrors become a StoreError or CorruptError.
    """
    with parsed(path, MEND):
        data = read_bytes(path)
        if not data.startswith(b"PK"):
            if data.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):
                raise FormatError(
                    f"{path} was saved by a torch before 1.6, or without its zip format, expected "
                    "a zip: load it with that torch and save it again with torch.save."
                )
            raise ValueError("it is no file of torch.save: no zip")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = _Records(archive)
            return _Machine(records.read("data.pkl"), records).run()


def read_bytes(path: Path | str) -> bytes:
    """The bytes of a regular file; OSError where there is none, ValueError where it is too long."""
    descriptor = open_descriptor(path)
    with io.FileIO(descriptor) as file:
        size = os.fstat(descriptor).st_size
        if size > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, expected at most {_MOST_BYTES:,}")
        data = file.read(size + 1) or b""
    if len(data) != size:
        raise ValueError(f"it has {size:,} bytes, and {len(data):,} could be read")
    return data


class _Records:
    """The records of a zip of torch's: all lie in one folder, and none is compressed."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        if len(self._entries) != len(archive.infolist()):
            raise ValueError("two of its records have the same name")
        if "data.pkl" not in self._entries:
            raise ValueError("it has no data.pkl")
        if "byteorder" in self._entries and self.read("byteorder") != b"little":
            raise ValueError("it was saved on a big-endian machine")

    def read(self, name: str) -> bytes:
        """A record's bytes, which its checksum fits."""
        entry = self._entries.get(name)
        if entry is None:
            raise ValueError(f"it has no record {name[:40]!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError(f"its record {name!r} is compressed")
        return self._archive.read(entry)


class _Name(NamedTuple):
    """The name of something in a module, which is not imported."""

    module: str
    name: str


class _Storage(NamedTuple):
    """The memory of a tensor: one axis."""

    elements: npt.NDArray[Any]


class _Unfilled:
    """An array or an element type that was begun, and what the file says later that it holds."""

    __slots__ = ("kind", "value")

    def __init__(self, kind: str = "", value: Any = None) -> None:
        self.kind = kind
        self.value = value


_MARK = object()
"""Where the members of a list or tuple begin."""

_FLOATS = re.compile(rb"(?:G.{8}){4,}", re.DOTALL)
_FLOAT = np.dtype([("code", "u1"), ("value", ">f8")])
"""Lists of floats are most of some files: many are read at a time."""


class _Machine:
    """Carries out the instructions of one pickle; ValueError and its like for anything else."""

    def __init__(self, data: bytes, records: _Records | None) -> None:
        self._data, self._at = data, 0
        self._records = records
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        data, steps = self._data, _STEPS
        while (code := data[self._at]) != _STOP:
            step = steps.get(code)
            if step is None:
                raise ValueError(
                    f"it has the instruction {bytes([code])!r}, which no file of labels needs and "
                    "which is not obeyed"
                )
            self._at += 1
            step(self)
        value = _plain(self._pop())
        if self._stack:
            raise ValueError("values are left over")
        return value

    def _number(self, reader: struct.Struct) -> Any:
        (value,) = reader.unpack_from(self._data, self._at)
        self._at += reader.size
        return value

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ValueError("it ends in the middle")
        self._at += count
        return self._data[self._at - count : self._at]

    def _line(self) -> str:
        end = self._data.index(b"\n", self._at)
        text = self._data[self._at : end].decode("ascii")
        self._at = end + 1
        return text

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a value is missing")
        return value

    def _to_mark(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        stack = self._stack
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("a mark is missing")
        members = [_plain(member) for member in stack[place + 1 :]]
        del stack[place:]
        return members

    def _top(self, kind: type[Any]) -> Any:
        value = self._stack[-1]
        if type(value) is not kind:
            raise ValueError(f"a {kind.__name__} is missing")
        return value

    # The instructions.

    def protocol(self) -> None:
        version = self._bytes(1)[0]
        if not 2 <= version <= 5:
            raise ValueError(f"it is of pickle protocol {version}, expected 2 to 5")

    def frame(self) -> None:
        self._bytes(8)

    def mark(self) -> None:
        self._stack.append(_MARK)

    def float_(self) -> None:
        run = _FLOATS.match(self._data, self._at - 1)
        if run is None:
            self._stack.append(self._number(_DOUBLE))
            return
        self._stack += np.frombuffer(run.group(), dtype=_FLOAT)["value"].tolist()
        self._at = run.end()

    def long_(self) -> None:
        self._stack.append(int.from_bytes(self._bytes(self._bytes(1)[0]), "little", signed=True))

    def global_(self) -> None:
        module, name = self._line(), self._line()
        self._stack.append(_known(module, name))

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._stack.append(_known(module, name))

    def list_(self) -> None:
        self._stack.append([])

    def dict_(self) -> None:
        self._stack.append({})

    def append(self) -> None:
        value = _plain(self._pop())
        self._top(list).append(value)

    def appends(self) -> None:
        members = self._to_mark()
        self._top(list).extend(members)

    def setitem(self) -> None:
        value, key = _plain(self._pop()), self._pop()
        self._set([key, value])

    def setitems(self) -> None:
        self._set(self._to_mark())

    def _set(self, members: list[Any]) -> None:
        items, keys = self._top(dict), members[::2]
        # Tuples in tuples could take for ever to be hashed.
        if len(members) % 2 or not all(type(key) in (str, int) for key in keys):
            raise ValueError("a dict has a key that is neither text nor an integer")
        items.update(zip(keys, members[1::2], strict=True))

    def tuple_(self) -> None:
        members = self._to_mark()
        self._stack.append(tuple(members))

    def tuple_of(self, count: int) -> None:
        members = [_plain(self._pop()) for _ in range(count)]
        self._stack.append(tuple(reversed(members)))

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def memoize(self) -> None:
        self.put(len(self._memo))

    def reduce(self) -> None:
        arguments, name = self._pop(), self._pop()
        maker = _MAKERS.get(name) if isinstance(name, _Name) else None
        if maker is None or type(arguments) is not tuple:
            raise ValueError("it calls what is no constructor of arrays")
        self._stack.append(maker(*arguments))

    def build(self) -> None:
        state, value = self._pop(), self._stack[-1]
        if not isinstance(value, _Unfilled) or type(state) is not tuple:
            raise ValueError("it gives a state to what has none")
        if value.kind == "array":
            value.value = _array(*state)
        else:
            value.value = _with_order(value.value, *state)

    def persistent(self) -> None:
        if self._records is None:
            raise ValueError("it has a tensor's memory and is no file of torch.save")
        state = self._pop()
        if type(state) is not tuple or len(state) != 5 or state[0] != "storage":
            raise ValueError("it points at something else than a tensor's memory")
        _, kind, key, _, count = state
        if not isinstance(kind, _Name) or type(key) is not str or type(count) is not int:
            raise ValueError("it points at something else than a tensor's memory")
        elements = _elements(self._records.read(f"data/{key}"), _STORAGES[kind.name])
        if not 0 <= count <= len(elements):
            raise ValueError(f"a tensor has {len(elements):,} elements, expected {count:,}")
        self._stack.append(_Storage(elements[:count]))


def _plain(value: Any) -> Any:
    """A value as it is handed out: an array that was begun is that array."""
    if type(value) is not _Unfilled:
        return value
    if value.value is None:
        raise ValueError("an array is never filled")
    return value.value


def _known(module: str, name: str) -> _Name:
    """A name, where it is one of those that arrays and tensors are made with."""
    known = _Name(module, name)
    if known in _MAKERS or known == _ARRAY or (module == "torch" and name in _STORAGES):
        return known
    raise ValueError(
        f"it names {f'{module}.{name}'[:80]!r}, which is no part of an array and is not run"
    )


# The constructors. Each takes what a file has for it, and no more than that.

_ARRAY = _Name("numpy", "ndarray")


def _encoded(text: Any, codec: Any) -> bytes:
    """Bytes, as protocol 2 writes them."""
    if type(text) is not str or codec != "latin1":
        raise ValueError("it has bytes that are no Latin-1")
    return text.encode("latin-1")


def _new_array(kind: Any, _shape: Any, _code: Any) -> _Unfilled:
    if kind != _ARRAY:
        raise ValueError("it has an array of a kind of its own")
    return _Unfilled("array")


def _array(_version: Any, shape: Any, kind: Any, fortran: Any, data: Any) -> npt.NDArray[Any]:
    """What NumPy's arrays tell of themselves."""
    flat = np.frombuffer(_raw(data), dtype=_element_type(kind))
    return flat.reshape(_sizes(shape), order="F" if fortran is True else "C")


def _scalar(kind: Any, data: Any) -> Any:
    """A number of NumPy's, as Python's."""
    (value,) = np.frombuffer(_raw(data), dtype=_element_type(kind)).tolist()
    return value


def _from_buffer(
    data: Any, kind: Any, shape: Any, order: Any, axes: Any = None
) -> npt.NDArray[Any]:
    """An array as protocol 5 writes it."""
    if axes is not None:
        raise ValueError("it has an array whose axes lie in an order of their own")
    return _array(1, shape, kind, order == "F", data)


def _new_element_type(code: Any, _align: Any = False, _copy: Any = True) -> _Unfilled:
    if type(code) is not str or not _ELEMENT_TYPES.match(code):
        raise ValueError(f"it has an array of {str(code)[:20]!r}, expected numbers")
    return _Unfilled("dtype", np.dtype(code))


def _with_order(kind: np.dtype[Any], _version: Any, order: Any, *_: Any) -> np.dtype[Any]:
    if order not in ("<", ">", "|", "="):
        raise ValueError("it has an array without an order of bytes")
    return kind.newbyteorder(order)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> npt.NDArray[Any]:
    """A dense tensor, a copy: strides are in elements."""
    if not isinstance(storage, _Storage) or type(offset) is not int:
        raise ValueError("a tensor has no memory")
    sizes, strides = _sizes(size), _sizes(stride)
    elements = storage.elements
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    count = int(np.prod(sizes, dtype=object))
    if not count:
        return np.empty(sizes, dtype=elements.dtype)
    if offset < 0 or last >= len(elements) or count > len(elements):
        raise ValueError("a tensor is larger than its memory")
    steps = tuple(step * elements.itemsize for step in strides)
    view = np.lib.stride_tricks.as_strided(elements[offset:], sizes, steps, writeable=False)
    return np.ascontiguousarray(view)


def _ordered_dict() -> dict[Any, Any]:
    """Of hooks, which every tensor has: an empty one."""
    return {}


def _no_bytes() -> bytes:
    """As protocol 2 writes them where there are none."""
    return b""


def _raw(data: Any) -> bytes:
    if type(data) is not bytes:
        raise ValueError("an array's values are no bytes")
    return data


def _element_type(kind: Any) -> np.dtype[Any]:
    kind = _plain(kind)
    if not isinstance(kind, np.dtype):
        raise TypeError("an array has no type of elements")
    return kind


def _sizes(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or len(shape) > 8:
        raise ValueError("an array has no shape")
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
        raise ValueError("an array has a shape that is none")
    return shape


def _elements(raw: bytes, kind: str) -> npt.NDArray[Any]:
    if kind != "bfloat16":
        return np.frombuffer(raw, dtype=kind)
    halves = np.frombuffer(raw, dtype="<u2").astype("<u4")
    return (halves << 16).view("<f4")


_MAKERS: dict[_Name, Callable[..., Any]] = {
    _Name("_codecs", "encode"): _encoded,
    _Name("numpy", "dtype"): _new_element_type,
    _Name("collections", "OrderedDict"): _ordered_dict,
    _Name("__builtin__", "bytes"): _no_bytes,
    _Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
}
# NumPy 2 renamed the module.
for _core in ("numpy.core", "numpy._core"):
    _MAKERS[_Name(f"{_core}.multiarray", "_reconstruct")] = _new_array
    _MAKERS[_Name(f"{_core}.multiarray", "scalar")] = _scalar
    _MAKERS[_Name(f"{_core}.numeric", "_frombuffer")] = _from_buffer

_BYTE, _SHORT = struct.Struct("<B"), struct.Struct("<H")
_INT, _UINT, _LENGTH = struct.Struct("<i"), struct.Struct("<I"), struct.Struct("<Q")
_DOUBLE = struct.Struct(">d")

_STOP = ord(".")


def _put(reader: struct.Struct) -> Callable[[_Machine], None]:
    return lambda machine: machine.put(machine._number(reader))


def _get(reader: struct.Struct) -> Callable[[_Machine], None]:
    return lambda machine: machine.get(machine._number(reader))


def _push(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine._stack.append(value)


def _integer(reader: struct.Struct) -> Callable[[_Machine], None]:
    return lambda machine: machine._stack.append(machine._number(reader))


def _text(reader: struct.Struct) -> Callable[[_Machine], None]:
    return lambda machine: machine._stack.append(
        machine._bytes(machine._number(reader)).decode("utf-8", "surrogatepass")
    )


def _string(reader: struct.Struct) -> Callable[[_Machine], None]:
    return lambda machine: machine._stack.append(machine._bytes(machine._number(reader)))


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    return lambda machine: machine.tuple_of(count)


_STEPS: dict[int, Callable[[_Machine], None]] = {
    code[0]: step
    for code, step in (
        (b"\x80", _Machine.protocol),
        (b"\x95", _Machine.frame),
        (b"(", _Machine.mark),
        (b"N", _push(None)),
        (b"\x88", _push(True)),
        (b"\x89", _push(False)),
        (b"K", _integer(_BYTE)),
        (b"M", _integer(_SHORT)),
        (b"J", _integer(_INT)),
        (b"\x8a", _Machine.long_),
        (b"G", _Machine.float_),
        (b"\x8c", _text(_BYTE)),
        (b"X", _text(_UINT)),
        (b"\x8d", _text(_LENGTH)),
        (b"C", _string(_BYTE)),
        (b"B", _string(_UINT)),
        (b"\x8e", _string(_LENGTH)),
        (b"\x96", _string(_LENGTH)),
        (b"c", _Machine.global_),
        (b"\x93", _Machine.stack_global),
        (b"]", _Machine.list_),
        (b"}", _Machine.dict_),
        (b")", _push(())),
        (b"t", _Machine.tuple_),
        (b"\x85", _tuple_of(1)),
        (b"\x86", _tuple_of(2)),
        (b"\x87", _tuple_of(3)),
        (b"a", _Machine.append),
        (b"e", _Machine.appends),
        (b"s", _Machine.setitem),
        (b"u", _Machine.setitems),
        (b"h", _get(_BYTE)),
        (b"j", _get(_UINT)),
        (b"q", _put(_BYTE)),
        (b"r", _put(_UINT)),
        (b"\x94", _Machine.memoize),
        (b"R", _Machine.reduce),
        (b"b", _Machine.build),
        (b"Q", _Machine.persistent),
    )
}
"""What is obeyed, a bytearray being bytes: what Python's own pickler writes for such values."""
