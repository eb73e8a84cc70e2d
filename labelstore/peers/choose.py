"""Which reader reads which project's files."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from labelstore.errors import UsageError
from labelstore.views.law import ViewLaw

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


_ANY_CROP = ("relabel",)
"""Formats that have a label for any crop, so that it has to be said which crops are wanted."""

_LAW = {"seed": "seed", "scale": "scale", "ratio": "ratio", "flip": "flip", "stages": "augment"}
"""Members of a law -> what errors call the arguments that set them."""


def open_peer(name: str, path: str | os.PathLike[str], options: PeerOptions) -> PeerReader:
    """The reader of a project's files.

    Args:
        name: one of ``READERS``. path: the files. options: what they do not say.

    Raises:
        UsageError: another name; or views or a law for files that have labels of their own crops.
            What ``PeerReader`` says.
    """
    if name not in READERS:
        raise UsageError(f"the format is {name!r}, expected one of {', '.join(READERS)}.")
    if name not in _ANY_CROP:
        _refuse_crops(name, options)
    module, kind = READERS[name]
    reader: Callable[[Path, PeerOptions], PeerReader] = getattr(
        importlib.import_module(f"labelstore.peers.{module}"), kind
    )
    return reader(Path(path), options)


def _refuse_crops(name: str, options: PeerOptions) -> None:
    """UsageError where it is said which crops labels are to be of."""
    standard = ViewLaw()
    names = [] if options.views is None else ["views"]
    names += [
        argument
        for member, argument in _LAW.items()
        if getattr(options.law, member) != getattr(standard, member)
    ]
    if names:
        raise UsageError(
            f"the number of views, their law and their augmentations say which crops labels are "
            f"read for, and {name} files have labels of their own crops: leave them out.",
            arguments=tuple(names),
        )
