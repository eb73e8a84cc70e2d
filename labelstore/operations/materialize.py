"""Make a decoded copy of a store: plain arrays that are mapped into memory.

Labels of any images and views are then read at the speed of memory, or of a local disk that holds
them; an epoch that follows a schedule needs no copy (``labelstore.store.slabs.slab_cache``). See
``labelstore.store.backends.npy`` for the files.

What pays for it: ``python -m benchmarks.read_labels``, random labels from the copy and the store.
"""

from __future__ import annotations

import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import (
    CorruptError,
    MismatchError,
    StoreError,
    UsageError,
)
from labelstore.format.arrays import (
    NO_LIST,
    UNREADABLE,
    commit_columns,
    image_arrays,
    prior_arrays,
    view_arrays,
)
from labelstore.format.commits import commit_row
from labelstore.format.encoding import decode_labels, decode_prior
from labelstore.storage import local_files, locks, whole_outputs
from labelstore.storage.location import place_of
from labelstore.store.backends.npy import (
    COMMITS,
    KEYS,
    MATERIALIZED,
    TARGETS,
    MappedBackend,
    new_array,
    require_short_keys,
)
from labelstore.store.rewrite import RewriteReport
from labelstore.store.store import Store, opened

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest

    Codes = dict[str, npt.NDArray[Any]]

__all__ = ["MaterializeReport", "materialize", "materialized_bytes"]

BLOCK_IMAGES = 256
"""Images of a block of a copy, at most: what is compared with a digest when it is first read."""


@dataclass(frozen=True)
class MaterializeReport(RewriteReport):
    """What a run of ``materialize`` did."""

    path: str
    num_images: int
    num_views: int
    bytes: int
    bytes_per_label: float
    already_there: bool
    """Whether a whole copy of this very store was there, and nothing was done."""


def materialized_bytes(store: Store) -> int:
    """Bytes that the arrays of a store's copy take, but for its keys and headers."""
    copy = _copied(store.manifest)
    specs = (*view_arrays(copy), *image_arrays(copy), *prior_arrays(copy))
    arrays = sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in specs)
    return arrays + copy.num_blocks * commit_columns(copy) * 8 + copy.num_images * 4


