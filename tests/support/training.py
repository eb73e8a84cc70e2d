"""Real photos with synthetic labels, and their slow replay."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from PIL import Image, ImageOps

import labelstore
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.images.pixels import pixel_digest
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys

NUM_VIEWS, NUM_CLASSES, TOP_K = 10, 20, 3
SIZE = (24, 20)
TEACHER = {
    "spec": "python:tests:none",
    "checkpoint": "none",
    "untrained": True,
    "weights_digest": "0" * 32,
    "input_size": list(SIZE),
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
    "interpolation": "bicubic",
    "device": "cpu",
    "precision": "fp32",
}


class Work(NamedTuple):
    """A folder of photos and the store that was made of it."""

    photos: Path
    store: Path


def make_photos(folder: Path, count: int = 14) -> list[str]:
    """Small copies of real photos in class folders; some turned by EXIF, one grey. Their keys."""
    # Found, not imported: its own imports warn.
    package = Path(find_spec("foolbox").origin).parent
    sources = sorted((package / "data").glob("imagenet_*.jpg"))[:count]
    assert len(sources) == count, "the photos that foolbox ships are missing"
    keys = []
    for number, source in enumerate(sources):
        key = f"{'ab'[number % 2]}/photo {number}.jpg"
        target = folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        photo = Image.open(source).resize((60 + 7 * number, 90 - 3 * number))
        exif = Image.Exif()
        if number in (2, 3, 6):
            exif[0x0112] = {2: 6, 3: 8, 6: 2}[number]
        if number == 5:
            photo = photo.convert("L")
        photo.save(target, quality=90, exif=exif)
        keys.append(key)
    return keys


def upright(path: Path) -> Image.Image:
    """Pillow's own calls, without the library under test."""
    with Image.open(path) as photo:
        return ImageOps.exif_transpose(photo).convert("RGB")


def replay(photo: Image.Image, box, flip, size=SIZE, resampling=Image.Resampling.BICUBIC):
    """Slow replay of one view: (height, width, 3) uint8."""
    top, left, height, width = (int(value) for value in box)
    view = photo.crop((left, top, left + width, top + height)).resize(size[::-1], resampling)
    return np.asarray(ImageOps.mirror(view) if flip else view)


def labels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random top-k labels (count, views, k) whose largest probabilities span 0.1 to 1."""
    rng = np.random.default_rng(seed)
    indices = rng.random((count, NUM_VIEWS, NUM_CLASSES)).argsort(-1)[..., :TOP_K]
    top = rng.uniform(0.1, 1.0, size=(count, NUM_VIEWS, 1))
    rest = np.minimum((1 - top) * 0.6, top) * np.array([0.9, 0.4])
    return indices, np.concatenate([top, np.minimum(rest, top)], axis=-1)


def make_store(
    path: Path,
    folder: Path,
    keys: list[str],
    *,
    seed: int = 0,
    broken: int = -1,
    probe=None,
    temperature=1.0,
):
    """A store over photos; image number ``broken`` is marked unreadable; ``probe`` spoils digests.

    The keys are stored in another order than a folder's.
    """
    keys = list(reversed(keys))
    photos = [upright(folder / key) for key in keys]
    # The number in the file's name, so that stores in other orders agree.
    targets = np.array([int(Path(key).stem.split()[1]) for key in keys], dtype=np.int32)
    law = ViewLaw(seed=3)
    widths = np.array([photo.width for photo in photos])
    heights = np.array([photo.height for photo in photos])
    files = [(folder / key).read_bytes() for key in keys]
    digests = np.array([xxhash.xxh3_64_intdigest(data) for data in files], dtype=np.uint64)
    entries = []
    for image in (0, 1) if probe is not None else ():
        geometry = law(hash_keys([keys[image]])[0], 1, widths[image], heights[image])
        digest = pixel_digest(replay(photos[image], geometry.box, geometry.flip))
        entries.append({"key": keys[image], "view": 1, "digest": probe(digest)})
    manifest = Manifest(
        num_images=len(keys),
        num_views=NUM_VIEWS,
        num_classes=NUM_CLASSES,
        k=TOP_K,
        fingerprint=fingerprint(keys, targets),
        law=law,
        block_images=4,
        group_views=4,
        teacher=TEACHER,
        probe=tuple(entries),
        producer={"Pillow": "1.2.3"},
        temperature=temperature,
    )
    indices, probs = labels(len(keys), seed)
    readable = np.arange(len(keys)) != broken
    # As a producer leaves them of a photo that has no labels.
    widths, heights = (np.where(readable, sides, -1) for sides in (widths, heights))
    with StoreWriter(path, manifest, keys, targets) as writer:
        for block in writer.pending_blocks():
            rows = manifest.block_slice(block)
            writer.write_block(
                block,
                BlockData(
                    indices[rows],
                    probs[rows],
                    widths=widths[rows],
                    heights=heights[rows],
                    readable=readable[rows],
                    digests=digests[rows] * readable[rows],
                ),
            )
    return labelstore.open(path)
