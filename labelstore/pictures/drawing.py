"""Text, bars and colours of pictures: readable in grey, and no stranger's text does harm.

Colours that mean a number grow lighter with it, so that they keep their order in grey; what a bar
says stands beside it in figures.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from labelstore.errors import printable

__all__ = ["INK", "MUTED", "PAPER", "Brush", "Colour", "colour_of", "font", "ink_on", "wrapped"]

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (27, 31, 36)
MUTED: Colour = (87, 96, 106)
TRACK: Colour = (226, 230, 235)
BAR: Colour = (84, 107, 138)
TRUTH: Colour = (27, 31, 36)

_SCALE: tuple[Colour, ...] = (
    *((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137)),
    *((53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37)),
)
"""Ten steps of matplotlib's viridis, whose lightness rises evenly."""

_FONTS = ("mpl-data", "fonts", "ttf")
"""Where matplotlib has DejaVu Sans, which knows the signs of most alphabets."""

BAR_HEIGHT = 6

_DOTS = "…"


def colour_of(confidence: float) -> Colour:
    """The colour of a confidence: dark for 0, light for 1; others are brought to that range."""
    place = min(max(confidence, 0.0), 1.0) * (len(_SCALE) - 1)
    step = min(int(place), len(_SCALE) - 2)
    part = place - step
    red, green, blue = (
        round(low + part * (high - low))
        for low, high in zip(_SCALE[step], _SCALE[step + 1], strict=True)
    )
    return red, green, blue


def ink_on(colour: Colour) -> Colour:
    """Dark or light ink, whichever can be read on a colour (at a contrast of 4 or more)."""
    parts = (part / 255 for part in colour)
    # WCAG 2's relative luminance; at this one either ink has the same contrast.
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return INK if luminance > 0.21 else PAPER


@functools.cache
def font(size: int, bold: bool = False) -> Any:
    """A font of a height in pixels: DejaVu Sans, or Pillow's own where it cannot be found."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    spec = importlib.util.find_spec("matplotlib")
    places = [Path(place, *_FONTS) for place in (spec and spec.submodule_search_locations) or ()]
    # By name alone it is looked for among the system's fonts.
    for path in (*(str(place / name) for place in places), name):
        try:
            return ImageFont.truetype(path, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def wrapped(text: str, face: Any, width: float, most: int = 2) -> list[str]:
    """Text in lines of a width in pixels, at most so many; what has no room ends in dots.

    Lines are broken between words, and inside a word that alone is too wide.
    """
    lines: list[str] = []
    rest = printable(text).strip() or " "
    while rest:
        if face.getlength(rest) <= width:
            return [*lines, rest]
        if len(lines) == most - 1:
            # Keys and names differ at their ends as often as elsewhere: the middle goes.
            return [*lines, _shortened(rest, face, width)]
        count = _fitting(rest, face, width)
        broken = rest.rfind(" ", 0, count + 1)
        if broken <= 0:
            broken = max((rest.rfind(sign, 0, count) + 1 for sign in "/-_,."), default=0)
        if broken <= 0:
            broken = count
        lines.append(rest[:broken].rstrip())
        rest = rest[broken:].lstrip()
    return lines


def _fitting(text: str, face: Any, width: float) -> int:
    """How many of the first signs of a text are as wide at most; one at least."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if face.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _shortened(text: str, face: Any, width: float) -> str:
    for kept in range(len(text) - 1, 0, -1):
        short = text[: (kept + 1) // 2] + _DOTS + text[len(text) - kept // 2 :]
        if face.getlength(short) <= width:
            return short
    return _DOTS


class Brush:
    """Draws down a column of a picture, a line below the other."""

    def __init__(self, image: Image.Image, left: int, top: int, width: int) -> None:
        """At a place of an image, in pixels; ``width`` is the column's."""
        self.left, self.y, self.width = left, top, width
        self._draw: Any = ImageDraw.Draw(image)

    def text(
        self,
        text: str,
        size: int = 12,
        bold: bool = False,
        colour: Colour = INK,
        most: int = 3,
    ) -> None:
        """Text in as many lines as it needs, at most ``most``."""
        face = font(size, bold)
        for line in wrapped(text, face, self.width, most):
            self._draw.text((self.left, self.y), line, font=face, fill=colour)
            self.y += round(size * 1.35)

    def bar(self, name: str, share: float, value: str, truth: bool = False) -> None:
        """A share, 0..1, as a bar below its name and its value.

        Args:
            truth: whether it is the ground truth's: darker, with a diamond before its name.
        """
        plain, figures = font(12, truth), font(12, truth)
        room = figures.getlength(value) + 8
        indent = 13 if truth else 0
        lines = wrapped(name, plain, self.width - room - indent)
        for number, line in enumerate(lines):
            self._draw.text((self.left + indent, self.y), line, font=plain, fill=INK)
            if number == len(lines) - 1:
                place = (self.left + self.width - figures.getlength(value), self.y)
                self._draw.text(place, value, font=figures, fill=INK)
            if truth and number == 0:
                self.diamond(self.left + 4, self.y + 8)
            self.y += 16
        right = self.left + self.width - 1
        box = (self.left, self.y, right, self.y + BAR_HEIGHT - 1)
        self._draw.rectangle(box, fill=TRACK)
        length = round(min(max(share, 0.0), 1.0) * self.width)
        if length:
            filled = (self.left, self.y, self.left + length - 1, self.y + BAR_HEIGHT - 1)
            self._draw.rectangle(filled, fill=TRUTH if truth else BAR)
        self.y += BAR_HEIGHT + 4

    def diamond(self, x: int, y: int, radius: int = 4) -> None:
        """The mark of the ground truth, around a point."""
        points = [(x - radius, y), (x, y - radius), (x + radius, y), (x, y + radius)]
        self._draw.polygon(points, fill=TRUTH)

    def scale(self, marks: dict[float, str]) -> None:
        """The colours of 0 to 1, with marks below: place, 0..1 -> its text."""
        height = 14
        for column in range(self.width):
            colour = colour_of(column / max(self.width - 1, 1))
            box = (self.left + column, self.y, self.left + column, self.y + height - 1)
            self._draw.rectangle(box, fill=colour)
        self.y += height + 2
        face, free = font(11), float("-inf")
        for place, text in sorted(marks.items()):
            x = self.left + round(place * (self.width - 1))
            self._draw.line((x, self.y - height - 2, x, self.y + 2), fill=INK, width=1)
            length = face.getlength(text)
            start = min(max(x - length / 2, self.left), self.left + self.width - length)
            if start > free:
                self._draw.text((start, self.y + 3), text, font=face, fill=INK)
                free = start + length + 4
        self.y += 20
