"""``labelstore compare``: two stores of the same images beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from ... import options, output
from ...ferkd_options import FerKDOptions, ferkd_options
from ...reports.damage import leads_to_repair
from ...reports.inspection.compare import print_comparison
from ...reports.inspection.page import PageOptions, page_options, photos_of, write_page_of

if TYPE_CHECKING:
    from labelstore.operations.inspection.labelled_photos import LabelledPhotos
    from labelstore.store.label_reader import LabelReader

HELP = """Compare the labels of two stores of the same images: how often the largest class is the
same, how far the labels are apart (KL divergence, total variation), how sure each is, who is right
more often, which classes are taken for which, and the views and images that differ most.

\b
  labelstore compare teacher.zarr other.zarr     # teacher against teacher
  labelstore compare teacher.zarr small.zarr     # before and after recode
  labelstore compare a.zarr merged.zarr --mean-a b.zarr    # what merge lost
  labelstore compare a.zarr b.zarr --report compare.html --photos photos

Images are matched by key. Stores of the same views (seed, scale, ratio, flip) are compared view by
view; others by the mean label of each image, and the result says so. A store of other classes is
refused. Any model can write a store of its own labels of the same views (generate --views-from A
with a student as --teacher): the comparison is then that of student and teacher. FerKD's rule is
one for both; --thresholds fit fits it to A.
"""


@dataclass(frozen=True)
class CompareOptions:
    """The options of ``labelstore compare``."""

    a: str
    b: str
    mean_a: tuple[str, ...]
    mean_b: tuple[str, ...]
    sample: int | None
    extremes: int
    ferkd: FerKDOptions
    page: PageOptions
    photo_options: options.SourceOptions
    json: bool


@click.command(help=HELP, short_help="Compare two stores of the same images.")
@click.argument("a", metavar="A", type=click.Path())
@click.argument("b", metavar="B", type=click.Path())
@click.option(
    "--mean-a",
    multiple=True,
    type=click.Path(),
    metavar="STORE",
    help="Compare the mean of A and this store, as labelstore.ensemble reads it; may be repeated.",
)
@click.option(
    "--mean-b", multiple=True, type=click.Path(), metavar="STORE", help="Likewise of B and this."
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="VIEWS",
    help="Look at so many views of each image, in whole groups, and tell how far off the estimates "
    "may be. Default: all views.",
)
@click.option(
    "--extremes",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many of the views and images that differ most are named.",
)
@ferkd_options
@page_options
@options.source_options
@options.json_option
@options.collected(
    CompareOptions,
    ferkd=FerKDOptions,
    page=PageOptions,
    photo_options=options.SourceOptions,
)
def command(request: CompareOptions) -> None:
    """Compare two stores."""
    from labelstore.operations.inspection.compare import compare

    request.ferkd.check()
    if request.ferkd.fits and request.mean_a:
        raise click.UsageError(
            f"--thresholds {request.ferkd.thresholds} looks at the confidences of A, and those of "
            "a mean are not stored: leave out --mean-a, or give --low, --middle and --top."
        )
    request.page.check(request.photo_options)
    a = _reader(request.a, request.mean_a)
    b = _reader(request.b, request.mean_b)
    photos = photos_of(request.page, request.photo_options, a)
    views = min(a.num_views, b.num_views)
    if request.sample is not None:
        group = max(a.manifest.group_views, b.manifest.group_views)
        views = min(views, -(-request.sample // group) * group)
    with leads_to_repair():
        rule = request.ferkd.rule(a)
        with output.progress(min(a.num_images, b.num_images), views, brief=True) as progress:
            comparison = compare(
                a,
                b,
                ferkd=rule,
                extremes=request.extremes,
                sample=request.sample,
                tell=progress.update,
            )
    # First, since what is printed may end in a pipe that is closed.
    _write_page(request, a, b, comparison, photos)
    if request.json:
        output.emit_json(comparison)
    else:
        print_comparison(comparison)


def _reader(path: str, others: tuple[str, ...]) -> LabelReader:
    """A store, or the mean of several of the images that all have."""
    import labelstore

    if not others:
        return labelstore.open(path)
    return labelstore.ensemble([path, *others], images="intersection")


def _write_page(
    request: CompareOptions,
    a: LabelReader,
    b: LabelReader,
    comparison: dict[str, Any],
    photos: LabelledPhotos | None,
) -> None:
    from labelstore.operations.inspection.comparison.page_data import page_data

    names = " and ".join(PurePath(store.path).name for store in (a, b))
    write_page_of(
        request.page,
        ("compare", f"{names}: labelstore compare"),
        lambda tell: page_data(a, comparison, photos, tell=tell),
        quiet=request.json,
    )
