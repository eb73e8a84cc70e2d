"""What settings would cost and keep, measured on a sample of real labels before GPU time is spent.

The sample's full distributions are stored under each setting in a temporary store, weighed on the
disk, read back, timed, and compared.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import DecodeError, SourceError, UsageError
from labelstore.format.blocks import BlockData
from labelstore.format.encoding import cut_at_mass
from labelstore.format.manifest import Manifest, StoreSettings, fingerprint
from labelstore.images.pixels import cut, decode
from labelstore.labels import prior
from labelstore.labels.distance import Distances, distances
from labelstore.producer.settings import FIDELITIES
from labelstore.store.store import Store
from labelstore.store.writer import StoreWriter
from labelstore.teachers.top_k import softmax
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.teachers.teacher import Teacher
    from labelstore.views.law import ViewLaw

    Float32Array = npt.NDArray[np.float32]

__all__ = [
    "SETTINGS",
    "Row",
    "Setting",
    "measure",
    "sample_of_store",
    "sample_of_teacher",
]

_CHUNK_CROPS = 4096
"""Crops of a chunk, as a large store has them: 1,024 images x 4 views."""


@dataclass(frozen=True)
class Setting:
    """One way to store labels."""

    name: str
    store: StoreSettings
    """Where k is None it is the number of classes, and a prior size of None is 0."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        names = ("k", "quantizer", "prior_size", "top_p")
        return {"name": self.name, **{name: getattr(self.store, name) for name in names}}


SETTINGS = (
    Setting("small", FIDELITIES["small"]),
    Setting("", StoreSettings(2, "ratio16", 64)),
    Setting("", StoreSettings(3, "ratio16", 64)),
    Setting("balanced", FIDELITIES["balanced"]),
    Setting("", StoreSettings(4, "ratio16", 64)),
    Setting("", StoreSettings(6, "ratio16", 64, 0.95)),
    Setting("", StoreSettings(10, "ratio32", 64, 0.995)),
    Setting("", StoreSettings(10, "ratio32", 64)),
    Setting("fast", FIDELITIES["fast"]),
    Setting("", StoreSettings(10, "u16", 0)),
)
"""What is tried when nothing else is asked for: the fidelities by name, and others between."""


@dataclass(frozen=True)
class Row:
    """What a setting gave."""

    setting: Setting
    bytes_per_crop: float
    """Labels, commits and the image's share of its prior list, for the planned number of views."""
    label_bytes_per_crop: float
    prior_bytes_per_image: float
    fixed_bytes: int
    """The manifest and the arrays' descriptions, of the same size however large the store is."""
    confidence_error: float
    """Largest error of a stored largest probability."""
    crops_per_second: float
    """Read, verified and decoded by one thread, from files that the system has in memory."""
    distances: Distances

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "setting": self.setting.to_json(),
            "bytes_per_crop": round(self.bytes_per_crop, 3),
            "label_bytes_per_crop": round(self.label_bytes_per_crop, 3),
            "prior_bytes_per_image": round(self.prior_bytes_per_image, 1),
            "fixed_bytes": self.fixed_bytes,
            "confidence_error": round(self.confidence_error, 6),
            "crops_per_second": round(self.crops_per_second),
            **self.distances.to_json(),
        }


def sample_of_teacher(
    source: ImageSource,
    teacher: Teacher,
    law: ViewLaw,
    *,
    temperature: float,
    images: int,
    views: int,
    batch_size: int,
    tell: Callable[[int, int], None] | None = None,
) -> Float32Array:
    """(n, views, C) full distributions of a teacher for images all through a source.

    Images that cannot be decoded are left out; SourceError when none is left.
    """
    size, filter = teacher.preprocessing.input_size, teacher.preprocessing.interpolation
    chosen = np.linspace(0, len(source) - 1, min(images, len(source))).round().astype(int)
    hashes, rows = hash_keys(source.keys), []
    for image in np.unique(chosen):
        try:
            photo = decode(source.read(image), str(source.path_of(image)))
        except DecodeError:
            continue
        geometry = law(hashes[image], np.arange(views), photo.width, photo.height)
        parts = []
        for start in range(0, views, batch_size):
            run = slice(start, start + batch_size)
            pixels = [
                cut(photo, box.tolist(), bool(flip), size, filter)
                for box, flip in zip(geometry.box[run], geometry.flip[run], strict=True)
            ]
            parts.append(softmax(teacher.logits(np.stack(pixels)), temperature))
            if tell is not None:
                tell(int(start + batch_size >= views), len(pixels))
        rows.append(np.concatenate(parts))
    if not rows:
        raise SourceError("none of the sampled images could be decoded: check the source.")
    return np.stack(rows)


