"""``labelstore subset``: a part of a store as a store of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ... import choices, options, output
from ...ferkd_options import FerKDOptions, ferkd_options
from ...selecting import chosen_keys, images_option, range_of_views
from ...text import extent, size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from labelstore.operations.lifecycle.subset import SubsetReport, ViewChoice
    from labelstore.store.store import Store

HELP = """Write some of a store's images, and some views of each, to a store of their own.

\b
  labelstore subset teacher.zarr -o cats.zarr --class n02123045 --class 285
  labelstore subset teacher.zarr -o half.zarr --images @keys.txt --views 0:99
  labelstore subset teacher.zarr -o small.zarr --per-image 50

Labels are the source's to the last bit. With --per-image each image keeps views of its own: at
random, or first those that FerKD's rule does not discard (surgical). A view's number names its
crop, so unless the views begin at 0 and are the same for all, the crops are stored beside the
labels, and the new store takes some bytes a view more. Nothing of the source is changed;
labelstore prune puts the part in its place.
"""


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Which part of a store is meant."""

    images: tuple[str, ...]
    classes: tuple[str, ...]
    views: range | None
    per_image: int | None
    choose: str
    seed: int

    def check(self) -> None:
        """Refuse what contradicts itself, before a store is read."""
        if self.views is not None and self.per_image is not None:
            raise click.UsageError(
                "--views and --per-image were given: a range of views, or so many of each image."
            )

    def arguments(self, store: Store, ferkd: FerKDOptions, *, quiet: bool) -> dict[str, Any]:
        """Keywords of the operation."""
        return {
            "images": chosen_keys(store.keys, self.images) if self.images else None,
            "classes": _class_numbers(store, self.classes) if self.classes else None,
            "views": self._views(store, ferkd, quiet),
        }

    def _views(self, store: Store, ferkd: FerKDOptions, quiet: bool) -> range | ViewChoice | None:
        from labelstore.operations.lifecycle.subset import ViewChoice

        if self.per_image is None:
            return self.views
        if self.choose == "random":
            return ViewChoice(self.per_image, "random", self.seed)
        rule = ferkd.rule(store, quiet=quiet)
        return ViewChoice(self.per_image, "surgical", self.seed, rule)


def _class_numbers(store: Store, names: Sequence[str]) -> list[int]:
    """The classes that numbers and names mean."""
    from labelstore.errors import UsageError, did_you_mean
    from labelstore.teachers.class_names import names_of

    by_name = names_of(store.manifest)
    numbers: list[int] = []
    for name in names:
        if name.isdecimal() and name not in by_name:
            numbers.append(int(name))
            continue
        meant = by_name.get(name, ())
        if len(meant) != 1:
            among = f"{len(meant)} classes are called so" if meant else "no class is called so"
            raise UsageError(
                f"--class is {name!r} and {among}{did_you_mean(name, by_name)}: give a number or "
                "a name that labelstore classes lists."
            )
        numbers.append(meant[0])
    return numbers


PART = (
    images_option,
    click.option(
        "--class",
        "classes",
        multiple=True,
        metavar="CLASS",
        help="Only images of this ground-truth class, by number or name. May be given several "
        "times.",
    ),
    click.option(
        "--views",
        metavar="A:B",
        callback=range_of_views,
        help="Views A to B-1 of each image.",
    ),
    click.option(
        "--per-image",
        type=click.IntRange(min=1),
        metavar="VIEWS",
        help="So many views of each image, its own ones.",
    ),
    click.option(
        "--choose",
        type=click.Choice(choices.VIEW_CHOICES),
        default=choices.VIEW_CHOICES[0],
        show_default=True,
        help="How --per-image chooses; surgical: first those that FerKD does not discard.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice."),
)

part_options: Callable[[Any], Any] = options.added(PART)
"""Those of `PartOptions`."""


@dataclass(frozen=True, kw_only=True)
class SubsetOptions(options.ResultOptions):
    """The options of ``labelstore subset``."""

    store: str
    output: str
    part: PartOptions
    ferkd: FerKDOptions
    any_order: bool
    overwrite: bool


@click.command(help=HELP, short_help="A part of a store as a store of its own.")
@options.store_argument
@options.output_option
@part_options
@ferkd_options
@click.option(
    "--any-order",
    is_flag=True,
    help="Images of whole blocks first: much faster where few images are left out.",
)
@options.overwrite_option
@options.json_option
@options.quiet_option
@options.collected(SubsetOptions, part=PartOptions, ferkd=FerKDOptions)
def command(request: SubsetOptions) -> None:
    """Write a part of a store."""
    request.part.check()
    request.ferkd.check()
    import labelstore
    from labelstore.operations.lifecycle.subset import subset

    store = labelstore.open(request.store)
    arguments = request.part.arguments(store, request.ferkd, quiet=request.silent)
    with output.progress(
        store.num_images, store.num_views, quiet=request.silent, brief=True
    ) as progress:
        report = subset(
            store,
            request.output,
            **arguments,
            any_order=request.any_order,
            overwrite=request.overwrite,
            tell=progress.update,
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        output.note(summary(report))


def summary(report: SubsetReport) -> str:
    """What was made, in a sentence."""
    crops = ", with their crops stored" if report.explicit else ""
    return (
        f"{extent(report)} of {report.source}{crops}, {size(report.bytes)} in "
        f"{report.seconds:,.1f} s"
    )
