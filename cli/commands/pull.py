"""``labelstore pull``: copy a store here; ``labelstore copy`` by its older name."""

from __future__ import annotations

import click

from .. import options
from .lifecycle.copy import CopyOptions, copied, copy_options

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


@click.command(help=HELP, short_help="Copy a store here, all of it or a part.")
@options.store_argument
@click.argument("output", metavar="DIR", type=click.Path())
@copy_options
@options.collected(CopyOptions)
def command(request: CopyOptions) -> None:
    """Copy a store."""
    copied(request)
