"""``labelstore prune``: take labels out of a store for good."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ... import options, output
from ...ferkd_options import FerKDOptions, ferkd_options
from ...text import counted, extent, size
from .subset import PartOptions, part_options

if TYPE_CHECKING:
    from labelstore.operations.lifecycle.prune import PruneLoss

HELP = """Take images, or views of each, out of a store for good. The options say what is kept.

\b
  labelstore prune teacher.zarr --views 0:100
  labelstore prune teacher.zarr --per-image 50 --choose surgical --yes

What is kept is written beside the store, verified, and put in its place when it is whole; until
then the store is as it was, and the disk has to hold both. All else is deleted: what goes is told,
and has to be agreed to (--yes in scripts). Labels that are kept are the same to the last bit; the
store's id is another one. Training loops that have the store open fail with an error. An
interrupted prune goes on when the same command is given again.

The store is one in a folder. Of one behind a URL write a part to a new URL with labelstore subset.
"""


@dataclass(frozen=True, kw_only=True)
class PruneOptions(options.ResultOptions):
    """The options of ``labelstore prune``."""

    store: str
    part: PartOptions
    ferkd: FerKDOptions
    yes: bool


@click.command(help=HELP, short_help="Take images, or views of each, out of a store for good.")
@options.store_argument
@part_options
@ferkd_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask whether labels may be deleted.")
@options.json_option
@options.quiet_option
@options.collected(PruneOptions, part=PartOptions, ferkd=FerKDOptions)
def command(request: PruneOptions) -> None:
    """Make a store smaller in its place."""
    request.part.check()
    request.ferkd.check()
    import labelstore
    from labelstore.operations.lifecycle.prune import finish, prune

    if not request.yes and not sys.stdin.isatty():
        raise click.UsageError(
            "labels would be deleted for good, and there is no terminal to ask at: add --yes."
        )
    store = labelstore.open(finish(request.store))
    arguments = request.part.arguments(store, request.ferkd, quiet=request.silent)

    def agree(loss: PruneLoss) -> None:
        if not request.yes:
            click.confirm(output.printable(question(loss)), abort=True, err=True)

    # Each block is written, and then read again.
    with output.progress(
        store.num_images, 2 * store.num_views, quiet=request.silent, brief=True
    ) as progress:
        report = prune(request.store, **arguments, agree=agree, tell=progress.update)
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        crops = ", with their crops stored" if report.explicit else ""
        freed = max(report.bytes_before - report.bytes, 0)
        outcome = f"{size(freed)} freed" if report.changed else "nothing was taken away"
        output.note(
            f"{extent(report)}{crops}, {size(report.bytes)}; {outcome} in {report.seconds:,.1f} s"
        )


def question(loss: PruneLoss) -> str:
    """What goes, and the question."""
    return (
        f"{loss.path} loses {counted(loss.images, 'image')} of "
        f"{loss.images + loss.images_kept:,} and {counted(loss.views, 'labelled view')} of "
        f"{loss.views + loss.views_kept:,} for good (about {size(loss.bytes)}). Delete them?"
    )
