"""``labelstore copy``: copy a store between folders and buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ... import options, output
from ...selecting import chosen_keys, images_option, range_of_views
from ...text import counted, extent

if TYPE_CHECKING:
    from collections.abc import Callable

HELP = """Copy a finished store between folders, buckets and URLs: all of it, its first views, or
some of its images.

\b
  labelstore copy teacher.zarr s3://bucket/teacher.zarr
  labelstore copy s3://bucket/teacher.zarr /scratch/teacher.zarr --workers 16

The copy's labels are the source's to the last bit, and each block is verified before it is written.
Several blocks are under way at a time, which hides the time that servers take to answer. An
interrupted copy goes on where it stopped when the same command is given again. SRC may be what
can be read (s3://, gs://, https://, hf:// or a folder), DST what can be written (s3://, gs:// or a
folder). labelstore pull is the same command.
"""


@dataclass(frozen=True, kw_only=True)
class CopyOptions(options.ResultOptions):
    """The options of ``labelstore copy`` and ``pull``."""

    store: str
    output: str
    views: range | None
    images: tuple[str, ...]
    workers: int | None
    overwrite: bool


COPY = (
    click.option(
        "--views",
        metavar="0:N",
        callback=range_of_views,
        help="The first N views alone. A view's number names its crop, so the range begins at 0.",
    ),
    images_option,
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="BLOCKS",
        help="Blocks that are read or written at a time. Default: 8 over a network, as far as a "
        "gigabyte of memory goes.",
    ),
    options.overwrite_option,
    options.json_option,
    options.quiet_option,
)

copy_options: Callable[[Any], Any] = options.added(COPY)
"""Those of `CopyOptions` that are no arguments."""


@click.command(help=HELP, short_help="Copy a store between folders and buckets.")
@click.argument("store", metavar="SRC", type=click.Path())
@click.argument("output", metavar="DST", type=click.Path())
@copy_options
@options.collected(CopyOptions)
def command(request: CopyOptions) -> None:
    """Copy a store."""
    copied(request)


def copied(request: CopyOptions) -> None:
    """Copy, and tell what was copied."""
    import labelstore
    from labelstore.operations.lifecycle.copy import copy
    from labelstore.storage.remote.requests import pinned

    store = labelstore.open(pinned(request.store))
    images = chosen_keys(store.keys, request.images) if request.images else None
    num_views = store.num_views if request.views is None else len(request.views)
    num_images = store.num_images if images is None else len(images)
    with output.progress(num_images, num_views, quiet=request.silent, brief=True) as progress:
        report = copy(
            store,
            request.output,
            views=request.views,
            images=images,
            overwrite=request.overwrite,
            workers=request.workers,
            tell=progress.update,
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        output.note(
            f"{extent(report)} of {report.source}, {report.bytes:,} bytes, "
            f"{counted(report.blocks_copied, 'block')} in {report.seconds:,.1f} s"
        )
