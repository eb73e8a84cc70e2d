"""``labelstore schedule``: a dry run of what a training would show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from .. import choices, options, output
from ..ferkd_options import FerKDOptions, ferkd_options
from ..reports.schedule import print_schedule

if TYPE_CHECKING:
    from labelstore.labels.actions import Combine
    from labelstore.store.ensembles import Images
    from labelstore.training.cycle import Schedule

HELP = """Try out a schedule without training: how many views FerKD's rule leaves each image, for
how many epochs these last, and in how much of the store the views of an epoch lie. No photo is
opened.

\b
  labelstore schedule teacher.zarr --views-per-image 4 --epochs 300
  labelstore schedule teacher.zarr --low 0.1 --top 0.98 \\
    --views-per-image 4 --epochs 300
  labelstore schedule teacher.zarr --thresholds fit --views-per-image 4
  labelstore schedule a.zarr b.zarr --ensemble any --images intersection
  labelstore schedule teacher.zarr --schedule easy-to-hard --epochs 100 --json

How to read it: the first table says what the rule does with the views of all images; "Images" how
unequal they are (a quarter of the images have so many views left or fewer, half of them, ...); "An
epoch" what is read from the disk and held in memory.

An example: of 500 views an image, --top 0.95 may leave an easy image 20. With 4 views an image
they last 5 epochs, and then come again; "images that must show a view again" counts such images
for your --epochs. If there are many, raise --top or lower --low until enough is left, and pass the
same numbers to training:

\b
  ferkd = labelstore.FerKD(low=0.1, top=0.98)
  data = SoftLabelDataset(photos, store, ferkd=ferkd)
  sampler = ViewSampler(data, views_per_image=4)

--thresholds fit takes as many crops as the paper's rule takes of its teachers' crops, and tells
which thresholds these are; in training, ferkd = labelstore.FerKD.fit(store) gives the same.
--thresholds fit-by-class takes as many of the crops of each ground-truth class:
labelstore.FerKD.fit(store, by="class").

Several stores are read as an ensemble; each teacher's view of its own labels is shown, too, and
--thresholds fit gives each its own thresholds.
"""


@dataclass(frozen=True)
class ScheduleRequest:
    """The options of ``labelstore schedule``."""

    stores: tuple[str, ...]
    ferkd: FerKDOptions
    ensemble: Combine
    images: Images
    views_per_image: int
    schedule: Schedule
    epochs: int | None
    budget: float
    seed: int
    json: bool


@click.command(help=HELP, short_help="Try out a schedule without training.")
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=click.Path())
@ferkd_options
@click.option(
    "--ensemble",
    type=click.Choice(choices.COMBINES),
    default=choices.COMBINES[0],
    show_default=True,
    help="Several stores: discard what all teachers, or any of them, discard, or go by the mean "
    "label.",
)
@click.option(
    "--images",
    type=click.Choice(choices.IMAGES),
    default=choices.IMAGES[0],
    show_default=True,
    help="Several stores: whether all must have the same images, or the shared ones are taken.",
)
@click.option(
    "--views-per-image",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Views of an image side by side in a batch.",
)
@click.option(
    "--schedule",
    type=click.Choice(choices.SCHEDULES),
    default=choices.SCHEDULES[1],
    show_default=True,
    help="Which views are shown: drawn of all; drawn of those that are not discarded; or by "
    "confidence, without discarded ones.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of the whole training.")
@click.option(
    "--budget",
    type=float,
    default=1.0,
    show_default=True,
    help="Share of the images that an epoch shows, 0.01 to 1.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the schedule.")
@options.json_option
@options.collected(ScheduleRequest, ferkd=FerKDOptions)
def command(request: ScheduleRequest) -> None:
    """Try a schedule out."""
    import labelstore
    from labelstore.operations.schedule import dry_run

    request.ferkd.check()
    stores = [labelstore.open(path) for path in request.stores]
    several = len(stores) > 1
    reader = labelstore.ensemble(stores, images=request.images) if several else stores[0]
    result = dry_run(
        reader,
        request.ferkd.rules(reader, ensemble=request.ensemble),
        views_per_image=request.views_per_image,
        schedule=request.schedule,
        epochs=request.epochs,
        budget=request.budget,
        seed=request.seed,
    )
    if request.json:
        output.emit_json(result)
    else:
        print_schedule(result)
