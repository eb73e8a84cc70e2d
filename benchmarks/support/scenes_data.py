"""The scenes for the distillation benchmark: photos, teachers, their stores, the students' crops.

Everything is made once below a cache folder and found there again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

import labelstore
from benchmarks.support.distill_rows import FORMS
from benchmarks.support.distill_stores import cut_crops, exact_stores, forms_of
from benchmarks.support.scene_networks import (
    CACHE_VARIABLE,
    DEVICE,
    SIDE,
    TEACHERS,
    accuracy,
    as_input,
    network,
    teacher,
    train_teachers,
)
from benchmarks.support.scene_photos import debian_pack
from benchmarks.support.scenes import SIDE as PHOTO, place_scenes
from labelstore.images.decoding import decode
from labelstore.images.pixels import cut
from labelstore.images.sources.folder import FolderSource
from labelstore.torch import Show, SoftLabelDataset
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from benchmarks.support.distill_rows import Tables
    from labelstore.views.law import Views

__all__ = [
    "DEVICE",
    "SCALE",
    "TEACHERS",
    "Output",
    "accuracy",
    "as_input",
    "crops_of",
    "exact_store",
    "made",
    "make_stores",
    "network",
    "outputs_of",
    "photos_and_test",
    "teacher",
    "teachers",
    "test_set",
]

SCALE = (0.08, 1.0)
"""Area of a crop: labelstore's usual."""

TEST_PER_CLASS = 36
TEACHER_VIEWS = 24
"""Random crops of each image that the teachers are trained on, other than the students'."""

USUAL = "balanced"
"""How the labels of a row are stored unless it says so."""


def photos_and_test(cache: Path, per_class: int) -> tuple[Path, Path]:
    """The folders of the training images and of the test images."""
    pack = debian_pack(cache)
    (cache / "classes.txt").write_text("\n".join(pack.classes))
    parts = []
    for part, count in (("train", per_class), ("test", TEST_PER_CLASS)):
        folder = cache / f"scenes-{count}-{part}"
        place_scenes(pack, folder, "test" if part == "test" else "train", count)
        parts.append(folder)
    return parts[0], parts[1]


def test_set(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 48, 48, 3) uint8: whole test images; and their int64 classes."""
    source = FolderSource(folder)
    whole, size = (0, 0, PHOTO, PHOTO), (SIDE, SIDE)
    pixels = [
        cut(decode(source.read(place), key), whole, False, size, "bilinear")
        for place, key in enumerate(source.keys)
    ]
    return torch.from_numpy(np.stack(pixels)), torch.from_numpy(_truth(source))


def _truth(source: FolderSource) -> np.ndarray:
    """(n,) int64: the class of each image."""
    names = source.classes or ()
    return np.array([names.index(key.partition("/")[0]) for key in source.keys], np.int64)


def teachers(
    cache: Path, photos: Path, test: Path, names: Sequence[str], epochs: int
) -> dict[str, float]:
    """Train those of the teachers that are not there; their accuracies on the test images."""
    law, views = ViewLaw(seed=1000), np.arange(TEACHER_VIEWS)

    def draw(key: str) -> Views:
        return law(hash_keys([key]), views, PHOTO, PHOTO)

    file = cache / f"teachers-{photos.name}.npy"
    crops = cut_crops(photos, draw, TEACHER_VIEWS, SIDE, file)
    train_teachers(names, cache, crops, _truth(FolderSource(photos)), epochs)
    pixels, truth = test_set(test)
    return {name: accuracy(teacher(cache, name), pixels, truth) for name in names}


class Output(NamedTuple):
    """What a store is made of beside the photos and the number of views."""

    teacher: str
    temperature: int = 1
    augment: tuple[str, ...] = ()
    """Stages, as ``--augment`` takes them."""


def outputs_of(tables: Tables) -> list[Output]:
    """The stores that rows need, in the order of the teachers."""
    rows = [row for group in tables.values() for row in group]
    needed = {Output(name, row.temperature, row.augment) for row in rows for name in row.teachers}
    return sorted(needed, key=lambda output: (TEACHERS.index(output.teacher), *output[1:]))


def made(cache: Path, photos: Path, views: int, outputs: Iterable[Output]) -> list[Output]:
    """Those whose stores are whole."""
    return [output for output in outputs if _whole(exact_store(cache, photos, views, output))]


def exact_store(cache: Path, photos: Path, views: int, output: Output) -> Path:
    """Where an output is kept with all classes in float32."""
    name = f"{output.teacher}-{photos.name}-{views}-at-{output.temperature}"
    return cache / ("+".join((name, *output.augment)) + ".zarr")


def _whole(store: Path) -> bool:
    return store.exists() and labelstore.open(store).complete


def make_stores(
    cache: Path, photos: Path, views: int, outputs: Iterable[Output]
) -> dict[str, Path]:
    """The stores of outputs, in each form that rows read; those missing are made.

    Returns:
        by ``teacher/form@temperature``; by teacher alone what rows read that ask for no form; by
        ``teacher+stage+stage`` what those read whose views have stages.
    """
    exact = {output: exact_store(cache, photos, views, output) for output in outputs}
    missing = [output for output, store in exact.items() if not _whole(store)]
    # One pass over the photos writes the stores of all teachers whose views are the same.
    for augment in dict.fromkeys(output.augment for output in missing):
        options = ["--views", str(views), "--top-k", "58", "--batch-size", "256"]
        options += ["--device", DEVICE]
        for stage in augment:
            options += ["--augment", stage]
        same = [
            (f"python:benchmarks.support.scene_networks:{name}", exact[output], tau)
            for output in missing
            for name, tau, stages in [output]
            if stages == augment
        ]
        exact_stores(same, photos, options, {CACHE_VARIABLE: str(cache)})
    stores = {}
    for (name, tau, augment), store in exact.items():
        if augment:
            stores["+".join((name, *augment))] = forms_of(store, [USUAL])[USUAL]
            continue
        names = [form for form in FORMS if form != "exact"] if name == TEACHERS[0] else [USUAL]
        for form, path in forms_of(store, names).items():
            stores[f"{name}/{form}@{tau}"] = path
        if tau == 1:
            stores[name] = stores[f"{name}/{USUAL}@1"]
    return stores


def crops_of(cache: Path, photos: Path, store: labelstore.Store) -> torch.Tensor:
    """(N, V, 48, 48, 3) uint8: every view of a store, cut once; what the teachers saw."""
    stages = map(str, store.manifest.law.stages)
    file = cache / ("+".join((f"crops-{photos.name}-{store.num_views}", *stages)) + ".npy")
    if store.manifest.law.stages:
        _augmented_crops(photos, store, file)
    else:
        views = np.arange(store.num_views)
        cut_crops(
            photos,
            lambda key: store.views([key] * len(views), views),
            store.num_views,
            SIDE,
            file,
        )
    return torch.from_numpy(np.load(file, mmap_mode="c"))


def _augmented_crops(photos: Path, store: labelstore.Store, file: Path) -> None:
    """As ``cut_crops``, of views with stages; by the data set that any student has."""
    if file.exists():
        return
    data = SoftLabelDataset(labelstore.open_source(photos), store, normalize=None)
    partial = file.with_suffix(".partial.npy")
    views = tuple(range(store.num_views))
    shape = (store.num_images, len(views), SIDE, SIDE, 3)
    out = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
    for image in range(store.num_images):
        pixels, _ = data[Show(image, views)]
        out[image] = pixels.permute(0, 2, 3, 1).numpy()
    out.flush()
    partial.rename(file)
