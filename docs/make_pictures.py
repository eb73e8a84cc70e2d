"""The pictures of docs/, from real labels: EfficientNet-Lite0 on the demo's photos.

    python docs/make_pictures.py

Needs the extra ``demo`` and a minute; writes docs/pictures. The photo that is shown is of Grace
Hopper, taken by the U.S. Navy and in the public domain; matplotlib brings it along.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib import cbook, pyplot as plt
from matplotlib.patches import Rectangle

import labelstore
from labelstore.operations.demo import place_photos, place_teacher
from labelstore.operations.inspection.show import (
    chosen_views,
    describe,
    draw_sheet,
    position_of,
)
from labelstore.teachers.class_names import human_names

if TYPE_CHECKING:
    from collections.abc import Callable

PICTURES = Path(__file__).parent / "pictures"
PORTRAIT = "n03763968/hopper.jpg"
"""Key of the photo that is shown, in the folder of ImageNet's class "military uniform"."""
VIEWS = 32
SHOWN = (0, 1, 4, 7)
REST = 0.25
"""Residual mass of the view of which the tail is shown."""
BLUE, ORANGE, GREEN, RED, GREY = "#3b6fb6", "#e08a1e", "#3f9b57", "#c0473b", "#b9bec6"


def make_stores(folder: Path) -> None:
    """``labels.zarr`` as labels are stored, and ``full.zarr`` with all that the teacher said."""
    photos, weights = folder / "photos", folder / "lite0.safetensors"
    place_photos(photos)
    place_teacher("tf_efficientnet_lite0", weights)
    (photos / PORTRAIT).parent.mkdir(exist_ok=True)
    shutil.copy(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False), photos / PORTRAIT)
    teacher = ["--teacher", "timm:tf_efficientnet_lite0", "--checkpoint", str(weights)]
    everything = ["--top-k", "1000", "--prior-size", "0", "--quantizer", "fp32"]
    for name, options in (("labels.zarr", []), ("full.zarr", everything)):
        command = ["generate", str(photos), *teacher, *options, "--views", str(VIEWS)]
        subprocess.run(
            [sys.executable, "-m", "labelstore", *command, "-q", "-o", str(folder / name)],
            check=True,
        )


def draw_views(
    store: labelstore.Store, folder: Path, shown: tuple[int, ...] = (0, 1, 4, 7)
) -> None:
    """A photo with the boxes of some views, and the views with what the teacher said."""
    shown = SHOWN
    photo = labelstore.images.decode((folder / "photos" / PORTRAIT).read_bytes(), PORTRAIT)
    views = store.views([PORTRAIT] * len(shown), list(shown))
    labels = store.read([PORTRAIT] * len(shown), list(shown))
    names = human_names(store.manifest)
    figure = plt.figure(figsize=(9, 4.1))
    whole = figure.add_axes((0.0, 0.02, 0.36, 0.88))
    whole.imshow(photo)
    whole.set_title("one photo, and the boxes of four views", fontsize=10)
    whole.axis("off")
    colours = (BLUE, ORANGE, GREEN, RED)
    for number, view in enumerate(shown):
        top, left, height, width = views.box[number]
        box = Rectangle((left, top), width, height, fill=False, color=colours[number], lw=2.5)
        whole.add_patch(box)
        column, row = number % 2, number // 2
        axes = figure.add_axes((0.40 + 0.30 * column, 0.53 - 0.50 * row, 0.22, 0.37))
        mirrored = bool(views.flip[number])
        pixels = labelstore.images.cut(photo, views.box[number], mirrored, (224, 224), "bicubic")
        axes.imshow(pixels)
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set(color=colours[number], linewidth=2.5)
        first = f"{names[labels.indices[number, 0]]} {labels.probs[number, 0]:.2f}"
        title = f"view {view}{', mirrored' if mirrored else ''}"
        axes.set_title(f"{title}\n{first}", fontsize=9)
    figure.savefig(PICTURES / "view.jpg", dpi=110, pil_kwargs={"quality": 85})
    plt.close(figure)


def draw_contact_sheet(store: labelstore.Store, folder: Path) -> None:
    """What ``labelstore show --save`` draws of the two hardest and the two easiest views."""
    image = position_of(store, PORTRAIT)
    views = chosen_views(store, image, ["hardest:2", "easiest:2"])
    shown = describe(store, image, views)
    # As it would be called by who follows the pages.
    shown["store"]["path"] = "teacher.zarr"
    sheet = draw_sheet(store, shown, labelstore.open_source(folder / "photos"))
    sheet.save(PICTURES / "contact_sheet.jpg", quality=85)


def draw_grid(
    axes: plt.Axes, colour_of: Callable[[int, int], str], images: int = 12, views: int = 12
) -> None:
    """Labels as cells: a row an image, a column a view."""
    for image in range(images):
        for view in range(views):
            cell = Rectangle((view, image), 0.86, 0.86, color=colour_of(image, view))
            axes.add_patch(cell)
    axes.set(xlim=(-0.2, views + 0.1), ylim=(images + 0.1, -0.2), aspect="equal")
    axes.axis("off")