def materialize(
    store: Store | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> MaterializeReport:
    """Write a decoded copy of a finished store; ``labelstore.open(path)`` reads it.

    Every label of the source is verified as it is copied. The copy gets its name when it is whole;
    a run that was interrupted leaves a folder ``*.partial`` beside it, which the next one replaces.

    Args:
        store: a finished store, open or as a path or URL.
        path: the new folder. A whole copy of the same labels that is there is left as it is.
        overwrite: replace what is there, if it is a copy.
        tell: called with the images and views done since it was called last.

    Raises:
        IncompleteError: the source is not finished. CorruptError: it is damaged.
        MismatchError: what is at ``path`` is a copy of another store, or of other labels of this
        one; or the source was changed while it was copied. UsageError: something else is there,
        or the path is a URL. StoreError: there is no room, or the system refuses.
    """
    place = place_of(path)
    if isinstance(place, str):
        raise UsageError(
            f"{place} is a URL, and a decoded copy is mapped from a local disk: name a folder."
        )
    path, store = place, opened(store)
    store.require_complete()
    copy, source = _copied(store.manifest), _source(store)
    if _is_there(path, source, overwrite):
        return _report(path, copy, already_there=True)
    require_short_keys(store.path, store.keys)
    needed, free = materialized_bytes(store), local_files.free_bytes(path)
    if needed > free:
        raise StoreError(
            f"a copy takes {needed:,} bytes and {free:,} are free where {path} is to lie: choose "
            "another disk, or make a store of fewer classes or views (labelstore recode)."
        )
    partial = path.with_name(path.name + local_files.PARTIAL)
    with locks.exclusive_lock(partial):
        # Another process may have finished between the look and the lock.
        if _is_there(path, source, overwrite):
            local_files.delete_tree(partial)
            return _report(path, copy, already_there=True)
        for entry in partial.iterdir():
            if entry.name != locks.LOCK_NAME:
                (local_files.delete_tree if entry.is_dir() else local_files.delete_file)(entry)
        whole_outputs.mark(partial)
        _write(store, copy, partial, tell)
        if _source(Store(store.path)) != source:
            local_files.delete_tree(partial)
            raise MismatchError(
                f"{store.path} was changed while it was copied: run the same command again."
            )
        description = {"format": "labelstore copy", "manifest": copy.to_json(), "source": source}
        text = json.dumps(description, indent=2, ensure_ascii=False)
        local_files.write_durably(partial / MATERIALIZED, text.encode())
        if path.exists():
            local_files.delete_tree(path)
        # With the lock in it, so that nobody else takes the folder for one that was left behind.
        local_files.publish(partial, path)
        local_files.delete_file(path / locks.LOCK_NAME)
    return _report(path, copy, already_there=False)


def _copied(manifest: Manifest) -> Manifest:
    """The manifest of a copy: groups stay, so that schedules do."""
    return dataclasses.replace(
        manifest,
        encoding="plain",
        block_images=min(manifest.block_images, BLOCK_IMAGES),
        unit_images=None,
    )


def _source(store: Store) -> dict[str, Any]:
    """Which labels of which store: its id, and the digest of all its commits."""
    commits = store.reader.commits_digest()
    return {"path": str(store.path), "id": store.manifest.id, "commits": commits}


def _is_there(path: Path, source: dict[str, Any], overwrite: bool) -> bool:
    """Whether a whole copy of the same labels is there; errors where something else is."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    if not (path / MATERIALIZED).is_file():
        raise UsageError(
            f"{path} is there and is no materialized copy: choose another name, nothing in it was "
            "touched."
        )
    if overwrite:
        return False
    try:
        copied = MappedBackend(path).description()["source"]
        differing = [name for name in ("id", "commits") if copied.get(name) != source[name]]
        if not differing:
            Store(path)  # Its arrays are there, in their whole length.
            return True
    except CorruptError as error:
        raise MismatchError(f"{error} Or overwrite it.", arguments=("overwrite",)) from error
    what = "another store" if "id" in differing else "labels that this store had before"
    raise MismatchError(
        f"{path} is a copy of {what} ({copied.get('path')}, {differing[0]} "
        f"{copied.get(differing[0])}, expected {source[differing[0]]}): choose another name, or "
        "overwrite it.",
        arguments=("overwrite",),
    )


def _report(path: Path, copy: Manifest, already_there: bool) -> MaterializeReport:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    labels = copy.num_images * copy.num_views
    return MaterializeReport(
        str(path), copy.num_images, copy.num_views, size, size / labels, already_there
    )


def _write(
    store: Store, copy: Manifest, root: Path, tell: Callable[[int, int], None] | None
) -> None:
    """Write all arrays, block after block of the source."""
    specs = (*view_arrays(copy), *image_arrays(copy), *prior_arrays(copy))
    arrays = {spec.name: new_array(root, spec.name, spec.dtype, spec.shape) for spec in specs}
    columns = commit_columns(copy)
    arrays[COMMITS] = new_array(root, COMMITS, np.dtype("<u8"), (copy.num_blocks, columns))
    keys = np.array(store.keys)
    new_array(root, KEYS, keys.dtype, keys.shape)[:] = keys
    new_array(root, TARGETS, np.dtype("<i4"), store.targets.shape)[:] = store.targets
    reader = store.reader

    def work(block: int) -> int:
        rows = store.manifest.block_slice(block)
        decoded = reader.images(block)
        lists = NO_LIST
        if copy.prior_size:
            codes = reader.prior_codes(block)
            prior = decode_prior(codes)
            lists = prior.classes
            decoded |= {**codes, "images/prior_probs": prior.probs}
        for name, values in decoded.items():
            arrays[name][rows] = values
        unreadable = decoded["images/status"] == UNREADABLE
        groups = range(copy.num_groups)
        for group, codes in zip(
            groups, reader.read_chunks([(block, group) for group in groups]), strict=True
        ):
            plain = _plain(codes, lists, unreadable, store.manifest)
            for spec in view_arrays(copy):
                place = (rows, copy.group_slice(group))
                values = plain[spec.name].astype(spec.dtype, copy=False)
                values[unreadable] = spec.fill
                arrays[spec.name][place] = values
        return int(rows.stop - rows.start)

    with ThreadPoolExecutor(reader.threads) as pool:
        for count in pool.map(work, range(store.manifest.num_blocks)):
            if tell is not None:
                tell(count, count * copy.num_views)
    for block in range(copy.num_blocks):
        rows = copy.block_slice(block)
        codes = {spec.name: np.asarray(arrays[spec.name][rows]) for spec in specs}
        arrays[COMMITS][block] = commit_row(copy, block, codes)
    for array in arrays.values():
        array.flush()


def _plain(
    codes: Codes,
    lists: npt.NDArray[np.int32],
    unreadable: npt.NDArray[np.bool_],
    manifest: Manifest,
) -> Codes:
    """The plain codes (n, views, ...) of a chunk's codes."""
    shape = codes["labels/top_prob"].shape
    rows = np.repeat(np.arange(shape[0]), shape[1])
    flat = {name: part.reshape(len(rows), *part.shape[2:]) for name, part in codes.items()}
    if unreadable.any():
        # Their codes are fills, which no list resolves.
        flat = {
            name: np.where(_wide(unreadable[rows], part), 0, part) for name, part in flat.items()
        }
    classes, probs = decode_labels(flat, lists, rows, manifest)
    return {
        **{name: part.copy() for name, part in codes.items() if name.startswith("views/")},
        "labels/top_prob": probs[:, 0].reshape(shape),
        "labels/classes": classes.reshape(*shape, -1),
        "labels/rest_probs": probs[:, 1:].reshape(*shape, -1),
    }


def _wide(rows: npt.NDArray[np.bool_], like: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return rows.reshape(-1, *[1] * (like.ndim - 1))
