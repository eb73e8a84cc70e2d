"""The only way in which pickles and files of ``torch.save`` are read here.

Other projects keep labels in pickles, and ``pickle.load`` of a stranger's file runs whatever it
says. This is no restricted ``pickle``, which has to be right about every name that it lets in: it
is a machine (``machine``) that cannot do more than make plain values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.errors import FormatError
from labelstore.peers.pickles.forms import form_of
from labelstore.peers.pickles.machine import traced, unpickled
from labelstore.peers.pickles.torch_zip import TorchZip
from labelstore.storage.untrusted import parsed, read_whole

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from labelstore.peers.pickles.forms import Form

__all__ = ["MEND", "TorchFiles", "load_pickle", "load_torch", "read_bytes"]

MEND = "get it anew from where it came"

_MOST_FORMS = 8
"""Forms of pickle that are looked for: files that have more of them are read one by one."""

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
        records = _records(path)
        return unpickled(records.read("data.pkl"), records)


class TorchFiles:
    """Loads many files of ``torch.save`` of one program: each as ``load_torch`` does, in less than
    half of the time where they differ in nothing but what their arrays hold."""

    def __init__(self) -> None:
        self._forms: list[Form] = []
        self._left = _MOST_FORMS

    def load(self, path: Path | str, without: Collection[int] = ()) -> Any:
        """As ``load_torch``.

        Args:
            path: the file. without: places in the list that it holds, whose arrays are not needed:
                what is returned there may have other values, and is of their shape and type.
        """
        with parsed(path, MEND):
            records = _records(path)
            data = records.read("data.pkl")
            for form in self._forms:
                holes = form.holes_in(data)
                if holes is not None:
                    try:
                        return form.filled(holes, records, without)
                    except ValueError:
                        # Damaged: the machine says how.
                        break
            value = unpickled(data, records)
            if self._left:
                self._left -= 1
                self._remember(data)
            return value

    def _remember(self, data: bytes) -> None:
        """Keep the form of a pickle that could be read, if it has one."""
        try:
            value, holes = traced(data)
            form = form_of(data, holes, value)
        except (ValueError, TypeError, LookupError, AttributeError):
            # What it says depends on a long text.
            return
        if form is not None:
            self._forms.append(form)


def _records(path: Path | str) -> TorchZip:
    """The records of a file of ``torch.save``, to be called in ``parsed``."""
    data = read_bytes(path)
    if not data.startswith(b"PK"):
        if data.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):
            raise FormatError(
                f"{path} was saved by a torch before 1.6, or without its zip format, expected a "
                "zip: load it with that torch and save it again with torch.save."
            )
        raise ValueError("it is no file of torch.save: no zip")
    return TorchZip(data)


def read_bytes(path: Path | str) -> bytes:
    """The bytes of a regular file; OSError where there is none, ValueError where it is too long."""
    data, size = read_whole(path, _MOST_BYTES)
    if len(data) != size:
        raise ValueError(f"it has {size:,} bytes, and {len(data):,} could be read")
    return data
