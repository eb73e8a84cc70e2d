"""examples/dali_views.py with the real library on the CPU, where somebody has installed it."""

from __future__ import annotations

import numpy as np
import pytest

import labelstore
from tests.support.fixtures import store, work
from tests.support.training import replay, upright

__all__ = ["store", "work"]

pytest.importorskip("nvidia.dali")

VIEWS = 3


@pytest.mark.parametrize("epoch", [0, 2])
def test_its_views_are_the_stores(work, store, epoch):
    """Photos that EXIF data turns are among them, a grey one, and flips."""
    from examples import dali_views

    batches = labelstore.Batches(store, batch_size=4, views_per_image=VIEWS)
    pipeline = dali_views.view_pipeline(
        (24, 20),
        "bicubic",
        "cpu",
        batch_size=4 * VIEWS,
        num_threads=1,
        device_id=None,
        prefetch_queue_depth=1,
    )
    pipeline.build()
    photos = labelstore.open_source(str(work.photos))
    apart, flips, images = [], set(), []
    rows = dali_views.views_of_epoch(pipeline, batches, photos, epoch)
    for (views, batch), expected in zip(rows, batches.epoch(epoch), strict=True):
        assert (batch.images == expected.images).all()
        assert (batch.labels.weights == expected.labels.weights).all()
        drawn = store.views(batch.images, batch.views)
        for row, image in enumerate(batch.images.tolist()):
            photo = upright(work.photos / store.keys[image])
            pixels = replay(photo, drawn.box[row], drawn.flip[row])
            apart.append(np.abs(np.asarray(views[row]).astype(int) - pixels))
            flips.add(bool(drawn.flip[row]))
            images.append(image)
    assert flips == {False, True}
    assert sorted(images) == sorted(list(range(14)) * VIEWS)
    # Another box, or one that is mirrored otherwise, is tens of steps away.
    assert max(view.mean() for view in apart) < 1
    assert np.mean([(view <= 1).mean() for view in apart]) > 0.97
