"""Options of the networks that label: of one, or of several in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from labelstore.teachers.devices import DEVICES, PRECISIONS

from .options import added

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from labelstore.teachers.teacher import Teacher

__all__ = [
    "NetworkOptions",
    "TeacherOptions",
    "TeachersOptions",
    "device_option",
    "network_options",
    "runnable",
    "teacher_options",
    "teachers_options",
]

Command = TypeVar("Command", bound="Callable[..., Any]")


FIT = "fit"
"""In the place of a temperature: the one that fits (``fitted_temperature``)."""


def _temperatures(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[float | str, ...]:
    """Numbers, or the word ``fit``."""
    try:
        return tuple(FIT if value == FIT else float(value) for value in values)
    except ValueError:
        raise click.BadParameter(
            f"{' and '.join(map(repr, values))}: expected a number, or fit: give one of them."
        ) from None


def runnable(
    _context: click.Context, _parameter: click.Parameter, value: str | tuple[str, ...] | None
) -> str | tuple[str, ...] | None:
    """Checked before anything is read: what teachers need that a reader has not."""
    if value:
        from labelstore.teachers.load import require_libraries

        for spec in (value,) if isinstance(value, str) else value:
            require_libraries(spec)
    return value


device_option = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default=DEVICES[0],
    show_default=True,
    help="Where the teacher runs; auto takes the first there is of cuda, mps, cpu.",
)
"""``device``: str."""

_TEMPERATURE = click.option(
    "--temperature",
    type=float,
    default=1.0,
    show_default=True,
    help="The logits are divided by it before softmax.",
)

_NETWORK = (
    click.option(
        "--checkpoint",
        metavar="FILE|none",
        help="Weights for timm:NAME: a safetensors or torch file, or none for untrained weights "
        "(speed tests). Default: timm's pretrained weights.",
    ),
    click.option(
        "--size",
        type=click.IntRange(min=1),
        metavar="PIXELS",
        help="Side of the teacher's input. Default: what the teacher was trained with.",
    ),
    click.option(
        "--num-classes",
        type=click.IntRange(min=2),
        help="Classes of timm:NAME, where its classifier was trained anew. Default: as many as the "
        "checkpoint's classifier has.",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default=PRECISIONS[0],
        show_default=True,
        help="Of the teacher's forward; softmax is always fp32. On CUDA fp32 is without TF32; fp16 "
        "has TF32's precision and is faster.",
    ),
)

_NONDETERMINISTIC = click.option(
    "--allow-nondeterministic",
    is_flag=True,
    help="Take a teacher that does not say the same of a crop each time (dropout, batch "
    "statistics); its manifest says so.",
)

_SEVERAL_TEACHERS = (
    click.option(
        "--teacher",
        "spec",
        required=True,
        multiple=True,
        metavar="SPEC",
        callback=runnable,
        help="timm:NAME, or python:package.module:factory for any torch module (the factory "
        "returns the module and its preprocessing). Given several times, with as many "
        "--output, all of them label the views in one pass.",
    ),
    click.option(
        "--checkpoint",
        multiple=True,
        metavar="FILE|none",
        help="Weights for timm:NAME: a safetensors or torch file, or none for untrained "
        "weights (speed tests). Default: timm's pretrained weights. Of several teachers: one "
        "each, or one none for all.",
    ),
    click.option(
        "--temperature",
        callback=_temperatures,
        multiple=True,
        metavar="FLOAT|fit",
        help="The logits are divided by it before softmax. Once for all teachers, or one each. "
        "fit: the one at which the teacher is calibrated on plain crops of the photos, which need "
        "a ground truth. [default: 1.0]",
    ),
    click.option(
        "--size",
        type=click.IntRange(min=1),
        multiple=True,
        metavar="PIXELS",
        help="Side of the teacher's input. Once for all teachers, or one each. Default: what "
        "each was trained with.",
    ),
    click.option(
        "--num-classes",
        type=click.IntRange(min=2),
        multiple=True,
        help="Classes of timm:NAME, where its classifier was trained anew. Once for all "
        "teachers, or one each. Default: as many as the checkpoint's classifier has.",
    ),
    _NETWORK[-1],
    device_option,
    _NONDETERMINISTIC,
)


def network_options(required: bool = True) -> Callable[[Command], Command]:
    """Those of `NetworkOptions`."""
    return added((_spec_option(required), *_NETWORK, device_option, _NONDETERMINISTIC))


def teacher_options(required: bool = True) -> Callable[[Command], Command]:
    """Those of `TeacherOptions`."""
    checkpoint, *others = _NETWORK
    return added(
        (
            _spec_option(required),
            checkpoint,
            _TEMPERATURE,
            *others,
            device_option,
            _NONDETERMINISTIC,
        )
    )


def _spec_option(required: bool) -> Callable[[Command], Command]:
    # To click 8.3 and later a default of None is a value, and nothing would be missing.
    unsaid: dict[str, Any] = {} if required else {"default": ""}
    return click.option(
        "--teacher",
        "spec",
        required=required,
        **unsaid,
        metavar="SPEC",
        callback=runnable,
        help="timm:NAME, or python:package.module:factory for any torch module (the factory "
        "returns the module and its preprocessing).",
    )


teachers_options = added(_SEVERAL_TEACHERS)
"""Those of `TeachersOptions`, for commands that also take as many ``--output``."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A teacher that is asked for, of a store whose labels have a temperature."""

    spec: str
    """Empty where ``--teacher`` may be left out and was."""
    checkpoint: str | None
    size: int | None
    num_classes: int | None
    precision: str
    device: str
    allow_nondeterministic: bool

    def load(self) -> Teacher:
        """Build the network and load its weights."""
        from labelstore.teachers.load import load_teacher

        return load_teacher(
            self.spec,
            checkpoint=self.checkpoint,
            device=self.device,
            precision=self.precision,
            size=self.size,
            num_classes=self.num_classes,
            allow_nondeterministic=self.allow_nondeterministic,
        )


