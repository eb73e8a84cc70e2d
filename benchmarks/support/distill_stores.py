"""The stores that students train from: written by the commands, in each form that is compared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import labelstore
from labelstore.images.decoding import decode
from labelstore.images.pixels import cut
from labelstore.images.sources.folder import FolderSource
from labelstore.labels.distance import distances
from labelstore.producer.settings import FIDELITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from labelstore.views.law import Views

__all__ = ["cut_crops", "distance_and_bytes", "exact_stores", "forms_of"]

ROOT = Path(__file__).parents[2]


def exact_stores(
    outputs: Sequence[tuple[str, Path, int]],
    photos: Path,
    options: Sequence[str],
    environment: dict[str, str],
) -> None:
    """Write the stores with all classes in float32 in one pass; those that are whole are kept.

    Args:
        outputs: a teacher as ``--teacher`` takes it, its store, the temperature.
        photos: the folder of images. options: further options of ``labelstore generate``.
        environment: what the teachers' factories look up.
    """
    command = [sys.executable, "-m", "labelstore", "generate", str(photos)]
    for spec, store, temperature in outputs:
        command += ["--teacher", spec, "-o", str(store), "--temperature", str(temperature)]
    command += ["--quantizer", "fp32", "--prior-size", "0", *options]
    # Networks this small gain nothing from a second thread, and lose much where the cores are busy.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    subprocess.run(command, check=True, env=environment, cwd=ROOT)


def forms_of(exact: Path, names: Sequence[str]) -> dict[str, Path]:
    """An exact store in other forms, each beside it; those that are there are kept."""
    classes = labelstore.open(exact).num_classes
    stores = {"exact": exact}
    for name in names:
        store = exact.with_name(f"{exact.stem}-{name}.zarr")
        stores[name] = store
        if store.exists():
            continue
        command = [sys.executable, "-m", "labelstore", "recode", str(exact), "-o", str(store)]
        if name in FIDELITIES:
            form = FIDELITIES[name]
            command += ["--top-k", str(form.k), "--quantizer", str(form.quantizer)]
            command += ["--prior-size", str(min(form.prior_size or 0, classes))]
            command += ["--top-p", str(form.top_p)] if form.top_p else []
        else:
            # FKD's files have the k largest classes; the rest is spread evenly.
            command += ["--top-k", name.removeprefix("top"), "--quantizer", "fp16"]
            command += ["--prior-size", "0"]
        subprocess.run([*command, "--quiet"], check=True, cwd=ROOT)
    return stores


def distance_and_bytes(store: Path, exact: Path, images: int = 300) -> dict[str, float]:
    """Bytes a crop of a store's files, and how far its labels are from the exact ones, in nats."""
    reader, full = labelstore.open(store), labelstore.open(exact)
    sample = np.linspace(0, reader.num_images - 1, min(images, reader.num_images)).astype(int)
    places = np.repeat(sample, reader.num_views)
    views = np.tile(np.arange(reader.num_views), len(sample))
    truth = full.read(places, views).recover().dense()
    measured = distances([(truth, reader.read(places, views).recover())])
    size = sum(reader.bytes_by_part().values())
    return {
        "bytes_per_crop": round(size / (reader.num_images * reader.num_views), 3),
        "kl": round(measured.kl_nats, 6),
    }


def cut_crops(
    photos: Path, draw: Callable[[str], Views], views: int, side: int, file: Path
) -> Path:
    """Cut the first views of every image of a folder, once, into a .npy file.

    Args:
        photos: the folder of images.
        draw: which crops, by an image's key: a store's or a law's.
        views: how many. side: pixels of a crop.
        file: (N, V, side, side, 3) uint8, images in the order of their keys; kept if it is there.
    """
    if not file.exists():
        source = FolderSource(photos)
        partial = file.with_suffix(".partial.npy")
        shape = (len(source), views, side, side, 3)
        out = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        for place, key in enumerate(source.keys):
            photo, drawn = decode(source.read(place), key), draw(key)
            for view in range(views):
                box, flip = drawn.box[view].tolist(), bool(drawn.flip[view])
                out[place, view] = cut(photo, box, flip, (side, side), "bilinear")
        out.flush()
        partial.rename(file)
    return file
