"""One pass of Pillow's resizing, of many boxes at once, as a Triton kernel.

A pass sums neighbours along one axis, in integers, so its bytes are Pillow's on any device. A
program does a tile of lines times values of one box; a box's lines, first taps and weights lie in
one array of numbers that is uploaded once for both passes.

The kernel has more parameters than a function should: Triton takes pointers, sizes and constants
one by one, and no record of them.

Importing this module needs Triton; ``labelstore.images.resize_on_device`` does it where it is used.

What pays for it: the rows of generate of ``python -m benchmarks.gpu``.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Pass", "run_pass"]

BLOCK_LINES = 8
BLOCK_VALUES = 128


@dataclass(frozen=True)
class Pass:
    """What one pass makes of each box.

    Attributes:
        across: whether neighbours along a line are summed, else lines.
        table: (n, 7) int64 of each box: the place of its first byte in the source; how many lines
            (across) or bytes of a line (else) are to be made; the places of its first taps and of
            its weights in the array of numbers; how many taps a pixel has at most; 1 to mirror; the
            place of its first byte in the result.
        steps: bytes from a line to the next, in the source and in the result.
        size: lines and bytes of a line of the largest result.
        places: pixels of the result along the axis of the sums.
    """

    across: bool
    table: npt.NDArray[np.int64]
    steps: tuple[int, int]
    size: tuple[int, int]
    places: int


def run_pass(
    source: torch.Tensor, table: torch.Tensor, numbers: torch.Tensor, out: torch.Tensor, what: Pass
) -> None:
    """Fill ``out`` with the sums of a pass.

    Args:
        source: uint8 pixels, contiguous. out: uint8, contiguous.
        table: ``what.table`` on the device. numbers: int32 first taps and weights (taps, places).
    """
    lines, values = what.size
    grid = (len(what.table), triton.cdiv(lines, BLOCK_LINES), triton.cdiv(values, BLOCK_VALUES))
    with torch.cuda.device(source.device) if source.is_cuda else contextlib.nullcontext():
        _pass_kernel[grid](
            source,
            table,
            numbers,
            out,
            what.steps[0],
            what.steps[1],
            what.places,
            across=what.across,
            block_lines=BLOCK_LINES,
            block_values=BLOCK_VALUES,
            num_warps=4,
        )


@triton.jit  # type: ignore[untyped-decorator]
def _pass_kernel(
    source: tl.tensor,
    table: tl.tensor,
    numbers: tl.tensor,
    out: tl.tensor,
    step: tl.tensor,
    out_step: tl.tensor,
    places: tl.tensor,
    across: tl.constexpr,
    block_lines: tl.constexpr,
    block_values: tl.constexpr,
) -> None:
    table += tl.program_id(0) * 7
    source += tl.load(table)
    extent = tl.load(table + 1)
    firsts = numbers + tl.load(table + 2)
    weights = numbers + tl.load(table + 3)
    taps = tl.load(table + 4)
    mirror = tl.load(table + 5)
    out += tl.load(table + 6)
    line = (tl.program_id(1) * block_lines + tl.arange(0, block_lines))[:, None]
    value = (tl.program_id(2) * block_values + tl.arange(0, block_values))[None, :]
    if across:
        inside = (line < extent) & (value < 3 * places)
        column = value // 3
        place = tl.where(mirror != 0, places - 1 - column, column)
        first = tl.load(firsts + place, mask=value < 3 * places, other=0)
        start = line.to(tl.int64) * step + first * 3 + value % 3
        tap_step = 3
    else:
        inside = (line < places) & (value < extent)
        place = line
        first = tl.load(firsts + place, mask=line < places, other=0)
        start = first.to(tl.int64) * step + value
        tap_step = step
    # A weight has 22 binary digits after the point. Half a unit more: what is cut off rounds.
    total = tl.full([block_lines, block_values], 2097152, tl.int32)
    for tap in range(taps):
        weight = tl.load(weights + tap * places + place, mask=place < places, other=0)
        # Past a pixel's last tap the weight is 0, and what would be read may be no pixel.
        there = inside & (weight != 0)
        pixel = tl.load(source + start + tap * tap_step, mask=there, other=0)
        total += pixel.to(tl.int32) * weight
    rounded = tl.minimum(tl.maximum(total >> 22, 0), 255)
    tl.store(out + line.to(tl.int64) * out_step + value, rounded.to(tl.uint8), mask=inside)
