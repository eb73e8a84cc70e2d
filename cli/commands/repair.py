"""``labelstore repair``: damaged and missing blocks made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labelstore.cli import options, output
from labelstore.cli.commands.generate import SKIPPED
from labelstore.cli.output import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from labelstore.operations.verify import VerifyReport
    from labelstore.producer.generation import Report

HELP = """Make the blocks of a store anew that are damaged or missing, and no others.

\b
  labelstore repair teacher.zarr photos --teacher timm:resnet50
  labelstore repair teacher.zarr photos --teacher timm:resnet50 --skipped

Everything is read and checked first, as labelstore verify does. The settings are the store's own;
photos, teacher and libraries must be those that it was made with. The labels come out the same, on
the same kind of device. A damaged block stays until the one that replaces it has been made.

With --skipped, images that could not be decoded when the store was made (generate --on-error skip)
are labelled where they can be decoded now; the labels of all others stay as they are. Exit code 3:
some still cannot be decoded; each is named with its reason.
"""


@click.command(help=HELP, short_help="Make damaged blocks anew.")
@options.store_argument
@click.argument("source", type=click.Path())
@options.teacher_options()
@click.option(
    "--skipped",
    is_flag=True,
    help="Label images, too, that could not be decoded before and can be now.",
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    help="What to do about an image that cannot be decoded. Default: stop; with --skipped: skip.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Views in one forward.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads that decode and cut.")
@click.option(
    "--allow-version-drift",
    is_flag=True,
    help="Mend a store that other library versions made.",
)
@options.source_options
@options.json_option
@options.quiet_option
@click.pass_context
def command(context: click.Context, **given: Any) -> None:
    """Repair a store."""
    import os

    import labelstore
    from labelstore.images.sources.choose import in_order
    from labelstore.operations.repair import repair
    from labelstore.producer.generation import undecodable
    from labelstore.producer.settings import RunOptions

    store = labelstore.open(given["store"])
    quiet = given["quiet"] or given["json"]
    with output.progress(store.num_images, store.num_views, quiet=quiet, brief=True) as progress:
        source = in_order(options.source_from(given, given["source"]), store.keys)
        found, made = repair(
            store,
            source,
            options.teacher_from(given),
            skipped=given["skipped"],
            options=RunOptions(
                batch_size=given["batch_size"],
                workers=given["workers"] or os.cpu_count() or 1,
                on_error=given["on_error"] or ("skip" if given["skipped"] else "stop"),
                allow_version_drift=given["allow_version_drift"],
            ),
            progress=progress,
        )
    left = made.unreadable if made is not None else undecodable(store, source)
    if given["json"]:
        report = None if made is None else made.to_json()
        output.emit_json({"found": found.to_json(), "made": report, "unreadable": dict(left)})
    elif not given["quiet"]:
        _tell(found, made, left)
    if given["skipped"] and left:
        context.exit(SKIPPED)


def _tell(found: VerifyReport, made: Report | None, left: Mapping[str, str]) -> None:
    if made is None:
        output.note(f"{found.path}: every block is there and as it was committed")
    else:
        blocks = sorted({problem.block for problem in found.problems})
        shown = ", ".join(map(str, blocks[:20])) + (", ..." if len(blocks) > 20 else "")
        damaged = f" (damaged or missing: {shown})" if shown else ""
        output.note(
            f"{found.path}: {made.blocks_made} of {counted(found.blocks, 'block')} made "
            f"anew{damaged}, {counted(made.views_made, 'view')} in {made.seconds:,.0f} s"
        )
    for reason in left.values():
        output.note(f"without labels: {reason}")
