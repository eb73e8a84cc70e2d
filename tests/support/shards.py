"""Shards of Zarr stores: their chunks, and the same codes as another writer may lay them down."""

from __future__ import annotations

import struct

import google_crc32c
import numpy as np
from numcodecs import blosc

import labelstore
from labelstore.operations.verify import verify

SHARDS = ("labels/top_prob", "labels/classes", "labels/rest_probs")


def shards_of(path):
    """The files of all shards, by name in the store."""
    files = (file for name in SHARDS for file in sorted((path / name / "c").rglob("*")))
    return {file.relative_to(path).as_posix(): file for file in files if file.is_file()}


def chunks_of(path):
    """The bytes of each shard's chunks, group by group, by the shard's name."""
    groups = labelstore.open(path).manifest.num_groups
    chunks = {}
    for name, shard in shards_of(path).items():
        data = shard.read_bytes()
        index = np.frombuffer(data[-16 * groups - 4 : -4], "<u8").reshape(-1, 2)
        chunks[name] = [data[start : start + size] for start, size in index.tolist()]
    return chunks


def otherwise_compressed(chunk):
    """A chunk as another writer may lay it down, of the same codes."""
    packed = blosc.Blosc(cname="zstd", clevel=0, shuffle=2, typesize=chunk[3])
    data = bytes(packed.encode(blosc.decompress(chunk[:-4])))
    assert data != chunk[:-4]
    return data + struct.pack("<I", google_crc32c.value(data))


def turned_round(path):
    """Lay the chunks of all shards the other way round, and not compressed: another writer's
    objects, as valid."""
    for name, chunks in chunks_of(path).items():
        if chunks:
            chunks = [otherwise_compressed(chunk) for chunk in chunks]
            ends = np.cumsum([len(chunk) for chunk in chunks[::-1]])[::-1]
            places = b"".join(
                struct.pack("<QQ", int(end) - len(chunk), len(chunk))
                for end, chunk in zip(ends, chunks, strict=True)
            )
            (path / name).write_bytes(
                b"".join(chunks[::-1]) + places + struct.pack("<I", google_crc32c.value(places))
            )
    assert verify(path).whole
