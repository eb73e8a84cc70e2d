"""``labelstore verify``: whether a store is whole and right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from .. import choices, options, output
from ..teacher_options import NetworkOptions, network_options
from ..text import counted, share

if TYPE_CHECKING:
    from labelstore.operations.verify import Replay, VerifyReport
    from labelstore.store.store import Store

HELP = """Read every label of a store and check it; name the blocks and images that are not right.

\b
  labelstore verify teacher.zarr
  labelstore verify teacher.zarr --photos photos \\
    --teacher timm:resnet50 --replay 0.1%

Reading always checks what it reads; this reads everything. With --replay the teacher looks at a
sample of the views again: that finds what no digest can, such as photos that were exchanged or a
library that makes other pixels. Exit code 0: all is right; 1: something is not, which a photo
that is another file than the one that was labelled is, too.
"""

_SHOWN = 20


def _share(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        part = float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        part = -1.0
    if not 0 < part <= 1:
        raise click.BadParameter(f"{value!r} is no share: give a percentage, as 0.1%, or 0.001.")
    return part


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(options.ResultOptions):
    """The options of ``labelstore verify``."""

    store: str
    replay: float | None
    photos: str | None
    tolerance: float
    teacher: NetworkOptions
    photo_options: options.SourceOptions


@click.command(help=HELP, short_help="Check that a store is whole and right.")
@options.store_argument
@click.option(
    "--replay",
    callback=_share,
    metavar="SHARE",
    help="Run the teacher again over this share of the views, as 0.1%; needs --photos and "
    "--teacher.",
)
@click.option("--photos", type=click.Path(), help="The folder that the store was made from.")
@network_options(required=False)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    default=choices.TOLERANCE,
    show_default=True,
    help="By how much a replayed largest probability may differ.",
)
@options.source_options
@options.json_option
@options.quiet_option
@options.collected(VerifyOptions, teacher=NetworkOptions, photo_options=options.SourceOptions)
def command(request: VerifyOptions) -> None:
    """Verify a store."""
    import labelstore
    from labelstore.operations.verify import verify

    if request.replay is not None and not (request.photos and request.teacher.spec):
        raise click.UsageError("--replay runs the teacher again: give --photos and --teacher, too.")
    if request.replay is None and (request.photos or request.teacher.spec):
        name = "--photos" if request.photos else "--teacher"
        raise click.UsageError(
            f"{name} is looked at by --replay alone: give --replay 0.1%, or leave {name} out."
        )
    store = labelstore.open(request.store)
    with output.progress(
        store.num_images, store.num_views, quiet=request.silent, brief=True
    ) as progress:
        report = verify(store, tell=progress.update)
    replayed = None
    if request.replay is not None and request.photos is not None and report.whole:
        replayed = _replayed(request, store, request.photos, request.replay)
    if request.json:
        replay = None if replayed is None else replayed.to_json()
        output.emit_json({**report.to_json(), "replay": replay})
    elif not request.quiet:
        _tell(report, replayed)
    if not report.whole or (replayed is not None and not replayed.agrees):
        click.get_current_context().exit(1)


def _replayed(request: VerifyOptions, store: Store, photos: str, part: float) -> Replay:
    from labelstore.operations.verify import replay

    source = request.photo_options.open(photos)
    teacher = request.teacher.load()
    views = round(part * store.num_images * store.num_views)
    with output.progress(max(1, views), 1, quiet=request.silent, brief=True) as progress:
        return replay(
            store,
            source,
            teacher,
            part,
            tolerance=request.tolerance,
            tell=lambda _images, views: progress.update(views, views),
        )


def _tell(report: VerifyReport, replayed: Replay | None) -> None:
    output.note(
        f"{report.path} (id {report.id}): {counted(report.blocks, 'block')}, "
        f"{counted(report.images, 'image')}"
    )
    for problem in report.problems[:_SHOWN]:
        first, last = problem.images
        output.note(f"{problem.kind}: {problem.message} (images {first!r} to {last!r})")
    if len(report.problems) > _SHOWN:
        output.note(f"and {len(report.problems) - _SHOWN} more; --json has all")
    if not report.whole:
        output.note("labelstore repair makes these blocks anew; all others can be read")
    if report.whole:
        unreadable = (
            f", {report.unreadable_images:,} unreadable" if report.unreadable_images else ""
        )
        output.note(f"every block is there and as it was committed{unreadable}")
    if replayed is None:
        return
    output.note(
        f"replayed {counted(replayed.views, 'view')} of "
        f"{counted(replayed.images, 'image')}: largest probabilities "
        f"differ by {replayed.mean_difference:.5f} on average and "
        f"{replayed.largest_difference:.5f} at most, the largest class is the same in "
        f"{share(replayed.same_top1)}"
    )
    if replayed.changed:
        output.note(
            f"{counted(len(replayed.changed), 'photo')} of other files than were labelled, as "
            f"{replayed.changed[0]!r}"
        )
    for key in replayed.differing[:_SHOWN]:
        output.note(f"differs: {key}")
    if replayed.differing:
        output.note(
            f"{counted(len(replayed.differing), 'image')} beyond {replayed.tolerance:g}: make "
            "the store anew from these photos, or find the photos and libraries that it was made "
            "with"
        )
