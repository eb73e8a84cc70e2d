"""Write a store's labels as files that other projects' training code reads."""

from __future__ import annotations

import json
import time
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labelstore.errors import UsageError
from labelstore.operations.lifecycle.card import RowFiles, card
from labelstore.operations.lifecycle.subset import Part, rows_of
from labelstore.peers.exports.hugging_face import DATA_FILES, HuggingFace
from labelstore.peers.exports.part import ExportPart
from labelstore.storage import local_files
from labelstore.storage.location import place_of, same_place
from labelstore.storage.whole_outputs import whole_output
from labelstore.store.rewrite import RewriteReport
from labelstore.store.store import Store
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from labelstore.peers.exports.part import ExportFormat

__all__ = ["DESCRIPTION", "ExportReport", "export"]

DESCRIPTION = "labelstore.json"
"""The file of an exported folder that says what its labels are; written last but for the card."""

_CARD = "README.md"


@dataclass(frozen=True)
class ExportReport(RewriteReport):
    """What a run of ``export`` did."""

    source: str
    path: str
    format: str
    num_images: int
    """Whose labels were written."""
    num_views: int
    """Of each image."""
    left_out: dict[str, int]
    """Why images that were asked for are not among them -> how many."""
    files: int
    bytes: int
    removed_files: int
    """Of what a killed run of the same name had left beside it."""
    seconds: float


def export(
    part: Part | Store,
    path: str | os.PathLike[str],
    to: ExportFormat,
    *,
    license_id: str | None = None,
    overwrite: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write labels in another project's format.

    Every label is verified as it is read. The folder or file gets its name when it is whole; a run
    that was killed leaves a folder ``*.partial`` beside it, which the next one of the same name
    empties and uses: it begins anew.

    Args:
        part: a finished store, or a part of one.
        path: the new folder, or of ``Npz`` the new file, whose name ends in ``.npz``.
        to: an ``Fkd``, ``WebDataset``, ``Npz`` or ``HuggingFace`` of ``labelstore.peers.exports``.
        license_id: of the labels, for the card that ``HuggingFace`` has.
        overwrite: replace an earlier export that is there.
        tell: called with the images and views done since it was called last.

    Raises:
        IncompleteError: the store is not finished. CorruptError: it is damaged. UsageError:
            something is at ``path``, it is a URL, the format cannot hold these labels, or views
            have stages, of which no format tells.
        MismatchError: the store does not say what the format needs, or other photos were given.
        MissingPackageError: what writes the format is not installed. StoreError: the system
        refuses.
    """
    started = time.monotonic()
    if isinstance(part, Store):
        part = Part.of(part, rows_of(part, None, None), None)
    store = part.store
    store.require_complete()
    place = _place(path, to, store)
    if isinstance(store.law, ViewLaw) and store.law.stages:
        raise UsageError(
            f"{store.path} has augmented views ({' '.join(map(str, store.law.stages))}), and "
            f"{to.name} files hold boxes and flips alone, so that who reads them would show other "
            "views than were labelled: train from the store itself."
        )
    exported = ExportPart(store, part.rows, part.views)
    if not len(exported.images):
        raise UsageError(
            f"none of the {len(part.rows)} images of {store.path} that were asked for has labels: "
            "take others."
        )

    def check() -> None:
        _require_free(place, to, overwrite)

    # Before photos are looked at.
    check()
    to.check(exported)
    about = {
        "format": f"labelstore export: {to.name}",
        "store": str(store.path),
        "images": len(exported.images),
        "views": part.told,
        "manifest": store.manifest.to_json(),
    }
    left_out: dict[str, int] = {}
    unlabelled = len(part.rows) - len(exported.images)
    if unlabelled:
        left_out["without labels"] = unlabelled
    file = f"{to.name}{to.suffix}" if to.suffix else None
    removed: list[int] = []
    with whole_output(place, check, file, removed.append) as folder:
        left_out |= to.write(exported, folder, about, tell)
        if file is None:
            text = json.dumps(about, indent=2, ensure_ascii=False)
            local_files.write_whole(folder / DESCRIPTION, text.encode())
        if isinstance(to, HuggingFace):
            rows = RowFiles(DATA_FILES, len(exported.images), exported.num_views)
            text = card(store, rows=rows, license_id=license_id)
            local_files.write_whole(folder / _CARD, text.encode())
    sizes = [entry.stat().st_size for entry in (place, *place.rglob("*")) if entry.is_file()]
    return ExportReport(
        source=str(store.path),
        path=str(path),
        format=to.name,
        num_images=len(part.rows) - sum(left_out.values()),
        num_views=exported.num_views,
        left_out=left_out,
        files=len(sizes),
        bytes=sum(sizes),
        removed_files=sum(removed),
        seconds=time.monotonic() - started,
    )


def _place(path: str | os.PathLike[str], to: ExportFormat, store: Store) -> Path:
    """Where it is to lie; UsageError where nothing of this format can."""
    place = place_of(path)
    if isinstance(place, str):
        raise UsageError(
            f"{place} is a URL, and an export is written to a local disk: name a path."
        )
    if to.suffix and place.suffix != to.suffix:
        raise UsageError(
            f"{place} is to be one file of the format {to.name}, and its name does not end in "
            f"{to.suffix}: name it so."
        )
    if same_place(place, store.path):
        raise UsageError(f"{place} is the store that is read: choose another name.")
    # What a link leads to is replaced, not the link.
    return place.resolve() if place.is_symlink() else place


def _require_free(place: Path, to: ExportFormat, overwrite: bool) -> None:
    """UsageError where something lies that must not be replaced."""
    if not place.exists() or (not to.suffix and place.is_dir() and not any(place.iterdir())):
        return
    if not _is_export(place, to):
        raise UsageError(
            f"{place} is there and is no export of the format {to.name}: choose another name, "
            "nothing in it was touched."
        )
    if not overwrite:
        raise UsageError(
            f"{place} is there already: choose another name, or overwrite it.",
            arguments=("overwrite",),
        )


def _is_export(place: Path, to: ExportFormat) -> bool:
    """Whether an earlier export of the format lies there; StoreError where that cannot be seen."""
    try:
        with local_files.readable(place):
            if to.suffix:
                with zipfile.ZipFile(place) as whole:
                    return {"manifest.npy", "indices.npy"} <= set(whole.namelist())
            document = json.loads((place / DESCRIPTION).read_bytes())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    return isinstance(document, dict) and document.get("format") == f"labelstore export: {to.name}"
