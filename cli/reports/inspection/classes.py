"""How ``labelstore classes`` looks: a line a class, or what is known of a few."""

from __future__ import annotations

from typing import Any

from ... import output
from ...text import counted

__all__ = ["print_classes", "print_matches"]


def print_classes(told: dict[str, Any]) -> None:
    """Print what ``labelstore.operations.inspection.classes`` told."""
    console = output.console()
    entries = told["classes"]
    columns, parts = ["class"], [[str(entry["class"]) for entry in entries]]
    stored = [entry["name"] or "" for entry in entries]
    human = [entry["human_name"] or "" for entry in entries]
    if any(stored) and stored != human:
        columns.append("stored as")
        parts.append(stored)
    if any(human):
        columns.append("name")
        parts.append(human)
    if told["images"] is not None:
        columns.append("images")
        parts.append([f"{entry['images']:,}" for entry in entries])
    numeric = [0] if told["images"] is None else [0, len(columns) - 1]
    console.print(output.table(columns, list(zip(*parts, strict=True)), numeric=numeric))
    console.print()
    console.print(_total(told))


def _total(told: dict[str, Any]) -> str:
    whole = counted(told["count"], "class")
    if not any(entry["name"] for entry in told["classes"]):
        whole += ", whose names are unknown"
    if told["images"] is None:
        return whole
    whole += f", {counted(told['images'], 'image')}"
    empty = sum(entry["images"] == 0 for entry in told["classes"])
    if empty:
        whole += f", {counted(empty, 'class')} without an image"
    if told["unknown_images"]:
        whole += f", {counted(told['unknown_images'], 'image')} of unknown class"
    return whole


def print_matches(told: dict[str, Any]) -> None:
    """Print all that is known of some classes."""
    from rich.table import Table
    from rich.text import Text

    console = output.console()
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for entry in told["classes"]:
        title = entry["human_name"] or f"class {entry['class']}"
        text = Text(output.printable(title), style="bold")
        words = ", ".join(entry["words"])
        if entry["name"] and entry["name"] != title:
            named = entry["name"] + (f": {words}" if words and words != title else "")
            text.append(f"\n{output.printable(named)}", style="not bold")
        if entry["meaning"]:
            text.append(f"\n{output.printable(entry['meaning'])}", style="not bold")
        if entry["images"] is not None:
            text.append(f"\n{counted(entry['images'], 'image')}", style="not bold")
        grid.add_row(str(entry["class"]), text)
    console.print(grid)
    if len(told["classes"]) < told["count"]:
        console.print()
        console.print(f"{len(told['classes']):,} of {counted(told['count'], 'class')}")
