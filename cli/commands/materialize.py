"""``labelstore materialize``: a decoded local copy of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from .. import options, output
from ..text import counted

if TYPE_CHECKING:
    from labelstore.operations.materialize import MaterializeReport

HELP = """Make a decoded copy of a finished store, for reading any labels at the speed of memory.

\b
  labelstore materialize teacher.zarr /dev/shm/teacher     # in memory
  labelstore materialize teacher.zarr /scratch/teacher     # on a local disk
  # in Python: reads as any store does
  labelstore.open("/scratch/teacher").read(images, views)

DIR is made of plain NumPy arrays (numpy.load opens them). A label of k classes takes 6 k bytes, 8 k
where there are more than 65,000 classes, and an image's list of m classes 6 m: ImageNet with 500
views of 4 classes takes 15 GB. It is told before anything is written, and refused where there is
no room.

Training that follows a schedule (ViewSampler) needs no copy: it has each epoch's labels in memory
already. Use one where labels are read at random. The copy is read only, whole or absent, and
compared with its digests when it is first read. Given again, the command does nothing; of a store
that was changed since it makes no other copy unless --overwrite is given.
"""


@dataclass(frozen=True, kw_only=True)
class MaterializeOptions(options.ResultOptions):
    """The options of ``labelstore materialize``."""

    store: str
    directory: str
    overwrite: bool


@click.command(help=HELP, short_help="Make a decoded copy for reading at random.")
@options.store_argument
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace a copy that is there.")
@options.json_option
@options.quiet_option
@options.collected(MaterializeOptions)
def command(request: MaterializeOptions) -> None:
    """Materialize a store."""
    import labelstore
    from labelstore.operations.materialize import materialize, materialized_bytes

    store = labelstore.open(request.store)
    if not request.silent:
        output.note(f"{request.directory} takes {materialized_bytes(store):,} bytes")
    with output.progress(
        store.num_images, store.num_views, quiet=request.silent, brief=True
    ) as progress:
        report = materialize(
            store, request.directory, overwrite=request.overwrite, tell=progress.update
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        _tell(report)


def _tell(report: MaterializeReport) -> None:
    if report.already_there:
        output.note(f"{report.path} is a copy of this store already: nothing was done")
        return
    output.note(
        f"{report.path}: {counted(report.num_images, 'image')} x "
        f"{counted(report.num_views, 'view')}, "
        f"{report.bytes:,} bytes ({report.bytes_per_label:.1f} a label)"
    )
