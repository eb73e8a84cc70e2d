"""Slower ways to the same results that this machine takes without a word, and why.

Told is what costs a multiple, is seen without running anything, and can be mended. Not told: files
that a process may open (too few of them is an error that says so), cores and memory (whoever
shares them out knows), and how fast disks and networks are, which would have to be measured.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import google_crc32c
from PIL import features

from labelstore.compiled import lacking_parts
from labelstore.format import doubtful
from labelstore.images import resampling
from labelstore.storage import local_files
from labelstore.storage.location import is_remote
from labelstore.store.backends.zarr import many_chunks
from labelstore.store.slabs import shared_file
from labelstore.store.slabs.slab_cache import SLAB_BYTES
from labelstore.views import boxes

if TYPE_CHECKING:
    from collections.abc import Callable

    from labelstore.operations.inspection.findings import Findings
    from labelstore.store.store import Store

__all__ = ["VARIABLES", "tell_slow_ways"]

VARIABLES = frozenset({"LABELSTORE_CACHE", "LABELSTORE_REMOTE_TIMEOUT", "LABELSTORE_SLABS"})
"""The environment variables that labelstore looks at."""


class _Tried(NamedTuple):
    """A compiled part that proves itself before it is used."""

    why_unused: Callable[[], str | None]
    cost: str
    """Of going without."""
    library: str
    """Whose build decides; what it is called where it is installed from."""


_TRIED = {
    "labelstore.store.backends.zarr._chunks": _Tried(
        many_chunks.why_unused,
        "chunks are decoded one by one, and schedule takes twice the processor's time",
        "numcodecs",
    ),
    "labelstore.images._resample": _Tried(
        resampling.why_unused, "Pillow cuts views, in four to seven times the time", "Pillow"
    ),
    "labelstore.views._boxes": _Tried(
        boxes.why_unused, "NumPy draws views, in three times the time", "numpy"
    ),
    "labelstore.format._doubtful": _Tried(
        doubtful.why_unused, "NumPy looks at all labels, in three times the time", "numpy"
    ),
}


def tell_slow_ways(store: Store, findings: Findings) -> None:
    """Add a note for each of them; ``store`` is the one that is read here."""
    _tell_parts(findings)
    _tell_libraries(findings)
    _tell_places(store, findings)
    _tell_variables(findings)


def _tell_parts(findings: Findings) -> None:
    """Compiled parts that are lacking, and those that are there and may not be used."""
    words = (
        "are not there, or do not fit this code, so that slower code with the same results runs",
        "install labelstore again, in a checkout with pip install -e .",
    )
    for name, detail in lacking_parts().items():
        findings.of("compiled-parts", "note", words, noun="compiled part").add(name, detail)
    for name, tried in _TRIED.items():
        reason = tried.why_unused()
        if reason is None:
            continue
        cause, mend = tried.library, _from_wheel(tried.library)
        if "processor" in reason:
            cause, mend = "processor", "nothing here; a processor of 2013 or later has it"
        words = "are there and not used, so that slower code with the same results runs", mend
        findings.of("unused-parts", "note", words, cause, noun="compiled part").add(
            name, f"{reason}: {tried.cost}"
        )


def _from_wheel(library: str) -> str:
    """How a library is mended that was built otherwise than those that are published."""
    return f"uninstall {library} and let pip install its published wheel again"


def _tell_libraries(findings: Findings) -> None:
    """Libraries that are built without what makes them fast."""
    slow = []
    if google_crc32c.implementation != "c":
        slow.append(("google-crc32c", "checksums of chunks are taken in Python"))
    if not features.check_feature("libjpeg_turbo"):
        slow.append(("Pillow", "JPEG is decoded by libjpeg, not by libjpeg-turbo"))
    for name, detail in slow:
        words = (
            "are built without what makes them fast, so that the same takes several times as long",
            _from_wheel(name),
        )
        findings.of("slow-libraries", "note", words, name, noun="library").add(name, detail)


def _tell_places(store: Store, findings: Findings) -> None:
    """Folders for shared labels and for what is kept that are not what they could be."""
    memory, folder = Path("/dev/shm"), shared_file.default_folder(SLAB_BYTES)
    if not os.environ.get("LABELSTORE_SLABS") and memory not in folder.parents:
        words = (
            "an epoch's labels are shared in a folder on a disk, not in memory",
            "give /dev/shm more room (a container is given 64 MiB unless more is asked for), "
            "or name a folder in memory in LABELSTORE_SLABS",
        )
        detail = f"there is no {memory}"
        if memory.is_dir():
            size = local_files.total_bytes(memory) >> 20
            needed = SLAB_BYTES >> 20
            detail = f"{memory} has {size:,} MiB, and {needed:,} are needed, or is not writable"
        findings.of("shared-memory", "note", words, noun="").add(str(folder), detail)
    cache = os.environ.get("LABELSTORE_CACHE")
    if cache:
        _tell_cache(cache, findings)
    elif is_remote(store.path):
        words = (
            "the store lies behind a URL, and each process fetches its chunks again",
            "name a folder in LABELSTORE_CACHE, or copy the store first (labelstore pull)",
        )
        findings.of("cache", "note", words, noun="").add(str(store.path))


def _tell_cache(folder: str, findings: Findings) -> None:
    """Nothing is kept where a folder takes no files; none is made here."""
    place = Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        words = (
            "the folder of LABELSTORE_CACHE takes no files, so that nothing is kept",
            "name another folder in it, or mend the rights of this one",
        )
        findings.of("cache", "note", words, noun="").add(folder, error.strerror or str(error))


def _tell_variables(findings: Findings) -> None:
    """Variables that look like settings of labelstore, and are none."""
    words = (
        "are none that labelstore looks at",
        f"it looks at {', '.join(sorted(VARIABLES))}: correct the name, or take it away",
    )
    for name in sorted(os.environ):
        if name.startswith("LABELSTORE_") and name not in VARIABLES:
            findings.of("variables", "note", words, noun="variable").add(name)
