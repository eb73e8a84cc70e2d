"""What ``labelstore generate --dry-run`` tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.cli import output
from labelstore.cli.output import counted

if TYPE_CHECKING:
    from labelstore.producer.settings import Output
    from labelstore.teachers.teacher import Teacher


def dry_run(
    given: dict[str, Any], source: Any, teacher: Teacher, planned: Output, workers: int
) -> None:
    """Forecast what the options of ``labelstore generate`` would take, and print it.

    Raises:
        StoreError: there is no room for it.
    """
    from labelstore.operations.plan import forecast
    from labelstore.teachers.batch_size import BATCH_SIZES

    found = forecast(
        source,
        teacher,
        planned.path,
        planned.settings,
        batch_size=given["batch_size"] or BATCH_SIZES[teacher.device],
        workers=workers,
    )
    if given["json"]:
        output.emit_json(found.to_json())
    else:
        shares = ", ".join(f"{share:.1%} {name}" for name, share in found.ferkd.items())
        output.note(
            f"{counted(found.images, 'image')} x {counted(found.views, 'view')} = "
            f"{counted(found.crops, 'crop')}; {teacher.spec} on {teacher.device}; measured "
            f"on {counted(found.sample_images, 'image')} x "
            f"{counted(found.sample_views, 'view')}, nothing was written"
        )
        output.note(
            f"bytes: {_size(found.bytes)} ({found.bytes_per_crop:.2f} a crop); free: "
            f"{'unknown' if found.free_bytes is None else _size(found.free_bytes)}"
        )
        output.note(
            f"time: {_duration(found.seconds)} ({_duration(found.seconds_forward)} for the "
            f"teacher, {_duration(found.seconds_pixels)} for decoding and cutting on "
            f"{counted(workers, 'worker')}; the bottleneck: {found.bottleneck})"
        )
        output.note(f"KL(teacher || stored): {found.kl_nats:.4f} nats")
        output.note(f"FerKD would have {shares}")
    if found.free_bytes is not None and not found.fits:
        from labelstore.errors import StoreError

        raise StoreError(
            f"{planned.path} would take about {_size(found.bytes)} and {_size(found.free_bytes)} "
            "are free: make room, or choose --fidelity small or fewer --views."
        )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
