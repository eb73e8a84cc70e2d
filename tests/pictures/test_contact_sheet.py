"""The contact sheet: crops to the pixel, text that has room, colours in the order of their grey."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from labelstore.errors import UsageError
from labelstore.images.pixels import render
from labelstore.pictures import contact_sheet as sheets
from labelstore.pictures.contact_sheet import FRAME, GAP, MARGIN, contact_sheet
from labelstore.pictures.drawing import (
    PAPER,
    Brush,
    colour_of,
    font,
    ink_on,
    wrapped,
)
from labelstore.views.law import ViewLaw

HOSTILE = "\x1b[2J\u202egnp\n\r\0[red]x[/red]<b>\ud800"


def described(count, law=None, **more):
    """What ``describe`` tells of an image of 90 x 60 pixels."""
    views = (law or ViewLaw(3))(np.uint64(7), np.arange(count), 90, 60)
    return {
        "store": {
            "path": "a/teacher.zarr",
            "views": 32,
            "classes": 10,
            "teachers": ["timm:resnet50"],
        },
        "key": "cat/1.jpg",
        "width": 90,
        "height": 60,
        "target": 2,
        "target_name": "tabby",
        "ferkd": {"low": 0.15, "middle": 0.3, "top": 0.95, "confidence": "max"},
        "views": [
            {
                "view": number,
                "box": views.box[number].tolist(),
                "flip": bool(views.flip[number]),
                "confidence": 0.2,
                "classes": [1, 0],
                "names": ["crane (1)", "tench"],
                "probs": [0.2, 0.1],
                "residual": 0.7,
                "target_prob": 0.05,
                "action": "calibrated",
                "calibrated": {"classes": [2], "names": ["tabby"], "probs": [0.9]},
            }
            for number in range(count)
        ],
        **more,
    }, views


@pytest.fixture
def photo():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))


def place_of(crop, sheet, left):
    """The row of a sheet at which a crop begins in a column; None where it is not drawn."""
    height, width = crop.shape[:2]
    for top in range(len(sheet) - height + 1):
        if (sheet[top : top + height, left : left + width] == crop).all():
            return top
    return None


@pytest.mark.parametrize(("size", "factor"), [((200, 200), 1), ((170, 120), 1), ((48, 64), 2)])
def test_crops_are_drawn_as_the_teacher_saw_them(photo, size, factor):
    shown, views = described(7)
    crops = render(photo, views, size, "bicubic")
    assert views.flip.any()
    sheet = np.asarray(contact_sheet(shown, photo, crops))
    width = max(200, factor * size[1] + 2 * FRAME)
    columns = (sheet.shape[1] - 2 * MARGIN + GAP) // (width + GAP)
    tops = []
    for number, crop in enumerate(crops):
        drawn = crop.repeat(factor, axis=0).repeat(factor, axis=1)
        left = MARGIN + number % columns * (width + GAP) + FRAME
        tops.append(place_of(drawn, sheet, left))
    assert None not in tops
    assert len(set(tops)) == -(-7 // columns)
    assert tops == sorted(tops)


def test_few_places_of_a_sheet_are_empty():
    columns = {count: sheets._columns(count) for count in (1, 2, 3, 4, 5, 6, 8, 12, 16, 100)}
    assert columns == {1: 3, 2: 3, 3: 3, 4: 4, 5: 3, 6: 3, 8: 4, 12: 6, 16: 6, 100: 8}


def test_the_photo_is_there_and_boxes_have_the_colour_of_their_confidence(photo):
    shown, views = described(1, ViewLaw(0, (0.3, 0.3), (1, 1)))
    colours = set()
    for confidence in (0.0, 1.0):
        shown["views"][0]["confidence"] = confidence
        sheet = np.asarray(contact_sheet(shown, photo, render(photo, views, (200, 200), "box")))
        colours.add((sheet == colour_of(confidence)).all(axis=-1).sum())
    # The box's lines, its number's ground, the crop's frame.
    assert min(colours) > 1000


def test_a_store_without_boxes_has_a_sheet_of_labels(photo):
    shown, _ = described(3)
    for view in shown["views"]:
        view["box"] = view["flip"] = None
    bare = contact_sheet(shown, photo, None, ["The store does not say which crops."])
    with_crops = contact_sheet(*described(3)[:1], photo, np.zeros((3, 200, 200, 3), np.uint8))
    assert bare.height < with_crops.height - 150


@pytest.mark.parametrize("target", [None, 2])
def test_what_is_unknown_and_what_is_hostile(photo, target):
    shown, views = described(2, key=HOSTILE * 20, target=target, target_name=target and HOSTILE)
    shown["store"] |= {"path": HOSTILE * 9, "teachers": [HOSTILE * 5]}
    for view in shown["views"]:
        view["names"] = [HOSTILE * 3, "w" * 300]
        view["calibrated"] = None
        view["target_prob"] = None if target is None else 0.01
    shown["views"][1]["names"] = None
    sheet = contact_sheet(shown, photo, render(photo, views, (200, 200), "bicubic"))
    assert sheet.width < 1000
    assert sheet.height < 3000


@pytest.mark.parametrize(
    ("count", "crops"), [(0, None), (sheets.MOST_VIEWS + 1, None), (2, np.zeros((3, 9, 9, 3)))]
)
def test_what_cannot_be_drawn_is_refused(photo, count, crops):
    with pytest.raises(UsageError, match="expected 1 to"):
        contact_sheet(described(count)[0], photo, crops)


def test_numbers_of_boxes_do_not_hide_each_other(monkeypatch, photo):
    placed = []
    draw = sheets._tag

    def spied(*given):
        draw(*given)
        placed[:] = given[3]

    monkeypatch.setattr(sheets, "_tag", spied)
    # Boxes of the whole photo, all the same.
    shown, views = described(12, ViewLaw(0, (1, 1), (1.5, 1.5)))
    contact_sheet(shown, photo, render(photo, views, (200, 200), "box"))
    assert len(placed) == 12
    for number, one in enumerate(placed):
        assert not any(sheets._meet(one, other) for other in placed[:number])


def test_colours_keep_their_order_in_grey_and_text_on_them_can_be_read():
    scale = np.array([[colour_of(step / 50) for step in range(51)]], dtype=np.uint8)
    greys = np.asarray(Image.fromarray(scale).convert("L")).astype(int)
    assert (np.diff(greys) > 0).all()
    assert colour_of(-1) == colour_of(0)
    assert colour_of(2) == colour_of(1)
    for step in range(51):
        colour = colour_of(step / 50)
        assert contrast(ink_on(colour), colour) >= 4


def contrast(one, other):
    """WCAG's ratio of two colours."""

    def luminance(colour):
        parts = np.array(colour) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    "text",
    [
        "tench",
        "Greater Swiss Mountain dog",
        "n04613696/imagenet_08.jpg",
        "w" * 90,
        " ",
        "",
        "a b " * 60,
        HOSTILE,
        "日本語の名前" * 9,
    ],
)
def test_text_has_room_and_nothing_is_lost_that_has(text):
    face = font(12)
    for most in (1, 2, 5):
        lines = wrapped(text, face, 120, most)
        assert 1 <= len(lines) <= most
        assert all(face.getlength(line) <= 120 for line in lines)
        assert all(line.isprintable() for line in lines)
    assert "".join(wrapped("Greater Swiss Mountain dog", face, 120)).replace(" ", "") == (
        "GreaterSwissMountaindog"
    )
    assert wrapped("n04613696/imagenet_08.jpg", face, 120) == ["n04613696/", "imagenet_08.jpg"]


def test_a_bar_is_as_long_as_its_share():
    for share in (0.0, 0.25, 1.0):
        image = Image.new("RGB", (100, 60), PAPER)
        brush = Brush(image, 0, 0, 100)
        brush.bar("tench", share, f"{share:.2%}")
        row = np.asarray(image)[brush.y - 6]
        assert (row == (84, 107, 138)).all(axis=-1).sum() == round(100 * share)
