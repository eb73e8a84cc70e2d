"""``labelstore gc``: remove what interrupted runs left behind."""

from __future__ import annotations

from dataclasses import dataclass

import click

from ... import options, output
from ...text import counted, size

HELP = """Remove what interrupted runs left behind, and say what and how much.

\b
  labelstore gc teacher.zarr
  labelstore gc stores --dry-run
  labelstore gc s3://bucket/teacher.zarr

In a store and beside it: files that were being written, locks and claims of writers that are gone,
objects of blocks that were never committed, stores that prune or publish was making, folders
*.partial that export or materialize was making; on S3 dead writers' leases. In shared memory:
labels that no process uses any more; among the system's temporary files those of killed runs. What
is committed is never touched, and a store that somebody writes is refused. Of a folder that holds
stores each is looked at. Interrupted runs need none of this to go on: it frees disk where they will
not.

\b
Exit codes:
  0  everything was looked at
  1  a store is being written, or cannot be read
  2  the request is wrong
"""

KINDS = {
    "partial": "files half written",
    "lock": "locks of no writer",
    "claim": "claims of no writer",
    "block": "objects of uncommitted blocks",
    "sibling": "stores beside, half made",
    "output": "exports and copies, half made",
    "lease": "leases of dead writers",
    "slab": "labels in memory, unused",
    "work": "temporary files of no process",
}
"""What the table calls each kind."""


@dataclass(frozen=True, kw_only=True)
class GcOptions(options.ResultOptions):
    """The options of ``labelstore gc``."""

    paths: tuple[str, ...]
    dry_run: bool


@click.command(help=HELP, short_help="Remove what interrupted runs left behind.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@options.json_option
@options.quiet_option
@options.collected(GcOptions)
def command(request: GcOptions) -> None:
    """Remove what is left."""
    from labelstore.operations.lifecycle.gc import gc

    report = gc(request.paths, dry_run=request.dry_run)
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        if report.leftovers:
            rows = [
                (KINDS[part.kind], part.path, f"{part.files:,}", size(part.bytes))
                for part in report.leftovers
            ]
            console = output.console()
            console.print(output.table(("what", "where", "files", "bytes"), rows, numeric=(2, 3)))
        verb = "would be removed" if report.dry_run else "removed"
        output.note(
            f"{counted(report.stores, 'store')}: {counted(report.files, 'file')} {verb}, "
            f"{size(report.bytes)}"
        )
    if report.busy:
        output.note(
            f"Left alone, since they are being written: {', '.join(report.busy)}. Wait for the end."
        )
        raise SystemExit(1)
