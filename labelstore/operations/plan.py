"""What settings would cost and keep, by a sample, before GPU time is spent.

The sample's full distributions are stored under each setting in a temporary store, weighed on the
disk, read back, timed, and compared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import DecodeError, SourceError, UsageError
from labelstore.format.blocks import BlockPriors
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.format.settings import StoreSettings
from labelstore.images.pixels import render
from labelstore.labels.distance import Distances, distances
from labelstore.producer.crops.partners import over_images
from labelstore.producer.manifests import StoreSizes
from labelstore.producer.pixel_probe import photo_at
from labelstore.producer.settings import FIDELITIES
from labelstore.producer.store_bytes import LabelSample, planned_bytes
from labelstore.storage.workspaces import workspace
from labelstore.store.indexing import evenly_spaced
from labelstore.store.store import Store
from labelstore.teachers.top_k import softmax
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.teachers.teacher import Teacher
    from labelstore.views.law import ViewLaw

    Float32Array = npt.NDArray[np.float32]

__all__ = [
    "SETTINGS",
    "Row",
    "Setting",
    "TeacherSample",
    "advice",
    "measure",
    "sample_of_store",
    "sample_of_teacher",
]


LARGE = StoreSizes(num_images=2**20, block_images=1024, group_views=4, unit_images=None)
"""How a large store is divided."""


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
    Setting("", StoreSettings(1, "u8", 1024)),
    Setting("fast", FIDELITIES["fast"]),
    Setting("", StoreSettings(10, "u16", 0)),
)
"""What is tried when nothing else is asked for: the fidelities by name, and others between; for
high temperatures one with a long list."""


@dataclass(frozen=True)
class Row:
    """What a setting gave."""

    setting: Setting
    bytes_per_crop: float
    """Labels, commits and the image's share of its prior list, for the planned number of views."""
    label_bytes_per_crop: float
    prior_bytes_per_image: float
    table_bytes_per_image: float
    """Of its size, its digest and its state; in Parquet they are with the list."""
    confidence_error: float
    """Largest error of a stored largest probability."""
    crops_per_second: float
    """Read, verified and decoded by one thread, from files that the system has in memory."""
    classes_per_crop: float
    """Classes that a label keeps on average: fewer than k where fewer come nearer to the teacher,
    or have the mass already."""
    even_kl_nats: float
    """Mean KL divergence of the same probability for every class from the teacher's labels."""
    num_classes: int
    distances: Distances

    @property
    def cut(self) -> bool:
        """Whether labels keep fewer classes than were asked for, a tenth or more."""
        return self.classes_per_crop < 0.9 * min(self.setting.store.k or 1, self.num_classes)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "setting": self.setting.to_json(),
            "bytes_per_crop": round(self.bytes_per_crop, 3),
            "label_bytes_per_crop": round(self.label_bytes_per_crop, 3),
            "prior_bytes_per_image": round(self.prior_bytes_per_image, 1),
            "confidence_error": round(self.confidence_error, 6),
            "crops_per_second": round(self.crops_per_second),
            "classes_per_crop": round(self.classes_per_crop, 2),
            "even_kl_nats": round(self.even_kl_nats, 6),
            **self.distances.to_json(),
        }


def advice(rows: Sequence[Row]) -> list[str]:
    """A sentence for each kind of setting that does not suit these labels."""
    sentences = []
    useless = [row for row in rows if row.distances.kl_nats >= row.even_kl_nats]
    best = min(rows, key=lambda row: row.distances.kl_nats)
    if useless:
        sentences.append(
            f"{_named(useless)}: no nearer to the teacher (KL {_smallest(useless):.2g}) than the "
            f"same probability for every class ({useless[0].even_kl_nats:.2g}): take another, such "
            f"as {_named([best])} (KL {best.distances.kl_nats:.2g})."
        )
    # A list of all classes says of each label what it leaves out: it cannot be longer.
    cut = [
        row
        for row in rows
        if row.setting.store.top_p is None
        and row.cut
        and (row.setting.store.prior_size or 0) < row.num_classes
    ]
    if cut:
        fewest = min(row.classes_per_crop for row in cut)
        sentences.append(
            f"{_named(cut)}: these labels are so flat that more classes make them worse, and "
            f"{fewest:.1f} and more are kept of each: take fewer, and a longer list."
        )
    return sentences


def _named(rows: Sequence[Row]) -> str:
    """As ``--setting`` takes them."""
    stores = [row.setting.store for row in rows]
    return ", ".join(f"{store.k}:{store.quantizer}:{store.prior_size}" for store in stores)


def _smallest(rows: Sequence[Row]) -> float:
    return min(row.distances.kl_nats for row in rows)


