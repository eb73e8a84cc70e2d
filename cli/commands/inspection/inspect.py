"""``labelstore inspect``: what is in a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labelstore.errors import require_packages

from ... import options, output
from ...ferkd_options import FerKDOptions, ferkd_options
from ...reports.damage import leads_to_repair
from ...reports.inspection.by_class import SORTS
from ...reports.inspection.history import print_history
from ...reports.inspection.inspect import draw_histogram, print_classes, print_report
from ...reports.inspection.page import PageOptions, page_options, photos_of, write_page

if TYPE_CHECKING:
    from labelstore.store.store import Store

DEFAULT_ROWS = 20

PLOT_SUFFIXES = (".png", ".svg", ".pdf")

HELP = """Show what is in a store: how confident the teacher is (Figure 2 and Table 1 of the FerKD
paper), how often it is right and how well it knows, what FerKD would do with the crops, which
classes are taken for which, which photos may be in the wrong folder, the hardest and the easiest
crops, and what a crop costs on disk.

\b
  labelstore inspect teacher.zarr
  labelstore inspect teacher.zarr --low 0.1 --top 0.98 --plot confidence.png
  labelstore inspect teacher.zarr --thresholds fit
  labelstore inspect teacher.zarr --by class --sort agreement --rows 50
  labelstore inspect teacher.zarr --report teacher.html --photos PHOTOS
  labelstore inspect merged.zarr --history
  labelstore inspect teacher.zarr --json | jq .agreement.top1

A store that is still being made is shown as far as it is committed.
"""


def _plot_path(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Path | None:
    """Checked before the store is read, which may take minutes."""
    if value is None:
        return None
    path = Path(value)
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise click.BadParameter(
            f"{value} does not end in one of {', '.join(PLOT_SUFFIXES)}: name a file that does."
        )
    if not path.parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist: make it first.")
    require_packages("--plot", "matplotlib")
    return path


@dataclass(frozen=True)
class InspectOptions:
    """The options of ``labelstore inspect``."""

    store: str
    plot: Path | None
    extremes: int
    sample: int | None
    by: str | None
    sort: str
    rows: int
    history: bool
    ferkd: FerKDOptions
    page: PageOptions
    photo_options: options.SourceOptions
    json: bool


@click.command(help=HELP, short_help="Show what is in a store.")
@options.store_argument
@click.option(
    "--plot",
    metavar="FILE",
    callback=_plot_path,
    help="Draw the histogram of the largest probability, too: a .png, .svg or .pdf file, replaced "
    "if it is there.",
)
@click.option(
    "--extremes",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="How many of the hardest and easiest crops and images are named.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Look at N views of each image. By default at the confidence of all, and at the whole "
    "labels of about four million crops.",
)
@click.option(
    "--by",
    type=click.Choice(["class"]),
    help="Show a row for each class instead of the whole store.",
)
@click.option(
    "--sort",
    type=click.Choice(list(SORTS)),
    default="confidence",
    show_default=True,
    help="Which classes come first: the least confident or agreed with, those that drift most or "
    "have most images, or class 0.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=DEFAULT_ROWS,
    show_default=True,
    help="How many classes, confused pairs and suspect images are shown; 0 shows all classes.",
)
@click.option(
    "--history",
    is_flag=True,
    help="Tell instead how the store came to be: its teachers, and each operation on which stores "
    "since. Only the manifest is read.",
)
@ferkd_options
@page_options
@options.source_options
@options.json_option
@options.collected(
    InspectOptions,
    ferkd=FerKDOptions,
    page=PageOptions,
    photo_options=options.SourceOptions,
)
def command(request: InspectOptions) -> None:
    """Inspect a store."""
    import labelstore
    from labelstore.operations.inspection.inspect import report

    request.ferkd.check()
    request.page.check(request.photo_options)
    store = labelstore.open(request.store)
    if request.history:
        _tell_history(store, request.json)
        return
    photos = photos_of(request.page, request.photo_options, store)
    with leads_to_repair():
        rule = request.ferkd.rule(store)
        with output.progress(store.num_images, store.num_views, brief=True) as progress:
            statistics = report(
                store, rule, request.extremes, tell=progress.update, sample=request.sample
            )
    # First, since what is printed may end in a pipe that is closed.
    if request.plot is not None:
        draw_histogram(statistics, request.plot)
        output.note(f"the histogram was drawn to {request.plot}")
    write_page(request.page, store, statistics, photos, quiet=request.json)
    if request.json:
        output.emit_json(statistics)
    elif request.by is not None:
        print_classes(statistics, request.sort, request.rows)
    else:
        print_report(statistics, request.rows or DEFAULT_ROWS)


def _tell_history(store: Store, as_json: bool) -> None:
    from labelstore.operations.lifecycle.history import history

    entries = history(store)
    if as_json:
        output.emit_json(entries)
    else:
        print_history(entries)
