"""Options that several commands share; an option of one command stands in that command's file.

| flag | value | commands |
|---|---|---|
| `STORE` | path or URL of a store | export, inspect, show, pull, recode |
| `-o`, `--output` | path of the new store | generate, merge, recode |
| `--device` | auto, cpu, cuda, mps | generate, demo |
| `--quantizer` | ratio16, ratio32, u8, u16, fp16, fp32 | generate, merge, recode |
| `--layout` | chunks, units | convert, generate, merge, plan, recode |
| `--image-column`, `--label-column` | of Parquet files | all that read photos |
| `--image-field` | the photo among a tar sample's fields | all that read photos |
| `--max-pixels` | of a photo, at least 2 | all that read photos |
| `--overwrite` | replace what is there | compare, generate, inspect, merge, pull, recode |
| `--json` | one JSON document on stdout, errors included | all but demo |
| `--workers` | processes that make blocks of labels | convert, merge |
| `--workers`, `--limit` | threads that look at photos; names told of each finding | check, doctor |
| `-q`, `--quiet` | errors alone | generate, merge, pull, recode |
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import choices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from labelstore.format.settings import StoreSettings
    from labelstore.images.sources.choose import ImageSource
    from labelstore.views.law import ViewLaw

__all__ = [
    "JSON_META",
    "LIKE_BEGUN",
    "LawOptions",
    "ResultOptions",
    "SourceOptions",
    "StoreSettingsOptions",
    "added",
    "block_images_option",
    "block_workers_option",
    "collected",
    "flags_of",
    "group_views_option",
    "json_option",
    "law_options",
    "layout_option",
    "limit_option",
    "look_workers_option",
    "output_option",
    "overwrite_option",
    "quantizer_option",
    "quiet_option",
    "source_options",
    "store_argument",
    "top_p_option",
]

Command = TypeVar("Command", bound="Callable[..., Any]")
Options = TypeVar("Options")

JSON_META = "labelstore.json"
"""Key of ``click.Context.meta`` that is True once ``--json`` was given: where errors look."""


def collected(
    kind: type[Options], **groups: type[Any]
) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Hand a command its parameters as one object.

    Args:
        kind: a data class with a field for each parameter of the command, of the same name.
        groups: fields that are data classes themselves, made of the parameters of their names.
    """

    def decorate(run: Callable[[Options], None]) -> Callable[..., None]:
        @functools.wraps(run)
        def called(**parameters: Any) -> None:
            of_groups = {
                name: group(**{field.name: parameters.pop(field.name) for field in fields(group)})
                for name, group in groups.items()
            }
            run(kind(**parameters, **of_groups))

        # For the test that compares them with the command's options.
        vars(called).update(options_kind=kind, options_groups=groups)
        return called

    return decorate


