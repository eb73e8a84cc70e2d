"""Reading an epoch's labels from an object store: one group of views of all images, over a network.

A store lies in an S3-compatible server on this machine (moto's) behind a proxy that adds time to
each request. Counted and timed, with a new connection each round: opening the store; its first
slab, for which the shards' indexes are asked for too; the slab of the next epoch. Against: one
plain GET of an object of as many bytes, through the same proxy; the slab's very ranges asked for by
obstore alone, as many at once, decoded and verified by nobody; and this library with one request at
a time. The server is written in Python and answers some hundred requests a second, which bounds all
of them alike.

    python -m benchmarks.remote
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import labelstore
import labelstore.storage.remote.objects
from benchmarks.support.measuring import ratio, summary, synthetic_labels, write_result
from labelstore.operations.pull import pull
from labelstore.store.backends.zarr.shards import index_bytes, parse_index
from labelstore.testing.network import Proxy, S3Server

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKET = "bench"
SAMPLE = 4096
"""Images that labels are drawn for; more are these again."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32768)
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--block-images", type=int, default=2048)
    parser.add_argument("--milliseconds", type=float, default=20, help="added to each request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, S3Server() as server:
        server.make_bucket(BUCKET)
        with Proxy(server.address) as proxy:
            os.environ.update(server.environment(proxy.address))
            result = measure(Path(folder), proxy, options)
    write_result("remote", result, options.out)


def measure(folder: Path, proxy: Proxy, options: argparse.Namespace) -> dict[str, Any]:
    """Make the store, send it, read it."""
    local = make(folder / "store.zarr", options)
    url = f"s3://{BUCKET}/store.zarr"
    started = time.perf_counter()
    pull(local, url)
    sending = time.perf_counter() - started
    images = np.arange(options.images)[:, None]
    truth = [local.read(images, slab(epoch)) for epoch in range(2)]
    ranges = [group_ranges(local, epoch) for epoch in range(2)]
    needed = [sum(length for _, _, length in found) for found in ranges]
    bucket = labelstore.storage.remote.objects.RemoteObjects(f"s3://{BUCKET}")
    bucket.put("plain", bytes(needed[1]))
    proxy.seconds = options.milliseconds / 1000

    counts: dict[str, dict[str, int]] = {}
    seconds: dict[str, list[float]] = {}

    def timed(name: str, task: Callable[[], Any]) -> Any:
        first, started = len(proxy.requests), time.perf_counter()
        found = task()
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        asked = proxy.requests[first:]
        bodies = sum(request.body_bytes for request in asked)
        counts[name] = {"requests": len(asked), "bytes": bodies}
        return found

    for _ in range(options.rounds):
        store = timed("open", functools.partial(labelstore.open, url))
        for epoch, name in enumerate(("first_slab", "next_slab")):
            found = timed(name, functools.partial(store.read, images, slab(epoch)))
            same = np.array_equal(found.indices, truth[epoch].indices)
            if not (same and np.array_equal(found.probs, truth[epoch].probs)):
                raise SystemExit("the labels differ: the benchmark would be worth nothing")
        timed(
            "one_get",
            lambda: labelstore.storage.remote.objects.RemoteObjects(f"s3://{BUCKET}").get("plain"),
        )
        timed("bare_ranges", lambda: bare(url, ranges[1]))
    slow = one_at_a_time(url, images)
    timed("one_at_a_time", lambda: slow.read(images, slab(1)))
    started = time.perf_counter()
    local.refresh()
    local.read(images, slab(1))
    return {
        "setting": {
            "images": options.images,
            "views": options.views,
            "k": options.top_k,
            "block_images": options.block_images,
            "added_ms": options.milliseconds,
            "threads": labelstore.storage.remote.objects.THREADS,
            "labels": f"synthetic, of {SAMPLE} images, seed 0",
        },
        "sending_s": sending,
        "local_slab_s": time.perf_counter() - started,
        "counts": counts,
        "seconds": {name: summary(times) for name, times in seconds.items()},
        "over_read": {
            "first_slab": counts["first_slab"]["bytes"] / needed[0] - 1,
            "next_slab": counts["next_slab"]["bytes"] / needed[1] - 1,
        },
        "times_as_long_as_one_get": {
            name: round(ratio(seconds[name], seconds["one_get"]), 2)
            for name in ("first_slab", "next_slab", "bare_ranges")
        },
        "next_slab_times_as_long_as_bare_ranges": round(
            ratio(seconds["next_slab"], seconds["bare_ranges"]), 2
        ),
        "times_faster_than_one_at_a_time": round(
            seconds["one_at_a_time"][0] / float(np.median(seconds["next_slab"])), 1
        ),
    }


def make(path: Path, options: argparse.Namespace) -> Any:
    """The store, on this disk."""
    ids, probs = synthetic_labels(SAMPLE, options.views, options.top_k, 1000)
    rows = np.arange(options.images) % SAMPLE
    return labelstore.write(
        path,
        ids[rows],
        probs[rows],
        num_classes=1000,
        block_images=options.block_images,
        group_views=4,
    )


def slab(epoch: int) -> np.ndarray:
    """The views of an epoch: one group."""
    return np.arange(4 * epoch, 4 * epoch + 4)


def group_ranges(store: Any, group: int) -> list[tuple[str, int, int]]:
    """Object, start and length of each chunk that holds a group of views."""
    found = []
    for shard in sorted((store.path / "labels").glob("*/c/**/0")):
        if shard.is_file():
            data = shard.read_bytes()
            index = parse_index(data[-index_bytes(store.manifest.num_groups) :])
            start, length = index[group].tolist()
            found.append((shard.relative_to(store.path).as_posix(), start, length))
    return found


def bare(url: str, ranges: list[tuple[str, int, int]]) -> None:
    """The same ranges, by obstore alone."""
    objects = labelstore.storage.remote.objects.RemoteObjects(url)
    with ThreadPoolExecutor(labelstore.storage.remote.objects.THREADS) as pool:
        for _ in pool.map(lambda part: objects.get_range(*part), ranges):
            continue


def one_at_a_time(url: str, images: np.ndarray) -> Any:
    """A store that has read its first slab, and asks for one thing at a time."""
    kept, labelstore.storage.remote.objects.THREADS = labelstore.storage.remote.objects.THREADS, 1
    try:
        store = labelstore.open(url)
    finally:
        labelstore.storage.remote.objects.THREADS = kept
    store.read(images, slab(0))
    return store


if __name__ == "__main__":
    main()
