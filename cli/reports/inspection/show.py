"""How ``labelstore show`` looks: an image in short, then its views with their labels as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from labelstore.labels.actions import ACTION_WORDS

from ... import output
from ...text import counted, share
from ..actions import ACTIONS, looks_at
from .bars import bar, sparkline

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["print_image"]

PANEL = 56
"""Columns of a view, at least, where several stand side by side."""

BAR_WIDTH = (6, 24)
"""Columns of the longest bar: at least, at most."""

SHOWN_CLASSES = 10
"""Of a label, at most; --json has all."""

_VALUE = 8
"""Columns of a probability, with a sign before it."""

_TRUTH, _TRUTH_ASCII = "◆", "*"


def print_image(shown: dict[str, Any], overview: dict[str, Any], chosen: str) -> None:
    """Print what ``labelstore.operations.inspection.show`` told.

    Args:
        shown: of ``describe``. overview: of ``overview``. chosen: which views these are, in words.
    """
    console = output.console()
    console.print(output.printable(shown["key"]), style="bold", overflow="fold")
    console.print(output.pairs(_facts(shown, overview, chosen, console.encoding)))
    panels = max(1, console.width // PANEL)
    width = (console.width - 2 * (panels - 1)) // panels
    columns = _columns(shown, width)
    parts = [_view(shown, view, columns, console.encoding) for view in shown["views"]]
    for start in range(0, len(parts), panels):
        console.print()
        console.print(_side_by_side(parts[start : start + panels], panels, width))
    if any(_is_estimated(shown, view) for view in shown["views"]):
        console.print()
        console.print("~ not stored: what the tail gives the class")
    steps = (step for view in shown["views"] for step in view.get("operations", ()))
    if any("partner" in step for step in steps):
        console.print()
        console.print(
            "mixed views show two photos: the ground truth is that of this one, and FerKD is "
            "refused in training"
        )


def _side_by_side(parts: list[RenderableType], panels: int, width: int) -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for _ in range(panels):
        grid.add_column(width=width)
    grid.add_row(*parts)
    return grid


def _facts(
    shown: dict[str, Any], overview: dict[str, Any], chosen: str, encoding: str
) -> list[tuple[str, str]]:
    store, rule = shown["store"], shown["ferkd"]
    images = counted(store["images"], "image")
    rows = [("store", store["path"]), ("position", f"{shown['image']:,} of {images}")]
    if shown["width"] is not None:
        rows.append(("photo", f"{shown['width']} x {shown['height']} pixels"))
    truth = "unknown"
    if shown["target"] is not None:
        name = shown["target_name"]
        truth = f"class {shown['target']}" if name is None else f"{shown['target']} {name}"
        truth = f"{_mark(encoding)} {truth}"
    rows.append(("ground truth", truth))
    rows.append(("teacher" if len(store["teachers"]) < 2 else "teachers", _teachers(store)))
    if store["label_type"] != "top-k":
        rows.append(("label type", f"{store['label_type']}, made of the labels below"))
    actions = ", ".join(
        f"{count:,} {ACTION_WORDS[name]}"
        for name in ACTION_WORDS
        if (count := overview["actions"].get(name))
    )
    rows += [
        ("confidence", f"the {looks_at(rule['confidence'])}"),
        ("", f"0 |{sparkline(overview['histogram'], encoding)}| 1"),
        ("", f"mean {overview['mean_confidence']:.4f} of {counted(store['views'], 'view')}"),
        ("FerKD", actions),
        ("views", chosen),
    ]
    if not store["has_boxes"]:
        rows.append(("boxes", "unknown: the store does not say which crops its labels belong to"))
    return rows


def _teachers(store: dict[str, Any]) -> str:
    if not store["teachers"]:
        return "unknown"
    together = ", the mean of their labels" if len(store["teachers"]) > 1 else ""
    return ", ".join(store["teachers"]) + together


def _view(
    shown: dict[str, Any], view: dict[str, Any], columns: _Columns, encoding: str
) -> RenderableType:
    """A view: what it is in two lines, then its label, then the rule's."""
    from rich.console import Group
    from rich.text import Text

    style = ACTIONS[view["action"]][1] if view["action"] in ACTIONS else "red"
    title = Text(f"view {view['view']}", style="bold")
    title.append(f"  {view['confidence']:.4f}  ", style="not bold")
    title.append(ACTION_WORDS[view["action"]], style=f"{style} not bold")
    parts: list[RenderableType] = [title]
    if view["box"] is not None:
        top, left, height, breadth = view["box"]
        mirrored = ", mirrored" if view["flip"] else ""
        then = "".join(f", {_operation(step)}" for step in view.get("operations", ()))
        place = f"{breadth} x {height} pixels, left {left}, top {top}{mirrored}{then}"
        parts.append(Text(place, style="dim"))
    parts.append(_bars(_rows(shown, view), shown["target"], columns, encoding))
    if view["calibrated"] is not None:
        parts.append(Text("FerKD's label", style="dim"))
        parts.append(_bars(_listed(view["calibrated"]), shown["target"], columns, encoding))
    return Group(*parts)


