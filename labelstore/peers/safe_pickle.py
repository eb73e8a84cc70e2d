"""The only way in which pickles and files of ``torch.save`` are read here.

Other projects keep labels in pickles, and ``pickle.load`` of a stranger's file runs whatever it
says. This is no restricted ``pickle``, which has to be right about every name that it lets in: it
is a machine (``pickle_machine``) that cannot do more than make plain values.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from labelstore.errors import FormatError
from labelstore.peers.pickle_machine import unpickled
from labelstore.peers.torch_zip import TorchZip
from labelstore.storage.untrusted import open_descriptor, parsed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MEND", "load_pickle", "load_torch", "read_bytes"]

MEND = "get it anew from where it came"

_MOST_BYTES = 1 << 30
"""Of a file: a label file of an image, or of a batch, has a few megabytes."""


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
        return unpickled(data)


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
        records = TorchZip(data)
        return unpickled(records.read("data.pkl"), records)


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
