"""The pixels of stages: operations on a view that was cropped, resized and mirrored.

Each is a pure function of 8-bit pixels and a few values, made of Pillow's public operations alone,
so that a teacher and its students see the same pixels where Pillow is of the same version. All but
``blur`` and ``erase`` are what ``torchvision.transforms.v2.functional`` does to a PIL image.
Shifts, shears and rotations take the nearest pixel, and what they uncover is black.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Values = npt.NDArray[np.float64]

__all__ = ["ERASED", "OPERATIONS", "StageOf", "apply_stages"]

ERASED = (124, 116, 104)
"""The colour of what is erased: ImageNet's mean, which is 0 once pixels are normalized."""


class StageOf(Protocol):
    """What one stage does to n views: ``labelstore.views`` tells it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the operations, by code."""

    @property
    def operation(self) -> npt.NDArray[np.uint8]:
        """(n, S): codes of the operations of each view, in order."""

    @property
    def values(self) -> Values:
        """(n, S, W): what each takes."""


def _hue(view: Image.Image, values: Values) -> Image.Image:
    """Turn the colour circle by a share of it, in whole steps of 1/255 towards 0."""
    hue, saturation, value = view.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(values[0] * 255) & 255)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def _affine(view: Image.Image, *matrix: float) -> Image.Image:
    """Each pixel (x, y) is that at (a x + b y + c, d x + e y + f), the nearest one; else black."""
    return view.transform(
        view.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.NEAREST,
    )


def _shift(side: int, values: Values) -> int:
    """Pixels, of a share of a side (the first value) or as they are (the second)."""
    return int(values[0] * side + values[1])


def _erase(view: Image.Image, values: Values) -> Image.Image:
    """Fill a rectangle: its height and width as shares, and its place among those it fits into."""
    width, height = view.size
    tall = min(round(float(values[0]) * height), height - 1)
    wide = min(round(float(values[1]) * width), width - 1)
    top = int(values[2] * (height - tall + 1))
    left = int(values[3] * (width - wide + 1))
    erased = view.copy()
    erased.paste(ERASED, (left, top, left + wide, top + tall))
    return erased


OPERATIONS: dict[str, Callable[[Image.Image, Values], Image.Image]] = {
    "identity": lambda view, _: view,
    "brightness": lambda view, x: ImageEnhance.Brightness(view).enhance(float(x[0])),
    "contrast": lambda view, x: ImageEnhance.Contrast(view).enhance(float(x[0])),
    "saturation": lambda view, x: ImageEnhance.Color(view).enhance(float(x[0])),
    "hue": _hue,
    "sharpness": lambda view, x: ImageEnhance.Sharpness(view).enhance(float(x[0])),
    "grayscale": lambda view, _: view.convert("L").convert("RGB"),
    "rotate": lambda view, x: view.rotate(float(x[0]), Image.Resampling.NEAREST),
    "shear-x": lambda view, x: _affine(view, 1, float(x[0]), 0, 0, 1, 0),
    "shear-y": lambda view, x: _affine(view, 1, 0, 0, float(x[0]), 1, 0),
    "translate-x": lambda view, x: _affine(view, 1, 0, -_shift(view.width, x), 0, 1, 0),
    "translate-y": lambda view, x: _affine(view, 1, 0, 0, 0, 1, -_shift(view.height, x)),
    "posterize": lambda view, x: ImageOps.posterize(view, int(x[0])),
    "solarize": lambda view, x: ImageOps.solarize(view, x[0]),
    "autocontrast": lambda view, _: ImageOps.autocontrast(view),
    "equalize": lambda view, _: ImageOps.equalize(view),
    "blur": lambda view, x: view.filter(ImageFilter.GaussianBlur(float(x[0]))),
    "erase": _erase,
}
"""Name of an operation -> what it does to an RGB image with its values."""


def apply_stages(pixels: npt.NDArray[np.uint8], stages: Sequence[StageOf]) -> None:
    """Do to views, in place, what stages do, one stage after another; none that mixes is among
    them.

    Args:
        pixels: (n, height, width, 3) uint8 of n views, cropped, resized and mirrored.
        stages: of the same n views, in order.
    """
    for row, view in enumerate(pixels):
        image = Image.fromarray(view)
        changed = False
        for stage in stages:
            for code, values in zip(stage.operation[row], stage.values[row], strict=True):
                if code:
                    image, changed = OPERATIONS[stage.names[code]](image, values), True
        if changed:
            view[...] = np.asarray(image)
