"""Published ways to distil, as short configurations that say what they set and where it is from.

    ferkd = labelstore.recipe("ferkd", store)  # thresholds that fit; without a store the paper's
    print(ferkd.describe())
    data = SoftLabelDataset(photos, store, **ferkd.dataset_arguments())
    sampler = ViewSampler(data, **ferkd.sampler_arguments())
    mixing, loss = ferkd.build_mixing(), ferkd.build_loss()
    for step, (images, target) in enumerate(loader):
        if mixing is not None:
            images, target, alone = mixing(images, target, step=step)
        loss(model(images), target).backward()

"Paper" is Shen, "FerKD: Surgical Label Adaptation for Efficient Distillation" (ICCV 2023). What it
does not state is None, or a default whose source says so; its optimiser settings are in an appendix
that is not at hand, so no recipe sets an optimiser, a learning rate or a batch size. Building a
recipe needs torch; looking at one does not.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from labelstore.errors import FallbackWarning, UsageError, require_choice, require_packages
from labelstore.labels.calibration.phases import LabelPhases
from labelstore.labels.ferkd import EnsembleFerKD, FerKD
from labelstore.torch.labels.named_types import LABEL_TYPES, named_type, recover_as
from labelstore.training.mixing import CutMix, MixUp, OneOf, SelfMix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from labelstore.store.label_reader import LabelReader
    from labelstore.torch.labels.soft_labels import TorchSoftLabels
    from labelstore.torch.mixing import MixingOfTensors
    from labelstore.training.mixing import Mixing

    LossFunction = Callable[[torch.Tensor, TorchSoftLabels], torch.Tensor]

__all__ = ["LABEL_TYPES", "RECIPES", "Recipe", "recipe", "recover_as"]

Loss = Literal["vanilla-kd", "fkd", "ferkd", "kl-divergence"]
"""Equations 1, 2 and 3 of the paper; the KL divergence from the label to the student alone."""


@dataclass(frozen=True)
class Recipe:
    """How to distil. Change a value with ``recipe(name, value=...)`` or ``dataclasses.replace``.

    Raises:
        UsageError: a value out of range.
    """

    name: str
    """What ``recipe`` knows it by."""
    summary: str
    """One line."""
    views_per_image: int | None = None
    """Views of an image side by side in a batch."""
    label_type: str = "top-k"
    """A name from ``LABEL_TYPES``."""
    ferkd: FerKD | EnsembleFerKD | None = None
    """The calibration, or None."""
    mixing: Mixing | None = None
    """A rule of ``labelstore.mixing``, or None."""
    loss: Loss = "fkd"
    """Which loss of ``labelstore.torch``."""
    hard_weight: float | None = None
    """Alpha of equation 1, the hard labels' share; of ``loss="vanilla-kd"`` alone."""
    temperature: float = 1.0
    """What the student's logits are divided by. Labels of another are brought to it,
    approximately (``labelstore.at_temperature``). At 1 they are taken as the store has them, be it
    one that was made at the temperature that fits its teacher."""
    temperature_squared: bool = False
    """Whether the soft-label loss is multiplied by temperature ** 2."""
    phases: LabelPhases | None = None
    """Which epochs have hard labels, or None; planned for ``epochs``."""
    epochs: int | None = None
    """Training budget, in epochs as the paper counts them."""
    start: Literal["scratch", "fine-tuning"] = "scratch"
    """Whether the student begins untrained or from pre-trained weights, all of them trained."""
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each value is from; a value that was changed has none."""

    def __post_init__(self) -> None:
        named_type(self.label_type)
        for name, choices in (("loss", Loss), ("start", Literal["scratch", "fine-tuning"])):
            require_choice(name, getattr(self, name), get_args(choices))
        if self.hard_weight is not None and not 0 <= self.hard_weight <= 1:
            raise UsageError(f"hard_weight is {self.hard_weight}, expected 0 to 1.")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise UsageError(f"temperature is {self.temperature}, expected a positive number.")
        if self.views_per_image is not None and self.views_per_image < 1:
            raise UsageError(f"views_per_image is {self.views_per_image}, expected at least 1.")
        calibrated = self.ferkd is not None
        if calibrated and LABEL_TYPES[self.label_type].label_type != "top-k":
            raise UsageError(
                f"FerKD calibrates recovered top-k labels and label_type is {self.label_type!r}: "
                "choose another than hard and label-smoothing, or leave ferkd out."
            )
        if self.phases is not None and self.phases.epochs != self.epochs:
            raise UsageError(
                f"epochs of recipe {self.name!r} is {self.epochs} and its phases are planned for "
                f"{self.phases.epochs}: give one number, as phases=LabelPhases(epochs=...)."
            )
        if self.loss == "ferkd" and not calibrated:
            raise UsageError(
                'loss is "ferkd", which needs calibrated labels, and ferkd is None: pass '
                'ferkd=FerKD(), or loss="fkd".'
            )

    def describe(self) -> str:
        """A line for each value, with where it is from."""
        lines = [f"{self.name}: {self.summary}"]
        for part in dataclasses.fields(self):
            if part.name not in ("name", "summary", "sources"):
                value = getattr(self, part.name)
                source = self.sources.get(part.name, "not stated; labelstore's default")
                # What a recipe neither sets nor says anything about is no part of it.
                if value is not None or part.name in self.sources:
                    lines.append(f"  {part.name} = {value!r}  ({source})")
        return "\n".join(lines)

    def dataset_arguments(self) -> dict[str, Any]:
        """Keyword arguments for ``SoftLabelDataset``: label_type, tail, ferkd, phases and
        temperature."""
        chosen = LABEL_TYPES[self.label_type]
        tail: dict[str, Any] = {} if chosen.tail is None else {"tail": chosen.tail}
        if self.phases is not None:
            tail["phases"] = self.phases
        if self.temperature != 1 and chosen.label_type != "hard":
            tail["temperature"] = self.temperature
        return {"label_type": chosen.label_type, "ferkd": self.ferkd, **tail}

    def sampler_arguments(self) -> dict[str, Any]:
        """Keyword arguments for ``ViewSampler``: views_per_image and ferkd."""
        views = {} if self.views_per_image is None else {"views_per_image": self.views_per_image}
        return {**views, "ferkd": self.ferkd}

    def build_mixing(
        self, seed: int | None = None, rank: int | None = None
    ) -> MixingOfTensors | None:
        """The mixing rule as a callable on (images, target, step=...); None where nothing is
        mixed.

        Args:
            seed: of all its draws; that of ``mixing`` when None.
            rank: which process of a distributed training this is, each of which mixes otherwise; as
                torch.distributed says when it is used, when None.
        """
        require_packages("labelstore.torch", "torch")
        from labelstore.torch.mixing import on_tensors

        if self.mixing is None:
            return None
        rule = self.mixing if seed is None else dataclasses.replace(self.mixing, seed=seed)
        return on_tensors(rule, rank)

    def build_loss(self, epoch: int | None = None) -> LossFunction:
        """The loss as a function of (logits, target), its mean over the batch.

        Args:
            epoch: which one it is for; needed by a recipe with ``phases``, whose hard epochs have
                cross-entropy at temperature 1. Of another it makes no difference.

        Raises:
            UsageError: ``hard_weight`` or the epoch is needed and not given.
        """
        require_packages("labelstore.torch", "torch")
        from labelstore.torch.losses import losses

        if self.phases is not None:
            if epoch is None:
                raise UsageError(
                    f"recipe {self.name!r} has another loss in its hard epochs and no epoch was "
                    "given: make the loss anew in each epoch, with build_loss(epoch)."
                )
            if self.phases.is_hard(self.phases.check(epoch)):
                return losses.fkd_loss
        softened: dict[str, Any] = {
            "temperature": self.temperature,
            "temperature_squared": self.temperature_squared,
        }
        if self.loss == "vanilla-kd":
            if self.hard_weight is None:
                raise UsageError(
                    f"hard_weight of recipe {self.name!r} is None, expected 0 to 1: the paper does "
                    f"not state alpha of equation 1, choose it with recipe({self.name!r}, "
                    "hard_weight=0.5) or another."
                )
            return functools.partial(losses.vanilla_kd_loss, alpha=self.hard_weight, **softened)
        chosen: dict[str, Callable[..., torch.Tensor]] = {
            "fkd": losses.fkd_loss,
            "ferkd": losses.ferkd_loss,
            "kl-divergence": losses.soft_kl_divergence,
        }
        return functools.partial(chosen[self.loss], **softened)


def recipe(name: str, store: LabelReader | None = None, **changes: Any) -> Recipe:
    """A recipe by name, with some of its values changed.

    Args:
        name: ``ferkd``, ``fkd``, ``hald``, ``funmatch``, ``meal-v2`` or ``kd``.
        store: the store, or ensemble, that is trained from. A recipe that calibrates gets the
            thresholds that fit it, ``FerKD.fit(store)``: the paper's are about its own teacher, and
            another's students lose by them. The paper's when None, or where ``ferkd`` is given.
        changes: fields of ``Recipe``.

    Raises:
        UsageError: no such recipe or field, or a value out of range. Warns (FallbackWarning) where
        the store's labels are of another temperature than the recipe's, which is not 1.
    """
    require_choice("recipe", name, sorted(RECIPES))
    names = {part.name for part in dataclasses.fields(Recipe)} - {"name", "summary", "sources"}
    unknown = sorted(set(changes) - names)
    if unknown:
        raise UsageError(
            f"a recipe has no {', '.join(unknown)}, expected some of {', '.join(sorted(names))}."
        )
    chosen = RECIPES[name]
    if chosen.phases is not None and "epochs" in changes and "phases" not in changes:
        changes["phases"] = dataclasses.replace(chosen.phases, epochs=changes["epochs"])
    sources = {key: value for key, value in chosen.sources.items() if key not in changes}
    sources |= dict.fromkeys(changes, "changed")
    if store is not None and chosen.ferkd is not None and "ferkd" not in changes:
        changes["ferkd"] = FerKD.fit(store)
        sources["ferkd"] = "FerKD.fit: the paper's shares of this store's views, from its table 1"
    adapted = dataclasses.replace(chosen, sources=sources, **changes)
    if store is not None and adapted.temperature != 1:
        _warn_of_other_temperature(adapted, store)
    return adapted


def _warn_of_other_temperature(chosen: Recipe, store: LabelReader) -> None:
    for member in store.members:
        temperature = member.manifest.temperature
        if temperature not in (None, chosen.temperature):
            warnings.warn(
                f"the labels of {member.path} are of temperature {temperature:g} and recipe "
                f"{chosen.name!r} trains at {chosen.temperature:g}: they are brought to it "
                "approximately; for exact ones make a store at that temperature.",
                FallbackWarning,
                stacklevel=3,
            )


_TEMPERATURE = "paper, section 4: 1.0 for teacher and student"
_BUDGET = "paper, section 4 and table 8"
_QUANTIZED = (
    "not stated; FKD's documentation advises marginal-smoothing of the top 5; an image's list of "
    "likely classes is nearer to the teacher"
)
_FOUR_VIEWS = "not stated; the default of FKD's code"
_RANDOM = "paper, section 4: regions are sampled at random"
_NO_SQUARE = "not stated; no difference at temperature 1"

RECIPES: dict[str, Recipe] = {
    "ferkd": Recipe(
        name="ferkd",
        summary="calibrated labels, SelfMix, one cross-entropy term; ResNet-50's settings",
        views_per_image=4,
        ferkd=FerKD(),
        mixing=OneOf((SelfMix("mixup", alpha=0.8), SelfMix("cutmix", alpha=1.0))),
        loss="ferkd",
        epochs=300,
        sources={
            "views_per_image": _FOUR_VIEWS,
            "label_type": _QUANTIZED,
            "ferkd": "thresholds: paper, section 4.2; epsilon and what replaces a discarded view: "
            "not stated",
            "mixing": "SelfMix: paper, section 3.4, for ResNet and fine-tuning; its kind and "
            "alpha: not stated, those of MixUp and CutMix in FKD's code. Table 2: ViT gains from "
            "combining more kinds",
            "loss": "paper, equation 3",
            "temperature": _TEMPERATURE,
            "temperature_squared": _NO_SQUARE,
            "epochs": f"{_BUDGET} (600 gave 0.2 points more); 150 when fine-tuning, table 9",
            "start": "paper, table 8; table 9 fine-tunes",
        },
    ),
    "fkd": Recipe(
        name="fkd",
        summary="the teacher's labels as they are, cross-entropy; ResNet-50's settings",
        views_per_image=4,
        loss="fkd",
        epochs=300,
        sources={
            "views_per_image": _FOUR_VIEWS,
            "label_type": _QUANTIZED,
            "ferkd": _RANDOM,
            "mixing": "paper, table 8 names none for ResNet-50; section 2: FKD used CutMix; its "
            "code has both, CutMix(alpha=1.0) and MixUp(alpha=0.8), even odds",
            "loss": "paper, equation 2",
            "temperature": _TEMPERATURE,
            "temperature_squared": _NO_SQUARE,
            "epochs": f"{_BUDGET}; 150 when fine-tuning, table 9",
            "start": "paper, table 8; table 9 fine-tunes",
        },
    ),
    "hald": Recipe(
        name="hald",
        summary="soft, hard, soft labels by epoch (Cui et al., 2025), for few views of an image",
        phases=LabelPhases(),
        mixing=CutMix(alpha=1.0),
        loss="kl-divergence",
        temperature=20.0,
        epochs=300,
        sources={
            "phases": "HALD's paper (arXiv 2512.15647): 75, 150 and 75 of 300 epochs, smoothing "
            "0.8; that it is spread over all classes: its published code, not stated",
            "mixing": "HALD's paper and code: CutMix(alpha=1.0); its soft labels are of the mixed "
            "image, stored ones are mixed instead",
            "loss": "HALD's code, not stated: the KL divergence in soft phases, cross-entropy in "
            "the hard one",
            "temperature": "HALD's paper: 20 in soft phases, for teacher and student; its code: 1 "
            "in the hard one",
            "temperature_squared": "HALD's code: no; not stated",
            "epochs": "HALD's paper",
        },
    ),
    "funmatch": Recipe(
        name="funmatch",
        summary="MixUp and the teacher's labels alone (Beyer et al., CVPR 2022), from stored views",
        mixing=MixUp(alpha=1.0),
        loss="kl-divergence",
        epochs=300,
        sources={
            "ferkd": _RANDOM,
            "mixing": "MixUp: paper, section 2 and table 8; alpha: not stated. FunMatch's teacher "
            "sees the mixed image; stored labels are mixed instead",
            "loss": "not stated in the paper; the KL divergence of Beyer et al.",
            "temperature": _TEMPERATURE,
            "temperature_squared": _NO_SQUARE,
            "epochs": _BUDGET,
            "start": "paper, table 8",
        },
    ),
    "meal-v2": Recipe(
        name="meal-v2",
        summary="fine-tuning all weights on soft labels alone (Shen & Savvides, 2020)",
        loss="kl-divergence",
        epochs=180,
        start="fine-tuning",
        sources={
            "mixing": "paper, table 8: none, or CutMix for 0.3 points more; its alpha: not stated",
            "loss": "soft labels: paper, table 8; the KL divergence, and a discriminator that is "
            "not built here: not stated in the paper, of Shen & Savvides",
            "temperature": "not stated; section 4: fine-tuning settings follow their own designs",
            "temperature_squared": _NO_SQUARE,
            "epochs": "paper, table 8: 180, after the 300 of the weights it starts from",
            "start": "paper, section 4.4: the entire network from pre-trained weights",
        },
    ),
    "kd": Recipe(
        name="kd",
        summary="hard labels and the teacher's, weighed (Hinton et al., 2015)",
        loss="vanilla-kd",
        sources={
            "loss": "paper, equation 1",
            "hard_weight": "not stated: has to be chosen",
            "temperature": _TEMPERATURE,
            "epochs": "not stated",
        },
    ),
}
"""The recipes by name."""
