"""Stores of augmented views, and whether the teacher saw the pixels that a student sees."""

from __future__ import annotations

import numpy as np
from PIL import Image

import labelstore
from labelstore.format.settings import StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.producer.generation import generate
from labelstore.producer.probe import CHECKED_PHOTOS
from labelstore.producer.progress import Silent
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.store.indexing import evenly_spaced
from labelstore.teachers.top_k import top_k
from labelstore.views.law import ViewLaw

STORED = StoreSettings(k=5, quantizer="fp32", prior_size=0, block_images=2, group_views=2)


def labelled(photos, teacher, path, stages, *, views, temperature=0.1, seed=3, **options):
    """The finished store of a folder of photos, of views with these stages."""
    source = FolderSource(photos)
    law = ViewLaw(seed=seed, stages=stages)
    settings = LabelSettings(views, STORED, law=law, temperature=temperature)
    targets = np.full(len(source), -1, np.int32)
    generate(source, targets, teacher, path, settings, options=RunOptions(batch_size=4, **options))
    return labelstore.open(path)


def require_labels(store, teacher, image, views, pixels, temperature=0.1):
    """Pixels (m, 3, height, width) uint8 of views: the teacher says of them what is stored."""
    logits = teacher.logits(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy()))
    classes, probs = top_k(logits, 5, temperature)
    held = store.read(image, views)
    np.testing.assert_allclose(held.probs, probs, atol=2e-5)
    assert (held.indices == classes)[np.diff(probs, prepend=2, axis=1) < -1e-4].all()


def small_photos(photos, folder, count):
    """A folder of so many small photos, parts of those of another one."""
    keys = sorted(path.name for path in photos.iterdir())
    for number in range(count):
        left = 10 * number
        photo = Image.open(photos / keys[number % len(keys)]).convert("RGB")
        photo.crop((left, left // 2, left + 64, left + 60)).save(folder / f"{number:02}.png")
    return folder


def exchange(path):
    """Put another photo in place of a file; its bytes before."""
    before = path.read_bytes()
    Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
    return before


class StopError(Exception):
    """Ends a run in the middle."""


class StopAfter(Silent):
    """Ends a run once so many images are labelled."""

    def __init__(self, images):
        self.left = images

    def update(self, images, views):
        self.left -= images
        if self.left < 0:
            raise StopError


def unlooked_partner(store, committed, among, shown):
    """An image ``among`` some that no sample of the ``committed`` ones looks at, and that views of
    ``shown`` are mixed with."""
    law = store.law.among(store.key_hashes)
    views = np.arange(store.num_views)
    partners = law(store.key_hashes[:, None], views, 64, 60).partners.image
    probed = store.index_of([entry["key"] for entry in store.manifest.probe])
    looked = {*probed.tolist(), *partners[probed].ravel().tolist()}
    looked |= set(committed[evenly_spaced(len(committed), CHECKED_PHOTOS)].tolist())
    free = set(among) - looked
    return min(image for image in free if image in partners[shown])
