"""Which reader reads which project's files."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from labelstore.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from labelstore.peers.peer_labels import PeerOptions, PeerReader

__all__ = ["READERS", "open_peer"]

READERS = {
    "fkd": ("fkd", "FKDReader"),
    "tinyvit": ("tinyvit", "TinyViTReader"),
    "ml-dr": ("ml_dr", "MlDrReader"),
    "sre2l": ("sre2l.reader", "Sre2lReader"),
    "relabel": ("relabel", "RelabelReader"),
    "distillkit": ("distillkit.reader", "DistillKitReader"),
    "npz": ("npz", "NpzReader"),
}
"""What ``--from`` calls a format -> its module in this package, and the class there."""


def open_peer(name: str, path: str | os.PathLike[str], options: PeerOptions) -> PeerReader:
    """The reader of a project's files.

    Args:
        name: one of ``READERS``. path: the files. options: what they do not say.

    Raises:
        UsageError: another name. What ``PeerReader`` says.
    """
    if name not in READERS:
        raise UsageError(f"the format is {name!r}, expected one of {', '.join(READERS)}.")
    module, kind = READERS[name]
    reader: Callable[[Path, PeerOptions], PeerReader] = getattr(
        importlib.import_module(f"labelstore.peers.{module}"), kind
    )
    return reader(Path(path), options)
