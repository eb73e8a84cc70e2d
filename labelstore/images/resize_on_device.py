"""Crops resized on the teacher's device, to the very pixels that Pillow makes.

Pillow resizes in two passes, columns and rows, each a sum over the pixels under the filter's
support; it works in integers (weights in units of 2**-22, rounding to 8 bits after each pass), so
that the same sums on any device give the same bytes. Here they are taken for many boxes of one
photo at once.

On a GPU with Triton one kernel does each pass (``labelstore.images.resize_kernels``), elsewhere
torch's own operations do. What pays for it: the rows of generate of ``python -m benchmarks.gpu``:
on an H200 four cores feed a ViT-B/16 with it, and eight without.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError, one_line
from labelstore.images.pillow_passes import FILTERS, WEIGHT_BITS, rows_first, taps

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    Weighted = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]
    """First taps (n, size) and weights (n, size, T) of boxes."""

__all__ = ["resize_boxes"]

WORKING_BYTES = 256 * 2**20
"""Bound on the intermediate sums of a call, but for one box at least: large photos go in parts."""


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
        interpolation: one of ``FILTERS``.

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
    geometry = np.stack([tops, lefts, heights, widths], axis=1)
    with_kernels = has_kernels(photo)
    by_rows = rows_first(heights, widths, size)
    for rows_come_first in (False, True):
        numbers = np.flatnonzero(by_rows == rows_come_first)
        if not len(numbers):
            continue
        longest = int((widths if rows_come_first else heights)[numbers].max())
        # Between the passes a pixel is three bytes; by operations the sums of a pass are there,
        # too: one int32 a channel for each pixel, and its place, an int64.
        room = (3 if with_kernels else 20 * 2) * longest * max(height, width)
        step = max(1, WORKING_BYTES // room)
        for start in range(0, len(numbers), step):
            part = numbers[start : start + step]
            some = Boxes(geometry[part], flips[part], size, interpolation)
            if with_kernels:
                _by_kernels(photo, some, rows_come_first, out, part)
                continue
            crops = _by_operations(photo, some, rows_come_first)
            out[torch.from_numpy(part).to(photo.device)] = crops
    return out


@dataclass(frozen=True)
class Boxes:
    """Boxes of one photo that are resized together."""

    boxes: npt.NDArray[np.int64]
    """(n, 4) top, left, height, width."""
    flips: npt.NDArray[np.bool_]
    """(n,)."""
    size: tuple[int, int]
    interpolation: str


def has_kernels(photo: torch.Tensor) -> bool:
    """Whether the Triton kernel resizes this photo (H, W, 3); else torch's own operations do, to
    the same bytes."""
    if not photo.is_cuda or importlib.util.find_spec("triton") is None:
        return False
    return _kernels_work(photo.device)


@functools.cache
def _kernels_work(device: torch.device) -> bool:
    """Whether the kernel compiles on a device and makes the operations' bytes there. Tried once for
    each device; where it does not, a RuntimeWarning says why."""
    import torch

    steps = np.arange(1, 90 * 70 * 3 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    noise = (steps >> np.uint64(40)).astype(np.uint8).reshape(90, 70, 3)
    boxes = np.array([[0, 0, 90, 70], [3, 5, 61, 20], [7, 1, 20, 61], [40, 30, 9, 40]])
    some = Boxes(boxes, np.array([False, True, True, False]), (24, 40), "bicubic")
    try:
        photo = torch.from_numpy(noise).to(device)
        for rows_come_first in (False, True):
            expected = _by_operations(torch.from_numpy(noise), some, rows_come_first)
            out = torch.zeros_like(expected, device=device)
            _by_kernels(photo, some, rows_come_first, out, np.arange(len(boxes)))
            if not torch.equal(out.cpu(), expected):
                raise RuntimeError("its pixels are not Pillow's")
    except torch.OutOfMemoryError:
        raise
    # Whatever stops the compiler or the driver: torch's operations do the same.
    except Exception as error:
        reason = one_line(error, f"{type(error).__name__}: {error}")
        warnings.warn(
            f"the Triton kernel that resizes does not work on {device} ({reason}); crops are "
            "resized by torch's own operations: slower, the same pixels.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _by_kernels(
    photo: torch.Tensor,
    some: Boxes,
    rows_come_first: bool,
    out: torch.Tensor,
    numbers: npt.NDArray[np.intp],
) -> None:
    """Fill rows ``numbers`` of ``out`` (N, height, width, 3): two launches, whatever the boxes."""
    import torch

    from labelstore.images.resize_kernels import Pass, run_pass

    height, width = some.size
    count = len(some.boxes)
    tops, lefts, heights, widths = some.boxes.T
    taps_of = _TapList()
    across = np.array([taps_of.place(int(n), width, some.interpolation) for n in widths])
    down = np.array([taps_of.place(int(n), height, some.interpolation) for n in heights])
    flips, still = some.flips.astype(np.int64), np.zeros(count, dtype=np.int64)
    line = 3 * photo.shape[1]
    start, end = tops * line + 3 * lefts, numbers * (3 * height * width)
    order = np.arange(count)
    if rows_come_first:
        widest = 3 * int(widths.max())
        between = order * (height * widest)
        table = np.stack(
            [
                np.column_stack([start, 3 * widths, down, still, between]),
                np.column_stack([between, np.full(count, height), across, flips, end]),
            ]
        )
        passes = (
            Pass(False, table[0], (line, widest), (height, widest), height),
            Pass(True, table[1], (widest, 3 * width), (height, 3 * width), width),
        )
        room = count * height * widest
    else:
        tallest = int(heights.max())
        between = order * (tallest * 3 * width)
        table = np.stack(
            [
                np.column_stack([start, heights, across, flips, between]),
                np.column_stack([between, np.full(count, 3 * width), down, still, end]),
            ]
        )
        passes = (
            Pass(True, table[0], (line, 3 * width), (tallest, 3 * width), width),
            Pass(False, table[1], (3 * width, 3 * width), (height, 3 * width), height),
        )
        room = count * tallest * 3 * width
    half = torch.empty(room, dtype=torch.uint8, device=photo.device)
    tables, values = (
        _placed(array, photo.device) for array in (table, np.concatenate(taps_of.parts))
    )
    photo = photo.contiguous()
    for source, target, index, what in ((photo, half, 0, passes[0]), (half, out, 1, passes[1])):
        run_pass(source, tables[index], values, target, what)


class _TapList:
    """Taps of the lengths among some boxes, each once, one after another."""

    def __init__(self) -> None:
        self.parts: list[npt.NDArray[np.int32]] = []
        """First taps (size,) and weights (T, size) of each length."""
        self._places: dict[tuple[int, int], tuple[int, int, int]] = {}
        self._end = 0

    def place(self, length: int, size: int, interpolation: str) -> tuple[int, int, int]:
        """Where the first taps and the weights of a length are, and how many taps there are."""
        key = (length, size)
        if key not in self._places:
            numbers = _tap_numbers(length, size, interpolation)
            self._places[key] = self._end, self._end + size, len(numbers) // size - 1
            self._end += len(numbers)
            self.parts.append(numbers)
        return self._places[key]


@functools.lru_cache(maxsize=8192)
def _tap_numbers(length: int, size: int, interpolation: str) -> npt.NDArray[np.int32]:
    first, weights = taps(length, size, interpolation)
    return np.concatenate([first.astype(np.int32), weights.T.ravel()])


def _placed(array: npt.NDArray[Any], place: torch.device) -> torch.Tensor:
    """An array on a device; what is done there next finds it, and nothing waits for the copy."""
    import torch

    tensor = torch.from_numpy(array)
    if place.type != "cuda":
        return tensor.to(place)
    return tensor.pin_memory().to(place, non_blocking=True)


def _by_operations(photo: torch.Tensor, some: Boxes, rows_come_first: bool) -> torch.Tensor:
    """(n, height, width, 3) uint8 by torch's own operations, on any device."""
    height, width = some.size
    still = np.zeros(len(some.boxes), dtype=bool)
    columns = _stack(some.boxes[:, 3], width, some.interpolation, some.flips)
    rows = _stack(some.boxes[:, 2], height, some.interpolation, still)
    passes = _rows_first if rows_come_first else _columns_first
    return passes(photo, some.boxes, rows, columns)


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
    half = 1 << (WEIGHT_BITS - 1)
    return (total.add_(half) >> WEIGHT_BITS).clamp_(0, 255).to(torch.uint8)
