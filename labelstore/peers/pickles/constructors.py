"""What pickles of labels may call: the constructors of arrays, tensors and what is in them.

Each is one of this library's own under the name that the file uses for NumPy's or torch's, takes
what a file has for it, and makes no more of it than that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from labelstore.peers.pickles.forms import ArrayForm, Hole, RecordForm

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.peers.pickles.torch_zip import TorchZip

__all__ = [
    "CONSTRUCTORS",
    "NAMES_BY_LINE",
    "Name",
    "Unfilled",
    "finished",
    "known_name",
    "storage",
]

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


class Name(NamedTuple):
    """The name of something in a module, which is not imported."""

    module: str
    name: str


class _Storage(NamedTuple):
    """The memory of a tensor: one axis."""

    elements: npt.NDArray[Any] | RecordForm


class Unfilled:
    """An array or an element type that was begun, and what the file says later that it holds."""

    __slots__ = ("kind", "value")

    def __init__(self, kind: str = "", value: Any = None) -> None:
        self.kind = kind
        self.value = value

    def fill(self, *state: Any) -> None:
        """Take what the file says of it; ValueError or TypeError where that is no such thing."""
        if self.kind == "array":
            self.value = _array(*state)
        else:
            self.value = _with_order(self.value, *state)


def finished(value: Unfilled) -> Any:
    """The array or element type that was begun; ValueError where it was never filled."""
    if value.value is None:
        raise ValueError("an array is never filled")
    return value.value


def known_name(module: str, name: str) -> Name:
    """A name, where it is one of those that arrays and tensors are made with."""
    known = Name(module, name)
    if known in CONSTRUCTORS or known == _ARRAY or (module == "torch" and name in _STORAGES):
        return known
    raise ValueError(
        f"it names {f'{module}.{name}'[:80]!r}, which is no part of an array and is not run"
    )


_ARRAY = Name("numpy", "ndarray")


def _encoded(text: Any, codec: Any) -> bytes | Hole:
    """Bytes, as protocol 2 writes them."""
    if type(text) is Hole and codec == "latin1" and not text.encoded:
        return Hole(text.number, encoded=True)
    if type(text) is not str or codec != "latin1":
        raise ValueError("it has bytes that are no Latin-1")
    return text.encode("latin-1")


def _new_array(kind: Any, _shape: Any, _code: Any) -> Unfilled:
    if kind != _ARRAY:
        raise ValueError("it has an array of a kind of its own")
    return Unfilled("array")


def _array(
    _version: Any, shape: Any, kind: Any, fortran: Any, data: Any
) -> npt.NDArray[Any] | ArrayForm:
    """What NumPy's arrays tell of themselves."""
    order: Literal["C", "F"] = "F" if fortran is True else "C"
    if type(data) is Hole and data.encoded:
        return ArrayForm(data.number, _element_type(kind), _sizes(shape), order)
    flat = np.frombuffer(_raw(data), dtype=_element_type(kind))
    return flat.reshape(_sizes(shape), order=order)


def _scalar(kind: Any, data: Any) -> Any:
    """A number of NumPy's, as Python's."""
    (value,) = np.frombuffer(_raw(data), dtype=_element_type(kind)).tolist()
    return value


def _from_buffer(
    data: Any, kind: Any, shape: Any, order: Any, axes: Any = None
) -> npt.NDArray[Any] | ArrayForm:
    """An array as protocol 5 writes it."""
    if axes is not None:
        raise ValueError("it has an array whose axes lie in an order of their own")
    return _array(1, shape, kind, order == "F", data)


def _new_element_type(code: Any, _align: Any = False, _copy: Any = True) -> Unfilled:
    if type(code) is not str or not _ELEMENT_TYPES.match(code):
        raise ValueError(f"it has an array of {str(code)[:20]!r}, expected numbers")
    return Unfilled("dtype", np.dtype(code))


def _with_order(kind: np.dtype[Any], _version: Any, order: Any, *_: Any) -> np.dtype[Any]:
    if order not in ("<", ">", "|", "="):
        raise ValueError("it has an array without an order of bytes")
    return kind.newbyteorder(order)


def storage(kind: Any, key: Any, _device: Any, count: Any, records: TorchZip | None) -> _Storage:
    """The memory of a tensor.

    Args:
        kind: its name in torch. key: of its record. count: elements. records: of the file; None
            where the memory is to be a ``RecordForm``.

    Raises:
        ValueError: it is no such thing, or longer than its record. TypeError: a ``RecordForm`` of
            bfloat16, of which NumPy has no arrays.
    """
    if not isinstance(kind, Name) or type(key) is not str or type(count) is not int:
        raise ValueError("it points at something else than a tensor's memory")
    if records is None:
        return _Storage(RecordForm(f"data/{key}", np.dtype(_STORAGES[kind.name]), count))
    elements = _elements(records.read(f"data/{key}"), _STORAGES[kind.name])
    if not 0 <= count <= len(elements):
        raise ValueError(f"a tensor has {len(elements):,} elements, expected {count:,}")
    return _Storage(elements[:count])


def _tensor(
    memory: Any, offset: Any, size: Any, stride: Any, *_: Any
) -> npt.NDArray[Any] | RecordForm:
    """A dense tensor, a copy: strides are in elements."""
    if not isinstance(memory, _Storage) or type(offset) is not int:
        raise ValueError("a tensor has no memory")
    sizes, strides = _sizes(size), _sizes(stride)
    elements = memory.elements
    if isinstance(elements, RecordForm):
        return elements.of(offset, sizes, strides)
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
    if isinstance(kind, Unfilled):
        kind = finished(kind)
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


CONSTRUCTORS: dict[Name, Callable[..., Any]] = {
    Name("_codecs", "encode"): _encoded,
    Name("numpy", "dtype"): _new_element_type,
    Name("collections", "OrderedDict"): _ordered_dict,
    Name("__builtin__", "bytes"): _no_bytes,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
}
# NumPy 2 renamed the module.
for _core in ("numpy.core", "numpy._core"):
    CONSTRUCTORS[Name(f"{_core}.multiarray", "_reconstruct")] = _new_array
    CONSTRUCTORS[Name(f"{_core}.multiarray", "scalar")] = _scalar
    CONSTRUCTORS[Name(f"{_core}.numeric", "_frombuffer")] = _from_buffer

NAMES_BY_LINE = {f"{name.module}\n{name.name}".encode(): name for name in (*CONSTRUCTORS, _ARRAY)}
NAMES_BY_LINE |= {f"torch\n{name}".encode(): Name("torch", name) for name in _STORAGES}
"""Names as protocol 2 writes them."""
