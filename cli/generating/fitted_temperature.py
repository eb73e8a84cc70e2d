"""``generate --temperature fit``: the temperature at which a teacher is calibrated."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from .. import output
from ..text import counted, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.settings import Output
    from labelstore.teachers.teacher import Teacher

    from ..teacher_options import TeacherOptions

__all__ = ["fitted", "from_stores"]

IMAGES = 2000
"""Photos that a temperature is fitted to, at most."""

_DIGITS = 4
"""Of a fitted temperature: what is told is what is stored, and can be given as it is."""


def from_stores(
    teachers: Sequence[TeacherOptions], fits: Sequence[bool], paths: Sequence[str], overwrite: bool
) -> tuple[list[TeacherOptions], list[bool]]:
    """Temperatures of stores that are there and will be gone on with, which must stay the same.

    Args:
        teachers: the teachers. fits: whether each one's temperature is to be fitted.
        paths: the stores to be made. overwrite: whether those that are there are not gone on with.

    Returns:
        the teachers, and for each whether its temperature is still to be fitted.
    """
    import labelstore
    from labelstore.errors import LabelStoreError

    chosen, pending = list(teachers), list(fits)
    for number, path in enumerate(paths):
        if not fits[number] or overwrite:
            continue
        # What is no store, or a broken one, the writer speaks of.
        with contextlib.suppress(LabelStoreError):
            temperature = labelstore.open(path).manifest.temperature
            if temperature is not None:
                output.note(f"temperature {temperature:g} is that of {path}, which is there")
                chosen[number] = replace(chosen[number], temperature=temperature)
                pending[number] = False
    return chosen, pending


def fitted(
    source: ImageSource,
    teachers: Sequence[TeacherOptions],
    networks: Sequence[Teacher],
    outputs: Sequence[Output],
    pending: Sequence[bool],
    workers: int,
) -> list[TeacherOptions]:
    """The teachers with the temperatures that fit plain central crops of the photos.

    Raises:
        click.UsageError: there is no such temperature. UsageError: no ground truth is known.
    """
    from labelstore.operations.evaluate import evaluate

    chosen = list(teachers)
    for number, is_pending in enumerate(pending):
        if not is_pending:
            continue
        network = networks[number]
        report = evaluate(source, outputs[number].targets, network, images=IMAGES, workers=workers)
        calibration = report.calibration
        if calibration.at_bound:
            raise click.UsageError(
                f"no temperature calibrates {network.spec} on "
                f"{counted(calibration.images, 'photo')}, of which it has "
                f"{share(report.top1)} right: give --temperature a number."
            )
        temperature = float(f"{calibration.temperature:.{_DIGITS}g}")
        output.note(
            f"temperature {temperature:g} fits {network.spec} on central crops of "
            f"{counted(calibration.images, 'photo')}: expected calibration error "
            f"{share(calibration.expected_calibration_error)} at 1, "
            f"{share(calibration.mended_error)} at {temperature:g}"
        )
        chosen[number] = replace(chosen[number], temperature=temperature)
    return chosen
