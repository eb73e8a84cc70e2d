"""What ``labelstore generate --dry-run`` tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import output
from ..text import counted, duration, share, size

if TYPE_CHECKING:
    import os

    from labelstore.operations.forecast import Forecast
    from labelstore.teachers.teacher import Teacher

__all__ = ["check_room", "print_forecast"]


def print_forecast(estimate: Forecast, teacher: Teacher, workers: int) -> None:
    """Say what a run would take."""
    rules = ", ".join(f"{share(part, 1)} {name}" for name, part in estimate.ferkd.items())
    free = "unknown" if estimate.free_bytes is None else size(estimate.free_bytes)
    output.note(
        f"{counted(estimate.images, 'image')} x {counted(estimate.views, 'view')} = "
        f"{counted(estimate.crops, 'crop')}; {teacher.spec} on {teacher.device}; measured "
        f"on {counted(estimate.sample_images, 'image')} x "
        f"{counted(estimate.sample_views, 'view')}, nothing was written"
    )
    output.note(
        f"bytes: {size(estimate.bytes)} ({estimate.bytes_per_crop:.2f} a crop); free: {free}"
    )
    output.note(
        f"time: {duration(estimate.seconds)} ({duration(estimate.seconds_forward)} for the "
        f"teacher, {duration(estimate.seconds_pixels)} for decoding and cutting on "
        f"{counted(workers, 'worker')}; the bottleneck: {estimate.bottleneck})"
    )
    output.note(f"KL(teacher || stored): {estimate.kl_nats:.4f} nats")
    output.note(f"FerKD would have {rules}")


def check_room(estimate: Forecast, path: str | os.PathLike[str]) -> None:
    """Refuse what the disk has no room for.

    Raises:
        StoreError: there is no room.
    """
    from labelstore.errors import StoreError

    if estimate.free_bytes is not None and not estimate.fits:
        raise StoreError(
            f"{path} would take about {size(estimate.bytes)} and {size(estimate.free_bytes)} are "
            "free: make room, or choose --fidelity small or fewer --views."
        )
