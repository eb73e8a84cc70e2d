"""``labelstore repair``: damaged and missing blocks made anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from .. import choices, options, output
from ..reports.generate import SKIPPED
from ..teacher_options import NetworkOptions, network_options
from ..text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from labelstore.operations.verify import VerifyReport
    from labelstore.producer.generation import Report
    from labelstore.producer.settings import OnError

HELP = """Make the blocks of a store anew that are damaged or missing, and no others.

\b
  labelstore repair teacher.zarr photos --teacher timm:resnet50
  labelstore repair teacher.zarr photos --teacher timm:resnet50 --skipped

Everything is read and checked first, as labelstore verify does. The settings are the store's own;
photos, teacher and libraries must be those that it was made with. The labels come out the same, on
the same kind of device. A damaged block stays until the one that replaces it has been made.

Blocks of a store that has grown (generate --grow) are labelled as it grew; the old store is not
needed. Stores that average teachers, or were calibrated, are made again from those that they came
from.

With --skipped, images that could not be decoded when the store was made (generate --on-error skip)
are labelled where they can be decoded now; the labels of all others stay as they are. Exit code 3:
some still cannot be decoded; each is named with its reason.
"""


@dataclass(frozen=True, kw_only=True)
class RepairOptions(options.ResultOptions):
    """The options of ``labelstore repair``."""

    store: str
    source: str
    skipped: bool
    on_error: OnError | None
    batch_size: int | None
    workers: int | None
    allow_version_drift: bool
    teacher: NetworkOptions
    photo_options: options.SourceOptions


@click.command(help=HELP, short_help="Make damaged blocks anew.")
@options.store_argument
@click.argument("source", type=click.Path())
@network_options()
@click.option(
    "--skipped",
    is_flag=True,
    help="Label images, too, that could not be decoded before and can be now.",
)
@click.option(
    "--on-error",
    type=click.Choice(choices.ON_ERROR),
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
@options.collected(RepairOptions, teacher=NetworkOptions, photo_options=options.SourceOptions)
def command(request: RepairOptions) -> None:
    """Repair a store."""
    import labelstore
    from labelstore.images.sources.choose import in_order
    from labelstore.launch import own_cores
    from labelstore.operations.repair import repair
    from labelstore.producer.generation import undecodable
    from labelstore.producer.settings import RunOptions

    store = labelstore.open(request.store)
    with output.progress(
        store.num_images, store.num_views, quiet=request.silent, brief=True
    ) as progress:
        source = in_order(request.photo_options.open(request.source), store.keys)
        damage, run = repair(
            store,
            source,
            request.teacher.load(),
            skipped=request.skipped,
            options=RunOptions(
                batch_size=request.batch_size,
                workers=request.workers or own_cores(None),
                on_error=request.on_error or ("skip" if request.skipped else "stop"),
                allow_version_drift=request.allow_version_drift,
            ),
            progress=progress,
        )
    left = run.unreadable if run is not None else undecodable(store, source)
    if request.json:
        report = None if run is None else run.to_json()
        output.emit_json({"found": damage.to_json(), "made": report, "unreadable": dict(left)})
    elif not request.quiet:
        _tell(damage, run, left)
    if request.skipped and left:
        click.get_current_context().exit(SKIPPED)


def _tell(damage: VerifyReport, run: Report | None, left: Mapping[str, str]) -> None:
    if run is None:
        output.note(f"{damage.path}: every block is there and as it was committed")
    else:
        blocks = sorted({problem.block for problem in damage.problems})
        shown = ", ".join(map(str, blocks[:20])) + (", ..." if len(blocks) > 20 else "")
        damaged = f" (damaged or missing: {shown})" if shown else ""
        output.note(
            f"{damage.path}: {run.blocks_made} of {counted(damage.blocks, 'block')} made "
            f"anew{damaged}, {counted(run.views_made, 'view')} in {run.seconds:,.0f} s"
        )
    for reason in left.values():
        output.note(f"without labels: {reason}")
