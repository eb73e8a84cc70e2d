"""``labelstore inspect``: what is in a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from labelstore.errors import require_packages

from ... import options, output
from ...reports.inspect import draw_histogram, print_report
from ...reports.page import PageOptions, page_options, photos_of, write_page

PLOT_SUFFIXES = (".png", ".svg", ".pdf")

HELP = """Show what is in a store: how confident the teacher is (Figure 2 and Table 1 of the FerKD
paper), how often it agrees with the ground truth, what FerKD would do with the crops, the hardest
and the easiest of them, and what a crop costs on disk.

\b
  labelstore inspect teacher.zarr
  labelstore inspect teacher.zarr --low 0.1 --top 0.98 --plot confidence.png
  labelstore inspect teacher.zarr --report teacher.html --photos PHOTOS
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
    ferkd: options.FerKDOptions
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
@options.ferkd_options
@page_options
@options.source_options
@options.json_option
@options.collected(
    InspectOptions,
    ferkd=options.FerKDOptions,
    page=PageOptions,
    photo_options=options.SourceOptions,
)
def command(request: InspectOptions) -> None:
    """Inspect a store."""
    import labelstore
    from labelstore.errors import CorruptError
    from labelstore.operations.inspection.inspect import report

    rule = request.ferkd.rule()
    request.page.check(request.photo_options)
    store = labelstore.open(request.store)
    photos = photos_of(request.page, request.photo_options, store)
    with output.progress(store.num_images, store.num_views, brief=True) as progress:
        try:
            statistics = report(store, rule, request.extremes, tell=progress.update)
        except CorruptError as error:
            raise error.extended(
                "labelstore verify names every block that is damaged, and labelstore repair, given "
                "the photos and the teacher, makes those anew and no others."
            ) from error
    if request.json:
        output.emit_json(statistics)
    else:
        print_report(statistics)
    if request.plot is not None:
        draw_histogram(statistics, request.plot)
        output.note(f"the histogram was drawn to {request.plot}")
    write_page(request.page, store, statistics, photos, quiet=request.json)
