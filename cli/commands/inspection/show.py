"""``labelstore show``: one image of a store, its crops and their labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ... import options, output
from ...ferkd_options import FerKDOptions, ferkd_options
from ...reports.damage import leads_to_repair
from ...text import counted

if TYPE_CHECKING:
    from labelstore.labels.ferkd import FerKD
    from labelstore.store.store import Store

SHOWN_EXTREMES = 4
"""Views at either end that are shown where none are named."""

HELP = """Show one image of a store: what the teacher said of its crops, with names and bars, and
what FerKD does with each. KEY is the image's key, or its position in the store.

\b
  labelstore show teacher.zarr n07753592/banana.jpg
  labelstore show teacher.zarr 12 --views 0,3,10-20 --views hardest:4
  labelstore show teacher.zarr 12 --photos photos --save sheet.png

The picture has the photo with the crops' boxes, and each crop as the teacher saw it, with its
label. A store has no pixels: --photos says where the photos are.
"""


def _picture(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Path | None:
    """Checked before the store is read."""
    if value is None:
        return None
    path = Path(value)
    if path.suffix.lower() != ".png":
        raise click.BadParameter(f"{value} does not end in .png: name a file that does.")
    if not path.parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist: make it first.")
    return path


@dataclass(frozen=True)
class ShowOptions:
    """The options of ``labelstore show``."""

    store: str
    key: str
    views: tuple[str, ...]
    photos: str | None
    save: Path | None
    overwrite: bool
    photo_options: options.SourceOptions
    ferkd: FerKDOptions
    json: bool


@click.command(help=HELP, short_help="Show one image: its crops and their labels.")
@options.store_argument
@click.argument("key", metavar="KEY")
@click.option(
    "--views",
    multiple=True,
    metavar="VIEWS",
    help="Numbers and ranges of views, as 0,3,10-20, all, hardest:4 or easiest:4 (by confidence). "
    f"Default: all of up to {2 * SHOWN_EXTREMES} views, else the {SHOWN_EXTREMES} hardest and the "
    f"{SHOWN_EXTREMES} easiest.",
)
@click.option("--photos", type=click.Path(), help="The photos that the store was made from.")
@click.option(
    "--save",
    metavar="FILE",
    callback=_picture,
    help="Draw the contact sheet, a .png file; needs --photos.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file that --save names.")
@options.source_options
@ferkd_options
@options.json_option
@options.collected(ShowOptions, photo_options=options.SourceOptions, ferkd=FerKDOptions)
def command(request: ShowOptions) -> None:
    """Show an image."""
    import labelstore

    if request.save is not None:
        if request.photos is None:
            raise click.UsageError(
                "--save draws crops, and their pixels are not in the store: give --photos, the "
                "photos that it was made from."
            )
        if request.save.exists() and not request.overwrite:
            raise click.UsageError(
                f"there is something at {request.save} already: give --overwrite to replace it, "
                "or name another file."
            )
    elif request.photos is not None or request.overwrite:
        name = "--photos" if request.photos is not None else "--overwrite"
        raise click.UsageError(f"{name} is for --save alone: give --save FILE, or leave it out.")
    request.ferkd.check()
    store = labelstore.open(request.store)
    with leads_to_repair():
        _show(request, store)


def _show(request: ShowOptions, store: Store) -> None:
    from labelstore.operations.inspection.show import describe, overview, position_of

    from ...reports.inspection.show import print_image

    image = position_of(store, request.key)
    rule = request.ferkd.rule(store)
    summary = overview(store, image, rule)
    numbers, chosen = _views(request, store, image, rule)
    shown = describe(store, image, numbers, rule)
    # Before anything is printed: an error is the only document on stdout.
    if request.save is not None and request.photos is not None:
        _save(request, store, shown, request.photos, request.save)
    if request.json:
        output.emit_json({**shown, "overview": summary})
    else:
        print_image(shown, summary, chosen)


def _views(request: ShowOptions, store: Store, image: int, rule: FerKD) -> tuple[list[int], str]:
    """Numbers of the views to be shown, and which these are in words."""
    from labelstore.operations.inspection.show import chosen_views

    count, choices = store.num_views, request.views
    if not choices and count > 2 * SHOWN_EXTREMES:
        numbers = chosen_views(
            store, image, (f"hardest:{SHOWN_EXTREMES}", f"easiest:{SHOWN_EXTREMES}"), rule
        )
        words = f"the {SHOWN_EXTREMES} hardest and the {SHOWN_EXTREMES} easiest"
        return numbers, f"{words} of {counted(count, 'view')} (--views all shows all)"
    numbers = chosen_views(store, image, choices or ("all",), rule)
    return numbers, f"{len(numbers):,} of {count:,}"


def _save(
    request: ShowOptions, store: Store, shown: dict[str, Any], photos: str, path: Path
) -> None:
    from io import BytesIO

    from labelstore.operations.inspection.show import draw_sheet
    from labelstore.storage.local_files import write_new, write_whole

    sheet = draw_sheet(store, shown, request.photo_options.open(photos))
    data = BytesIO()
    sheet.save(data, format="PNG")
    if request.overwrite:
        write_whole(path, data.getvalue())
    elif not write_new(path, data.getvalue()):
        raise click.UsageError(f"there is something at {path} already: name another file.")
    output.note(f"the contact sheet was drawn to {path}")
