"""What ``labelstore generate`` tells: before a run what is labelled, after it what was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import output
from ..text import counted, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labelstore.images.sources.choose import ImageSource
    from labelstore.launch import Launch
    from labelstore.producer.generation import Report
    from labelstore.producer.settings import Output
    from labelstore.teachers.info import TeacherInfo

__all__ = ["SKIPPED", "announce", "missing_blocks", "print_report"]

SKIPPED = 3
"""Exit code of a run that finished its store and left images out of it."""

_SHOWN = 6
"""Classes that are named."""


def announce(
    source: ImageSource,
    outputs: Sequence[Output],
    teachers: Sequence[TeacherInfo],
    launch: Launch | None,
) -> None:
    """Say what is about to be labelled."""
    from labelstore.images.ground_truth.targets import class_pairs

    for store in outputs:
        if pairs := class_pairs(source, store.targets):
            output.note(_classes(pairs))
    if source.passed_over.count:
        output.note(str(source.passed_over))
    for store, info in zip(outputs, teachers, strict=True):
        for sentence in store.settings.advice(info.num_classes):
            output.note(sentence)
    settings, teacher = outputs[0].settings, teachers[0]
    names = " and ".join(info.spec for info in teachers)
    # A fidelity keeps at most as many as there are.
    all_of_them = " (all there are)" if settings.store.k == teacher.num_classes else ""
    together = "" if launch is None else f"; one of {launch.world} processes"
    output.note(
        f"{counted(len(source), 'image')}; {counted(settings.num_views, 'view')} each; "
        f"top {settings.store.k} of {counted(teacher.num_classes, 'class')}{all_of_them}; "
        f"{names} on {teacher.device}{together}"
    )


def _classes(pairs: dict[str, int]) -> str:
    """Which class each folder or label was taken for, the first few."""
    shown = ", ".join(f"{name!r} -> {number}" for name, number in list(pairs.items())[:_SHOWN])
    more = f", ... ({len(pairs)} in all)" if len(pairs) > _SHOWN else ""
    return f"classes: {shown}{more}"


def missing_blocks(report: Report, launch: Launch | None) -> str:
    """What is said of a store that is not complete."""
    blocks = "1 block is" if report.blocks_missing == 1 else f"{report.blocks_missing} blocks are"
    lacking = f"Error: {report.path} is not complete: {blocks} not there"
    if launch is None:
        return f"{lacking}; give the same command again to make what is missing."
    return (
        f"{lacking}, and none of the {launch.world} processes of this launch that would make them "
        "is running: give the same command again, or unset RANK, WORLD_SIZE and SLURM_PROCID where "
        "this process was to work alone."
    )


def print_report(report: Report) -> None:
    """Say what was made, what was left out, and what to do next."""
    if report.blocks_made:
        speed = f", {report.views_per_second:,.0f} a second" if report.views_per_second else ""
        waiting = ""
        if report.waiting_share is not None and report.waiting_share >= 0.05:
            waiting = (
                f"; the teacher waited for pixels {share(report.waiting_share, 0)} of the time"
            )
        output.note(
            f"{report.path}: {counted(report.views_made, 'view')} labelled in "
            f"{report.seconds:,.0f} s{speed}{waiting}"
        )
    elif not report.blocks_elsewhere and not report.blocks_missing:
        output.note(f"{report.path} is finished already: nothing was done")
    if report.blocks_elsewhere:
        output.note(f"made by other processes: {counted(report.blocks_elsewhere, 'block')}")
    for note in report.notes:
        output.note(note)
    for reason in report.unreadable.values():
        output.note(f"left out: {reason}")
    if report.unreadable:
        output.note(
            f"{len(report.unreadable)} of {counted(report.num_images, 'image')} have no labels "
            f"(exit code {SKIPPED}); once they are mended: labelstore repair --skipped"
        )
    output.note(f"next: labelstore inspect {report.path}")
