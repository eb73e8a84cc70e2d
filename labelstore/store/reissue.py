"""A store under another manifest: the same objects, committed anew, for commits name the store."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from labelstore.format.blocks import BlockCodes
from labelstore.storage import local_files, locks, swaps, whole_outputs
from labelstore.storage.workspaces import workspace
from labelstore.store.backends.npy import MappedBackend
from labelstore.store.backends.registry import backend_of
from labelstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from labelstore.format.manifest import Manifest

__all__ = ["reissued"]

PURPOSE = "publish"


@contextlib.contextmanager
def reissued(store: Store, manifest: Manifest) -> Iterator[Store]:
    """A store with another one's labels and its own manifest, for as long as it is needed.

    It lies beside the other one, under a hidden name; where the system refuses that, in the folder
    of temporary files. Labels take no room where files can have two names.

    Args:
        store: finished, in a folder; it is only read, each block verified.
        manifest: of the same images, views and layout.

    Raises:
        CorruptError: the store is damaged. UsageError: it is a materialized copy. BusyError:
        another process makes the same. StoreError: the system refuses.
    """
    place = Path(store.path).resolve()
    backend = backend_of(place)
    if isinstance(backend, MappedBackend):
        backend.refuse()
    with contextlib.ExitStack() as stack:
        new = swaps.beside(place, PURPOSE)
        if not os.access(place.parent, os.W_OK):
            new = stack.enter_context(workspace()) / place.name
        stack.enter_context(locks.exclusive_lock(new))
        stack.callback(local_files.delete_tree, new)
        whole_outputs.empty(new)  # of one that was interrupted
        yield _filled(store, place, new, manifest)


def _filled(store: Store, place: Path, new: Path, manifest: Manifest) -> Store:
    backend = backend_of(new)
    backend.create(manifest, store.keys, store.targets)
    backend.open_for_writing(manifest)
    for block in range(manifest.num_blocks):
        codes = BlockCodes(*store.block_codes(block))
        digests = None
        if manifest.unit_images is not None:
            # What an index of units holds is compared where units are read, not here.
            objects, digests = backend.encode_block(block, codes.arrays)
            backend.write_objects(objects)
        for name in backend.block_objects(block) if manifest.unit_images is None else ():
            # Some writers leave out what holds fill alone; the digests below know.
            if (place / name).is_file():
                local_files.second_name(place / name, new / name)
        backend.write_commit(block, codes.commit_row(manifest, block, digests))
    return Store(new)
