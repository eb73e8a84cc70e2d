"""``labelstore evaluate``: a teacher's plain accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labelstore.cli import options, output
from labelstore.cli.output import counted

if TYPE_CHECKING:
    from labelstore.operations.evaluate import EvaluationReport

HELP = """Measure a teacher's accuracy on plain central crops, before days of GPU time are spent.

\b
  labelstore evaluate validation --teacher timm:resnet50
  labelstore evaluate validation --teacher timm:resnet50 --images 2000   # a quick look
  labelstore evaluate photos --teacher python:mine:teacher --class-map classes.json --json

Compare the result with what the teacher's authors publish. A wrong mean, a wrong resize filter or
classes in another order make no error anywhere else: they show here as an accuracy that is a few
points, or everything, too low.
"""


@click.command(help=HELP, short_help="Measure a teacher's accuracy on plain central crops.")
@click.argument("source", type=click.Path(path_type=str))
@options.teacher_options()
@click.option(
    "--crop-share",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of an image's side that the central crop has. Default: the teacher's.",
)
@click.option(
    "--images", type=click.IntRange(min=1), help="How many images, spread evenly. Default: all."
)
@click.option(
    "--class-map",
    metavar="FILE",
    help="JSON object or two-column CSV: folder name to class id of the teacher.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Of a forward."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Threads that decode. Default: the number of cores.",
)
@options.source_options
@options.json_option
@options.quiet_option
def command(**given: Any) -> None:
    """Evaluate a teacher."""
    import os

    from labelstore.images.ground_truth import read_class_map, resolve_targets
    from labelstore.operations.evaluate import evaluate

    source = options.source_from(given, given["source"])
    class_map = read_class_map(given["class_map"]) if given["class_map"] else None
    teacher = options.teacher_from(given)
    targets = resolve_targets(
        source,
        num_classes=teacher.num_classes,
        class_names=teacher.class_names,
        class_map=class_map,
    )
    count = min(given["images"] or len(source), len(source))
    quiet = given["quiet"] or given["json"]
    with output.progress(count, 1, quiet=quiet, brief=True) as progress:
        report = evaluate(
            source,
            targets,
            teacher,
            crop_share=given["crop_share"],
            images=given["images"],
            batch_size=given["batch_size"],
            workers=given["workers"] or os.cpu_count() or 1,
            tell=progress.update,
        )
    if given["json"]:
        output.emit_json(report.to_json())
    else:
        _tell(report)


def _tell(report: EvaluationReport) -> None:
    low, high = report.top1_interval
    height, width = report.teacher["input_size"]
    left_out = f", {report.unknown:,} without ground truth left out" if report.unknown else ""
    output.note(
        f"{report.teacher['spec']}, weights {report.teacher['checkpoint']}, input {height} x "
        f"{width}, central crops of {report.crop_share:g} of the side"
    )
    output.note(
        f"{counted(report.images, 'image')}{left_out}, "
        f"{report.images / report.seconds:,.0f} a second"
    )
    output.note(
        f"top-1 {report.top1:.2%} (95 % interval {low:.2%} to {high:.2%}; chance is "
        f"{1 / report.classes:.2%}), top-{report.n} {report.top_n:.2%}, mean confidence "
        f"{report.confidence:.2%}"
    )
    if report.unreadable:
        shown = ", ".join(report.unreadable[:20])
        output.note(f"{counted(len(report.unreadable), 'image')} could not be decoded: {shown}")
