"""What ``labelstore generate --grow`` tells before a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import output
from ..text import counted, duration, size

if TYPE_CHECKING:
    from labelstore.operations.forecast import Forecast
    from labelstore.producer.growth.growth import Growth
    from labelstore.producer.growth.plan import GrowthPlan

__all__ = ["announce_growth", "growth_document", "print_growth_forecast"]


def announce_growth(plan: GrowthPlan) -> None:
    """Say what is taken over and what is made."""
    missing, relabelled = len(plan.missing), len(plan.relabelled)
    output.note(
        f"{counted(plan.old_images - relabelled, 'image')} kept with {plan.old_views} of "
        f"{counted(plan.num_views, 'view')}; {counted(plan.added, 'image')} added; "
        f"{counted(plan.views, 'view')} to label"
    )
    if relabelled:
        output.note(f"{counted(relabelled, 'photo')} labelled anew, being other files now")
    if missing:
        output.note(f"{counted(missing, 'photo')} missing: kept as they are")


def growth_document(growth: Growth, estimate: Forecast) -> dict[str, Any]:
    """What a dry run tells, as a JSON object.

    Args:
        estimate: of a whole run over the photos, for its pace.
    """
    from labelstore.store.rewrite import bytes_of

    plan = growth.plan
    labels = len(plan.keys) * plan.num_views
    return {
        "images": len(plan.keys),
        "kept": plan.old_images - len(plan.relabelled),
        "added": plan.added,
        "missing": len(plan.missing),
        "relabelled": len(plan.relabelled),
        "views": plan.views,
        "compared": growth.compared,
        # As large a label as in the old store.
        "bytes": round(bytes_of(growth.store) * labels / (plan.old_images * plan.old_views)),
        "free_bytes": estimate.free_bytes,
        "seconds": estimate.seconds * plan.views / estimate.crops,
    }


def print_growth_forecast(document: dict[str, Any]) -> None:
    """Say what growing would take, beside what ``announce_growth`` says."""
    free = "unknown" if document["free_bytes"] is None else size(document["free_bytes"])
    output.note(f"bytes: about {size(document['bytes'])}, beside the old store; free: {free}")
    output.note(f"time: about {duration(document['seconds'])}; nothing was written")
