"""``labelstore schedule``: a dry run of what a training would show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labelstore.cli import options, output
from labelstore.cli.output import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

HELP = """Try out a schedule without training: how many views FerKD's rule leaves each image, for
how many epochs these last, and in how much of the store the views of an epoch lie. No photo is
opened.

\b
  labelstore schedule teacher.zarr --views-per-image 4 --epochs 300
  labelstore schedule teacher.zarr --low 0.1 --top 0.98 --views-per-image 4 --epochs 300
  labelstore schedule a.zarr b.zarr --ensemble any --images intersection
  labelstore schedule teacher.zarr --schedule easy-to-hard --epochs 100 --json

An example: of 500 views an image, --top 0.95 may leave an easy image 20. With 4 views an image
they last 5 epochs, and then come again; "images that must show a view again" counts such images
for your --epochs. If there are many, raise --top or lower --low until enough is left, and pass the
same numbers to training:

\b
  ferkd = labelstore.FerKD(low=0.1, top=0.98)
  sampler = ViewSampler(SoftLabelDataset(photos, store, ferkd=ferkd), views_per_image=4)

Several stores are read as an ensemble; each teacher's view of its own labels is shown, too.
"""

RULES = {
    "discarded_low": "discarded (too hard)",
    "calibrated": "calibrated",
    "kept": "kept",
    "discarded_high": "discarded (too easy)",
}


@click.command(help=HELP, short_help="Try out a schedule without training.")
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=click.Path())
@options.ferkd_options
@click.option(
    "--ensemble",
    type=click.Choice(["all", "any", "mean"]),
    default="all",
    show_default=True,
    help="Several stores: discard what all teachers, or any of them, discard, or go by the mean "
    "label.",
)
@click.option(
    "--images",
    type=click.Choice(["strict", "intersection"]),
    default="strict",
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
    type=click.Choice(["random", "surgical", "easy-to-hard", "hard-to-easy"]),
    default="surgical",
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
def command(**given: Any) -> None:
    """Try a schedule out."""
    import labelstore
    from labelstore.operations.schedule import dry_run

    stores = [labelstore.open(path) for path in given["stores"]]
    several = len(stores) > 1
    reader = labelstore.ensemble(stores, images=given["images"]) if several else stores[0]
    found = dry_run(
        reader,
        options.ferkd_from(given, ensemble=given["ensemble"]),
        views_per_image=given["views_per_image"],
        schedule=given["schedule"],
        epochs=given["epochs"],
        budget=given["budget"],
        seed=given["seed"],
    )
    if given["json"]:
        output.emit_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    console = output.console()
    settings = found["settings"]
    console.print(
        f"{counted(found['labelled_images'], 'image')} x {counted(found['views'], 'view')} of "
        + ", ".join(output.printable(store["path"]) for store in found["stores"]),
        soft_wrap=True,
    )
    if found["missing_blocks"]:
        console.print(
            f"incomplete: {counted(found['missing_blocks'], 'block')} missing; what follows is "
            "about the images that are labelled"
        )
    for rule in found["rules"]:
        console.print()
        console.print(_title(rule["source"], settings["rules"][0]), style="bold", soft_wrap=True)
        console.print(_rule(rule))
    if len(found["stores"]) > 1:
        console.print()
        console.print("All teachers together", style="bold")
        console.print(_together(found["together"], settings["rules"][0]["ensemble"]))
    console.print()
    console.print("Images", style="bold")
    console.print(_images(found))
    console.print()
    console.print("An epoch", style="bold")
    for line in _epoch(found["epoch"], settings):
        console.print(line)


def _title(source: str, rule: dict[str, Any]) -> str:
    looks_at = (
        "largest probability" if rule["confidence"] == "max" else "ground truth's probability"
    )
    of = "the mean label" if source == "mean label" else output.printable(source)
    return (
        f"Views of {of} (low {rule['low']:g}, middle {rule['middle']:g}, top {rule['top']:g}, "
        f"by the {looks_at})"
    )


def _rule(rule: dict[str, Any]) -> RenderableType:
    rows = [
        (words, f"{rule[name]['count']:,}", _percent(rule[name]["share"]))
        for name, words in RULES.items()
    ]
    return output.table(("", "views", "share"), rows, numeric=(1, 2))


def _together(parts: dict[str, Any], ensemble: str) -> RenderableType:
    words = {
        "all": "discarded by all teachers",
        "any": "discarded by any teacher",
        "mean": "discarded by the mean label",
    }
    rows = [
        (words[ensemble] if name == "discarded" else name, f"{part['count']:,}", part["share"])
        for name, part in parts.items()
    ]
    shown = [(name, count, _percent(share)) for name, count, share in rows]
    return output.table(("", "views", "share"), shown, numeric=(1, 2))


def _images(found: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    names = ("min", "q1", "median", "q3", "max")
    per_image = found["settings"]["views_per_image"]
    rows = [
        ("views left of an image", *(f"{found['views_left'][name]:,}" for name in names)),
        (
            f"epochs at {counted(per_image, 'view')} before one must come again",
            *(f"{found['epochs_without_repeat'][name]:,}" for name in names),
        ),
    ]
    columns = ("", "min", "quarter", "half", "3 quarters", "max")
    if found["settings"]["schedule"] == "random":
        lines = ["a random schedule shows all views, discarded ones too"]
    else:
        lines = [
            f"{counted(found['images_without'], 'image')} without a view left: the easiest shown"
        ]
        if per_image > 1:
            few = found["images_with_too_few"]
            lines.append(f"{counted(few, 'image')} with some left, and fewer than {per_image}")
    if found["images_that_repeat"] is not None:
        lines.append(
            f"{found['images_that_repeat']:,} of {counted(found['labelled_images'], 'image')} must "
            f"show a view again within {counted(found['settings']['epochs'], 'epoch')}"
        )
    table = output.table(columns, rows, numeric=range(1, 6))
    return Group(table, *(Text(line) for line in lines))


def _epoch(epoch: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    groups = f"{epoch['groups']:.4g}".rstrip(".")
    lines = [
        f"shows {counted(epoch['views'], 'view')}: "
        f"{counted(settings['views_per_image'], 'view')} of {counted(epoch['images'], 'image')} "
        f"({settings['schedule']})",
        f"lies in {groups} of {epoch['of_groups']} groups of views: about "
        f"{_size(epoch['label_bytes'])} of labels, {_size(epoch['slab_bytes'])} in memory",
    ]
    if epoch["read_ahead"] < 1:
        lines.append(
            f"{_percent(epoch['read_ahead'])} of its views are read ahead into 2 GiB, the others "
            "chunk by chunk: training with more slab_bytes reads more ahead"
        )
    return lines


def _size(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000 or unit == "GB":
            break
    return f"{value:.3g} {unit}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
