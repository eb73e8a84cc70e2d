"""Stored labels of several teachers of the same views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labelstore.labels.soft_labels import SoftLabels, mix

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from labelstore.labels.top_k import LabelType, Tail, TopK

__all__ = ["EnsembleTopK"]


@dataclass(frozen=True)
class EnsembleTopK:
    """Stored labels of the same views from several teachers."""

    members: tuple[TopK, ...]
    """One TopK for each teacher, all of one leading shape."""
    weights: npt.NDArray[np.float64]
    """(M,) float64, non-negative, sum 1."""

    @property
    def num_classes(self) -> int:
        """The number of classes, the same for all members."""
        return self.members[0].num_classes

    def recover(self, tail: Tail | None = None) -> SoftLabels:
        """The weighted mean of the members' recovered labels."""
        return mix([member.recover(tail) for member in self.members], self.weights)

    def as_type(self, label_type: LabelType, tail: Tail | None = None) -> SoftLabels:
        """The weighted mean of the members' labels of a label type."""
        return mix([member.as_type(label_type, tail) for member in self.members], self.weights)
