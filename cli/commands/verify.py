"""``labelstore verify``: whether a store is whole and right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labelstore.cli import options, output
from labelstore.cli.output import counted

if TYPE_CHECKING:
    from labelstore.operations.verify import Replay, VerifyReport

HELP = """Read every label of a store and check it; name the blocks and images that are not right.

\b
  labelstore verify teacher.zarr
  labelstore verify teacher.zarr --photos photos --teacher timm:resnet50 --replay 0.1%

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
        share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise click.BadParameter(f"{value!r} is no share: give a percentage, as 0.1%, or 0.001.")
    return share


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
@options.teacher_options(required=False)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="By how much a replayed largest probability may differ.",
)
@options.source_options
@options.json_option
@options.quiet_option
@click.pass_context
def command(context: click.Context, **given: Any) -> None:
    """Verify a store."""
    import labelstore
    from labelstore.operations.verify import verify

    if given["replay"] is not None and not (given["photos"] and given["spec"]):
        raise click.UsageError("--replay runs the teacher again: give --photos and --teacher, too.")
    if given["replay"] is None and (given["photos"] or given["spec"]):
        name = "--photos" if given["photos"] else "--teacher"
        raise click.UsageError(
            f"{name} is looked at by --replay alone: give --replay 0.1%, or leave {name} out."
        )
    store = labelstore.open(given["store"])
    quiet = given["quiet"] or given["json"]
    with output.progress(store.num_images, store.num_views, quiet=quiet, brief=True) as progress:
        report = verify(store, tell=progress.update)
    replayed = _replayed(given, store, quiet) if given["replay"] and report.whole else None
    if given["json"]:
        found = None if replayed is None else replayed.to_json()
        output.emit_json({**report.to_json(), "replay": found})
    elif not given["quiet"]:
        _tell(report, replayed)
    if not report.whole or (replayed is not None and not replayed.agrees):
        context.exit(1)


def _replayed(given: dict[str, Any], store: Any, quiet: bool) -> Replay:
    from labelstore.operations.verify import replay

    source = options.source_from(given, given["photos"])
    teacher = options.teacher_from(given)
    views = round(given["replay"] * store.num_images * store.num_views)
    with output.progress(max(1, views), 1, quiet=quiet, brief=True) as progress:
        return replay(
            store,
            source,
            teacher,
            given["replay"],
            tolerance=given["tolerance"],
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
        f"{replayed.same_top1:.2%}"
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
