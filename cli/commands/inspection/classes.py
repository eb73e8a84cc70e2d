"""``labelstore classes``: numbers and names of a store's or a teacher's classes."""

from __future__ import annotations

from dataclasses import dataclass

import click

from ... import options, output
from ...reports.inspection.classes import print_classes, print_matches
from ...teacher_options import runnable

HELP = """List the classes of a store, with how many images each has, or of a teacher: the number,
the name as it is stored (of ImageNet's classes the WordNet id), and what a person calls it.

\b
  labelstore classes teacher.zarr
  labelstore classes --teacher timm:resnet50 --find crane

These are the numbers and names that a --class-map may give.
"""


@dataclass(frozen=True)
class ClassesOptions:
    """The options of ``labelstore classes``."""

    store: str | None
    spec: str
    checkpoint: str | None
    num_classes: int | None
    find: str | None
    json: bool


@click.command(help=HELP, short_help="List classes: numbers, names, images.")
@click.argument("store", metavar="[STORE]", type=click.Path(), required=False)
@click.option(
    "--teacher",
    "spec",
    default="",
    metavar="SPEC",
    callback=runnable,
    help="timm:NAME (no weights are fetched), or python:package.module:factory.",
)
@click.option(
    "--checkpoint",
    metavar="FILE",
    help="Weights of a timm:NAME that was trained on other classes: it has as many as these.",
)
@click.option(
    "--num-classes",
    type=click.IntRange(min=2),
    help="Classes of a timm:NAME whose classifier was trained anew.",
)
@click.option(
    "--find",
    metavar="TEXT",
    help="Only classes with this number, or with this in a name; with what they mean.",
)
@options.json_option
@options.collected(ClassesOptions)
def command(request: ClassesOptions) -> None:
    """List classes."""
    if (request.store is None) == (not request.spec):
        raise click.UsageError("give a store, or --teacher SPEC, one of the two.")
    if request.store is not None and request.store.startswith(("timm:", "python:")):
        raise click.UsageError(
            f"{request.store} is a teacher, expected a store: give --teacher {request.store}."
        )
    if request.store is not None and (request.checkpoint or request.num_classes):
        name = "--checkpoint" if request.checkpoint else "--num-classes"
        raise click.UsageError(f"{name} is of a teacher: give --teacher, or leave {name} out.")
    from labelstore.operations.inspection.classes import (
        classes_of_store,
        classes_of_teacher,
        matching,
    )

    if request.store is not None:
        listing = classes_of_store(request.store)
    else:
        listing = classes_of_teacher(request.spec, request.checkpoint, request.num_classes)
    if request.find is not None:
        listing = matching(listing, request.find)
    if request.json:
        output.emit_json(listing)
    elif request.find is not None:
        print_matches(listing)
    else:
        print_classes(listing)
