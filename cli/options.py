"""Options that several commands share; an option of one command stands in that command's file.

| flag | value | commands |
|---|---|---|
| `STORE` | path or URL of a store | inspect, pull, recode |
| `-o`, `--output` | path of the new store | generate, merge, recode |
| `--device` | auto, cpu, cuda, mps | generate, demo |
| `--low`, `--middle`, `--top` | FerKD's thresholds, 0..1 | inspect, merge, schedule |
| `--confidence` | max, target: what FerKD's thresholds look at | inspect, merge, schedule |
| `--quantizer` | ratio16, ratio32, u8, u16, fp16, fp32 | generate, merge, recode |
| `--image-column`, `--label-column` | of Parquet files | all that read photos |
| `--image-field` | the photo among a tar sample's fields | all that read photos |
| `--max-pixels` | of a photo, at least 2 | all that read photos |
| `--overwrite` | replace what is there | generate, merge, pull, recode |
| `--json` | one JSON document on stdout, errors included | all but demo |
| `-q`, `--quiet` | errors alone | generate, merge, pull, recode |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from labelstore.calibrate import Combine, FerKD
    from labelstore.sources import ImageSource
    from labelstore.teachers import Teacher
    from labelstore.views import ViewLaw

__all__ = [
    "JSON_META",
    "device_option",
    "ferkd_from",
    "ferkd_options",
    "json_option",
    "law_from",
    "law_options",
    "output_option",
    "overwrite_option",
    "quantizer_option",
    "quiet_option",
    "source_from",
    "source_options",
    "store_argument",
    "teacher_from",
    "teacher_options",
    "teachers_from",
    "teachers_options",
]

_Command = TypeVar("_Command", bound="Callable[..., Any] | click.Command")

JSON_META = "labelstore.json"
"""Key of ``click.Context.meta`` that is True once ``--json`` was given: where errors look."""


def _remember_json(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    context.meta[JSON_META] = value
    return value


store_argument = click.argument("store", metavar="STORE", type=click.Path())
"""``store``: str, the path or URL of a store."""

output_option = click.option(
    "-o",
    "--output",
    required=True,
    metavar="STORE",
    type=click.Path(),
    help="Where the new store goes: a folder (*.parquet is made of Parquet files, else Zarr), or a "
    "URL, s3:// or gs://.",
)
"""``output``: str, the path of the store to be made."""

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where the teacher runs; auto takes the first there is of cuda, mps, cpu.",
)
"""``device``: str."""

quantizer_option = click.option(
    "--quantizer",
    type=click.Choice(["ratio16", "ratio32", "u8", "u16", "fp16", "fp32"]),
    help="How probabilities are stored.",
)
"""``quantizer``: str or None."""

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace a store that is there: its labels are deleted."
)
"""``overwrite``: bool."""

json_option = click.option(
    "--json",
    is_flag=True,
    # Eager, so that an error in reading any other parameter finds it set.
    is_eager=True,
    callback=_remember_json,
    help="Print the result, or the error, as one JSON document.",
)
"""``json``: bool."""

quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
"""``quiet``: bool."""


def _runnable(
    _context: click.Context, _parameter: click.Parameter, value: str | tuple[str, ...] | None
) -> str | tuple[str, ...] | None:
    """Checked before anything is read: what teachers need that a reader has not."""
    if value:
        from labelstore.teachers import require_libraries

        for spec in (value,) if isinstance(value, str) else value:
            require_libraries(spec)
    return value


_TEACHER = (
    click.option(
        "--checkpoint",
        metavar="FILE|none",
        help="Weights for timm:NAME: a safetensors or torch file, or none for untrained weights "
        "(speed tests). Default: timm's pretrained weights.",
    ),
    click.option(
        "--temperature",
        type=float,
        default=1.0,
        show_default=True,
        help="The logits are divided by it before softmax.",
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
        type=click.Choice(["fp32", "bf16", "fp16"]),
        default="fp32",
        show_default=True,
        help="Of the teacher's forward; softmax is always fp32. On CUDA fp32 is without TF32; fp16 "
        "has TF32's precision and is faster.",
    ),
)

_LAW = (
    click.option(
        "--scale",
        type=float,
        nargs=2,
        default=(0.08, 1.0),
        show_default=True,
        metavar="LOW HIGH",
        help="Range of a crop's area, as a share of the image's.",
    ),
    click.option(
        "--ratio",
        type=float,
        nargs=2,
        default=(3 / 4, 4 / 3),
        show_default="0.75 1.3333",
        metavar="LOW HIGH",
        help="Range of a crop's width / height.",
    ),
    click.option(
        "--flip", type=float, default=0.5, show_default=True, help="Probability of mirroring."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of the views."),
)

_SOURCE = (
    click.option(
        "--image-column",
        metavar="NAME",
        help="Parquet: the column of encoded images. [default: image]",
    ),
    click.option(
        "--label-column",
        metavar="NAME",
        help="Parquet: the column of class ids (-1, null: unknown) or names. [default: label]",
    ),
    click.option(
        "--image-field",
        metavar="FIELD",
        help="Tar shards: which field of a sample is the photo, as input.jpg in 0001.input.jpg; "
        "several by semicolons. Default: the one that ends as an image does.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(min=2),
        metavar="PIXELS",
        help="The most pixels (width x height) of a photo; larger ones are refused, for fear of "
        "decompression bombs. [default: 178956970]",
    ),
)

_FERKD = (
    click.option(
        "--low",
        type=click.FloatRange(0, 1),
        default=0.15,
        show_default=True,
        help="FerKD: views of this confidence or less are discarded.",
    ),
    click.option(
        "--middle",
        type=click.FloatRange(0, 1),
        default=0.30,
        show_default=True,
        help="FerKD: views above --low, up to this confidence, are calibrated.",
    ),
    click.option(
        "--top",
        type=click.FloatRange(0, 1),
        default=0.95,
        show_default=True,
        help="FerKD: views above this confidence are discarded.",
    ),
    click.option(
        "--confidence",
        type=click.Choice(["max", "target"]),
        default="max",
        show_default=True,
        help="FerKD: compare the largest probability, or that of the ground truth.",
    ),
)


_NONDETERMINISTIC = click.option(
    "--allow-nondeterministic",
    is_flag=True,
    help="Take a teacher that does not say the same of a crop each time (dropout, batch "
    "statistics); its manifest says so.",
)


def teachers_options(command: _Command) -> _Command:
    """As ``teacher_options``, for one teacher or several: the first five are tuples.

    ``teachers_from`` makes of them what ``teacher_from`` takes, once for each teacher.
    """
    several = (
        click.option(
            "--teacher",
            "spec",
            required=True,
            multiple=True,
            metavar="SPEC",
            callback=_runnable,
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
            type=float,
            multiple=True,
            help="The logits are divided by it before softmax. Once for all teachers, or one each. "
            "[default: 1.0]",
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
        _TEACHER[-1],
        device_option,
        _NONDETERMINISTIC,
    )
    for option in reversed(several):
        command = option(command)
    return command


def teachers_from(given: dict[str, Any]) -> list[dict[str, Any]]:
    """The options of each teacher, ``output`` among them, for commands that take several."""
    from labelstore.errors import UsageError

    count = len(given["spec"])
    defaults = {"checkpoint": None, "temperature": 1.0, "size": None, "num_classes": None}
    each: dict[str, tuple[Any, ...]] = {"spec": given["spec"], "output": given["output"]}
    for name, default in defaults.items():
        values = given[name] or (default,)
        if (
            name == "checkpoint"
            and len(values) == 1
            and count > 1
            and values[0] not in (None, "none")
        ):
            raise UsageError(
                f"--checkpoint {values[0]} was given once for {count} teachers: give one for each, "
                "in the same order."
            )
        each[name] = values * count if len(values) == 1 else values
    for name, values in each.items():
        if len(values) != count:
            raise UsageError(
                f"--{name.replace('_', '-')} was given {len(values)} times for {count} --teacher: "
                "give one for each, in the same order."
            )
    return [
        given | {name: values[number] for name, values in each.items()} for number in range(count)
    ]


def teacher_options(required: bool = True) -> Callable[[_Command], _Command]:
    """Add ``spec`` and what ``teacher_from`` takes besides."""
    spec = click.option(
        "--teacher",
        "spec",
        required=required,
        metavar="SPEC",
        callback=_runnable,
        help="timm:NAME, or python:package.module:factory for any torch module (the factory "
        "returns the module and its preprocessing).",
    )

    def add(command: _Command) -> _Command:
        for option in reversed((spec, *_TEACHER, device_option, _NONDETERMINISTIC)):
            command = option(command)
        return command

    return add


def teacher_from(given: dict[str, Any]) -> Teacher:
    """The teacher that ``teacher_options`` were given for."""
    from labelstore.teachers import load_teacher

    return load_teacher(
        given["spec"],
        checkpoint=given["checkpoint"],
        device=given["device"],
        precision=given["precision"],
        size=given["size"],
        num_classes=given["num_classes"],
        allow_nondeterministic=given["allow_nondeterministic"],
    )


def source_options(command: _Command) -> _Command:
    """Add ``image_column``, ``label_column``, ``image_field`` and ``max_pixels``."""
    for option in reversed(_SOURCE):
        command = option(command)
    return command


def source_from(given: dict[str, Any], path: str) -> ImageSource:
    """The images at a path that ``source_options`` were given for; photos of many pixels are let in
    from here on."""
    from labelstore.images import allow_pixels
    from labelstore.sources import open_source

    if given["max_pixels"] is not None:
        allow_pixels(given["max_pixels"])
    return open_source(
        path,
        image_column=given["image_column"],
        label_column=given["label_column"],
        image_field=given["image_field"],
    )


def law_options(command: _Command) -> _Command:
    """Add ``scale``, ``ratio`` (two floats), ``flip`` (float) and ``seed`` (int)."""
    for option in reversed(_LAW):
        command = option(command)
    return command


def law_from(given: dict[str, Any]) -> ViewLaw:
    """The view law that ``law_options`` were given for."""
    from labelstore.views import ViewLaw

    return ViewLaw(given["seed"], given["scale"], given["ratio"], given["flip"])


def ferkd_options(command: _Command) -> _Command:
    """Add ``low``, ``middle``, ``top`` (float) and ``confidence`` (str) to a command."""
    for option in reversed(_FERKD):
        command = option(command)
    return command


def ferkd_from(given: dict[str, Any], smoothing: float = 0.1, ensemble: Combine = "all") -> FerKD:
    """The rule that ``ferkd_options`` were given for; UsageError for thresholds out of order."""
    from labelstore.calibrate import FerKD

    return FerKD(
        low=given["low"],
        middle=given["middle"],
        top=given["top"],
        confidence=given["confidence"],
        smoothing=smoothing,
        ensemble=ensemble,
    )
