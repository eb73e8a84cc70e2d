"""The contact sheet of one image: the photo with its boxes, and its crops with their labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from labelstore.errors import UsageError
from labelstore.labels.actions import ACTION_WORDS
from labelstore.pictures.drawing import (
    INK,
    MUTED,
    PAPER,
    Brush,
    colour_of,
    font,
    ink_on,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    Box = tuple[float, float, float, float]

__all__ = ["MOST_VIEWS", "contact_sheet"]

MOST_VIEWS = 100
"""Of a sheet."""

MARGIN, GAP = 24, 20
FRAME = 5
"""Pixels around a crop, in the colour of its confidence."""

_SMALLEST_CROP = 160
"""Pixels: crops with no side as long are drawn two or more times as large, each pixel a square."""

_SMALLEST_CELL = 200
_SHOWN_CLASSES = 5
_CALIBRATED_CLASSES = 3


def contact_sheet(
    shown: Mapping[str, Any],
    photo: Image.Image,
    crops: npt.NDArray[np.uint8] | None,
    notes: Sequence[str] = (),
) -> Image.Image:
    """Draw views of one image.

    Args:
        shown: what ``labelstore.operations.inspection.show.describe`` tells of these views.
        photo: upright and RGB, of the size of which the boxes are.
        crops: (n, height, width, 3) uint8, a view each, as the teacher saw them; they are drawn
            pixel by pixel. None where the store does not tell its boxes.
        notes: what there is to say of the pixels.

    Returns:
        An RGB image, as large as it needs to be.

    Raises:
        UsageError: no view, more than ``MOST_VIEWS``, or another number of crops than of views.
    """
    views = shown["views"]
    if not 1 <= len(views) <= MOST_VIEWS or (crops is not None and len(crops) != len(views)):
        and_crops = "" if crops is None else f" and {len(crops)} crops"
        raise UsageError(
            f"a contact sheet of {len(views)} views{and_crops} was asked for, expected 1 to "
            f"{MOST_VIEWS} views with a crop each: choose fewer.",
            arguments=("views",),
        )
    enlarged = None if crops is None else _enlarged(crops)
    width = max(_SMALLEST_CELL, 0 if enlarged is None else enlarged.shape[2] + 2 * FRAME)
    cells = [
        _cell(shown, view, None if enlarged is None else enlarged[number], width)
        for number, view in enumerate(views)
    ]
    columns = _columns(len(cells))
    inner = columns * width + (columns - 1) * GAP
    head = _head(shown, photo, inner, notes)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    height = 2 * MARGIN + head.height + sum(heights) + GAP * len(rows)
    sheet = Image.new("RGB", (inner + 2 * MARGIN, height), PAPER)
    sheet.paste(head, (MARGIN, MARGIN))
    y = MARGIN + head.height + GAP
    for row, tallest in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (MARGIN + column * (width + GAP), y))
        y += tallest + GAP
    return sheet


def _columns(count: int) -> int:
    """How many cells stand side by side: a sheet somewhat wider than high, few places empty."""
    near = min(max(math.ceil(1.3 * math.sqrt(count)), 3), 8)
    choices = range(max(near - 1, 3), near + 2)
    return min(choices, key=lambda columns: (-count % columns, abs(columns - near), -columns))


def _enlarged(crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    factor = max(1, _SMALLEST_CROP // max(crops.shape[1:3]))
    return crops.repeat(factor, axis=1).repeat(factor, axis=2)


def _cropped(image: Image.Image, height: int) -> Image.Image:
    return image.crop((0, 0, image.width, height))


def _cell(
    shown: Mapping[str, Any],
    view: Mapping[str, Any],
    crop: npt.NDArray[np.uint8] | None,
    width: int,
) -> Image.Image:
    """A view: its crop, and below it what is said of it."""
    colour = colour_of(view["confidence"])
    tall = 800 if crop is None else 800 + crop.shape[0]
    image = Image.new("RGB", (width, tall), PAPER)
    brush = Brush(image, 0, 0, width)
    if crop is not None:
        outer = (0, 0, crop.shape[1] + 2 * FRAME - 1, crop.shape[0] + 2 * FRAME - 1)
        ImageDraw.Draw(image).rectangle(outer, fill=colour, outline=INK)
        image.paste(Image.fromarray(crop), (FRAME, FRAME))
        brush.y = crop.shape[0] + 2 * FRAME + 6
    mirrored = ", mirrored" if view["flip"] else ""
    brush.text(f"view {view['view']}{mirrored}", 14, bold=True)
    brush.text(f"confidence {view['confidence']:.4f}", 12)
    brush.text(ACTION_WORDS[view["action"]], 12, colour=MUTED)
    brush.y += 6
    _bars(brush, shown, view)
    if view["calibrated"] is not None:
        brush.y += 2
        brush.text("FerKD's label", 12, colour=MUTED)
        label = view["calibrated"]
        most = min(len(label["classes"]), _CALIBRATED_CLASSES)
        for place in range(most):
            _bar(brush, shown, label, place)
        _others(brush, sum(label["probs"][:most]))
    return _cropped(image, brush.y)


def _bars(brush: Brush, shown: Mapping[str, Any], view: Mapping[str, Any]) -> None:
    """The stored label: its likeliest classes, the ground truth, and all the rest."""
    most, target = min(len(view["classes"]), _SHOWN_CLASSES), shown["target"]
    shown_apart = None
    for place in range(most):
        _bar(brush, shown, view, place)
    if target is not None and target not in view["classes"][:most]:
        about = "~" if _is_estimated(shown, view) else ""
        shown_apart = view["target_prob"]
        name = _name(target, shown["target_name"])
        brush.bar(name, shown_apart, f"{about}{shown_apart:.2%}", truth=True)
    drawn = sum(view["probs"][:most]) + (0.0 if shown_apart is None else shown_apart)
    _others(brush, drawn)


def _others(brush: Brush, drawn: float) -> None:
    """What is left beside classes of so much mass."""
    share = max(0.0, 1.0 - drawn)
    brush.bar("all other classes", share, f"{share:.2%}")


def _is_estimated(shown: Mapping[str, Any], view: Mapping[str, Any]) -> bool:
    """Whether the ground truth is not among a view's stored classes."""
    return shown["target"] is not None and shown["target"] not in view["classes"]


