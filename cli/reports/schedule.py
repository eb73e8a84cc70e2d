"""How ``labelstore schedule`` looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import output
from ..text import counted, share, size
from .actions import ACTIONS, thresholds

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["print_schedule"]


def print_schedule(schedule: dict[str, Any]) -> None:
    """Print what `labelstore.operations.schedule.dry_run` told."""
    console = output.console()
    settings = schedule["settings"]
    output.say(
        console,
        f"{counted(schedule['labelled_images'], 'image')} x "
        f"{counted(schedule['views'], 'view')} of "
        + ", ".join(store["path"] for store in schedule["stores"]),
    )
    if schedule["missing_blocks"]:
        console.print(
            f"incomplete: {counted(schedule['missing_blocks'], 'block')} missing; what follows is "
            "about the images that are labelled"
        )
    rules = settings["rules"]
    for number, rule in enumerate(schedule["rules"]):
        console.print()
        # One for all teachers, or one for each.
        of_teacher = rules[number] if len(rules) > 1 else rules[0]
        output.say(console, _title(rule["source"], of_teacher), style="bold")
        console.print(_rule(rule))
    if len(schedule["stores"]) > 1:
        console.print()
        console.print("All teachers together", style="bold")
        console.print(_together(schedule["together"], settings["rules"][0]["ensemble"]))
    console.print()
    console.print("Images", style="bold")
    console.print(_images(schedule))
    console.print()
    console.print("An epoch", style="bold")
    for line in _epoch(schedule["epoch"], settings):
        console.print(line)


def _title(source: str, rule: dict[str, Any]) -> str:
    of = "the mean label" if source == "mean label" else source
    return f"Views of {of} ({thresholds(rule)})"


def _rule(rule: dict[str, Any]) -> RenderableType:
    rows = [
        (words, f"{rule[name]['count']:,}", share(rule[name]["share"]))
        for name, (words, _, _) in ACTIONS.items()
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
    shown = [(name, count, share(part)) for name, count, part in rows]
    return output.table(("", "views", "share"), shown, numeric=(1, 2))


def _images(schedule: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    names = ("min", "q1", "median", "q3", "max")
    per_image = schedule["settings"]["views_per_image"]
    rows = [
        ("views left of an image", *(f"{schedule['views_left'][name]:,}" for name in names)),
        (
            f"epochs at {counted(per_image, 'view')} before one must come again",
            *(f"{schedule['epochs_without_repeat'][name]:,}" for name in names),
        ),
    ]
    columns = ("", "min", "quarter", "half", "3 quarters", "max")
    if schedule["settings"]["schedule"] == "random":
        lines = ["a random schedule shows all views, discarded ones too"]
    else:
        lines = [
            f"{counted(schedule['images_without'], 'image')} without a view left: the easiest shown"
        ]
        if per_image > 1:
            few = schedule["images_with_too_few"]
            lines.append(f"{counted(few, 'image')} with some left, and fewer than {per_image}")
    if schedule["images_that_repeat"] is not None:
        lines.append(
            f"{schedule['images_that_repeat']:,} of "
            f"{counted(schedule['labelled_images'], 'image')} must show a view again within "
            f"{counted(schedule['settings']['epochs'], 'epoch')}"
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
        f"{size(epoch['label_bytes'])} of labels, {size(epoch['slab_bytes'])} in memory",
    ]
    if epoch["read_ahead"] < 1:
        lines.append(
            f"{share(epoch['read_ahead'])} of its views are read ahead into 2 GiB, the others "
            "chunk by chunk: training with more slab_bytes reads more ahead"
        )
    return lines