@dataclass(frozen=True, kw_only=True)
class TeacherOptions(NetworkOptions):
    """A teacher that is asked for, and what its logits are divided by."""

    temperature: float


@dataclass(frozen=True)
class TeachersOptions:
    """Several teachers: a tuple has a value for each, or one for all, or none."""

    spec: tuple[str, ...]
    checkpoint: tuple[str, ...]
    temperature: tuple[float | str, ...]
    """Numbers, or the word ``fit``."""
    size: tuple[int, ...]
    num_classes: tuple[int, ...]
    precision: str
    device: str
    allow_nondeterministic: bool

    def each(self) -> list[TeacherOptions]:
        """The teachers one by one.

        Raises:
            UsageError: an option was given for another number of teachers.
        """
        from labelstore.errors import UsageError

        count = len(self.spec)
        if len(self.checkpoint) == 1 and count > 1 and self.checkpoint[0] != "none":
            raise UsageError(
                f"--checkpoint {self.checkpoint[0]} was given once for {count} teachers: give one "
                "for each, in the same order."
            )
        return [
            TeacherOptions(
                spec=spec,
                checkpoint=checkpoint,
                # What is to be fitted is 1 until it is.
                temperature=1.0 if isinstance(temperature, str) else temperature,
                size=size,
                num_classes=num_classes,
                precision=self.precision,
                device=self.device,
                allow_nondeterministic=self.allow_nondeterministic,
            )
            for spec, checkpoint, temperature, size, num_classes in zip(
                self.spec,
                self._for_each("checkpoint", self.checkpoint, None),
                self._temperatures(),
                self._for_each("size", self.size, None),
                self._for_each("num-classes", self.num_classes, None),
                strict=True,
            )
        ]

    def fits(self) -> list[bool]:
        """Whether each teacher's temperature is to be fitted."""
        return [value == FIT for value in self._temperatures()]

    def _temperatures(self) -> Sequence[float | str]:
        return self._for_each("temperature", self.temperature, 1.0)

    def _for_each(self, option: str, values: tuple[Any, ...], default: Any) -> Sequence[Any]:
        if len(values) <= 1:
            return (values or (default,)) * len(self.spec)
        self.check_count(option, values)
        return values

    def check_count(self, option: str, values: tuple[Any, ...]) -> None:
        """Refuse another number of values than of teachers."""
        from labelstore.errors import UsageError

        if len(values) != len(self.spec):
            raise UsageError(
                f"--{option} was given {len(values)} times for {len(self.spec)} --teacher: "
                "give one for each, in the same order."
            )
