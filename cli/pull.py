"""``labelstore pull``: copy a store here."""

from __future__ import annotations

import re
from typing import Any

import click

from . import options, output

HELP = """Copy a finished store, as a rule a remote one, to a folder: all of it or its first views.

\b
  labelstore pull s3://bucket/teacher.zarr teacher.zarr
  labelstore pull hf://datasets/OWNER/REPO/teacher.zarr small.zarr --views 0:50

The copy's labels are the source's to the last bit, and each block is verified before it is written.
With --views only what covers these views is read. An interrupted copy goes on where it stopped when
the same command is given again. The source may be local, and the copy remote (s3://, gs://).
"""


def _views(_context: click.Context, _parameter: click.Parameter, value: str | None) -> range | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d*):(\d+)", value)
    if not found:
        raise click.BadParameter(f"{value!r} is no range of views, expected one such as 0:50.")
    return range(int(found[1] or 0), int(found[2]))


@click.command(help=HELP, short_help="Copy a store here, all of it or its first views.")
@options.store_argument
@click.argument("output", metavar="DIR", type=click.Path())
@click.option(
    "--views",
    metavar="0:N",
    callback=_views,
    help="The first N views alone. A view's number names its crop, so the range begins at 0.",
)
@options.overwrite_option
@options.json_option
@options.quiet_option
def command(**given: Any) -> None:
    """Copy a store."""
    import labelstore
    from labelstore.pull import pull

    store = labelstore.open(given["store"])
    quiet = given["quiet"] or given["json"]
    num_views = store.num_views if given["views"] is None else len(given["views"])
    with output.progress(store.num_images, num_views, quiet=quiet, brief=True) as progress:
        report = pull(
            store,
            given["output"],
            views=given["views"],
            overwrite=given["overwrite"],
            tell=progress.update,
        )
    if given["json"]:
        output.emit_json(report.to_json())
    elif not given["quiet"]:
        output.note(
            f"{report.path}: {report.num_images:,} images x {report.num_views:,} views of "
            f"{report.source}, {report.bytes:,} bytes, {report.blocks_copied:,} blocks in "
            f"{report.seconds:,.1f} s"
        )
