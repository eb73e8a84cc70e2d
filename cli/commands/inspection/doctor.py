"""``labelstore doctor``: where a store and its photos came apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ... import options, output
from ...reports.inspection.doctor import print_diagnosis

if TYPE_CHECKING:
    from labelstore.images.sources.choose import ImageSource

HELP = """Compare a store with the photos that it was made from, and name what differs: photos that
are missing, renamed, exchanged, resized, damaged or new; ground truth that is another; pixels that
come out differently here; libraries of other versions. Every photo is read. No teacher is needed.

\b
  labelstore doctor teacher.zarr --photos photos

Each finding has a kind, the first photos by name, the likely cause and the mend. The labels
themselves are looked at by labelstore verify.

\b
Exit codes:
  0  the photos are those of the store; notes may have been told
  1  something differs, or the photos or the store cannot be read
  2  the request is wrong
"""


@dataclass(frozen=True)
class DoctorOptions:
    """The options of ``labelstore doctor``."""

    store: str
    photos: str
    class_map: str | None
    workers: int | None
    limit: int
    photo_options: options.SourceOptions
    json: bool


@click.command(help=HELP, short_help="Find where a store and its photos came apart.")
@options.store_argument
@click.option(
    "--photos",
    required=True,
    metavar="SOURCE",
    type=click.Path(),
    help="The photos that the store was made from: a folder, shards, a URL.",
)
@click.option(
    "--class-map",
    metavar="FILE",
    help="JSON object or two-column CSV: folder name to class id, as the store was made with.",
)
@options.source_options
@options.look_workers_option
@options.limit_option
@options.json_option
@options.collected(DoctorOptions, photo_options=options.SourceOptions)
def command(request: DoctorOptions) -> None:
    """Compare a store with its photos."""
    import labelstore
    from labelstore.errors import CorruptError
    from labelstore.images.ground_truth.class_map import read_class_map
    from labelstore.launch import own_cores
    from labelstore.operations.inspection.doctor import diagnose

    store = labelstore.open(request.store)
    class_map = read_class_map(request.class_map) if request.class_map else None
    source = _opened(request)
    with output.progress(len(source), None, quiet=request.json, brief=True) as progress:
        try:
            report = diagnose(
                store,
                source,
                class_map=class_map,
                workers=request.workers or own_cores(None),
                limit=request.limit,
                progress=progress,
            )
        except CorruptError as error:
            raise error.extended(
                "Nothing is known of the photos before the store is whole: labelstore verify names "
                "every block that is damaged."
            ) from error
    if request.json:
        output.emit_json(report)
    else:
        print_diagnosis(report, options.flags_of(command))
    if not report["healthy"]:
        click.get_current_context().exit(1)


def _opened(request: DoctorOptions) -> ImageSource:
    """The photos; where they cannot be looked at, that is said, and no more."""
    from labelstore.errors import NotFoundError, SourceError

    try:
        return request.photo_options.open(request.photos)
    except (NotFoundError, SourceError) as error:
        raise error.extended("So nothing is known of the photos.") from error