def sample_of_store(store: Store, *, images: int, views: int) -> Float32Array:
    """(n, views, C) recovered distributions of labelled images all through a store."""
    labelled = np.flatnonzero(store.labelled())
    if not len(labelled):
        raise UsageError(f"{store.path} has no labels yet: wait for its first block.")
    places = np.linspace(0, len(labelled) - 1, min(images, len(labelled))).round().astype(int)
    columns = np.arange(min(views, store.num_views))
    return np.stack(
        [store.read(image, columns).recover().dense() for image in labelled[np.unique(places)]]
    )


def measure(
    truth: Float32Array,
    setting: Setting,
    num_views: int,
    suffix: str = ".zarr",
    class_names: tuple[str, ...] | None = None,
) -> Row:
    """Store a sample under a setting, weigh it and read it back.

    Args:
        truth: (n, V, C) full distributions.
        setting: k and the prior size are cut to C.
        num_views: how many views the store will have: what an image's list is shared by.
        suffix: of the store's name: ``".parquet"``, or any other for Zarr.
        class_names: the C names that the manifest will hold, which is most of its size.
    """
    images, views, classes = truth.shape
    k = min(setting.store.k or classes, classes)
    size = min(setting.store.prior_size or 0, classes)
    store_settings = replace(
        setting.store,
        k=k,
        prior_size=size,
        block_images=images,
        group_views=min(views, max(1, _CHUNK_CROPS // images)),
    )
    order = np.argsort(-truth, axis=-1, kind="stable")[..., :k]
    probs = np.take_along_axis(truth, order, axis=-1)
    keys, targets = [str(image) for image in range(images)], np.full(images, -1, dtype=np.int32)
    manifest = Manifest(
        num_images=images,
        num_views=views,
        num_classes=classes,
        fingerprint=fingerprint(keys, targets),
        law=None,
        class_names=class_names,
        **store_settings.chosen(),
    )
    priors: dict[str, Any] = {}
    if size:
        means = truth.mean(axis=1, dtype=np.float64)
        held = cut_at_mass(probs, manifest.top_p)
        fitted = [prior.fit(means[i], order[i], held[i], size) for i in range(images)]
        lists, codes, powers = zip(*fitted, strict=True)
        priors = {
            "prior_classes": np.stack(lists),
            "prior_probs": np.stack(codes),
            "prior_power": np.array(powers, dtype=np.uint8),
        }
    with tempfile.TemporaryDirectory(prefix="labelstore-plan-") as folder:
        path = Path(folder) / f"sample{suffix}"
        with StoreWriter(path, manifest, keys, targets) as writer:
            writer.write_block(0, BlockData(order, probs, **priors))
        store = Store(path)
        label_bytes, prior_bytes, fixed_bytes = _bytes(path)
        started = time.perf_counter()
        topk = store.read(np.arange(images)[:, None], np.arange(views))
        seconds = time.perf_counter() - started
        found = distances((truth[image], topk[image].recover()) for image in range(images))
    per_crop, per_image = label_bytes / (images * views), prior_bytes / images
    return Row(
        setting=setting,
        bytes_per_crop=per_crop + per_image / num_views,
        label_bytes_per_crop=per_crop,
        prior_bytes_per_image=per_image,
        fixed_bytes=fixed_bytes,
        confidence_error=float(np.abs(topk.confidence - probs[..., 0]).max()),
        crops_per_second=images * views / seconds,
        distances=found,
    )


def _bytes(path: Path) -> tuple[int, int, int]:
    """Bytes of a store's labels and commits, of the images' prior lists, and of what describes
    them."""
    labels = priors = fixed = 0
    for file in path.rglob("*"):
        name = file.relative_to(path).as_posix()
        if not file.is_file():
            continue
        if file.name in ("zarr.json", "manifest.json"):
            fixed += file.stat().st_size
            continue
        if name.startswith(("labels/", "commits/")):
            labels += file.stat().st_size
        elif name.startswith(("images/prior", "measured/")):
            priors += file.stat().st_size
    return labels, priors, fixed
