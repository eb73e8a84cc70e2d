"""``labelstore repair``: damaged and missing blocks made anew."""

from __future__ import annotations

from typing import Any

import click

from . import options, output
from .output import counted

HELP = """Make the blocks of a store anew that are damaged or missing, and no others.

\b
  labelstore repair teacher.zarr photos --teacher timm:resnet50

Everything is read and checked first, as labelstore verify does. The settings are the store's own;
photos, teacher and libraries must be those that it was made with. The labels come out the same, on
the same kind of device.
"""


@click.command(help=HELP, short_help="Make damaged blocks anew.")
@options.store_argument
@click.argument("source", type=click.Path())
@options.teacher_options()
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do about an image that cannot be decoded.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Views in one forward.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads that decode and cut.")
@click.option(
    "--allow-version-drift",
    is_flag=True,
    help="Mend a store that other library versions made.",
)
@options.json_option
@options.quiet_option
def command(**given: Any) -> None:
    """Repair a store."""
    import os

    import labelstore
    from labelstore.repair import repair
    from labelstore.sources import open_source

    store = labelstore.open(given["store"])
    quiet = given["quiet"] or given["json"]
    with output.progress(store.num_images, store.num_views, quiet=quiet, brief=True) as progress:
        found, made = repair(
            store,
            open_source(given["source"]),
            options.teacher_from(given),
            batch_size=given["batch_size"],
            workers=given["workers"] or os.cpu_count() or 1,
            on_error=given["on_error"],
            allow_version_drift=given["allow_version_drift"],
            progress=progress,
        )
    if given["json"]:
        report = None if made is None else made.to_json()
        output.emit_json({"found": found.to_json(), "made": report})
    elif not given["quiet"]:
        if made is None:
            output.note(f"{found.path}: every block is there and as it was committed")
            return
        blocks = sorted({problem.block for problem in found.problems})
        shown = ", ".join(map(str, blocks[:20])) + (", ..." if len(blocks) > 20 else "")
        output.note(
            f"{found.path}: {made.blocks_made} of "
            f"{counted(found.blocks, 'block')} made anew ({shown}), "
            f"{counted(made.views_made, 'view')} in {made.seconds:,.0f} s"
        )
