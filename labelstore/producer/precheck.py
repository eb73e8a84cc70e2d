"""What can be refused of a request before its teacher, which may be large, is built."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import MismatchError
from labelstore.producer.manifests import plan_of, stored_manifest
from labelstore.producer.settings import DEFAULT_OPTIONS, Output, RunOptions
from labelstore.store.writer import StoreWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.settings import LabelSettings

__all__ = ["check_request"]

_ANY_CLASSES = 1 << 20
"""Stands for a number of classes that is not known yet: all that depends on it is in range."""

_UNKNOWN = {
    "weights_digest": "0" * 32,
    "input_size": [1, 1],
    "mean": [0.0] * 3,
    "std": [1.0] * 3,
    "interpolation": "bilinear",
    "device": "cpu",
}
"""What a manifest says of a teacher and a request does not; compared with nothing."""


@dataclass(frozen=True)
class _RequestedTeacher:
    """A teacher of which only the request is known."""

    num_classes: int
    class_names: tuple[str, ...] | None
    facts: Mapping[str, Any]

    def describe(self) -> dict[str, Any]:
        return dict(self.facts)


def check_request(
    source: ImageSource,
    path: str | os.PathLike[str],
    settings_for: Callable[[int], LabelSettings],
    facts: Mapping[str, Any],
    options: RunOptions = DEFAULT_OPTIONS,
) -> None:
    """Refuse what ``generate`` would refuse of numbers and of the path, whatever the teacher is.

    Args:
        source: the images. path: of the store.
        settings_for: what labels, of a number of classes.
        facts: what is known of the teacher, as in ``Teacher.describe``.
        options: as for ``generate``.

    Raises:
        UsageError: a number is out of its range. MismatchError: there is a store that was made with
            other settings. FormatError: something else is there.
    """
    stored = stored_manifest(path, overwrite=options.overwrite)
    known: Mapping[str, Any] = (stored.teacher if stored else None) or _UNKNOWN
    requested = _RequestedTeacher(
        stored.num_classes if stored else _ANY_CLASSES,
        stored.class_names if stored else None,
        {**{name: value for name, value in known.items() if name != "resize"}, **facts},
    )
    targets = np.full(len(source), -1, dtype=np.int32)
    output = Output(targets, path, settings_for(requested.num_classes))
    block_images = stored.block_images if stored else 1
    asked = plan_of(source, output, requested, options.resize, block_images, stored)
    if stored is not None:
        # Keys and ground truth are compared when there are classes to number them by.
        asked = dataclasses.replace(asked, probe=stored.probe, fingerprint=stored.fingerprint)
    writer = StoreWriter(
        path,
        asked,
        source.keys,
        targets,
        overwrite=options.overwrite,
        allow_version_drift=options.allow_version_drift,
        share=options.share,
    )
    try:
        writer.check()
    except MismatchError:
        if stored is not None or stored_manifest(path, overwrite=options.overwrite) is None:
            raise
        # Another process began the store meanwhile: what is not known of the teacher is no
        # difference.
        check_request(source, path, settings_for, facts, options)
