"""Arrays that take long to make: made once a machine, and kept for other ranks and the next run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from labelstore.storage.kept_files import KeptFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[Any]]

__all__ = ["kept_or_made"]

_MAGIC = b"labelstore plan 1\n"
"""Of the format, and of what arrays are made: another one where the same identity gives others."""

_MOST_FILES = 16
"""Plans that are kept, at most: those of 1.28 M images x 500 views take 80 MB each."""


def kept_or_made(identity: list[str], make: Callable[[], Arrays]) -> Arrays:
    """Arrays by name, as a process of this user kept them, or else made now.

    Where several processes ask at once, one makes them and the others wait for it.

    Args:
        identity: all that decides what is in them.
        make: what makes them; not called where they are kept. Errors pass through.
    """
    files = KeptFiles("plans", _MAGIC)
    name = str(xxhash.xxh3_128_hexdigest(json.dumps(identity).encode()))
    arrays = _unpacked(files.get(f"{name}.plan"), identity)
    if arrays is not None:
        return arrays
    with files.turn(name[:2]):
        arrays = _unpacked(files.get(f"{name}.plan"), identity)
        if arrays is None:
            arrays = make()
            files.put(f"{name}.plan", *_packed(arrays, identity))
            files.keep_newest(_MOST_FILES, ".plan")
    return arrays


def _packed(arrays: Arrays, identity: list[str]) -> list[bytes | memoryview]:
    parts = {key: (values.dtype.str, values.shape) for key, values in arrays.items()}
    head = json.dumps({"identity": identity, "arrays": parts}).encode()
    return [head, b"\n", *(np.ascontiguousarray(values).data for values in arrays.values())]


def _unpacked(body: memoryview | None, identity: list[str]) -> Arrays | None:
    if body is None:
        return None
    head, _, _ = bytes(body[: 2**20]).partition(b"\n")
    known = json.loads(head)
    if known["identity"] != identity:
        return None
    arrays, start = {}, len(head) + 1
    for key, (dtype, shape) in known["arrays"].items():
        count = int(np.prod(shape, dtype=np.int64))
        arrays[key] = np.frombuffer(body, dtype, count, start).reshape(shape)
        start += arrays[key].nbytes
    return arrays
