"""``labelstore evaluate``: a teacher's plain accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from .. import options, output
from ..teacher_options import TeacherOptions, teacher_options
from ..text import counted, share

if TYPE_CHECKING:
    from labelstore.operations.evaluate import EvaluationReport
    from labelstore.statistics.calibration import Calibration

HELP = """Measure a teacher's accuracy on plain central crops, before days of GPU time are spent.

\b
  labelstore evaluate validation --teacher timm:resnet50
  labelstore evaluate validation --teacher timm:resnet50 --images 2000
  labelstore evaluate photos --teacher python:mine:teacher \\
    --class-map classes.json --json

Compare the result with what the teacher's authors publish. A wrong mean, a wrong resize filter or
classes in another order make no error anywhere else: they show here as an accuracy that is a few
points, or everything, too low.

The expected calibration error tells how far the teacher's confidence is from how often it is right,
and a temperature is fitted that mends it: labelstore generate --temperature T labels with it.
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(options.ResultOptions):
    """The options of ``labelstore evaluate``."""

    source: str
    crop_share: float | None
    images: int | None
    class_map: str | None
    batch_size: int
    workers: int | None
    teacher: TeacherOptions
    photo_options: options.SourceOptions


@click.command(help=HELP, short_help="Measure a teacher's accuracy on plain central crops.")
@click.argument("source", type=click.Path(path_type=str))
@teacher_options()
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
    help="JSON object or two-column CSV: folder name to the teacher's class, by number, name or "
    "WordNet id (labelstore classes lists them).",
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
@options.collected(EvaluateOptions, teacher=TeacherOptions, photo_options=options.SourceOptions)
def command(request: EvaluateOptions) -> None:
    """Evaluate a teacher."""
    from labelstore.images.ground_truth.class_map import read_class_map
    from labelstore.images.ground_truth.targets import resolve_targets
    from labelstore.launch import own_cores
    from labelstore.operations.evaluate import evaluate
    from labelstore.teachers.class_names import names_of

    source = request.photo_options.open(request.source)
    class_map = read_class_map(request.class_map) if request.class_map else None
    teacher = request.teacher.load()
    targets = resolve_targets(
        source,
        num_classes=teacher.num_classes,
        class_names=teacher.class_names,
        class_map=class_map,
        called=names_of(teacher),
    )
    count = min(request.images or len(source), len(source))
    with output.progress(count, 1, quiet=request.silent, brief=True) as progress:
        report = evaluate(
            source,
            targets,
            teacher,
            crop_share=request.crop_share,
            temperature=request.teacher.temperature,
            images=request.images,
            batch_size=request.batch_size,
            workers=request.workers or own_cores(None),
            tell=progress.update,
        )
    if request.json:
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
    at = "" if report.temperature == 1 else f" at temperature {report.temperature:g}"
    output.note(
        f"top-1 {share(report.top1)} (95 % interval {share(low)} to {share(high)}; chance is "
        f"{share(1 / report.classes)}), top-{report.n} {share(report.top_n)}, mean confidence "
        f"{share(report.confidence)}{at}"
    )
    _tell_calibration(report.calibration, at)
    if report.unreadable:
        shown = ", ".join(report.unreadable[:20])
        output.note(f"{counted(len(report.unreadable), 'image')} could not be decoded: {shown}")


def _tell_calibration(calibration: Calibration, at: str) -> None:
    line = f"expected calibration error {share(calibration.expected_calibration_error)}{at}"
    if calibration.at_bound:
        output.note(
            f"{line}; the likelihood of the ground truth is greatest at temperature "
            f"{calibration.temperature:g}, an end of what is looked at: no temperature calibrates "
            "this teacher on these images"
        )
        return
    output.note(
        f"{line}, and {share(calibration.mended_error)} at temperature "
        f"{calibration.temperature:.4g}, which fits {counted(calibration.images, 'image')} best "
        f"(negative log-likelihood {calibration.nll:.4f}, then {calibration.mended_nll:.4f})"
    )
