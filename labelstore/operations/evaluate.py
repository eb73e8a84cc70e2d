"""A teacher's plain accuracy: whether it sees what it was trained to see, before GPU time is spent.

The evaluation of ImageNet's literature: one central crop of each image, ``crop_share`` of the sides
of the largest rectangle of the input's shape that fits into it, resized to the input's size.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import DecodeError, SourceError, UsageError
from labelstore.images.decoding import decode
from labelstore.images.pixels import cut
from labelstore.statistics.calibration import calibration_of
from labelstore.store.indexing import evenly_spaced
from labelstore.teachers.top_k import places_of, softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.statistics.calibration import Calibration
    from labelstore.teachers.teacher import Teacher

__all__ = ["EvaluationReport", "central_box", "evaluate", "wilson_interval"]

CALIBRATION_LOGITS = 2**26
"""Logits that are kept to fit a temperature to, 256 MiB: of 67,000 images with 1,000 classes."""

_NORMAL_95 = 1.959964
"""The standard normal distribution's 97.5th percentile."""


@dataclass(frozen=True)
class EvaluationReport:
    """What a teacher made of a source's images."""

    teacher: dict[str, Any]
    """As ``Teacher.describe`` tells."""
    crop_share: float
    images: int
    """Evaluated: with ground truth, and readable."""
    unknown: int
    """Images without ground truth, left out."""
    unreadable: tuple[str, ...]
    """Keys of images that could not be decoded."""
    classes: int
    temperature: float
    """What the logits are divided by: that of ``confidence``, and of the calibration's error and
    likelihood before it is mended."""
    top1: float
    """Share of the images whose largest logit is the ground truth's; of equal ones, the class of
    the smaller id comes first."""
    top1_interval: tuple[float, float]
    """Within which the teacher's true accuracy lies with 95 % confidence."""
    top_n: float
    """Share whose n largest logits have the ground truth."""
    n: int
    """5, or the number of classes where there are fewer."""
    confidence: float
    """Mean of the largest probability. Far from ``top1``: the teacher is over- or under-confident,
    and ``calibration`` has the temperature that mends it."""
    calibration: Calibration
    """Of the images, or of some spread evenly over them where there are very many logits."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            **asdict(self),
            "unreadable": list(self.unreadable),
            "top1_interval": list(self.top1_interval),
        }


def central_box(
    width: int, height: int, size: tuple[int, int], share: float
) -> tuple[int, int, int, int]:
    """Top, left, height, width in pixels of the central crop.

    Args:
        width, height: of the image. size: (height, width) of the input, whose shape the crop has.
        share: of the largest such rectangle's sides, above 0 to 1.
    """
    scale = share * min(height / size[0], width / size[1])
    tall = min(max(round(size[0] * scale), 1), height)
    wide = min(max(round(size[1] * scale), 1), width)
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``count`` independent trials (Wilson, JASA 1927)."""
    z2 = _NORMAL_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    spread = math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(centre - _NORMAL_95 * spread, 0.0), min(centre + _NORMAL_95 * spread, 1.0)


