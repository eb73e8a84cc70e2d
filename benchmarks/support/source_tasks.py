"""What ``benchmarks.sources`` measures, each in a process of its own."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["create_store", "index_shards", "list_files", "read_rows"]


def list_files(path: str) -> dict[str, Any]:
    """Open a source."""
    from labelstore.images.sources.choose import open_source

    begun, used = time.perf_counter(), time.process_time()
    return {
        "images": len(open_source(path)),
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - used,
    }


def create_store(path: str, images: str) -> dict[str, Any]:
    """Make the empty store of so many images, as ``generate`` does before its first block."""
    from labelstore.format.blocks import check_table
    from labelstore.format.manifest import Manifest, fingerprint
    from labelstore.store.writer import StoreWriter
    from labelstore.views.law import ViewLaw

    count = int(images)
    rng = np.random.default_rng(0)
    keys = [
        f"n{number // 1300:08}/n{number // 1300:08}_{drawn}.JPEG"
        for number, drawn in enumerate(rng.integers(0, 10**6, count).tolist())
    ]
    keys = sorted(f"{key[:-5]}_{number}.JPEG" for number, key in enumerate(keys))
    targets = (np.arange(count) // 1300 % 1000).astype(np.int32)
    begun, used = time.perf_counter(), time.process_time()
    check_table(keys, targets, count, 1000)
    manifest = Manifest(
        num_images=count,
        num_views=500,
        num_classes=1000,
        fingerprint=fingerprint(keys, targets),
        law=ViewLaw(1),
        k=4,
        quantizer="ratio16",
        prior_size=64,
        block_images=1024,
        group_views=4,
    )
    with StoreWriter(path, manifest, keys, targets):
        return {
            "images": count,
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - used,
        }


def index_shards(path: str) -> dict[str, Any]:
    """Open a folder of shards, and tell how many images a second were found of CPU time."""
    from labelstore.images.sources.tar import TarSource

    begun, used = time.perf_counter(), time.process_time()
    images = len(TarSource(path))
    cpu = time.process_time() - used
    return {
        "images": images,
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": cpu,
        "images_per_cpu_second": images / cpu,
    }


def read_rows(path: str) -> dict[str, Any]:
    """Read the photos of Parquet files as a run does, by sixteen threads in the source's order."""
    from labelstore.images.sources import parquet

    source = parquet.ParquetSource(path)
    read = [0]
    batches = parquet.column_batches

    def counted(*arguments: Any) -> Iterator[Any]:
        for array in batches(*arguments):
            read[0] += array.nbytes
            yield array

    parquet.column_batches = counted
    with ThreadPoolExecutor(16) as threads:
        photos = sum(threads.map(lambda row: len(source.read(row)), range(len(source))))
    return {"images": len(source), "photo_bytes": photos, "read_per_photo_byte": read[0] / photos}