def added(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """One decorator of several, in the order in which ``--help`` lists them."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


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

quantizer_option = click.option(
    "--quantizer",
    type=click.Choice(choices.QUANTIZERS),
    help="How probabilities are stored.",
)
"""``quantizer``: str or None."""

top_p_option = click.option(
    "--top-p", type=float, metavar="MASS", help="Keep only as many classes as this mass needs."
)
"""``top_p``: float or None."""

block_images_option = click.option(
    "--block-images", type=click.IntRange(min=1), help="Images of a block."
)
"""``block_images``: int or None."""

group_views_option = click.option(
    "--group-views", type=click.IntRange(min=1), help="Views of a group."
)
"""``group_views``: int or None."""


def layout_option(default: str) -> Callable[[Command], Command]:
    """``layout``: one of ``choices.LAYOUTS`` or None, for which ``--help`` says ``default``."""
    return click.option(
        "--layout",
        type=click.Choice(choices.LAYOUTS),
        help="How labels lie in Zarr: in chunks, which any Zarr library reads, or in units of a "
        "few images, which labelstore alone reads, one by one (format version 2). Default: "
        f"{default}.",
    )


LIKE_BEGUN = "as they lie in a store that is gone on with, else in chunks"
"""What ``layout_option`` says of commands that make labels."""

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


block_workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that read and encode, each with a block of labels in memory; the store is the "
    "same. [default: one a core, up to 8; on other systems than Linux 1]",
)
"""``workers``: int or None."""

look_workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Threads that read and decode. Default: the number of cores; more may be faster where "
    "photos come over a network.",
)
"""``workers``: int or None."""

limit_option = click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=choices.NAMED,
    show_default=True,
    help="How many names are told of each kind of finding.",
)
"""``limit``: int."""


def flags_of(command: click.Command) -> dict[str, str]:
    """The option of a command that sets each of the library's arguments."""
    return {
        parameter.name: max(parameter.opts, key=len)
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name is not None
    }


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """How a command's result is told."""

    json: bool
    quiet: bool

    @property
    def silent(self) -> bool:
        """Whether there is to be no progress."""
        return self.quiet or self.json


@dataclass(frozen=True)
class StoreSettingsOptions:
    """How labels are stored."""

    top_k: int | None
    prior_size: int | None
    quantizer: str | None
    top_p: float | None
    block_images: int | None
    group_views: int | None

    def settings(self) -> StoreSettings:
        """The library's; None for what was not given."""
        from labelstore.format.settings import StoreSettings

        return StoreSettings(
            self.top_k,
            self.quantizer,
            self.prior_size,
            self.top_p,
            self.block_images,
            self.group_views,
        )


_LAW = (
    click.option(
        "--scale",
        type=float,
        nargs=2,
        default=choices.SCALE,
        show_default=True,
        metavar="LOW HIGH",
        help="Range of a crop's area, as a share of the image's.",
    ),
    click.option(
        "--ratio",
        type=float,
        nargs=2,
        default=choices.RATIO,
        show_default="0.75, 1.3333",
        metavar="LOW HIGH",
        help="Range of a crop's width / height.",
    ),
    click.option(
        "--flip",
        type=float,
        default=choices.FLIP,
        show_default=True,
        help="Probability of mirroring.",
    ),
    click.option(
        "--seed", type=int, default=choices.SEED, show_default=True, help="Seed of the views."
    ),
    click.option(
        "--augment",
        multiple=True,
        metavar="NAME",
        help="What is done to each crop then, such as jitter-0.4, gray-0.2, rotate-15, blur-0.5, "
        "solarize-0.2, ra-n2-m9, ta-wide, erase-0.25, and as the last mixup-0.8, cutmix-1 or "
        "mix-0.8-1, with other photos; several times, in this order. Students see the same pixels. "
        "Such stores are of format version 2.",
    ),
)

law_options = added(_LAW)
"""``scale``, ``ratio``, ``flip``, ``seed`` and ``augment``: those of `LawOptions`."""


@dataclass(frozen=True)
class LawOptions:
    """What each view is."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    seed: int
    augment: tuple[str, ...]

    def law(self) -> ViewLaw:
        """The view law; UsageError for a value out of its range."""
        from labelstore.views.law import ViewLaw
        from labelstore.views.stages.names import parse_stage

        stages = tuple(map(parse_stage, self.augment))
        return ViewLaw(self.seed, self.scale, self.ratio, self.flip, stages)


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

source_options = added(_SOURCE)
"""Those of `SourceOptions`."""


@dataclass(frozen=True)
class SourceOptions:
    """How photos are read."""

    image_column: str | None
    label_column: str | None
    image_field: str | None
    max_pixels: int | None

    def open(self, path: str) -> ImageSource:
        """The images at a path; photos of many pixels are let in from here on."""
        from labelstore.images.decoding import allow_pixels
        from labelstore.images.sources.choose import open_source

        if self.max_pixels is not None:
            allow_pixels(self.max_pixels)
        return open_source(
            path,
            image_column=self.image_column,
            label_column=self.label_column,
            image_field=self.image_field,
        )
