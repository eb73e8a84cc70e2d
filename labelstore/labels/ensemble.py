"""Labels of several teachers of the same views, stored and calibrated."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.labels.actions import Action, Calibrated
from labelstore.labels.soft_labels import SoftLabels, mix

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.labels.actions import Combine, Discard
    from labelstore.labels.top_k import LabelType, Tail, TopK

__all__ = ["EnsembleTopK", "combined", "loss_weights", "together"]


@dataclass(frozen=True)
class EnsembleTopK:
    """Stored labels of the same views from several teachers."""

    members: tuple[TopK, ...]
    """One TopK for each teacher, all of one leading shape."""
    weights: npt.NDArray[np.float64]
    """(M,) float64, non-negative, sum 1."""

    def __getitem__(self, rows: Any) -> EnsembleTopK:
        """Rows by any NumPy index into the leading axes."""
        return EnsembleTopK(tuple(member[rows] for member in self.members), self.weights)

    def reshape(self, *shape: int) -> EnsembleTopK:
        """The same labels with other leading axes."""
        return EnsembleTopK(tuple(member.reshape(*shape) for member in self.members), self.weights)

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


def together(discarded: Sequence[Any], ensemble: Combine) -> Any:
    """Whether a view of several teachers is discarded, from what each rule says.

    Args:
        discarded: a bool array or tensor (...) for each teacher.
        ensemble: ``"all"`` of them must discard a view, or ``"any"``.
    """
    return functools.reduce(operator.and_ if ensemble == "all" else operator.or_, discarded)


def combined(
    members: list[Calibrated],
    weights: npt.NDArray[np.float64],
    ensemble: Combine,
    discard: Discard,
) -> Calibrated:
    """The mean over the teachers that keep a view, and what becomes of the view.

    Args:
        members: calibrated labels (...) of each of n teachers. weights: (n,).
        ensemble: as for ``together``. discard: what becomes of a view that is discarded.
    """
    actions = np.stack([member.action for member in members])
    dropped = actions == Action.DISCARDED
    discarded = together(list(dropped), ensemble)
    # A view that every teacher discards keeps their plain mean: it is shown, if at all, as is.
    voices = np.where(dropped & ~dropped.all(axis=0), 0.0, 1.0)
    voices *= weights.reshape(-1, *[1] * (actions.ndim - 1))
    silent = voices.sum(axis=0) <= 0
    voices = np.where(silent, 1.0, voices)
    voices /= voices.sum(axis=0)
    calibrated = (actions == Action.CALIBRATED).any(axis=0)
    action = np.where(calibrated, Action.CALIBRATED, Action.KEPT).astype(np.uint8)
    action[discarded] = Action.DISCARDED
    return Calibrated(
        labels=mix([member.labels for member in members], voices),
        action=action,
        weight=loss_weights(action, discard),
    )


def loss_weights(action: npt.NDArray[np.uint8], discard: Discard) -> npt.NDArray[np.float32]:
    """``Calibrated.weight`` of views (...) with these actions."""
    if discard != "mask":
        return np.ones(action.shape, dtype=np.float32)
    return np.asarray(action != Action.DISCARDED, dtype=np.float32)
