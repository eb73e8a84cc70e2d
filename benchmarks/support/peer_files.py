"""Other projects' soft-label files, written, weighed and read back as those projects do.

Each peer writes real files of the same labels. What it recovers from them is its own: FKD, TinyViT,
ml-dr (``smooth``) and DistillKit (``symmetric_uniform``) all spread the residual mass evenly, and
nothing here mends what they let through, such as negative probabilities where rounded values sum to
more than 1.

Left out, each in the peer's favour: the folder names; the 4,096-byte blocks of a file system;
ml-dr's one file of settings; the token column of DistillKit, which has no counterpart here; the
metadata of the plain Zarr arrays.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr
from zarr.codecs import ZstdCodec

from labelstore.labels.soft_labels import SoftLabels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["PEERS", "Labels", "Peer"]


@dataclass(frozen=True)
class Labels:
    """What there is to store of N images x V views: at least as many classes as any peer keeps."""

    indices: np.ndarray
    """(N, V, K) class ids, likeliest first."""
    probs: np.ndarray
    """(N, V, K) float32."""
    box: np.ndarray
    """(N, V, 4) pixels: top, left, height, width."""
    flip: np.ndarray
    """(N, V) bool."""
    size: tuple[int, int]
    """Height and width of the images, pixels."""
    num_classes: int

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(N, V, k) class ids and probabilities."""
        return self.indices[..., :k], self.probs[..., :k]


Read = tuple[np.ndarray, np.ndarray]
"""(N, V, k) class ids and float32 probabilities, as read from the files."""


@dataclass(frozen=True)
class Peer:
    """One project's files with one of its settings."""

    name: str
    k: int
    write: Callable[[Path, Labels], None]
    """Put the files into an empty folder."""
    read: Callable[[Path, Labels], Read]
    """Take them out again; of the labels only shapes may be looked at."""
    softmax_if_over: bool = False
    """Whether a label that sums to more than 1 becomes the softmax of its probabilities."""

    def recover(self, found: Read, num_classes: int) -> SoftLabels:
        """(N, V) full distributions: the residual mass spread evenly over the other classes."""
        indices, probs = found
        values = probs.astype(np.float32)
        residual = np.float32(1) - values.sum(axis=-1, keepdims=True, dtype=np.float32)
        base = residual / np.float32(num_classes - self.k)
        if self.softmax_if_over:
            over = residual < 0
            powers = np.exp(values)
            values = np.where(over, powers / powers.sum(axis=-1, keepdims=True), values)
            base = np.where(over, np.float32(0), base)
        return SoftLabels(base[..., 0], indices, values - base, num_classes)


def _fkd(k: int, kind: Any) -> Peer:
    """FKD: a ``torch.save`` an image of [relative boxes, flips, class ids stacked on values].

    Class ids are floats of the same type. In float32 the boxes and flips are NumPy arrays and the
    labels a tensor; in float16 all three are NumPy arrays.
    """

    def write(folder: Path, labels: Labels) -> None:
        indices, probs = labels.top(k)
        height, width = labels.size
        boxes = labels.box / np.array([height, width, height, width])
        for image in range(len(indices)):
            stacked = np.stack([indices[image], probs[image]], axis=1).astype(kind)
            held = torch.from_numpy(stacked) if kind is np.float32 else stacked
            state = [boxes[image].astype(kind), labels.flip[image], held]
            torch.save(state, folder / f"{image}.tar")

    def read(folder: Path, labels: Labels) -> Read:
        # These files were just written here; arrays among tensors need the unrestricted loader.
        stacked = np.stack(
            [
                np.asarray(torch.load(folder / f"{image}.tar", weights_only=False)[2])
                for image in range(len(labels.indices))
            ]
        )
        return stacked[:, :, 0].astype(np.int64), stacked[:, :, 1].astype(np.float32)

    return Peer(f"FKD top-{k} {'fp32' if kind is np.float32 else 'fp16'}", k, write, read)


def _tinyvit(k: int) -> Peer:
    """TinyViT: two files a view (it calls it an epoch), of one record and one key an image.

    A record is an int32 seed, k int16 class ids and k float16 probabilities: 4 + 4k bytes.
    """
    record = np.dtype([("seed", "<i4"), ("ids", "<i2", (k,)), ("probs", "<f2", (k,))])

    def write(folder: Path, labels: Labels) -> None:
        indices, probs = labels.top(k)
        keys = "".join(f"{image}\n" for image in range(len(indices)))
        seeds = np.random.default_rng(0).integers(0, 2**31 - 1, indices.shape[:2])
        for view in range(indices.shape[1]):
            epoch = folder / f"logits_top{k}_epoch{view}"
            epoch.mkdir()
            rows = np.zeros(len(indices), dtype=record)
            rows["seed"] = seeds[:, view]
            rows["ids"], rows["probs"] = indices[:, view], probs[:, view]
            (epoch / "rank0-values.bin").write_bytes(rows.tobytes())
            (epoch / "rank0-keys.txt").write_text(keys)

    def read(folder: Path, labels: Labels) -> Read:
        rows = np.stack(
            [
                np.fromfile(folder / f"logits_top{k}_epoch{view}" / "rank0-values.bin", record)
                for view in range(labels.indices.shape[1])
            ],
            axis=1,
        )
        return rows["ids"].astype(np.int64), rows["probs"].astype(np.float32)

    return Peer(f"TinyViT top-{k}", k, write, read)


