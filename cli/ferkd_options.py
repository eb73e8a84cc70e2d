"""Thresholds of FerKD's rule, as options of the commands that decide by it.

| flag | value | commands |
|---|---|---|
| `--thresholds` | paper, fit, fit-by-class | compare, inspect, merge, schedule, show |
| `--low`, `--middle`, `--top` | FerKD's thresholds, 0..1 | the same |
| `--confidence` | max, target: what thresholds look at | the same |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from . import choices
from .options import added
from .text import counted

if TYPE_CHECKING:
    from labelstore.labels.ferkd import Confidence, EnsembleFerKD, FerKD, FitBy
    from labelstore.store.label_reader import LabelReader

__all__ = ["FerKDOptions", "ferkd_options"]

_FERKD = (
    click.option(
        "--thresholds",
        type=click.Choice(choices.THRESHOLDS),
        default=choices.THRESHOLDS[0],
        show_default=True,
        help="FerKD: the paper's thresholds, or those at which as many of the store's own crops "
        "are discarded and calibrated as of the paper's; these are told as --low, --middle, --top. "
        "fit-by-class: as many of the crops of each ground-truth class.",
    ),
    click.option(
        "--low",
        type=click.FloatRange(0, 1),
        show_default=str(choices.LOW),
        help="FerKD: views of this confidence or less are discarded.",
    ),
    click.option(
        "--middle",
        type=click.FloatRange(0, 1),
        show_default=str(choices.MIDDLE),
        help="FerKD: views above --low, up to this confidence, are calibrated.",
    ),
    click.option(
        "--top",
        type=click.FloatRange(0, 1),
        show_default=str(choices.TOP),
        help="FerKD: views above this confidence are discarded.",
    ),
    click.option(
        "--confidence",
        type=click.Choice(choices.CONFIDENCES),
        default=choices.CONFIDENCES[0],
        show_default=True,
        help="FerKD: compare the largest probability, or that of the ground truth.",
    ),
)

ferkd_options = added(_FERKD)
"""Those of `FerKDOptions`."""


@dataclass(frozen=True)
class FerKDOptions:
    """Thresholds of FerKD's rule."""

    thresholds: choices.Thresholds
    low: float | None
    middle: float | None
    top: float | None
    confidence: Confidence

    @property
    def fits(self) -> bool:
        """Whether the thresholds are to be those that fit a store."""
        return self.thresholds != "paper"

    def check(self) -> None:
        """Refuse what contradicts itself, before a store is read.

        Raises:
            click.UsageError: thresholds that are said and fitted. UsageError: out of order.
        """
        if not self.fits:
            self._rule_of_options()
            return
        flags = [
            f"--{name}" for name in ("low", "middle", "top") if getattr(self, name) is not None
        ]
        if flags:
            raise click.UsageError(
                f"{' and '.join(flags)} and --thresholds {self.thresholds} were given, and "
                f"{self.thresholds} chooses them: leave out one or the other."
            )
        if self.confidence != "max":
            raise click.UsageError(
                f"--thresholds {self.thresholds} looks at the largest probability, which is "
                f"stored, and --confidence is {self.confidence}: leave it out, or give --low, "
                "--middle and --top."
            )

    def rule(self, store: LabelReader | None = None, *, quiet: bool = False, **more: Any) -> FerKD:
        """The rule for one store, or for any where nothing is fitted.

        Args:
            store: what thresholds are fitted to; they are told then, unless ``quiet``.
            more: the rule's other parameters.

        Raises:
            Those of ``check`` and ``FerKD.fit``.
        """
        self.check()
        if not self.fits or store is None:
            return self._rule_of_options(**more)
        (rule,) = self.rules(store, quiet=quiet, **more).rules_for(1)
        return rule

    def rules(
        self, store: LabelReader, *, quiet: bool = False, **more: Any
    ) -> FerKD | EnsembleFerKD:
        """As ``rule``, of a store or an ensemble; fitted, it has a rule for each teacher."""
        from labelstore.labels.ferkd import FerKD

        from . import output

        self.check()
        if not self.fits:
            return self._rule_of_options(**more)
        by: FitBy = "store" if self.thresholds == "fit" else "class"
        fitted = FerKD.fit(store, by=by, **more)
        members = store.members
        for member, rule in zip(members, fitted.rules_for(len(members)), strict=True):
            if not quiet:
                output.note(f"thresholds that fit {member.path}: {_thresholds_text(rule)}")
        return fitted

    def _rule_of_options(self, **more: Any) -> FerKD:
        from labelstore.labels.ferkd import FerKD

        thresholds = {name: getattr(self, name) for name in ("low", "middle", "top")}
        chosen = {name: value for name, value in thresholds.items() if value is not None}
        return FerKD(**chosen, confidence=self.confidence, **more)


def _thresholds_text(rule: FerKD) -> str:
    """Fitted thresholds in words, which are flags where these say all."""
    flags = f"--low {rule.low} --middle {rule.middle} --top {rule.top}"
    own = rule.by_class
    if own is None:
        return flags
    parts = [f"{len(own.classes)} of {counted(own.num_classes, 'class')} have their own"]
    if own.classes:
        ranges = zip(("low", "middle", "top"), (own.low, own.middle, own.top), strict=True)
        spans = ", ".join(f"{name} {min(edges)} to {max(edges)}" for name, edges in ranges)
        parts.append(f"({spans})")
    return f"{' '.join(parts)}; for the others {flags}"
