"""Label types by the names that papers give them, in labelstore's terms. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from labelstore.errors import require_choice

if TYPE_CHECKING:
    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.labels.top_k import LabelType, Tail, TopK

__all__ = ["LABEL_TYPES", "NamedLabelType", "named_type", "recover_as"]


class NamedLabelType(NamedTuple):
    """What a label type of the literature is called here."""

    label_type: LabelType
    tail: Tail | None
    meaning: str


LABEL_TYPES: dict[str, NamedLabelType] = {
    "hard": NamedLabelType("hard", None, "the teacher's largest class, with probability 1"),
    "label-smoothing": NamedLabelType(
        "smoothing", None, "the largest probability, the rest evenly over all other classes"
    ),
    "marginal-smoothing": NamedLabelType(
        "top-k", "uniform", "the k largest, the rest evenly over the others"
    ),
    "marginal-re-norm": NamedLabelType("top-k", "none", "the k largest, scaled to sum 1"),
    "image-tail": NamedLabelType(
        "top-k", "image", "the k largest, the rest like the mean of the image's views"
    ),
    "top-k": NamedLabelType(
        "top-k", None, "image-tail where the store has lists, else marginal-smoothing"
    ),
}
"""FKD's four quantized label types (Shen & Xing, ECCV 2022) by name, and labelstore's own."""


def named_type(name: str) -> NamedLabelType:
    """A label type by its name; UsageError for one that is not in ``LABEL_TYPES``."""
    require_choice("label type", name, LABEL_TYPES)
    return LABEL_TYPES[name]


def recover_as(topk: TopK, name: str) -> SoftLabels:
    """Stored labels (...) recovered as a label type of ``LABEL_TYPES``.

    Raises:
        UsageError: another name. Warns (FallbackWarning) as ``TopK.recover``.
    """
    chosen = named_type(name)
    return topk.as_type(chosen.label_type, chosen.tail)
