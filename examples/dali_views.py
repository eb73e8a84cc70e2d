"""A store's views decoded, cut and resized by NVIDIA DALI.

    python examples/dali_views.py PHOTOS STORE [--device gpu] [--size 224] [--batches 10]

shows how fast DALI makes the views of the store's first epoch, and by how much their pixels differ
from Pillow's, which the teacher saw. ``views_of_epoch`` is what a training loop takes over: photos
come from ``labelstore.open_source``, boxes, flips and labels from ``labelstore.Batches``. DALI
decodes nothing but each view's box.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import nvidia.dali as dali
from nvidia.dali import fn, types

import labelstore
from labelstore.errors import MismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from labelstore.images.sources.choose import ImageSource

INPUTS = ("encoded", "start", "shape", "flip")
FILTERS = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}


@dali.pipeline_def
def view_pipeline(size: tuple[int, int], interpolation: str, device: str) -> Any:
    """Encoded photos, their boxes and flips -> views (height, width, 3) uint8, RGB."""
    encoded, start, shape, flip = (fn.external_source(name=name) for name in INPUTS)
    view = fn.decoders.image_slice(
        encoded,
        start=start,
        shape=shape,
        axes=[0, 1],  # top, left; of the photo as its EXIF data turns it
        device="mixed" if device == "gpu" else "cpu",
        jpeg_fancy_upsampling=True,  # as Pillow's decoder does
    )
    # Antialiased as Pillow's. Mirrored after it was resized, as the teacher's views were.
    view = fn.resize(view, size=size, interp_type=FILTERS[interpolation], antialias=True)
    return fn.flip(view, horizontal=flip)


def views_of_epoch(
    pipeline: Any,
    batches: labelstore.Batches,
    photos: ImageSource,
    epoch: int,
) -> Iterator[tuple[Any, labelstore.Batch]]:
    """DALI's batches of an epoch with their labels.

    Args:
        pipeline: a ``view_pipeline`` whose batch size is at least ``batch_size * views_per_image``
            of the batches.
        batches: what is shown.
        photos: the folder, shards or bucket that the store was made from.
        epoch: as for ``Batches.epoch``.

    Yields:
        DALI's list of views on its device (``nvidia.dali.plugin.pytorch`` makes tensors of it), and
        the batch with ``labels``.

    Raises:
        MismatchError: the store's views are more than crops.
    """
    if getattr(batches.store.law, "stages", ()):
        raise MismatchError(
            f"{batches.store.path} has augmented views, and this pipeline makes plain crops: take "
            "labelstore.torch.SoftLabelDataset."
        )
    place = {key: number for number, key in enumerate(photos.keys)}
    keys = batches.store.keys
    for batch in batches.epoch(epoch):
        encoded = {
            image: np.frombuffer(photos.read(place[keys[image]]), dtype=np.uint8)
            for image in set(batch.images.tolist())
        }
        inputs = (
            [encoded[image] for image in batch.images.tolist()],
            list(batch.box[:, :2]),
            list(batch.box[:, 2:]),
            list(batch.flip.astype(np.int32)),
        )
        for name, values in zip(INPUTS, inputs, strict=True):
            pipeline.feed_input(name, values)
        (views,) = pipeline.run()
        yield views, batch


def main() -> None:
    """Compare the first batches with Pillow's views."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos")
    parser.add_argument("store")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batches", type=int, default=10)
    wish = parser.parse_args()

    store, photos = labelstore.open(wish.store), labelstore.open_source(wish.photos)
    interpolation = store.manifest.teachers[0]["interpolation"]
    size = (wish.size, wish.size)
    batches = labelstore.Batches(store, batch_size=4, views_per_image=4)
    pipeline = view_pipeline(
        size,
        interpolation,
        wish.device,
        batch_size=16,
        num_threads=2,
        device_id=0 if wish.device == "gpu" else None,
        # One batch is fed for each that is taken.
        prefetch_queue_depth=1,
    )
    pipeline.build()
    place = {key: number for number, key in enumerate(photos.keys)}
    steps, seconds, means = np.zeros(256, dtype=np.int64), 0.0, []
    start = time.perf_counter()
    for number, (views, batch) in enumerate(views_of_epoch(pipeline, batches, photos, 0)):
        seconds += time.perf_counter() - start
        ours = views.as_cpu() if wish.device == "gpu" else views
        for row, image in enumerate(batch.images.tolist()):
            key = store.keys[image]
            photo = labelstore.images.decode(photos.read(place[key]), key)
            expected = labelstore.images.cut(
                photo, batch.box[row], batch.flip[row], size, interpolation
            )
            apart = np.abs(np.asarray(ours[row]).astype(np.int64) - expected)
            steps += np.bincount(apart.reshape(-1), minlength=256)
            means.append(apart.mean())
        if number + 1 == wish.batches:
            break
        start = time.perf_counter()
    share, largest = steps / steps.sum(), int(np.flatnonzero(steps).max())
    print(
        f"{len(means)} views, {len(means) / seconds:.0f} a second. Of their values {share[0]:.1%} "
        f"equal Pillow's, {share[1]:.1%} are one step of 255 apart, {share[2:].sum():.2%} more, "
        f"{largest} at most; {np.mean(means):.2f} in the mean, {max(means):.2f} in the worst view."
    )


if __name__ == "__main__":
    main()
