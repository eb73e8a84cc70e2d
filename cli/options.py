"""Options that several commands share; an option of one command stands in that command's file.

| flag | value | commands |
|---|---|---|
| `STORE` | path of a store | inspect, recode |
| `-o`, `--output` | path of the new store | generate, recode |
| `--device` | auto, cpu, cuda, mps | generate, demo |
| `--low`, `--middle`, `--top` | FerKD's thresholds, 0..1 | inspect |
| `--confidence` | max, target: what FerKD's thresholds look at | inspect |
| `--quantizer` | ratio16, ratio32, u8, u16, fp16, fp32 | generate, recode |
| `--overwrite` | replace what is there | generate, recode |
| `--json` | one JSON document on stdout, errors included | generate, inspect, recode |
| `-q`, `--quiet` | errors alone | generate, recode |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from labelstore.calibrate import FerKD

__all__ = [
    "JSON_META",
    "device_option",
    "ferkd_from",
    "ferkd_options",
    "json_option",
    "output_option",
    "overwrite_option",
    "quantizer_option",
    "quiet_option",
    "store_argument",
]

_Command = TypeVar("_Command", bound="Callable[..., Any] | click.Command")

JSON_META = "labelstore.json"
"""Key of ``click.Context.meta`` that is True once ``--json`` was given: where errors look."""


def _remember_json(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    context.meta[JSON_META] = value
    return value


store_argument = click.argument("store", metavar="STORE", type=click.Path())
"""``store``: str, the path of a store."""

output_option = click.option(
    "-o",
    "--output",
    required=True,
    metavar="STORE",
    type=click.Path(),
    help="Where the new store goes: a folder; *.parquet is made of Parquet files, else Zarr.",
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


def ferkd_options(command: _Command) -> _Command:
    """Add ``low``, ``middle``, ``top`` (float) and ``confidence`` (str) to a command."""
    for option in reversed(_FERKD):
        command = option(command)
    return command


def ferkd_from(given: dict[str, Any]) -> FerKD:
    """The rule that ``ferkd_options`` were given for; UsageError for thresholds out of order."""
    from labelstore.calibrate import FerKD

    return FerKD(
        low=given["low"],
        middle=given["middle"],
        top=given["top"],
        confidence=given["confidence"],
    )