def evaluate(
    source: ImageSource,
    targets: npt.NDArray[np.int32],
    teacher: Teacher,
    *,
    crop_share: float | None = None,
    temperature: float = 1.0,
    images: int | None = None,
    batch_size: int = 64,
    workers: int = 1,
    tell: Callable[[int, int], None] | None = None,
) -> EvaluationReport:
    """Run a teacher over one central crop of every image whose ground truth is known.

    Args:
        source: the images, as a rule a validation set.
        targets: (N,) ground-truth class ids, -1 where unknown.
        crop_share: of ``central_box``; the teacher's own when None.
        temperature: what the logits are divided by, positive.
        images: how many to look at, spread evenly over the source; all when None.
        batch_size: images in one forward. workers: threads that decode.
        tell: called with 1 image and 1 view after each.

    Raises:
        UsageError: no image's ground truth is known, or a number out of range. SourceError: none
            of the images can be decoded. TeacherError: the network fails.
    """
    share = teacher.preprocessing.crop_share if crop_share is None else crop_share
    if not 0 < share <= 1:
        raise UsageError(f"the crop's share is {share}, expected above 0, up to 1.")
    if not 0 < temperature < math.inf:
        raise UsageError(
            f"the temperature is {temperature}, expected a positive number.",
            arguments=("temperature",),
        )
    chosen = np.flatnonzero(targets >= 0)
    unknown = len(targets) - len(chosen)
    if not len(chosen):
        raise UsageError(
            f"none of the {len(targets)} images of {source.path} has a ground truth, and accuracy "
            "is measured against it: give class folders, or a class map.",
            arguments=("class_map",),
        )
    if images is not None and images < len(chosen):
        chosen = chosen[evenly_spaced(len(chosen), max(images, 1))]
    started = time.perf_counter()
    n = min(5, teacher.num_classes)
    right = among = 0
    kept: list[npt.NDArray[np.float32]] = []
    truths: list[int] = []
    # One of so many images has its logits kept.
    every = math.ceil(len(chosen) * teacher.num_classes / CALIBRATION_LOGITS)
    confidence, unreadable, judged_photos = 0.0, [], 0
    with ThreadPoolExecutor(workers) as pool:
        crops = _crops(pool, source, teacher, share, chosen.tolist(), 2 * workers + batch_size)
        while batch := list(itertools.islice(crops, batch_size)):
            unreadable += [source.keys[image] for image, pixels in batch if pixels is None]
            seen = [(image, pixels) for image, pixels in batch if pixels is not None]
            if seen:
                logits = teacher.logits(np.stack([pixels for _, pixels in seen]))
                above = places_of(logits, targets[[image for image, _ in seen]])
                right, among = right + int((above == 0).sum()), among + int((above < n).sum())
                confidence += float(softmax(logits, temperature).max(axis=1).sum())
                places = np.arange(-judged_photos % every, len(seen), every)
                kept.append(logits[places.tolist()].cpu().numpy())
                truths += [int(targets[seen[place][0]]) for place in places]
                judged_photos += len(seen)
            if tell is not None:
                tell(len(batch), len(batch))
    if not judged_photos:
        raise SourceError(
            f"none of the {len(unreadable)} images of {source.path} could be decoded, first "
            f"{unreadable[0]!r}: give a folder of images."
        )
    return EvaluationReport(
        teacher=teacher.describe(),
        crop_share=share,
        images=judged_photos,
        unknown=unknown,
        unreadable=tuple(unreadable),
        classes=teacher.num_classes,
        temperature=temperature,
        top1=right / judged_photos,
        top1_interval=wilson_interval(right / judged_photos, judged_photos),
        top_n=among / judged_photos,
        n=n,
        confidence=confidence / judged_photos,
        calibration=calibration_of(np.concatenate(kept), np.array(truths), temperature),
        seconds=time.perf_counter() - started,
    )


def _crops(
    pool: ThreadPoolExecutor,
    source: ImageSource,
    teacher: Teacher,
    share: float,
    images: Sequence[int],
    ahead: int,
) -> Iterator[tuple[int, npt.NDArray[np.uint8] | None]]:
    """Images in order with their pixels, None for one that cannot be decoded."""

    def load(image: int) -> npt.NDArray[np.uint8] | None:
        try:
            photo = decode(source.read(image), str(source.path_of(image)))
        except DecodeError:
            return None
        size = teacher.preprocessing.input_size
        box = central_box(photo.width, photo.height, size, share)
        return cut(photo, box, False, size, teacher.preprocessing.interpolation)

    waiting: deque[tuple[int, Future[npt.NDArray[np.uint8] | None]]] = deque()
    for image in images:
        waiting.append((image, pool.submit(load, image)))
        if len(waiting) > ahead:
            number, future = waiting.popleft()
            yield number, future.result()
    for number, future in waiting:
        yield number, future.result()