def _bar(brush: Brush, shown: Mapping[str, Any], label: Mapping[str, Any], place: int) -> None:
    number, share = label["classes"][place], label["probs"][place]
    name = _name(number, None if label["names"] is None else label["names"][place])
    brush.bar(name, share, f"{share:.2%}", truth=number == shown["target"])


def _name(number: int, name: str | None) -> str:
    return f"class {number}" if name is None else name


def _head(
    shown: Mapping[str, Any], photo: Image.Image, width: int, notes: Sequence[str]
) -> Image.Image:
    """The photo with its boxes, and beside it what is said of the image."""
    title = Image.new("RGB", (width, 200), PAPER)
    brush = Brush(title, 0, 0, width)
    brush.text(shown["key"], 20, bold=True)
    title = _cropped(title, brush.y + 8)
    beside = max(240, width // 3)
    picture = _with_boxes(photo, shown["views"], width - beside - GAP)
    words = _words(shown, beside, notes)
    head = Image.new("RGB", (width, title.height + max(picture.height, words.height)), PAPER)
    head.paste(title, (0, 0))
    head.paste(picture, (0, title.height))
    head.paste(words, (picture.width + GAP, title.height))
    return head


def _words(shown: Mapping[str, Any], width: int, notes: Sequence[str]) -> Image.Image:
    store, rule, target = shown["store"], shown["ferkd"], shown["target"]
    image = Image.new("RGB", (width, 1200), PAPER)
    brush = Brush(image, 0, 0, width)
    brush.text("Ground truth", 12, colour=MUTED)
    if target is None:
        brush.text("unknown", 16, bold=True)
    else:
        brush.diamond(brush.left + 5, brush.y + 10, 5)
        brush.left, brush.width = 16, width - 16
        brush.text(_name(target, shown["target_name"]), 16, bold=True)
        brush.left, brush.width = 0, width
        brush.text(f"class {target} of {store['classes']:,}", 12)
    brush.y += 10
    facts = [
        ("Photo", _size(shown)),
        ("Views", f"{len(shown['views'])} of {store['views']:,}"),
        ("Teacher", ", ".join(store["teachers"]) or "unknown"),
        ("Store", str(store["path"])),
    ]
    for name, fact in facts:
        brush.text(name, 12, colour=MUTED)
        brush.text(fact, 13)
        brush.y += 6
    for note in notes:
        brush.text(note, 12, most=5)
        brush.y += 6
    brush.y += 4
    by_max = rule["confidence"] == "max"
    what = "largest probability" if by_max else "ground truth's probability"
    brush.text(f"Confidence: the {what}", 12, colour=MUTED)
    bounds = [0.0, rule["low"], rule["middle"], rule["top"], 1.0]
    marks = {0.0: "0", 1.0: "1"} | {bound: f"{bound:g}" for bound in bounds[1:-1]}
    names = ("discarded_low", "calibrated", "kept", "discarded_high")
    brush.scale(marks)
    for name, low, high in zip(names, bounds[:-1], bounds[1:], strict=True):
        if high > low:
            above = f"above {low:g}, " if low else ""
            brush.text(f"{ACTION_WORDS[name]}: {above}up to {high:g}", 11, colour=MUTED)
    if any(_is_estimated(shown, view) for view in shown["views"]):
        brush.y += 6
        brush.text("~ not stored: what the tail gives the class", 11, colour=MUTED)
    return _cropped(image, brush.y)


def _size(shown: Mapping[str, Any]) -> str:
    if shown["width"] is None:
        return "of unknown size"
    return f"{shown['width']} x {shown['height']} pixels"


def _with_boxes(photo: Image.Image, views: Sequence[Mapping[str, Any]], width: int) -> Image.Image:
    """The photo, as large as there is room, with the views' boxes and their numbers."""
    scale = min(width / photo.width, max(420.0, width * 0.75) / photo.height, 3.0)
    size = (max(round(photo.width * scale), 1), max(round(photo.height * scale), 1))
    picture = photo.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    boxes = [view for view in views if view["box"] is not None]
    # Small ones come last, so that large ones do not hide them.
    boxes.sort(key=lambda view: -view["box"][2] * view["box"][3])
    placed: list[tuple[Box, Mapping[str, Any]]] = []
    for view in boxes:
        top, left, height, breadth = (side * scale for side in view["box"])
        box = (left, top, left + breadth - 1, top + height - 1)
        placed.append((box, view))
        colour = colour_of(view["confidence"])
        # Between lines of the other kind it is seen on dark and on light photos.
        for inset, line in enumerate((ink_on(colour), *[colour] * 3, ink_on(colour))):
            _outline(draw, box, inset, line)
    tags: list[Box] = []
    for box, view in placed:
        _tag(draw, box, view, tags, picture.size)
    return picture


def _outline(draw: Any, box: Box, inset: int, colour: Any) -> None:
    left, top, right, bottom = box
    inner = (left + inset, top + inset, right - inset, bottom - inset)
    if inner[0] <= inner[2] and inner[1] <= inner[3]:
        draw.rectangle(inner, outline=colour)


def _tag(
    draw: Any, box: Box, view: Mapping[str, Any], tags: list[Box], size: tuple[int, int]
) -> None:
    """A view's number on the edge of its box, where no other number stands if there is room."""
    face = font(12, True)
    text = str(view["view"])
    width, height = face.getlength(text) + 8, 17
    places = list(_along(box, width, height, size))
    place = next((free for free in places if not any(_meet(free, tag) for tag in tags)), places[0])
    tags.append(place)
    colour = colour_of(view["confidence"])
    draw.rectangle(place, fill=colour, outline=ink_on(colour))
    draw.text((place[0] + 4, place[1] + 1), text, font=face, fill=ink_on(colour))


def _along(box: Box, width: float, height: float, size: tuple[int, int]) -> list[Box]:
    """Where on the edges of a box a tag may stand: from the upper left corner on."""
    left, top, right, bottom = box
    columns = np.arange(left, max(right - width, left) + 1, width + 2)
    rows = np.arange(top, max(bottom - height, top) + 1, height + 2)
    corners = [(x, top) for x in columns] + [(max(right - width, left), y) for y in rows]
    corners += [(left, y) for y in rows] + [(x, max(bottom - height, top)) for x in columns]
    kept = [
        (min(max(x, 0), size[0] - width - 1), min(max(y, 0), size[1] - height - 1))
        for x, y in corners
    ]
    return [(x, y, x + width, y + height) for x, y in kept]


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
