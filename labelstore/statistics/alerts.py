"""What a person should look at before training, in words, from the numbers of a report."""

from __future__ import annotations

from typing import Any

__all__ = ["alerts"]

MANY_DISCARDED = 0.1
"""A rule that discards a larger share of the crops than this is told of."""

DISAGREES = 0.5
"""A teacher that names another class for more than this share of the crops is told of."""

_NOT_NEAR = 0.5
"""Mean mass outside the stored classes from which labels say little of where it lies."""


def alerts(report: dict[str, Any]) -> list[dict[str, str]]:
    """``kind`` and ``text`` of each, the gravest first.

    Args:
        report: of ``labelstore.operations.inspection.inspect.report``.
    """
    store = report["store"]
    entries: list[dict[str, str]] = []

    def tell(kind: str, text: str) -> None:
        entries.append({"kind": kind, "text": text})

    if not store["labelled_crops"]:
        tell("incomplete", "No crop is labelled yet: there is nothing to judge.")
        return entries
    _of_agreement(report, tell)
    if not store["complete"]:
        tell(
            "incomplete",
            f"{store['missing_blocks']:,} of {store['blocks']:,} blocks are missing "
            f"({store['missing_images']:,} images): run the command that made the store again.",
        )
    if store["unreadable_images"]:
        tell(
            "unreadable",
            f"{store['unreadable_images']:,} images could not be decoded and have no labels: "
            "labelstore repair makes those that were skipped when their photos are mended.",
        )
    if any(teacher["untrained"] for teacher in store["teachers"]):
        tell("untrained", "A teacher has random weights: its labels say nothing.")
    _of_rule(report["ferkd"], tell)
    empty = _classes_without_photos(report)
    if empty:
        tell(
            "classes_without_photos",
            f"{empty:,} of {store['classes']:,} classes have no photo: a student cannot learn "
            "them from the ground truth.",
        )
    residual = report["residual"][-1]["mean"]
    if residual is not None and residual > _NOT_NEAR and store["label_type"] == "top-k":
        tell(
            "not_distributions",
            f"The stored classes hold {1 - residual:.0%} of a label on average, and where the rest "
            "lies is an estimate: store more classes, or a longer list.",
        )
    return entries


def _of_agreement(report: dict[str, Any], tell: Any) -> None:
    agreement = report["agreement"]
    if agreement is not None and 1 - agreement["top1"] > DISAGREES:
        tell(
            "teacher_disagrees",
            f"The teacher's largest class is the ground truth of only {agreement['top1']:.1%} of "
            "the crops: the classes may be in another order than the teacher's (labelstore "
            "doctor compares them, a class map says which is which).",
        )


def _of_rule(ferkd: dict[str, Any], tell: Any) -> None:
    low, high = ferkd["discarded_low"]["share"], ferkd["discarded_high"]["share"]
    if low is not None and low + high > MANY_DISCARDED:
        part = f"{high:.1%} are above {ferkd['top']:g}"
        if low > high:
            part = f"{low:.1%} are at or below {ferkd['low']:g}"
        if ferkd["by_class"] is not None:
            part = "by class"
        tell(
            "many_discarded",
            f"FerKD's thresholds would discard {low + high:.1%} of the crops ({part}): the paper "
            "discards about one in a hundred; choose thresholds that fit this teacher.",
        )
    if ferkd["images_without_views"]:
        tell(
            "images_without_views",
            f"FerKD's thresholds leave {ferkd['images_without_views']:,} images without any view: "
            "each of these is shown by its most confident view.",
        )


def _classes_without_photos(report: dict[str, Any]) -> int:
    with_photos = sum(row["images"] > 0 for row in report["classes"])
    # Without ground truth no class has any, which says nothing.
    return report["store"]["classes"] - with_photos if with_photos else 0
