"""Stores of augmented views, and whether the teacher saw the pixels that a student sees."""

from __future__ import annotations

import numpy as np

import labelstore
from labelstore.format.manifest import StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings, RunOptions
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
