"""What every stage is: settings with a name, as a text and as JSON, and a draw of parameters."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from labelstore.errors import UsageError
from labelstore.views.stages.parameters import StageParameters, code_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.views.stages.parameters import Draws

__all__ = ["NumbersStage", "Stage", "joined", "numbers_of", "one_operation", "require_range"]


@dataclass(frozen=True)
class Stage(ABC):
    """A named, versioned, pure function from draws of its own to parameters of views.

    Its settings are the fields of the data class. A change that gives any view other parameters is
    a new version.
    """

    NAME: ClassVar[str]
    VERSION: ClassVar[int] = 1
    USAGE: ClassVar[str]
    """How it is written, for messages."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type == "float":
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Raise UsageError where a setting is out of its range."""

    @abstractmethod
    def draw(self, draws: Draws) -> StageParameters:
        """Its parameters for the n views of ``draws``, of shape (n, S) and (n, S, W)."""

    @abstractmethod
    def __str__(self) -> str:
        """Its name with its settings, as a user writes it: ``parse_stage`` reads it back."""

    @classmethod
    @abstractmethod
    def parse(cls, parts: Sequence[str]) -> Self:
        """The stage of what stands behind its name, between hyphens.

        Raises:
            UsageError: a value is out of its range. ValueError, TypeError: the parts are no such.
        """

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {"name": self.NAME, "version": self.VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        """The stage of a manifest, of this name and version.

        Raises:
            UsageError: its settings are not this stage's, or out of their range.
        """
        kinds = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        settings = {
            name: description[name] for name in description if name not in ("name", "version")
        }
        if set(settings) != set(kinds) or any(
            type(value).__name__ != kinds[name] for name, value in settings.items()
        ):
            raise UsageError(
                f"the stage {cls.NAME!r} has the settings {settings}, expected "
                f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items()) or 'none'}."
            )
        return cls(**settings)


class NumbersStage(Stage):
    """A stage that is written as its name and its settings, all numbers: the first alone where the
    others are as usual, else all of them."""

    def __str__(self) -> str:
        first, *others = dataclasses.astuple(self)
        usual = [field.default for field in dataclasses.fields(self)[1:]]
        return joined(self.NAME, first, *([] if others == usual else others))

    @classmethod
    def parse(cls, parts: Sequence[str]) -> Self:
        if len(parts) not in (1, len(dataclasses.fields(cls))):
            raise ValueError("another number of settings")
        return cls(*numbers_of(parts))


def numbers_of(parts: Sequence[str]) -> list[float]:
    """Parts of a name as numbers; ValueError where one is none or not finite."""
    values = [float(part) for part in parts]
    if not all(map(math.isfinite, values)):
        raise ValueError("a number is not finite")
    return values


def joined(name: str, *values: float) -> str:
    """A name and numbers with hyphens between, in the fewest digits that read back."""
    texts = (np.format_float_positional(value, trim="-") for value in values)
    return "-".join([name, *texts])


def require_range(stage: Stage, name: str, low: float, high: float) -> None:
    """Raise UsageError where a setting is not within ``low`` and ``high``, both inclusive."""
    value = getattr(stage, name)
    if not low <= value <= high:
        raise UsageError(
            f"{name} of the stage {stage.NAME!r} is {value:g}, expected {low:g} to {high:g}: "
            "correct it.",
            arguments=("augment",),
        )


def one_operation(
    operation: str,
    applies: npt.NDArray[np.bool_],
    values: npt.NDArray[np.float64] | float = 0.0,
) -> StageParameters:
    """Parameters of a stage of one operation with one value: the identity where it does not apply.

    Args:
        operation: a name of ``OPERATIONS``. applies: (n,). values: (n,), or that of all.
    """
    code = np.where(applies, np.uint8(code_of(operation)), np.uint8(0))
    return StageParameters(
        code[:, None].astype(np.uint8), np.where(applies, values, 0.0)[:, None, None]
    )
