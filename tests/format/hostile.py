"""Stores that are sound in every checksum and hold what no honest writer writes."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np

from labelstore.format.blocks import block_codes
from labelstore.format.manifest import _digest, fingerprint
from labelstore.store.backends.registry import backend_of
from tests.support import commands
from tests.support.stores import planned

SIZE = {"images": 6, "views": 4, "classes": 12, "k": 3}
LAYOUT = {"block_images": 3, "group_views": 2}

READ = """
import resource, sys, time, warnings
warnings.simplefilter("error")
from pathlib import Path
status = Path("/proc/self/status").read_text().splitlines()
(begun,) = [line.split()[1] for line in status if line.startswith("VmSize:")]
limit = int(begun) * 1024 + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
import numpy as np, labelstore
from labelstore.operations.verify import verify

def read(path):
    store = labelstore.open(path)
    count = min(store.num_images, 50)
    store.targets
    store.require_complete()
    store.labelled(), store.unreadable(), store.confidence(slice(0, count))
    store.read(np.arange(count)[:, None], np.arange(min(store.num_views, 8))).recover()
    if store.law is not None:
        store.views(np.arange(count)[:, None], np.arange(min(store.num_views, 8)))
    for problem in verify(store).problems:
        raise labelstore.errors.CorruptError(problem.message)

for path in sys.argv[2:]:
    started = time.monotonic()
    told = "read"
    try:
        read(path)
    except labelstore.LabelStoreError as error:
        told = f"{error.kind} {error}"
    assert time.monotonic() - started < 10, path
    print(told, flush=True)
"""


def write(path, change=None, keys=None, targets=None, **options):
    """Write a store as a producer would, its codes changed before they are hashed.

    Args:
        change: called with each block and its codes by array name, which it may change.
        keys, targets: others than the plan's.
    """
    plan = {**SIZE, **LAYOUT, **options, "prior_size": options.get("prior_size", 4) or 1}
    manifest, plan_keys, plan_targets, data, _ = planned(**plan)
    keys = plan_keys if keys is None else keys
    targets = plan_targets if targets is None else np.asarray(targets, dtype=np.int32)
    backend = backend_of(path)
    manifest = dataclasses.replace(
        manifest,
        encoding=backend.encoding,
        fingerprint=fingerprint(keys, targets),
        prior_size=options.get("prior_size", 4),
    )
    backend.create(manifest, keys, targets)
    backend.open_for_writing(manifest)
    for block in range(manifest.num_blocks):
        codes = block_codes(data(block), manifest, block)
        if change is not None:
            for part in (codes.images, codes.priors, codes.views):
                for name, array in part.items():
                    part[name] = np.array(array)
            change(block, _Arrays(codes))
        backend.write_objects(backend.encode_block(block, codes.arrays)[0])
        backend.write_commit(block, codes.commit_row(manifest, block))
    return path


class _Arrays:
    """A block's codes by array name, wherever they are kept."""

    def __init__(self, codes):
        self._parts = (codes.images, codes.priors, codes.views)

    def __getitem__(self, name):
        return next(part[name] for part in self._parts if name in part)


def outcomes(paths, memory=7 * 2**27, seconds=100):
    """What a process of its own, of bounded memory and time, says of stores.

    A line each: ``read``, or an error's kind and what it says; anything else is a failure.

    Args:
        memory: bytes of address space that reading may take, besides what imports have taken.
    """
    paths = list(paths)
    done = commands.run([sys.executable, "-c", READ, memory, *paths], timeout=seconds)
    told = done.stdout.splitlines()
    assert done.returncode == 0, (done.returncode, paths[len(told)], done.stderr[-600:])
    return told


def outcome(path):
    """As ``outcomes``, of one store."""
    (told,) = outcomes([path])
    return told


def manifest_file(path):
    return path / ("manifest.json" if path.suffix == ".parquet" else "zarr.json")


def manifest_of(path):
    """The file's document, and the manifest in it."""
    document = json.loads(manifest_file(path).read_text())
    return document, (
        document if path.suffix == ".parquet" else document["attributes"]["labelstore"]
    )


def signed(body):
    """A manifest with the digest that fits it, as far as there is one."""
    body = {name: value for name, value in body.items() if name != "id"}
    return {**body, "id": _digest(body)}