def draw_blocks() -> None:
    """Blocks of images, groups of views, and where they meet."""
    figure, axes = plt.subplots(figsize=(8, 4.2))

    def colour(image: int, view: int) -> str:
        if image >= 8:
            return "#e6e8ec"
        return ORANGE if 4 <= image < 8 and 4 <= view < 8 else BLUE

    draw_grid(axes, colour)
    for block, state in enumerate(("committed", "committed", "absent")):
        text = f"block {block}: 4 images x all views, {state}"
        axes.text(12.3, 4 * block + 2, text, va="center", fontsize=10)
        if block:
            axes.axhline(4 * block - 0.07, xmin=0, xmax=1, color="black", lw=1)
    for group in range(3):
        axes.text(4 * group + 1.9, -0.5, f"group {group}", ha="center", fontsize=10)
        if group:
            axes.axvline(4 * group - 0.07, color="black", lw=1, ls=":")
    axes.text(-0.5, 6, "images", rotation=90, ha="center", va="center", fontsize=10)
    axes.text(6, 12.6, "views of each image", ha="center", fontsize=10)
    axes.text(12.3, 7.3, "orange: a chunk, what one read decompresses", fontsize=9, color=ORANGE)
    save(figure, "blocks.svg")


def draw_slab() -> None:
    """One group of views over all images, in memory once."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    draw_grid(axes, lambda image, view: GREEN if 4 <= view < 8 else GREY)
    axes.text(6, -0.5, "group 1", ha="center", fontsize=10)
    axes.text(6, 12.7, "the store, on disk: 12 views of each image", ha="center", fontsize=10)
    axes.annotate("", (15.4, 6), (12.2, 6), arrowprops={"arrowstyle": "->", "lw": 1.6})
    axes.text(13.8, 5.6, "read, checked,\ndecompressed", ha="center", fontsize=9)
    for image in range(12):
        for view in range(4):
            axes.add_patch(Rectangle((16 + view, image), 0.86, 0.86, color=GREEN))
    axes.text(18, 12.7, "the slab, in memory", ha="center", fontsize=10)
    for worker in range(4):
        y = 1.5 + 3 * worker
        axes.annotate("", (22.6, y), (20.2, y), arrowprops={"arrowstyle": "->", "lw": 1.2})
        axes.text(22.9, y, f"loader worker {worker}", va="center", fontsize=10)
    axes.set_xlim(-0.2, 29)
    save(figure, "slab.svg")


def draw_tail(store: labelstore.Store, full: labelstore.Store) -> None:
    """What the teacher said of a view, and what two tails make of the classes that are stored."""
    image, view = open_view(store)
    truth = full.read([image], [view]).recover(tail="none").dense()[0]
    stored = store.read([image], [view])
    kept = int((stored.probs[0] > 0).sum())
    even, listed = (stored.recover(tail=tail).dense()[0] for tail in ("uniform", "image"))
    order = np.argsort(-truth)[:14]
    names = human_names(store.manifest)
    figure, axes = plt.subplots(figsize=(8.5, 4.4))
    places = np.arange(len(order))
    axes.bar(places - 0.27, truth[order], 0.27, color=GREY, label="what the teacher said")
    axes.bar(places, listed[order], 0.27, color=BLUE, label="read back, tail like the image's list")
    axes.bar(places + 0.27, even[order], 0.27, color=ORANGE, label="read back, even tail (FKD's)")
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 1)
    axes.set_ylabel("probability")
    axes.set_xticks(places, [names[number] for number in order], rotation=40, ha="right")
    for number, label in zip(order, axes.get_xticklabels(), strict=True):
        if number in stored.indices[0, :kept]:
            label.set_weight("bold")
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(f"view {view} of one photo; the {kept} classes in bold are stored", fontsize=10)
    figure.tight_layout()
    save(figure, "tail.svg")


def open_view(store: labelstore.Store) -> tuple[int, int]:
    """The image and the view whose stored classes leave most nearly ``REST`` to the tail."""
    images = np.arange(store.num_images)
    rest = 1 - store.read(images[:, None], np.arange(store.num_views)).probs.sum(-1)
    image, view = np.unravel_index(np.abs(rest - REST).argmin(), rest.shape)
    return int(image), int(view)


def draw_ferkd(store: labelstore.Store) -> None:
    """How sure the teacher is of the views, and what FerKD does about them."""
    confidence = store.confidence().ravel()
    rule = labelstore.FerKD()
    edges = np.linspace(0, 1, 41)
    figure, axes = plt.subplots(figsize=(8, 3.8))
    axes.hist(confidence, edges, color=BLUE)
    height = axes.get_ylim()[1] * 1.25
    zones = (
        (0, rule.low, RED, "too hard:\nnot shown"),
        (rule.low, rule.middle, ORANGE, "calibrated:\nground truth,\nsmoothed"),
        (rule.middle, rule.top, GREEN, "kept: the teacher's label"),
        (rule.top, 1, RED, "too easy:\nnot shown"),
    )
    for low, high, colour, text in zones:
        axes.axvspan(low, high, color=colour, alpha=0.15, lw=0)
        share = ((confidence > low) & (confidence <= high)).mean()
        x, align = ((low + high) / 2, "center") if high < 1 else (1.012, "left")
        axes.text(x, height * 0.97, f"{text}\n{share:.1%}", ha=align, va="top", fontsize=9)
    axes.set(xlim=(0, 1), ylim=(0, height), ylabel=f"of {confidence.size} views")
    axes.set_xlabel("confidence: the teacher's largest probability")
    axes.set_xticks([0, rule.low, rule.middle, 0.5, 0.75, rule.top])
    figure.subplots_adjust(left=0.09, right=0.87, top=0.97, bottom=0.14)
    save(figure, "ferkd.svg")


def save(figure: plt.Figure, name: str) -> None:
    """An SVG file that is the same whenever it is made from the same labels."""
    figure.savefig(PICTURES / name, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Make the stores in a temporary folder, and every picture."""
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "labelstore"
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        make_stores(folder)
        store = labelstore.open(folder / "labels.zarr")
        draw_views(store, folder)
        draw_contact_sheet(store, folder)
        draw_blocks()
        draw_slab()
        draw_tail(store, labelstore.open(folder / "full.zarr"))
        draw_ferkd(store)


if __name__ == "__main__":
    main()
