"""What the rate-distortion benchmark measures of labelstore: bytes, distances, codes, speed."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import labelstore
from benchmarks.support.entropy import (
    adaptive_bits,
    compressed_bytes,
    contexts_of,
    interleaved,
    plug_in_bits,
)
from benchmarks.support.measuring import alternate, size_of, summary, synthetic_labels
from labelstore.format import codecs
from labelstore.format.blocks import BlockData, BlockPriors, block_codes
from labelstore.format.encoding import decode_labels, encode_labels
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.labels.top_k import TopK
from labelstore.store.writer import StoreWriter

CHUNK_CROPS = {"zarr": 4096, "parquet": 16384}
"""Crops of a chunk or row group, as a large store has them: 1,024 images x 4 or 16 views."""


@dataclass(frozen=True)
class Setting:
    """One way to store labels."""

    k: int
    quantizer: str
    prior_size: int = 64
    top_p: float | None = None
    fidelity: str = ""

    @property
    def name(self) -> str:
        """Its options, for tables."""
        parts = [f"k={self.k}", self.quantizer]
        if self.top_p is not None:
            parts.append(f"top-p {self.top_p:g}")
        if self.prior_size != 64:
            parts.append(f"list of {self.prior_size}" if self.prior_size else "no list")
        return (f"{self.fidelity}: " if self.fidelity else "") + ", ".join(parts)


SHORT = (
    Setting(1, "ratio16", fidelity="small"),
    Setting(3, "ratio16"),
    Setting(4, "ratio16", top_p=0.95, fidelity="balanced"),
    Setting(6, "ratio16", top_p=0.95),
    Setting(10, "ratio32", top_p=0.99),
    Setting(10, "ratio32"),
    Setting(5, "u8", prior_size=0, fidelity="fast"),
    Setting(1, "u8"),
    Setting(10, "u8"),
    Setting(1, "u8", prior_size=1000),
)
"""Measured everywhere; those of ``u8`` with a list are for high temperatures."""

SETTINGS = (
    *SHORT,
    Setting(2, "ratio16"),
    Setting(4, "ratio16"),
    *(Setting(k, quantizer) for k in (5, 6, 7, 8) for quantizer in ("ratio16", "ratio32")),
    Setting(10, "ratio16"),
    *(Setting(10, "ratio32", top_p=mass) for mass in (0.9, 0.95, 0.995, 0.999)),
    Setting(10, "u16"),
    Setting(30, "ratio32", top_p=0.999),
    Setting(100, "ratio32", top_p=0.9999),
    Setting(100, "u8"),
    Setting(100, "u16"),
    Setting(10, "u16", prior_size=0),
)
"""Measured on the main photos."""


def make(path: Path, truth: np.ndarray, order: np.ndarray, setting: Setting) -> labelstore.Store:
    """A store of labels in one block, with priors from the full distributions.

    Args:
        path: its suffix says whether Zarr or Parquet.
        truth: (N, V, C) distributions; order: (N, V, >= k) class ids, likeliest first.
    """
    images, views, classes = truth.shape
    indices = order[..., : setting.k]
    probs = np.take_along_axis(truth, indices, axis=-1)
    keys, targets = [str(image) for image in range(images)], np.full(images, -1, dtype=np.int32)
    manifest = Manifest(
        images,
        views,
        classes,
        setting.k,
        fingerprint(keys, targets),
        None,
        block_images=images,
        group_views=group_views(images, views, path.suffix[1:]),
        quantizer=setting.quantizer,
        prior_size=setting.prior_size,
        top_p=setting.top_p,
    )
    priors = lists_of(truth, indices, probs, manifest)
    with StoreWriter(path, manifest, keys, targets) as writer:
        writer.write_block(0, BlockData(indices, probs, **priors))
    return labelstore.open(path)


def group_views(images: int, views: int, backend: str) -> int:
    """Views of a group that make a chunk as large as a large store's."""
    return max(1, min(views, CHUNK_CROPS[backend] // images))


def lists_of(
    truth: np.ndarray, indices: np.ndarray, probs: np.ndarray, manifest: Manifest
) -> dict[str, Any]:
    """The images' prior lists, as ``BlockData`` takes them; nothing for a store without."""
    lists = BlockPriors(manifest, len(truth))
    means = truth.mean(axis=1, dtype=np.float64)
    lists.fit(np.arange(len(truth)), means, indices, probs)
    return lists.arrays()


def weigh(store: labelstore.Store) -> dict[str, Any]:
    """Bytes a crop of all data, and the bytes that a store has whatever its size.

    Data are labels, prior lists, commits and the table of images; fixed are the manifest and the
    arrays' descriptions (which Parquet has none of: its footers are part of the data).
    """
    crops = store.num_images * store.num_views
    fixed = sum(
        file.stat().st_size
        for file in store.path.rglob("*")
        if file.name in ("zarr.json", "manifest.json", ".lock")
    )
    data = size_of(store.path) - fixed
    return {"bytes_per_crop": round(data / crops, 3), "fixed_bytes": fixed}


def read_all(store: labelstore.Store) -> TopK:
    """Every label: (N, V, k)."""
    return store.read(np.arange(store.num_images)[:, None], np.arange(store.num_views))


def coding(truth: np.ndarray, order: np.ndarray, setting: Setting, path: Path) -> dict[str, Any]:
    """Bytes a crop of each array of labels: on disk, by entropy estimates, by other compressors.

    ``adaptive`` is the length of a code that could be decoded, the shorter of two contexts'
    (an upper bound of the entropy); ``plug_in`` the lower of the entropies of the same contexts in
    the sample (too low). Each array by itself: what one says about another is not used.
    ``interleaved``: what the store's compressor makes of chunks with 4 views of an image in a row,
    as in a large store.
    """
    store = make(path, truth, order, setting)
    crops = truth.shape[0] * truth.shape[1]
    indices = order[..., : setting.k]
    probs = np.take_along_axis(truth, indices, axis=-1)
    priors = lists_of(truth, indices, probs, store.manifest)
    codes = block_codes(BlockData(indices, probs, **priors), store.manifest, 0).views
    arrays = {}
    for name, values in codes.items():
        files = (store.path / name / "c").rglob("*")
        disk = sum(file.stat().st_size for file in files if file.is_file())
        symbols = values.reshape(-1).astype(np.int64)
        alphabet = int(symbols.max()) + 2
        bounds = {
            context: (plug_in_bits(symbols, levels[-1]), adaptive_bits(symbols, levels, alphabet))
            for context, levels in contexts_of(values).items()
        }
        others = compressed_bytes(values, store.manifest.group_views)
        mixed = interleaved(values, 4)
        again = compressed_bytes(mixed, CHUNK_CROPS["zarr"])[compressor_of(store.path / name)]
        arrays[name] = {
            "disk": round(disk / crops, 4),
            "interleaved": round(again / mixed.shape[1], 4),
            "adaptive": round(min(bound[1] for bound in bounds.values()) / 8 / crops, 4),
            "plug_in": round(min(bound[0] for bound in bounds.values()) / 8 / crops, 4),
            "compressors": {name: round(size / crops, 4) for name, size in others.items()},
        }
    total = {
        key: round(sum(entry[key] for entry in arrays.values()), 3)
        for key in ("disk", "interleaved", "adaptive", "plug_in")
    }
    compressor = compressor_of(store.path / "labels/classes")
    return {"setting": setting.name, "compressor": compressor, "arrays": arrays, "total": total}


def compressor_of(path: Path) -> str:
    """The name, in ``benchmarks.support.entropy.COMPRESSORS``, of a Zarr array's compressor."""
    blosc = zarr.open_array(path, mode="r").compressors[0]
    return f"blosc {blosc.cname.value} {blosc.clevel}"


def confidence(probs: np.ndarray) -> list[dict[str, Any]]:
    """What each quantizer does to the largest probability, and to FerKD's decision about a view.

    Args:
        probs: (n, 2) float32 largest probabilities of real views.
    """
    rule, truth = labelstore.FerKD(), np.zeros(len(probs), dtype=np.int64)
    ids = np.broadcast_to(np.arange(2), probs.shape)
    exact = rule.apply(TopK(ids, probs, 1000), truth).action
    rows = []
    for name, quantizer in codecs.QUANTIZERS.items():
        stored = quantizer.decode(*quantizer.encode(probs))
        action = rule.apply(TopK(ids, stored, 1000), truth).action
        error = np.abs(stored[:, 0].astype(np.float64) - probs[:, 0])
        rows.append(
            {
                "quantizer": name,
                "views": len(probs),
                "largest_error": float(error.max()),
                "same_action": float((action == exact).mean()),
            }
        )
    return rows


def speed(folder: Path, images: int, views: int, rounds: int) -> list[dict[str, Any]]:
    """Millions of labels a second on one core: codes in memory decoded, and groups read from disk.

    A label is one stored (class, probability) pair. Synthetic labels in one block. A read is
    ``Store.read`` of one group of views of all images. Warm: the chunk's codes are in the store's
    cache, so they are gathered and decoded. Else the chunk is read (from files that the system has
    in memory), decompressed and verified before that.
    """
    rows = []
    for setting in (SHORT[0], Setting(4, "ratio16"), Setting(10, "ratio32"), SHORT[6]):
        k = max(setting.k, 4)
        ids, probs = synthetic_labels(images, views, k, 1000)
        ids, probs = ids[..., : setting.k], probs[..., : setting.k]
        means = np.full((images, 1000), 1e-5)
        np.add.at(means, (np.arange(images)[:, None, None], ids), probs / views)
        means /= means.sum(axis=1, keepdims=True)
        tasks: dict[str, Any] = {}
        counts: dict[str, int] = {}
        for backend, crops in CHUNK_CROPS.items():
            store = labelstore.write(
                folder / f"{setting.k}-{setting.quantizer}.{backend}",
                ids,
                probs,
                1000,
                means=means if setting.prior_size else None,
                quantizer=setting.quantizer,
                block_images=images,
                group_views=max(1, crops // images),
            )
            group = store.manifest.group_views
            columns = [np.arange(s, min(s + group, views)) for s in range(0, views, group)]
            # No room for a second chunk: every group is read anew.
            tasks[f"read_{backend}"] = _reader(labelstore.open(store.path, cache_bytes=1), columns)
            counts[f"read_{backend}"] = images * views
            if backend == "zarr":
                tasks["read_warm"] = _reader(store, columns)
                counts["read_warm"] = images * views
                tasks["decode"] = _decoder(ids[:, :group], probs[:, :group], means, store.manifest)
                counts["decode"] = images * group
        seconds = _on_one_core(tasks, rounds)
        row: dict[str, Any] = {"setting": setting.name, "k": setting.k}
        for name, times in seconds.items():
            median = summary(times)["median_s"]
            row[name] = {
                "million_pairs_per_second": round(counts[name] * setting.k / median / 1e6, 2),
                "million_views_per_second": round(counts[name] / median / 1e6, 2),
            }
        rows.append(row)
    return rows


def _reader(store: labelstore.Store, columns: list[np.ndarray]) -> Any:
    images = np.arange(store.num_images)[:, None]

    def read() -> None:
        for views in columns:
            store.read(images, views)

    return read


def _decoder(ids: np.ndarray, probs: np.ndarray, means: np.ndarray, manifest: Manifest) -> Any:
    """Decoding of the codes of a whole chunk, in memory."""
    images, views, k = ids.shape
    lists = np.argsort(-means, axis=1, kind="stable")[:, : manifest.prior_size].astype(np.int32)
    codes = encode_labels(ids, probs, lists, manifest)
    specs = {"labels/top_prob": (images * views,), "labels/classes": (images * views, k)}
    flat = {name: codes[name].reshape(shape) for name, shape in specs.items()}
    flat["labels/classes"] = flat["labels/classes"].astype(np.uint16)
    if k > 1:
        flat["labels/rest_probs"] = codes["labels/rest_probs"].reshape(images * views, k - 1)
    rows = np.repeat(np.arange(images), views)
    return lambda: decode_labels(flat, lists, rows, manifest)


def _on_one_core(tasks: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    if not hasattr(os, "sched_setaffinity"):
        return alternate(tasks, rounds)
    before = os.sched_getaffinity(0)
    _bind({min(before)})
    try:
        return alternate(tasks, rounds)
    finally:
        _bind(before)


def _bind(cores: set[int]) -> None:
    """Bind every thread of this process, those of libraries too."""
    for thread in Path("/proc/self/task").iterdir():
        # A thread may have ended in between.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)
