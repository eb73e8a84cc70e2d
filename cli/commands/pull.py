"""``labelstore pull``: copy a store here."""

from __future__ import annotations

from dataclasses import dataclass

import click

from .. import options, output
from ..selecting import chosen_keys, images_option, range_of_views
from ..text import counted

HELP = """Copy a finished store, as a rule a remote one, to a folder: all of it, its first views, or
some of its images.

\b
  labelstore pull s3://bucket/teacher.zarr teacher.zarr
  labelstore pull hf://datasets/OWNER/REPO/teacher.zarr small.zarr \\
    --views 0:50 --images 'n01440764/*' --images @more_keys.txt

The copy's labels are the source's to the last bit, and each block is verified before it is written.
With --views and --images only what covers them is read. An interrupted copy goes on where it
stopped when the same command is given again. The source may be local, and the copy remote (s3://, gs://).
From the hub all is read at one commit, REPO@REVISION's or main's, which a part of a store keeps
among its history.
"""


@dataclass(frozen=True, kw_only=True)
class PullOptions(options.ResultOptions):
    """The options of ``labelstore pull``."""

    store: str
    output: str
    views: range | None
    images: tuple[str, ...]
    overwrite: bool


@click.command(help=HELP, short_help="Copy a store here, all of it or a part.")
@options.store_argument
@click.argument("output", metavar="DIR", type=click.Path())
@click.option(
    "--views",
    metavar="0:N",
    callback=range_of_views,
    help="The first N views alone. A view's number names its crop, so the range begins at 0.",
)
@images_option
@options.overwrite_option
@options.json_option
@options.quiet_option
@options.collected(PullOptions)
def command(request: PullOptions) -> None:
    """Copy a store."""
    import labelstore
    from labelstore.operations.pull import pull
    from labelstore.storage.requests import pinned

    store = labelstore.open(pinned(request.store))
    images = chosen_keys(store.keys, request.images) if request.images else None
    num_views = store.num_views if request.views is None else len(request.views)
    num_images = store.num_images if images is None else len(images)
    with output.progress(num_images, num_views, quiet=request.silent, brief=True) as progress:
        report = pull(
            store,
            request.output,
            views=request.views,
            images=images,
            overwrite=request.overwrite,
            tell=progress.update,
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        output.note(
            f"{report.path}: {counted(report.num_images, 'image')} x "
            f"{counted(report.num_views, 'view')} of {report.source}, {report.bytes:,} bytes, "
            f"{counted(report.blocks_copied, 'block')} in "
            f"{report.seconds:,.1f} s"
        )
