"""The machine that reads pickles of labels: plain values, arrays and tensors, and no more.

It knows the instructions that Python's own pickler writes for such values, and a few constructors
of its own. Nothing is imported and no function that a file names is ever called. What is made is
bounded by the file's size: an array has no more bytes than the file has for it.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.peers.pickles.constructors import (
    CONSTRUCTORS,
    NAMES_BY_LINE,
    Name,
    Unfilled,
    finished,
    known_name,
    storage,
)
from labelstore.peers.pickles.forms import LEAST_HOLE, Hole

if TYPE_CHECKING:
    from collections.abc import Callable

    from labelstore.peers.pickles.torch_zip import TorchZip

__all__ = ["traced", "unpickled"]


def unpickled(data: bytes, records: TorchZip | None = None) -> Any:
    """The value of a pickle.

    Args:
        data: the pickle. records: of the file of ``torch.save`` that it is in.

    Raises:
        ValueError, and what else Python raises of numbers and places that are none: it is damaged,
        or holds anything but what this reads.
    """
    return _Machine(data, records).run()


def traced(data: bytes) -> tuple[Any, list[tuple[int, int]]]:
    """What ``unpickled`` makes of a pickle of a file of ``torch.save`` whatever its arrays hold.

    Returns:
        the value with an ``ArrayForm`` or ``RecordForm`` for each array whose values are a long
        text or a whole record, and a ``Hole`` for any other long text; and where the long texts
        begin and end.

    Raises:
        As ``unpickled``: also where what becomes of it depends on what a long text says.
    """
    holes: list[tuple[int, int]] = []
    return _Machine(data, None, holes).run(), holes


class _Mark:
    """Where the members of a list or tuple begin."""


_MARK = _Mark()

_FLOATS = re.compile(rb"(?:G.{8}){4,}", re.DOTALL)
_FLOAT = np.dtype([("code", "u1"), ("value", ">f8")])
"""Lists of floats are most of some files: many are read at a time."""


class _Machine:
    """Carries out the instructions of one pickle; ValueError and its like for anything else."""

    def __init__(
        self,
        data: bytes,
        records: TorchZip | None,
        holes: list[tuple[int, int]] | None = None,
    ) -> None:
        self._data, self._at = data, 0
        self._records, self._holes = records, holes
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        data, stack, memo, steps = self._data, self._stack, self._memo, _STEPS
        at = 0
        # The five that make up most of a file are here: calls are what takes time.
        while (code := data[at]) != _STOP:
            at += 1
            if code == _BINPUT:
                memo[data[at]] = stack[-1]
                at += 1
            elif code == _BINGET:
                stack.append(memo[data[at]])
                at += 1
            elif code == _BININT1:
                stack.append(data[at])
                at += 1
            elif code == _BINUNICODE:
                end = at + 4 + _UINT.unpack_from(data, at)[0]
                if end > len(data):
                    raise ValueError("it ends in the middle")
                if self._holes is not None and end - at - 4 >= LEAST_HOLE:
                    stack.append(Hole(len(self._holes)))
                    self._holes.append((at + 4, end))
                else:
                    stack.append(data[at + 4 : end].decode("utf-8", "surrogatepass"))
                at = end
            elif code == _OPEN:
                stack.append(_MARK)
            else:
                step = steps.get(code)
                if step is None:
                    raise ValueError(
                        f"it has the instruction {bytes([code])!r}, which no file of labels needs "
                        "and which is not obeyed"
                    )
                self._at = at
                step(self)
                at = self._at
        value = _plain(self._pop())
        if stack:
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
        members = [
            _plain(member) if type(member) in _UNFINISHED else member
            for member in stack[place + 1 :]
        ]
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
        data, start = self._data, self._at
        end = data.index(b"\n", data.index(b"\n", start) + 1)
        self._at = end + 1
        name = NAMES_BY_LINE.get(data[start:end])
        if name is None:
            name = known_name(*data[start:end].decode("ascii").split("\n"))
        self._stack.append(name)

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._stack.append(known_name(module, name))

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
        stack = self._stack
        members = stack[-count:]
        if len(members) < count:
            raise ValueError("a value is missing")
        del stack[-count:]
        stack.append(
            tuple([_plain(member) if type(member) in _UNFINISHED else member for member in members])
        )

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def memoize(self) -> None:
        self.put(len(self._memo))

    def reduce(self) -> None:
        arguments, name = self._pop(), self._pop()
        maker = CONSTRUCTORS.get(name) if isinstance(name, Name) else None
        if maker is None or type(arguments) is not tuple:
            raise ValueError("it calls what is no constructor of arrays")
        self._stack.append(maker(*arguments))

    def build(self) -> None:
        state, value = self._pop(), self._stack[-1]
        if not isinstance(value, Unfilled) or type(state) is not tuple:
            raise ValueError("it gives a state to what has none")
        value.fill(*state)

    def persistent(self) -> None:
        if self._records is None and self._holes is None:
            raise ValueError("it has a tensor's memory and is no file of torch.save")
        state = self._pop()
        if type(state) is not tuple or len(state) != 5 or state[0] != "storage":
            raise ValueError("it points at something else than a tensor's memory")
        self._stack.append(storage(*state[1:], self._records))


_UNFINISHED = frozenset({Unfilled, _Mark})


def _plain(value: Any) -> Any:
    """A value as it is handed out: an array that was begun is that array."""
    if type(value) not in _UNFINISHED:
        return value
    if value is _MARK:
        raise ValueError("a value is missing")
    return finished(value)


_BYTE, _SHORT = struct.Struct("<B"), struct.Struct("<H")
_INT, _UINT, _LENGTH = struct.Struct("<i"), struct.Struct("<I"), struct.Struct("<Q")
_DOUBLE = struct.Struct(">d")

_STOP, _OPEN = b".("
_BINPUT, _BINGET, _BININT1, _BINUNICODE = b"qhKX"


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
        (b"N", _push(None)),
        (b"\x88", _push(True)),
        (b"\x89", _push(False)),
        (b"M", _integer(_SHORT)),
        (b"J", _integer(_INT)),
        (b"\x8a", _Machine.long_),
        (b"G", _Machine.float_),
        (b"\x8c", _text(_BYTE)),
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
        (b"j", _get(_UINT)),
        (b"r", _put(_UINT)),
        (b"\x94", _Machine.memoize),
        (b"R", _Machine.reduce),
        (b"b", _Machine.build),
        (b"Q", _Machine.persistent),
    )
}
"""What is obeyed besides those in ``run``, a bytearray being bytes: what Python's own pickler
writes for such values."""
