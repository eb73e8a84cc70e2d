"""The rows of the distillation benchmark: what differs between two students, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import labelstore

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FASHION", "SCENES", "Row", "Tables"]


@dataclass(frozen=True)
class Row:
    """One way to train a student."""

    name: str
    labels: str = "stored"
    """``stored``; ``hard``, ``smoothing``: the ground truth; ``online``: the teacher runs along."""
    teachers: tuple[str, ...] = ("residual",)
    ferkd: tuple[float, float, float] | str | None = None
    """Low, middle, top; or a name of ``distill_training.RULES``; None for FKD's labels as they
    are."""
    mixing: tuple[str, ...] = ()
    """One of these at each step."""
    schedule: str | None = None
    epochs: float = 1.0
    """Share of the epochs of a whole training."""
    start: str = "scratch"
    """``scratch``, or ``smoothing``: the student of the row with label smoothing."""
    store: str = ""
    """How the labels are stored, a name of ``distill_stores.FORMS``; empty for the data's usual."""
    temperature: int = 1
    """Of the labels and of the student's logits in the loss."""
    crops: int = 0
    """How many views of an image are shown in the whole training, the first ones; 0: all."""
    augment: tuple[str, ...] = ()
    """What is done to the teacher's views after the crop, as ``--augment`` takes it; the student
    sees the same pixels."""
    phases: bool = False
    """The ground truth in the middle half of the epochs, as HALD has it (``LabelPhases``)."""


Tables = dict[str, list[Row]]
"""Rows by table. The paper's letters are in brackets; "FKD" is the single teacher, random."""

PAPER = (labelstore.FerKD.low, labelstore.FerKD.middle, labelstore.FerKD.top)
SELFMIX = ("selfmix-mixup", "selfmix-cutmix")
THREE = ("residual", "plain", "separable")
OTHER_THREE = ("residual", "plain", "patches")
"""Teachers of Fashion-MNIST and of the scenes."""
SHARES = (("1/6", 1 / 6), ("1/3", 1 / 3), ("1/2", 1 / 2), ("2/3", 2 / 3))

RAND_AUGMENT = ("ra-n2-m9", "erase-0.25")

FORMS = {
    "exact": "all classes, float32",
    "balanced": "balanced",
    "small": "small",
    "fast": "fast",
    "top5": "top 5, even tail",
    "top10": "top 10, even tail",
}
"""How labels are stored in the rows about compression -> what the tables call it."""


def _compression(forms: Sequence[str], usual: str) -> Tables:
    """Each form at the temperatures 1 and 4; the usual one at 1 is the row FKD."""
    return {
        f"What compression costs, temperature {temperature}": [
            Row(f"{FORMS[form]}, T = {temperature}", store=form, temperature=temperature)
            for form in forms
            if (form, temperature) != (usual, 1)
        ]
        for temperature in (1, 4)
    }


FASHION: Tables = {
    "Labels": [
        Row("hard labels", labels="hard"),
        Row("label smoothing", labels="smoothing"),
        Row("online KD", labels="online"),
        Row("FKD"),
        Row("FKD, teacher plain", teachers=("plain",)),
        Row("FKD, teacher separable", teachers=("separable",)),
    ],
    "Mixing (table 2)": [
        Row("FKD + MixUp", mixing=("mixup",)),
        Row("FKD + CutMix", mixing=("cutmix",)),
        Row("FKD + SelfMix", mixing=SELFMIX),
        Row("FKD + MixUp or CutMix", mixing=("mixup", "cutmix")),
        Row("FKD + MixUp, CutMix or SelfMix", mixing=("mixup", "cutmix", *SELFMIX)),
    ],
    "Calibrated range, nothing discarded (table 4)": [
        Row(f"calibrated [0, {top}]", ferkd=(0.0, top, 1.0)) for top in (0.2, 0.3, 0.4, 0.5, 0.6)
    ],
    "FerKD step by step (table 5)": [
        Row("FerKD", ferkd=PAPER),
        Row("FerKD, nothing too easy", ferkd=(0.15, 0.30, 1.0)),
        Row("FerKD + SelfMix", ferkd=PAPER, mixing=SELFMIX),
        Row("FerKD + SelfMix + 2 teachers", ferkd=PAPER, mixing=SELFMIX, teachers=THREE[:2]),
        Row("FerKD + SelfMix + 3 teachers", ferkd=PAPER, mixing=SELFMIX, teachers=THREE),
        Row(
            "FerKD + SelfMix + 3 teachers + twice the epochs",
            ferkd=PAPER,
            mixing=SELFMIX,
            teachers=THREE,
            epochs=2.0,
        ),
    ],
    "Ensembles without calibration (table 6)": [
        Row("FKD, 2 teachers", teachers=THREE[:2]),
        Row("FKD, 3 teachers", teachers=THREE),
    ],
    "Curricula (table 7)": [
        Row("easy to hard", schedule="easy-to-hard"),
        Row("hard to easy", schedule="hard-to-easy"),
    ],
    # Of ten classes the ten largest are all.
    **_compression([form for form in FORMS if form != "top10"], "top5"),
    "Reduced budgets (figure 6)": [
        Row(f"{name}, {share} of the epochs", ferkd=ferkd, epochs=value)
        for name, ferkd in (("FerKD", PAPER), ("FKD", None))
        for share, value in SHARES
    ],
    "Fine-tuning a trained student (table 9)": [
        Row("label smoothing, fine-tuned", labels="smoothing", start="smoothing", epochs=0.5),
        Row("FKD, fine-tuned", start="smoothing", epochs=0.5),
        Row("FerKD, fine-tuned", ferkd=PAPER, start="smoothing", epochs=0.5),
        Row(
            "FerKD + SelfMix, fine-tuned",
            ferkd=PAPER,
            mixing=SELFMIX,
            start="smoothing",
            epochs=0.5,
        ),
    ],
}

