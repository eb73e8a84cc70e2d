"""Labels whose kind depends on the epoch: soft, hard, soft, as HALD has them.

Cui et al., "Hard Labels In! Rethinking the Role of Hard Labels in Mitigating Local Semantic Drift"
(HALD, arXiv 2512.15647): with few crops of an image the teacher's labels drift away from its class;
a middle part of the training with the ground truth brings it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labelstore.errors import UsageError

__all__ = ["LabelPhases"]


@dataclass(frozen=True)
class LabelPhases:
    """Which epochs of a training have hard labels; all others have the teacher's.

    The defaults are HALD's: of 300 epochs 75 soft, 150 hard, 75 soft.

    Raises:
        UsageError: a number out of range.
    """

    epochs: int = 300
    """Of the whole training, at least 1."""
    soft: float = 0.25
    """Share of the epochs before the hard phase, 0..1; to the nearest epoch."""
    hard: float = 0.5
    """Share of the epochs of the hard phase, 0..1; ``soft + hard`` is at most 1."""
    smoothing: float = 0.8
    """Of the hard labels, 0..1, spread over all C classes, as in timm's ``Mixup``, with which
    HALD's published code makes them: the ground truth has ``1 - smoothing + smoothing / C``, each
    other class ``smoothing / C``."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"epochs is {self.epochs}, expected at least 1: give their number.")
        shares = self.soft, self.hard
        # The sum of decimal numbers that is 1 may be a few units above it.
        if not (all(0 <= share <= 1 for share in shares) and sum(shares) <= 1 + 1e-12):
            raise UsageError(
                f"the shares of the phases, soft and hard, are {self.soft} and {self.hard}, "
                "expected 0 to 1 each and at most 1 together: give smaller ones."
            )
        if not 0 <= self.smoothing <= 1:
            raise UsageError(f"smoothing is {self.smoothing}, expected 0 to 1.")

    @property
    def hard_epochs(self) -> range:
        """The epochs with hard labels."""
        ends = (int(self.epochs * share + 0.5) for share in (self.soft, self.soft + self.hard))
        return range(*ends)

    def is_hard(self, epoch: Any) -> Any:
        """Whether an epoch, or each of an array or tensor (...) of epochs, has hard labels."""
        return (epoch >= self.hard_epochs.start) & (epoch < self.hard_epochs.stop)

    def check(self, epoch: int) -> int:
        """It; UsageError unless it is one of the training's."""
        if not 0 <= epoch < self.epochs:
            raise UsageError(
                f"epoch is {epoch}, expected 0 to {self.epochs - 1}: the phases of the labels are "
                f"planned for {self.epochs} epochs; make them with as many as the training has."
            )
        return epoch

    def smoothing_of_others(self, num_classes: int) -> float:
        """What the ground truth leaves the C - 1 other classes."""
        return self.smoothing * (num_classes - 1) / num_classes
