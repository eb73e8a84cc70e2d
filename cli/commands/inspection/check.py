"""``labelstore check``: whether photos are fit to be labelled."""

from __future__ import annotations

from dataclasses import dataclass

import click

from ... import choices, options, output
from ...reports.inspection.check import print_check

HELP = """Read and decode every photo of a source once, before any GPU time, and tell what is there:
formats and sizes, what cannot be read and what cannot be decoded and why, photos in no class
folder, duplicates, classes without photos, and files that are passed over.

SOURCE is what labelstore generate takes: a folder, tar shards, Parquet files, a glob, a URL.

\b
  labelstore check photos
  labelstore check 'data/train-*.parquet' --json

\b
Exit codes:
  0  nothing here would stop labelstore generate
  1  something would: each kind is named, with the first photos and the mend
  2  the request is wrong

What cannot be read is another thing than what was read whole and cannot be decoded. The second is
left out by labelstore generate --on-error skip; of the first nothing is known, and it stops a run.
"""


@dataclass(frozen=True)
class CheckOptions:
    """The options of ``labelstore check``."""

    source: str
    targets: choices.Targets
    workers: int | None
    limit: int
    photos: options.SourceOptions
    json: bool


@click.command(help=HELP, short_help="Look at every photo before any GPU time.")
@click.argument("source", type=click.Path(path_type=str))
@click.option(
    "--targets",
    type=click.Choice(choices.TARGETS),
    default=choices.TARGETS[0],
    show_default=True,
    help="As for generate: whether photos are to lie in class folders.",
)
@options.source_options
@options.look_workers_option
@options.limit_option
@options.json_option
@options.collected(CheckOptions, photos=options.SourceOptions)
def command(request: CheckOptions) -> None:
    """Check photos."""
    from labelstore.launch import own_cores
    from labelstore.operations.inspection.check import check

    source = request.photos.open(request.source)
    with output.progress(len(source), None, quiet=request.json, brief=True) as progress:
        report = check(
            source,
            targets=request.targets,
            workers=request.workers or own_cores(None),
            limit=request.limit,
            tell=progress.update,
        )
    if request.json:
        output.emit_json(report)
    else:
        print_check(report, options.flags_of(command))
    if not report["fit"]:
        click.get_current_context().exit(1)