SCENES: Tables = {
    "Labels": [
        Row("hard labels", labels="hard"),
        Row("FKD"),
        Row("label smoothing", labels="smoothing"),
        Row("online KD", labels="online"),
    ],
    "FerKD": [
        Row("FerKD", ferkd=PAPER),
        Row("FerKD, fitted", ferkd="fitted"),
        Row("FerKD, fitted by class", ferkd="fitted by class"),
        Row("FerKD, fitted, LoCa", ferkd="fitted, loca"),
        Row("LoCa, nothing discarded", ferkd="loca"),
        Row("FerKD, nothing too easy", ferkd=(0.15, 0.30, 1.0)),
    ],
    **_compression(tuple(FORMS), "balanced"),
    "A teacher without label smoothing and MixUp": [
        Row("FKD, unsmoothed teacher", teachers=("unsmoothed",)),
        Row("FerKD, unsmoothed teacher", teachers=("unsmoothed",), ferkd=PAPER),
        Row("FerKD, fitted, unsmoothed teacher", teachers=("unsmoothed",), ferkd="fitted"),
    ],
    "Few crops of an image, and HALD": [
        Row(f"{name}, {crops} crops an image", crops=crops, phases=phases)
        for crops in (2, 4, 8)
        for name, phases in (("FKD", False), ("HALD", True))
    ],
    "Mixing (table 2)": [
        Row("FKD + SelfMix", mixing=SELFMIX),
        Row("FKD + MixUp", mixing=("mixup",)),
        Row("FKD + CutMix", mixing=("cutmix",)),
        Row("FerKD, fitted + SelfMix", ferkd="fitted", mixing=SELFMIX),
        Row("FerKD, fitted + MixUp", ferkd="fitted", mixing=("mixup",)),
        Row("FerKD, fitted + CutMix", ferkd="fitted", mixing=("cutmix",)),
    ],
    "Views that are more than crops": [
        Row("FKD, views with ra-n2-m9, erase-0.25", augment=RAND_AUGMENT),
        Row("hard labels, views with ra-n2-m9, erase-0.25", labels="hard", augment=RAND_AUGMENT),
        Row("FKD, views with mixup-0.8", augment=("mixup-0.8",)),
        Row("FKD, views with cutmix-1", augment=("cutmix-1",)),
    ],
    "Ensembles (table 6)": [
        Row("FKD, 2 teachers", teachers=OTHER_THREE[:2]),
        Row("FKD, 3 teachers", teachers=OTHER_THREE),
        Row("FerKD, fitted, 3 teachers", teachers=OTHER_THREE, ferkd="fitted"),
    ],
    "Curricula (table 7)": [
        Row("easy to hard", schedule="easy-to-hard"),
        Row("hard to easy", schedule="hard-to-easy"),
    ],
    "Reduced budgets (figure 6)": [
        Row(f"{name}, {share} of the epochs", ferkd=ferkd, epochs=value)
        for share, value in reversed(SHARES)
        for name, ferkd in (("FKD", None), ("FerKD, fitted", "fitted"))
    ],
    "Fine-tuning a trained student (table 9)": [
        Row("label smoothing, fine-tuned", labels="smoothing", start="smoothing", epochs=0.5),
        Row("FKD, fine-tuned", start="smoothing", epochs=0.5),
        Row("FerKD, fitted, fine-tuned", ferkd="fitted", start="smoothing", epochs=0.5),
    ],
}
"""In order of worth: a run that is stopped has the first."""