def _operation(step: dict[str, Any]) -> str:
    """What is done to a crop, with the values that say how."""
    values = list(step["values"])
    # An operation that takes fewer values than others of its stage has zeros behind them.
    while values and values[-1] == 0:
        values.pop()
    text = " ".join([step["name"], *(f"{value:.3g}" for value in values)])
    if "partner" in step:
        text += f" with view {step['partner_view']} of {output.printable(step['partner'])}"
    return text


class _Row(NamedTuple):
    """A line of a label."""

    number: int | None
    """Of its class; None for all that are not named."""
    name: str
    share: float
    about: str = ""
    """A sign before the share."""


def _rows(shown: dict[str, Any], view: dict[str, Any]) -> list[_Row]:
    """The likeliest classes of the stored label, and the ground truth wherever it stands."""
    target, truth = shown["target"], None
    if target is not None and target not in view["classes"][:SHOWN_CLASSES]:
        name = shown["target_name"] or f"class {target}"
        about = "~" if _is_estimated(shown, view) else ""
        truth = _Row(target, output.printable(name), view["target_prob"], about)
    return _listed(view, truth)


def _listed(label: dict[str, Any], more: _Row | None = None) -> list[_Row]:
    """The likeliest classes of a label, one more, and all the rest."""
    numbers, names = label["classes"][:SHOWN_CLASSES], label["names"]
    names = [f"class {number}" for number in numbers] if names is None else names
    rows = [
        _Row(number, output.printable(name), value)
        for number, name, value in zip(numbers, names, label["probs"], strict=False)
    ]
    rows += [] if more is None else [more]
    rest = max(0.0, 1.0 - sum(row.share for row in rows))
    return [*rows, _Row(None, "all other classes", rest)]


def _is_estimated(shown: dict[str, Any], view: dict[str, Any]) -> bool:
    """Whether the ground truth is not among a view's stored classes."""
    return shown["target"] is not None and shown["target"] not in view["classes"]


def _mark(encoding: str) -> str:
    return _TRUTH if encoding.lower().startswith("utf") else _TRUTH_ASCII


class _Columns(NamedTuple):
    """How wide the parts of a line are, the same in all views, so that bars can be compared."""

    name: int
    bar: int


def _columns(shown: dict[str, Any], width: int) -> _Columns:
    """For all labels of an image in panels of so many columns; long names are folded."""
    from rich.cells import cell_len

    least, most = BAR_WIDTH
    rows = [row for view in shown["views"] for row in _rows(shown, view)]
    labels = (view["calibrated"] for view in shown["views"] if view["calibrated"] is not None)
    rows += [row for label in labels for row in _listed(label)]
    # A mark, and a column between each two.
    room = width - 1 - _VALUE - 3
    name = min(max((cell_len(row.name) for row in rows), default=1), max(room - least, 8))
    return _Columns(name, max(min(room - name, most), 1))


def _bars(rows: list[_Row], target: int | None, columns: _Columns, encoding: str) -> Table:
    """Classes with their probabilities."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column(width=1)
    grid.add_column(width=columns.name, overflow="fold")
    grid.add_column(width=columns.bar, no_wrap=True)
    grid.add_column(width=_VALUE, justify="right", no_wrap=True)
    for row in rows:
        is_truth = row.number is not None and row.number == target
        style = "bold" if is_truth else ("dim" if row.number is None else "")
        grid.add_row(
            Text(_mark(encoding) if is_truth else " "),
            Text(row.name, style=style),
            Text(bar(row.share, columns.bar, encoding), style="" if row.number is None else "cyan"),
            Text(f"{row.about}{share(row.share)}", style=style),
        )
    return grid
