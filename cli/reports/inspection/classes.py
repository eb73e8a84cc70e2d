"""How ``labelstore classes`` looks: a line a class, or what is known of a few."""

from __future__ import annotations

from typing import Any

from ... import output
from ...text import counted

__all__ = ["print_classes", "print_matches"]


def print_classes(listing: dict[str, Any]) -> None:
    """Print what ``labelstore.operations.inspection.classes`` told."""
    console = output.console()
    entries = listing["classes"]
    columns, parts = ["class"], [[str(entry["class"]) for entry in entries]]
    stored = [entry["name"] or "" for entry in entries]
    human = [entry["human_name"] or "" for entry in entries]
    if any(stored) and stored != human:
        columns.append("stored as")
        parts.append(stored)
    if any(human):
        columns.append("name")
        parts.append(human)
    if listing["images"] is not None:
        columns.append("images")
        parts.append([f"{entry['images']:,}" for entry in entries])
    numeric = [0] if listing["images"] is None else [0, len(columns) - 1]
    console.print(output.table(columns, list(zip(*parts, strict=True)), numeric=numeric))
    console.print()
    console.print(_total(listing))


def _total(listing: dict[str, Any]) -> str:
    whole = counted(listing["count"], "class")
    if not any(entry["name"] for entry in listing["classes"]):
        whole += ", whose names are unknown"
    if listing["images"] is None:
        return whole
    whole += f", {counted(listing['images'], 'image')}"
    empty = sum(entry["images"] == 0 for entry in listing["classes"])
    if empty:
        whole += f", {counted(empty, 'class')} without an image"
    if listing["unknown_images"]:
        whole += f", {counted(listing['unknown_images'], 'image')} of unknown class"
    return whole


def print_matches(listing: dict[str, Any]) -> None:
    """Print all that is known of some classes."""
    from rich.table import Table
    from rich.text import Text

    console = output.console()
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for entry in listing["classes"]:
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
    if len(listing["classes"]) < listing["count"]:
        console.print()
        console.print(f"{len(listing['classes']):,} of {counted(listing['count'], 'class')}")