@dataclass(frozen=True)
class TeacherSample:
    """What a teacher says of a few views, and what that took, but for the first image: it pays for
    warming up."""

    labels: Float32Array
    """(n, views, C) full distributions."""
    sizes: npt.NDArray[np.int32]
    """(n, 2) width and height of each photo."""
    decode_seconds: float
    """Of an image."""
    cut_seconds: float
    """Of a view, by one thread; with its share of the photos that views are mixed with."""
    forward_seconds: float
    """Of a view."""


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
) -> TeacherSample:
    """Let a teacher label the first views of images all through a source.

    Images that cannot be decoded are left out; SourceError when none is left, or (DecodeError)
    where one cannot be decoded that views are mixed with.
    """
    size, interpolation = teacher.preprocessing.input_size, teacher.preprocessing.interpolation
    chosen = evenly_spaced(len(source), images)
    hashes = hash_keys(source.keys)
    law, partners = over_images(law, source.keys, partial(photo_at, source))
    rows: list[Float32Array] = []
    sizes: list[tuple[int, int]] = []
    decoding = cutting = forward = 0.0
    for image in np.unique(chosen).tolist():
        started = time.perf_counter()
        try:
            photo = photo_at(source, image)
        except DecodeError:
            continue
        decoded = time.perf_counter()
        decoding += decoded - started if rows else 0.0
        parts = []
        for start in range(0, views, batch_size):
            numbers = np.arange(start, min(start + batch_size, views))
            begun = time.perf_counter()
            crops = law(hashes[image], numbers, photo.width, photo.height)
            pixels = render(photo, crops, size, interpolation, partners=partners)
            ready = time.perf_counter()
            parts.append(softmax(teacher.logits(pixels), temperature))
            if rows:
                cutting += ready - begun
                forward += time.perf_counter() - ready
            if tell is not None:
                tell(int(start + batch_size >= views), len(pixels))
        rows.append(np.concatenate(parts))
        sizes.append((photo.width, photo.height))
    if not rows:
        raise SourceError("none of the sampled images could be decoded: check the source.")
    timed = max(len(rows) - 1, 1)
    return TeacherSample(
        labels=np.stack(rows),
        sizes=np.array(sizes, dtype=np.int32),
        decode_seconds=decoding / timed,
        cut_seconds=cutting / timed / views,
        forward_seconds=forward / timed / views,
    )


def sample_of_store(store: Store, *, images: int, views: int) -> Float32Array:
    """(n, views, C) recovered distributions of labelled images all through a store."""
    labelled = np.flatnonzero(store.labelled())
    if not len(labelled):
        raise UsageError(f"{store.path} has no labels yet: wait for its first block.")
    sampled = labelled[evenly_spaced(len(labelled), images)]
    columns = np.arange(min(views, store.num_views))
    return np.stack([store.read(image, columns).recover().dense() for image in sampled])


def measure(
    truth: Float32Array,
    setting: Setting,
    num_views: int,
    suffix: str = ".zarr",
    sizes: StoreSizes | None = None,
    photo_sizes: npt.NDArray[np.int32] | None = None,
) -> Row:
    """Store a sample under a setting, weigh it and read it back.

    Args:
        truth: (n, V, C) full distributions.
        setting: k and the prior size are cut to C.
        num_views: how many views the store will have: what an image's list is shared by.
        suffix: of the store's name: ``".parquet"``, or any other for Zarr.
        sizes: how the store will be divided, of which its bytes depend; when None it is a large
            one in chunks.
        photo_sizes: (n, 2) width and height of each photo, where they are known.
    """
    images, views, classes = truth.shape
    k = min(setting.store.k or classes, classes)
    size = min(setting.store.prior_size or 0, classes)
    sizes = sizes or LARGE
    order = np.argsort(-truth, axis=-1, kind="stable")[..., :k]
    probs = np.take_along_axis(truth, order, axis=-1)
    chunk = min(sizes.block_images, sizes.num_images) * sizes.group_views
    store_settings = replace(
        setting.store,
        k=k,
        prior_size=size,
        block_images=images,
        group_views=min(views, max(1, chunk // images)),
    )
    manifest = Manifest(
        num_images=images,
        num_views=views,
        num_classes=classes,
        fingerprint=fingerprint([], np.zeros(0, dtype=np.int32)),
        law=None,
        unit_images=sizes.unit_images,
        **store_settings.chosen(),
    )
    priors = BlockPriors(manifest, images)
    priors.fit(np.arange(images), truth.mean(axis=1, dtype=np.float64), order, probs)
    sample = LabelSample(manifest, order, probs, priors.arrays(), photo_sizes)
    taken = planned_bytes(sample, num_views, sizes, suffix)
    with workspace() as folder:
        path = folder / f"sample{suffix}"
        sample.write(path)
        store = Store(path)
        started = time.perf_counter()
        topk = store.read(np.arange(images)[:, None], np.arange(views))
        seconds = time.perf_counter() - started
        recovered = distances((truth[image], topk[image].recover()) for image in range(images))
    crops = sizes.num_images * num_views
    return Row(
        setting=setting,
        bytes_per_crop=(taken.labels + taken.lists) / crops,
        label_bytes_per_crop=taken.labels / crops,
        prior_bytes_per_image=taken.lists / sizes.num_images,
        table_bytes_per_image=taken.images / sizes.num_images,
        confidence_error=float(np.abs(topk.confidence - probs[..., 0]).max()),
        crops_per_second=images * views / seconds,
        classes_per_crop=float((topk.probs > 0).sum(axis=-1).mean()),
        even_kl_nats=_even_kl(truth),
        num_classes=classes,
        distances=recovered,
    )


def _even_kl(truth: Float32Array) -> float:
    """Mean KL(label || 1 / C for every class): ln C less the mean entropy."""
    total = 0.0
    for labels in truth:
        exact = labels.astype(np.float64)
        total += float((exact * np.log(np.maximum(exact, 1e-300))).sum()) / len(exact)
    return float(np.log(truth.shape[-1]) + total / len(truth))
