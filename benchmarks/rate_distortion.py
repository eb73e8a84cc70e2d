"""Bytes a crop against distance to the teacher: labelstore's settings and FKD's files.

The teacher is EfficientNet-Lite0 with its real weights over the 20 photos of the package foolbox,
its full softmax of every view kept as the truth. Bytes are those of all label, prior and commit
files on disk. A chunk of these stores holds 4,000 crops, about as many as one of a large data set
(1,024 images x 4 views), though of fewer images. The store's fixed part (its manifest and the
description of each array, about 10 kB whatever its size) is given apart. FKD's files are written
and weighed as they are on disk; their tail is FKD's own, even one.

    python -m benchmarks.rate_distortion
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import labelstore
from benchmarks.common import write_result
from benchmarks.read_labels import size_of, write_files
from labelstore.demo import place_photos, place_teacher
from labelstore.images import FolderSource, cut, decode
from labelstore.labels import TopK
from labelstore.manifest import Manifest, fingerprint
from labelstore.philox import hash_keys
from labelstore.prior import fit
from labelstore.teachers import load_teacher
from labelstore.views import ViewLaw
from labelstore.writer import BlockData, StoreWriter

SETTINGS = [
    ("small: ratio16, k=1, list of 64", 1, "ratio16", 64),
    ("ratio16, k=2, list of 64", 2, "ratio16", 64),
    ("ratio16, k=3, list of 64", 3, "ratio16", 64),
    ("balanced: ratio16, k=4, list of 64", 4, "ratio16", 64),
    ("ratio32, k=5, list of 64", 5, "ratio32", 64),
    ("ratio32, k=10, list of 64", 10, "ratio32", 64),
    ("fast: u8, k=5, no list", 5, "u8", 0),
    ("u16, k=10, no list", 10, "u16", 0),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, default=500)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logits = teacher_logits(Path(folder), options.views)
        rows = [
            row
            for temperature in options.temperatures
            for row in measure(Path(folder), logits, temperature)
        ]
    setting = {"images": len(logits), "views": options.views, "teacher": "tf_efficientnet_lite0"}
    write_result("rate_distortion", {"setting": setting, "rows": rows}, options.out)


def teacher_logits(folder: Path, views: int) -> np.ndarray:
    """(images, views, classes) float32 logits of the real teacher."""
    place_photos(folder / "photos")
    place_teacher("tf_efficientnet_lite0", folder / "teacher.safetensors")
    teacher = load_teacher(
        "timm:tf_efficientnet_lite0", checkpoint=str(folder / "teacher.safetensors")
    )
    source = FolderSource(folder / "photos")
    size, interpolation = teacher.preprocessing.input_size, teacher.preprocessing.interpolation
    hashes, out = hash_keys(source.keys), []
    for image in range(len(source)):
        photo = decode(source.read(image), source.keys[image])
        geometry = ViewLaw()(hashes[image], np.arange(views), photo.width, photo.height)
        parts = []
        for start in range(0, views, 16):
            run = slice(start, start + 16)
            pixels = [
                cut(photo, box.tolist(), bool(flip), size, interpolation)
                for box, flip in zip(geometry.box[run], geometry.flip[run], strict=True)
            ]
            parts.append(teacher.logits(np.stack(pixels)).cpu().numpy())
        out.append(np.concatenate(parts))
    return np.stack(out)


def measure(folder: Path, logits: np.ndarray, temperature: float) -> list[dict[str, Any]]:
    """One row for each setting and peer at a temperature."""
    scaled = torch.from_numpy(logits).double() / temperature
    truth = torch.softmax(scaled, -1).numpy()
    order = np.argsort(-truth, axis=-1, kind="stable")[..., :10]
    probs = np.take_along_axis(truth, order, -1)
    rows = []
    for name, k, quantizer, size in SETTINGS:
        path = folder / f"{temperature}-{k}-{quantizer}.zarr"
        store = make(path, truth, order[..., :k], probs[..., :k], quantizer, size)
        crops = truth.shape[0] * truth.shape[1]
        topk = store.read(np.arange(len(truth))[:, None], np.arange(truth.shape[1]))
        chunks = [file for file in path.rglob("*") if "c" in file.relative_to(path).parts]
        data = sum(file.stat().st_size for file in chunks if file.is_file())
        rows.append(
            {
                "what": name,
                "temperature": temperature,
                "bytes_per_crop": round(data / crops, 3),
                "fixed_bytes": size_of(path) - data,
                **distances(truth, topk),
            }
        )
    for k in (5, 10):
        for kind in (np.float32, np.float16):
            stored = TopK(order[..., :k], probs[..., :k].astype(kind), truth.shape[-1])
            name = f"FKD's files, top-{k}, {np.dtype(kind).name}"
            files = folder / f"{temperature}-{k}-{np.dtype(kind).name}"
            write_files(files, order[..., :k], probs[..., :k], kind)
            rows.append(
                {
                    "what": name,
                    "temperature": temperature,
                    "bytes_per_crop": round(size_of(files) / truth.shape[0] / truth.shape[1], 3),
                    **distances(truth, stored),
                }
            )
    return rows


def make(
    path: Path, truth: np.ndarray, order: np.ndarray, probs: np.ndarray, quantizer: str, size: int
) -> labelstore.Store:
    """A store of these labels, in one block, with priors from the full distributions."""
    images, views, classes = truth.shape
    keys, targets = [str(image) for image in range(images)], np.full(images, -1, dtype=np.int32)
    manifest = Manifest(
        images,
        views,
        classes,
        order.shape[-1],
        fingerprint(keys, targets),
        None,
        block_images=images,
        group_views=max(4, 4000 // images),
        quantizer=quantizer,
        prior_size=size,
    )
    priors = {}
    if size:
        fitted = [fit(truth[i].mean(0), order[i], probs[i], size) for i in range(images)]
        priors = {
            "prior_classes": np.stack([entry[0] for entry in fitted]),
            "prior_probs": np.stack([entry[1] for entry in fitted]),
            "prior_power": np.array([entry[2] for entry in fitted], dtype=np.uint8),
        }
    with StoreWriter(path, manifest, keys, targets) as writer:
        writer.write_block(0, BlockData(order, probs.astype(np.float32), **priors))
    return labelstore.open(path)


def distances(truth: np.ndarray, topk: TopK) -> dict[str, float]:
    """Mean KL(teacher || recovered) in nats, total variation, and the share of kept top-1."""
    divergence, variation, kept = [], [], []
    for image in range(len(truth)):
        recovered = np.maximum(topk[image].recover().dense().astype(np.float64), 1e-12)
        exact = truth[image]
        ratio = np.log(np.maximum(exact, 1e-300) / recovered)
        divergence.append((exact * ratio).sum(-1).mean())
        variation.append(np.abs(exact - recovered).sum(-1).mean() / 2)
        kept.append((recovered.argmax(-1) == exact.argmax(-1)).mean())
    return {
        "kl_nats": round(float(np.mean(divergence)), 4),
        "total_variation": round(float(np.mean(variation)), 4),
        "top1_kept": round(float(np.mean(kept)), 4),
    }


if __name__ == "__main__":
    main()
