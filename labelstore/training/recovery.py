"""From stored labels to the labels that a student is trained with. NumPy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

import numpy as np

from labelstore.errors import UsageError
from labelstore.labels.calibration.truth import known_truth, with_smoothed_truth
from labelstore.labels.soft_labels import mix
from labelstore.labels.temperature import at_temperature
from labelstore.store.ensembles import label_type_of
from labelstore.store.mixed_views import require_unmixed
from labelstore.training.options import require_known

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.calibration.phases import LabelPhases
    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.ferkd import EnsembleFerKD, FerKD
    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.labels.top_k import LabelType, Tail, TopK
    from labelstore.store.label_reader import LabelReader

NO_EPOCH = (
    "labels in phases depend on the epoch and none was told: show them by a ViewSampler of the "
    "data set, by Batches, or give the epoch."
)

__all__ = ["NO_EPOCH", "Recovered", "Recovery", "RecoveryOptions"]


class Recovered(NamedTuple):
    """Labels of n views."""

    labels: SoftLabels
    """Labels (n,) as ``base + sparse``."""
    weight: npt.NDArray[np.float32] | None
    """(n,): what each label's loss is multiplied by; None where all count the same."""
    action: npt.NDArray[np.uint8] | None
    """(n,): what FerKD's rule does with each view, values of ``labelstore.Action``; None without a
    rule."""


class RecoveryOptions(TypedDict, total=False):
    """How stored labels become labels to train with."""

    tail: Tail | None
    """How the residual mass is spread; like the image's list of likely classes when None and the
    store has lists, else evenly."""
    label_type: LabelType | None
    """What labels are recovered to; the store's when None."""
    ferkd: FerKD | EnsembleFerKD | None
    """Calibrates the labels; None. With ``discard="mask"`` they have a ``weight``, 0 for discarded
    views; with ``"replace"`` the order of views shows a discarded one only where an image has no
    other."""
    phases: LabelPhases | None
    """Which epochs have the smoothed ground truth instead of the labels (HALD); what gives views
    then says of which epoch they are. Not together with ferkd. None."""
    temperature: float | None
    """Gives labels as if the teacher's logits had been divided by it, whatever the store's
    temperature: approximate, see ``labelstore.at_temperature``, and as they are stored where that
    is the store's. The store's own when None. Another than the store's does not go together with
    ferkd, whose thresholds are about labels as they are stored."""


@dataclass(frozen=True)
class Recovery:
    """How stored labels are recovered: ``Recovery.of`` a store, then called on what was read."""

    tail: Tail | None
    label_type: LabelType
    ferkd: FerKD | EnsembleFerKD | None
    factors: tuple[float, ...] | None
    """What each teacher's temperature is multiplied by; None for labels as they are stored."""
    phases: LabelPhases | None = None

    @classmethod
    def of(cls, store: LabelReader, **options: Unpack[RecoveryOptions]) -> Recovery:
        """Check that the wishes fit the store and each other.

        Args:
            store: a store or an ensemble.
            options: see ``RecoveryOptions``.

        Raises:
            UsageError: FerKD or hard phases of a store whose views are mixed with others; teachers
                of an ensemble whose labels are of other types, and no type; FerKD of
                labels that are not top-k, a temperature of such labels or together
                with FerKD, or of a store that does not tell its own; thresholds by class of
                other classes. TypeError: an option that is none.
        """
        require_known("Recovery.of", options, RecoveryOptions)
        ferkd, temperature = options.get("ferkd"), options.get("temperature")
        kind: LabelType = options.get("label_type") or label_type_of(store)
        if ferkd is not None and kind != "top-k":
            raise UsageError(
                f"FerKD calibrates recovered top-k labels and the label type is "
                f'{kind!r}: pass label_type="top-k", or leave ferkd out.'
            )
        if ferkd is not None:
            ferkd.require_classes(store.num_classes)
        factors = None if temperature is None else _factors(store, temperature)
        if factors and (ferkd is not None or kind != "top-k"):
            raise UsageError(
                f"labels at temperature {temperature} were asked for with "
                f"{'ferkd' if ferkd is not None else 'label_type ' + repr(kind)}, "
                "expected the store's temperature, or top-k labels without calibration: make a "
                "store at it, or leave one of the two out."
            )
        phases = options.get("phases")
        if ferkd is not None:
            require_unmixed(store, "FerKD")
        if phases is not None:
            require_unmixed(store, "a hard phase of labels")
        if phases is not None and ferkd is not None:
            raise UsageError(
                "labels in phases were asked for with ferkd, expected one of the two: in a hard "
                "phase no label is the teacher's, so leave one out."
            )
        return cls(options.get("tail"), kind, ferkd, factors, phases)

    def __call__(
        self,
        topk: TopK | EnsembleTopK,
        targets: npt.NDArray[np.int32],
        epochs: npt.ArrayLike | None = None,
    ) -> Recovered:
        """Recover labels.

        Args:
            topk: n stored labels.
            targets: (n,) ground-truth class ids, -1 where unknown.
            epochs: the epoch that shows them, or (n,) of them; for labels in phases.

        Raises:
            LabelError: the rule, or the hard phase, needs a ground truth that is unknown.
            UsageError: labels in phases, and no epoch.
        """
        soft = self._recovered(topk, targets)
        if self.phases is None:
            return soft
        if epochs is None:
            raise UsageError(NO_EPOCH)
        shape = soft.labels.base.shape
        hard = self.phases.is_hard(np.broadcast_to(np.asarray(epochs), shape))
        chosen = known_truth(np.asarray(targets)[hard], (int(hard.sum()),), "a hard phase")
        epsilon = self.phases.smoothing_of_others(topk.num_classes)
        return soft._replace(labels=with_smoothed_truth(soft.labels, hard, chosen, epsilon))

    def _recovered(self, topk: TopK | EnsembleTopK, targets: npt.NDArray[np.int32]) -> Recovered:
        if self.factors:
            parts = zip(topk.members, self.factors, strict=True)
            cooled = [at_temperature(part, by, self.tail) for part, by in parts]
            return Recovered(mix(cooled, topk.weights), None, None)
        if self.ferkd is None:
            return Recovered(topk.as_type(self.label_type, self.tail), None, None)
        calibrated = self.ferkd.apply(topk, targets, self.tail)
        # With "replace" a discarded view is shown only where an image has none that passes, and
        # then it counts.
        weight = calibrated.weight if self.ferkd.discard == "mask" else None
        return Recovered(calibrated.labels, weight, calibrated.action)


def _factors(store: LabelReader, temperature: float) -> tuple[float, ...] | None:
    """What each teacher's temperature is to be multiplied by, None where all have it; UsageError
    where one is unknown."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UsageError(f"temperature is {temperature}, expected a positive number.")
    factors = []
    for member in store.members:
        if member.manifest.temperature is None:
            raise UsageError(
                f"{member.path} does not tell the temperature of its labels, so they cannot be "
                f"brought to {temperature}: give None as temperature, if they are of it."
            )
        factors.append(temperature / member.manifest.temperature)
    return None if all(factor == 1 for factor in factors) else tuple(factors)
