"""Stages by name: as a user writes them, and as a manifest holds them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from labelstore.errors import UsageError
from labelstore.views.stages.colour import Blur, Gray, Jitter, Solarize
from labelstore.views.stages.geometry import Erase, Rotate
from labelstore.views.stages.mixing import CutMix, Mix, MixUp
from labelstore.views.stages.policies import RandAugment, TrivialAugmentWide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from labelstore.views.stages.stage import Stage

__all__ = ["MAX_STAGES", "STAGES", "is_known", "parse_stage", "stage_of_json"]

STAGES: dict[str, type[Stage]] = {
    kind.NAME: kind
    for kind in (
        *(Jitter, Gray, Rotate, Blur, Solarize, Erase, RandAugment, TrivialAugmentWide),
        *(MixUp, CutMix, Mix),
    )
}
"""Kinds of stages by the name that a manifest and a user's text begin with."""

MAX_STAGES = 16
"""Stages of a law, at most."""


def parse_stage(text: str) -> Stage:
    """A stage as a user writes it: ``jitter-0.4``, ``ra-n2-m9``, ``erase-0.25``.

    Raises:
        UsageError: it is none, or a value is out of its range.
    """
    name = next((name for name in STAGES if f"{text}-".startswith(f"{name}-")), "")
    parts = text[len(name) + 1 :].split("-") if len(text) > len(name) else []
    kind = STAGES.get(name)
    if kind is None and text.split("-")[0] in _TIMM_POLICIES:
        raise UsageError(
            f"the augmentation {text!r} is timm's, whose operations and strengths are others than "
            f"torchvision's, expected one of those: the nearest is {_nearest(text)}.",
            arguments=("augment",),
        )
    if kind is None:
        raise UsageError(
            f"the augmentation {text!r} is unknown, expected one like "
            f"{'; '.join(stage.USAGE for stage in STAGES.values())}.",
            arguments=("augment",),
        )
    try:
        return kind.parse(parts)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the augmentation {text!r} is not understood, expected {kind.USAGE}.",
            arguments=("augment",),
        ) from error


_TIMM_POLICIES = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")
"""How timm's ``--aa`` begins."""

_TIMM_MAGNITUDES = 10
"""timm's strongest; torchvision's is 30."""


def _nearest(text: str) -> str:
    """The stage here that is most like a policy of timm's."""
    settings = dict(re.findall(r"-([nm])(\d{1,3}(?:\.\d+)?)(?=-|$)", text))
    if not text.startswith("rand"):
        return "ta-wide"
    magnitude = min(round(float(settings.get("m", 9)) * 30 / _TIMM_MAGNITUDES), 30)
    operations = min(max(round(float(settings.get("n", 2))), 1), 16)
    return f"ra-n{operations}-m{magnitude} (timm's magnitudes go to 10, these to 30)"


def is_known(description: Mapping[str, Any]) -> bool:
    """Whether a manifest's stage is of a name and version that are computed here."""
    kind = STAGES.get(description["name"])
    return kind is not None and description["version"] == kind.VERSION


def stage_of_json(description: Mapping[str, Any]) -> Stage:
    """The stage of a manifest.

    Raises:
        UsageError: unknown, or with settings that it does not have.
    """
    if not is_known(description):
        raise UsageError(
            f"the stage {description['name']!r} version {description['version']} is unknown, "
            f"expected one of {', '.join(STAGES)} in version 1: install the labelstore that made "
            "this store."
        )
    return STAGES[description["name"]].from_json(description)