def _ml_dr(k: int, packed: bool) -> Peer:
    """ml-dr: a pickle (protocol 4, by ``torch.save``) an image of Python lists.

    Each view has its parameters (box and flip) and its probabilities and class ids. ``packed``: the
    files together in one ``tar.gz``, as they are given away, and not as training reads them.
    """

    def write(folder: Path, labels: Labels) -> None:
        indices, probs = labels.top(k)
        files = {}
        for image in range(len(indices)):
            samples = [
                {"params": [tuple(box), (flip,)], "prob": (values, ids)}
                for box, flip, values, ids in zip(
                    labels.box[image].tolist(),
                    labels.flip[image].tolist(),
                    probs[image].astype(np.float32).tolist(),
                    indices[image].tolist(),
                    strict=True,
                )
            ]
            buffer = io.BytesIO()
            torch.save((image, samples), buffer, pickle_protocol=4)
            files[f"{image}.pth.tar"] = buffer.getvalue()
        if not packed:
            for name, data in files.items():
                (folder / name).write_bytes(data)
            return
        with (
            gzip.GzipFile(folder / "reinforced_data.tar.gz", "wb", mtime=0) as stream,
            tarfile.open(fileobj=stream, mode="w") as archive,
        ):
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))

    def read(folder: Path, labels: Labels) -> Read:
        if packed:
            with tarfile.open(folder / "reinforced_data.tar.gz") as archive:
                archive.extractall(folder / "unpacked", filter="data")
            folder = folder / "unpacked"
        ids, values = [], []
        for image in range(len(labels.indices)):
            _, samples = torch.load(folder / f"{image}.pth.tar", weights_only=False)
            ids.append([sample["prob"][1] for sample in samples])
            values.append([sample["prob"][0] for sample in samples])
        return np.array(ids), np.array(values, dtype=np.float32)

    how = "tar.gz" if packed else "files"
    return Peer(f"ml-dr top-{k} {how}", k, write, read, softmax_if_over=True)


def _distillkit(k: int) -> Peer:
    """DistillKit: Parquet, a row a sequence (here an image), a list of bytes a token (here a view).

    Log-probabilities are bfloat16; class ids are packed at ceil(log2 C) bits, each view's bits
    filled up to a byte. pyarrow's default compression.
    """

    def write(folder: Path, labels: Labels) -> None:
        indices, probs = labels.top(k)
        logs = torch.from_numpy(np.log(np.maximum(probs, 1e-30))).to(torch.bfloat16)
        shifts = np.arange((labels.num_classes - 1).bit_length())
        bits = (indices[..., None] >> shifts) & 1
        packed = np.packbits(bits.reshape(*indices.shape[:2], -1).astype(np.uint8), axis=-1)
        columns = {
            "compressed_logprobs": _nested(logs.contiguous().view(torch.uint8).numpy()),
            "bytepacked_indices": _nested(packed),
        }
        pq.write_table(pa.table(columns), folder / "data_0.parquet")

    def read(folder: Path, labels: Labels) -> Read:
        table = pq.read_table(folder / "data_0.parquet")
        shape = labels.indices.shape[:2]
        raw = {
            name: table[name].combine_chunks().flatten().flatten().to_numpy().reshape(*shape, -1)
            for name in table.column_names
        }
        logs = torch.from_numpy(raw["compressed_logprobs"].copy()).view(torch.bfloat16)
        width = (labels.num_classes - 1).bit_length()
        bits = np.unpackbits(raw["bytepacked_indices"], axis=-1)[..., : k * width]
        ids = (bits.reshape(*shape, k, width).astype(np.int64) << np.arange(width)).sum(axis=-1)
        return ids, np.exp(logs.float().numpy())

    return Peer(f"DistillKit top-{k}", k, write, read)


def _nested(values: np.ndarray) -> pa.Array:
    """(N, V, n) uint8 as N lists of V lists of bytes."""
    images, views, width = values.shape
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    inner = pa.array(np.arange(images * views + 1, dtype=np.int32) * width)
    outer = pa.array(np.arange(images + 1, dtype=np.int32) * views)
    return pa.ListArray.from_arrays(outer, pa.ListArray.from_arrays(inner, flat))


def _plain_zarr(k: int) -> Peer:
    """What one writes without a library: uint16 class ids and float16 values, in Zarr with zstd."""

    def write(folder: Path, labels: Labels) -> None:
        indices, probs = labels.top(k)
        chunks = (len(indices), max(1, min(indices.shape[1], 4096 // len(indices))), k)
        for name, values in (("index", indices.astype("<u2")), ("value", probs.astype("<f2"))):
            array = zarr.create_array(
                folder / name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=chunks,
                compressors=(ZstdCodec(level=5),),
            )
            array[:] = values
            (folder / name / "zarr.json").rename(folder.parent / f"{folder.name}-{name}.json")

    def read(folder: Path, labels: Labels) -> Read:
        parts = []
        for name in ("index", "value"):
            (folder.parent / f"{folder.name}-{name}.json").rename(folder / name / "zarr.json")
            parts.append(np.asarray(zarr.open_array(folder / name, mode="r")[:]))
        return parts[0].astype(np.int64), parts[1].astype(np.float32)

    return Peer(f"plain Zarr top-{k} fp16", k, write, read)


PEERS = (
    *(_fkd(k, kind) for k in (5, 10) for kind in (np.float32, np.float16)),
    _tinyvit(10),
    _tinyvit(100),
    _ml_dr(5, packed=True),
    _ml_dr(10, packed=True),
    _ml_dr(10, packed=False),
    _distillkit(5),
    _distillkit(10),
    _plain_zarr(5),
    _plain_zarr(10),
)
"""Every peer's setting. TinyViT's default is top-100, its published ImageNet-1k files are of 10."""
