"""Crops resized on the teacher's device, to the very pixels that Pillow makes.

Pillow resizes in two passes, columns and rows, each a sum over the pixels under the filter's
support; it works in integers (weights in units of 2**-22, rounding to 8 bits after each pass), so
that the same sums on any device give the same bytes. Here they are taken for many boxes of one
photo at once.

What pays for it: the rows of generate of ``python -m benchmarks.gpu``, which no card has made yet.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import torch

    Weighted = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]
    """First taps (n, size) and weights (n, size, T) of boxes."""

    Passes = Callable[[torch.Tensor, npt.NDArray[np.int64], Weighted, Weighted], torch.Tensor]

__all__ = ["FILTERS", "resize_boxes", "taps"]

_BITS = 22
"""Binary digits of a weight after the point: 8 bits of pixel and 2 of headroom fill an int32."""

WORKING_BYTES = 256 * 2**20
"""Bound on the intermediate sums of a call, but for one box at least: large photos go in parts."""


def _triangle(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _box(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The cubic convolution kernel with a = -1/2 (Keys 1981, equation 4)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


FILTERS: dict[str, tuple[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
    "box": (_box, 0.5),
}
"""Interpolation -> its kernel and the kernel's support, in pixels of the result."""


@functools.lru_cache(maxsize=8192)
def taps(
    length: int, size: int, interpolation: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Where each pixel of a resized line is summed from, and with what weights.

    Args:
        length: pixels of the line; size: pixels of the result.
        interpolation: one of `FILTERS`.

    Returns:
        (size,) int64 first pixels, and (size, T) int32 weights in units of 2**-22; those past a
        pixel's last tap are 0.
    """
    kernel, support = FILTERS[interpolation]
    scale = length / size
    stretch = max(scale, 1.0)
    reach = support * stretch
    centres = (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + reach + 0.5).astype(np.int64), length)
    steps = np.arange(int((last - first).max()))
    places = first[:, None] + steps
    weights = kernel((places - centres[:, None] + 0.5) * (1.0 / stretch))
    weights = np.where(places < last[:, None], weights, 0.0)
    # Summed one after another, as Pillow does: another order may round otherwise.
    weights = weights / np.cumsum(weights, axis=1)[:, -1:]
    scaled = weights * (1 << _BITS)
    return first, np.trunc(np.where(scaled < 0, scaled - 0.5, scaled + 0.5)).astype(np.int32)


def resize_boxes(
    photo: torch.Tensor,
    boxes: npt.NDArray[np.integer[Any]],
    flips: npt.NDArray[np.bool_],
    size: tuple[int, int],
    interpolation: str,
) -> torch.Tensor:
    """The pixels of views of one photo: crop, then resize, then mirror left to right.

    Args:
        photo: (H, W, 3) uint8 on any device.
        boxes: (n, 4) top, left, height, width in pixels, inside the photo.
        flips: (n,) whether to mirror.
        size: (height, width) of the result.
        interpolation: one of `FILTERS`.

    Returns:
        (n, height, width, 3) uint8 on the photo's device, equal to ``labelstore.images.cut``.

    Raises:
        UsageError: the filter cannot be followed on a device, or a box leaves the photo.
    """
    import torch

    if interpolation not in FILTERS:
        raise UsageError(
            f"the interpolation is {interpolation!r}, and on the device there are "
            f"{', '.join(FILTERS)}: resize by workers (resize='workers').",
            arguments=("resize",),
        )
    height, width = size
    tops, lefts, heights, widths = np.asarray(boxes, dtype=np.int64).T
    inside = (tops >= 0) & (lefts >= 0) & (heights > 0) & (widths > 0)
    inside &= (tops + heights <= photo.shape[0]) & (lefts + widths <= photo.shape[1])
    if not inside.all():
        raise UsageError(
            f"the box {boxes[int(np.argmin(inside))].tolist()} (top, left, height, width) leaves "
            f"the photo of {photo.shape[0]} x {photo.shape[1]} pixels or is empty."
        )
    out = torch.empty((len(boxes), height, width, 3), dtype=torch.uint8, device=photo.device)
    rows_first = (heights > height) & (heights - height > 2 * (widths - width)) & _reorders()
    for chosen, passes in ((~rows_first, _columns_first), (rows_first, _rows_first)):
        numbers = np.flatnonzero(chosen)
        if not len(numbers):
            continue
        # The sums of a pass: one int32 a channel for each pixel, and its place, an int64.
        longest = int((widths if passes is _rows_first else heights)[numbers].max())
        room = max(1, WORKING_BYTES // (20 * 2 * longest * max(height, width)))
        for start in range(0, len(numbers), room):
            part = numbers[start : start + room]
            columns = _stack(widths[part], width, interpolation, flips[part])
            rows = _stack(heights[part], height, interpolation, np.zeros(len(part), dtype=bool))
            corners = np.stack([tops[part], lefts[part], heights[part], widths[part]], axis=1)
            out[torch.from_numpy(part).to(photo.device)] = passes(photo, corners, rows, columns)
    return out


@functools.cache
def _reorders() -> bool:
    """Whether this Pillow takes the rows first where they shrink by far more than the columns.

    Which pass comes first shows in the rounding. Pillow 13 began to choose.
    """
    from PIL import Image

    line = np.array([[0, 3], [5, 255], [90, 17], [254, 1], [30, 201]], dtype=np.uint8)
    by_pillow = np.asarray(Image.fromarray(line).resize((3, 2), Image.Resampling.BICUBIC))
    photo = np.repeat(line[..., None], 3, axis=2)

    def follow(passes: Passes) -> npt.NDArray[np.uint8]:
        import torch

        rows = _stack(np.array([5]), 2, "bicubic", np.array([False]))
        columns = _stack(np.array([2]), 3, "bicubic", np.array([False]))
        return np.asarray(
            passes(torch.from_numpy(photo), np.array([[0, 0, 5, 2]]), rows, columns)[0, ..., 0]
        )

    return bool(
        (follow(_rows_first) == by_pillow).all() and (follow(_columns_first) != by_pillow).any()
    )


def _columns_first(
    photo: torch.Tensor, boxes: npt.NDArray[np.int64], rows: Weighted, columns: Weighted
) -> torch.Tensor:
    """(n, height, width, 3) uint8 of boxes (n, 4): the columns are summed, then the rows."""
    import torch

    tops, lefts, heights, _ = boxes.T
    tallest, width = int(heights.max()), columns[0].shape[1]
    # Rows past a box's last are that one again, and have no weight.
    lines = np.minimum(np.arange(tallest), heights[:, None] - 1) + tops[:, None]
    base = torch.from_numpy(lines * photo.shape[1] + lefts[:, None]).to(photo.device)
    across = _sums(photo.reshape(-1, 3), base[:, :, None], 1, columns, 1)
    boxed = torch.arange(len(boxes), device=photo.device)[:, None, None] * (tallest * width)
    base = boxed + torch.arange(width, device=photo.device)
    return _sums(across.reshape(-1, 3), base, width, rows, 2)


def _rows_first(
    photo: torch.Tensor, boxes: npt.NDArray[np.int64], rows: Weighted, columns: Weighted
) -> torch.Tensor:
    """As ``_columns_first``, with the rows summed first."""
    import torch

    tops, lefts, _, widths = boxes.T
    widest, height = int(widths.max()), rows[0].shape[1]
    lines = np.minimum(np.arange(widest), widths[:, None] - 1) + lefts[:, None]
    base = torch.from_numpy(lines + tops[:, None] * photo.shape[1]).to(photo.device)
    down = _sums(photo.reshape(-1, 3), base[:, None, :], photo.shape[1], rows, 2)
    boxed = torch.arange(len(boxes), device=photo.device)[:, None, None] * (height * widest)
    base = boxed + torch.arange(height, device=photo.device)[:, None] * widest
    return _sums(down.reshape(-1, 3), base, 1, columns, 1)


def _stack(
    lengths: npt.NDArray[np.int64], size: int, interpolation: str, flips: npt.NDArray[np.bool_]
) -> Weighted:
    """The taps of boxes, (n, size) and (n, size, T), mirrored where the view is."""
    taps_of = [taps(int(length), size, interpolation) for length in lengths]
    most = max(weights.shape[1] for _, weights in taps_of)
    first = np.empty((len(taps_of), size), dtype=np.int64)
    stacked = np.zeros((len(taps_of), size, most), dtype=np.int32)
    for row, ((starts, weights), flip) in enumerate(zip(taps_of, flips, strict=True)):
        order = slice(None, None, -1 if flip else 1)
        first[row] = starts[order]
        stacked[row, :, : weights.shape[1]] = weights[order]
    return first, stacked


def _sums(
    pixels: torch.Tensor,
    base: torch.Tensor,
    stride: int,
    weighted: Weighted,
    axis: int,
) -> torch.Tensor:
    """Weighted sums of pixels at ``base + stride * tap``, rounded to 8 bits.

    Args:
        pixels: (P, 3) uint8.
        base: places in it, (n, lines, 1) or (n, 1, columns), one axis of which the taps fill.
        stride: from one tap to the next.
        weighted: (n, size) first taps and (n, size, T) weights.
        axis: 1 where the taps run along the last axis of the result, 2 where along the one before.
    """
    import torch

    first = torch.from_numpy(weighted[0]).to(pixels.device)
    weights = torch.from_numpy(weighted[1]).to(pixels.device)
    spread = (slice(None), None, slice(None)) if axis == 1 else (slice(None), slice(None), None)
    places = base + first[spread] * stride
    total = torch.zeros((), dtype=torch.int32, device=pixels.device)
    limit = len(pixels) - 1
    for tap in range(weights.shape[-1]):
        # A place past a box's edge has weight 0 and may be any pixel.
        index = places if tap == 0 else (places + tap * stride).clamp_(max=limit)
        values = pixels[index].to(torch.int32) * weights[..., tap][spread][..., None]
        total = values if tap == 0 else total.add_(values)
    half = 1 << (_BITS - 1)
    return (total.add_(half) >> _BITS).clamp_(0, 255).to(torch.uint8)
