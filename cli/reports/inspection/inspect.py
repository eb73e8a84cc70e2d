"""How ``labelstore inspect`` looks: tables, a histogram of bars, and one that is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import output
from ...text import counted, share
from ..actions import ACTIONS, looks_at, thresholds
from . import by_class, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = ["draw_histogram", "print_classes", "print_report"]

BAR_WIDTH = 30
"""Columns of the longest bar of the histogram, where the terminal has room."""

LEAST_BAR = 10
"""Where the bars would be shorter, the table is put below the histogram."""

BESIDE_BARS = 62
"""Columns that the histogram's numbers and the table next to it need."""

AROUND_BARS = 13
"""Columns that the histogram's own numbers need."""


def print_report(report: dict[str, Any], rows: int) -> None:
    """Print what `labelstore.operations.inspection.inspect.report` told.

    ``rows`` of what has no end, as classes that are confused, at most.
    """
    console = output.console()
    console.print(_summary(report["store"]))
    if not report["store"]["labelled_crops"]:
        console.print("\nNo crop is labelled yet.")
        return
    _alerts(console, report["alerts"])
    _section(console, "Largest probability of the crops (the FerKD paper's Figure 2 and Table 1)")
    histogram = _histogram(report, console.encoding, _bar_width(console.width))
    console.print(output.beside(histogram, _table(report["table"])))
    _section(console, _ferkd_title(report["ferkd"]))
    console.print(_ferkd(report["ferkd"]))
    if report["fitted"] is not None and report["ferkd"]["confidence"] == "max":
        _section(console, "The paper's thresholds, and those that fit this teacher")
        console.print(spread.fitted(report))
    what = looks_at(report["ferkd"]["confidence"])
    _section(console, f"Crops at or below a threshold of the {what}")
    console.print(spread.curve(report))
    _section(console, "Agreement of the teacher with the ground truth")
    console.print(_agreement(report["agreement"], _partners(report["store"]["law"])))
    if report["reliability"] is not None:
        _section(console, spread.reliability_title(report["reliability"]))
        console.print(spread.reliability(report["reliability"]))
    _section(console, "Entropy of the labels, and the mass that their largest classes leave out")
    output.say(console, spread.entropy(report["entropy"], console.encoding))
    console.print()
    console.print(spread.residual(report["residual"]))
    _section(console, "Drift: how much the views of an image differ (trace of their covariance)")
    output.say(console, spread.drift(report["drift"], console.encoding))
    if report["drift"]["largest"]:
        console.print()
        console.print(spread.drifting(report["drift"]))
    if report["confusion"]:
        _section(console, "Classes that are taken for others")
        console.print(by_class.confused(report, rows))
    if report["wrong_targets"] is not None:
        _section(console, by_class.suspects_title(report["wrong_targets"]))
        console.print(by_class.suspects(report, rows))
    for kind in ("hardest", "easiest"):
        if report["extremes"][f"{kind}_views"]:
            _section(console, f"The {kind} crops, and the {kind} images by mean confidence")
            _show_extremes(console, report["extremes"], kind)
    _section(console, "Bytes on disk")
    console.print(_bytes(report["bytes"]))
    _looked_at(console, report)


def print_classes(report: dict[str, Any], sort: str, rows: int) -> None:
    """Print a row for each class: ``rows`` of them, all for 0, in the order of ``sort``."""
    console = output.console()
    count = sum(row["images"] > 0 for row in report["classes"])
    shown = min(rows or count, count)
    _section(console, f"{shown:,} of {counted(count, 'class')} with images, by {sort}")
    console.print(by_class.by_class(report, sort, rows))
    _looked_at(console, report)


def _alerts(console: Console, alerts: Sequence[dict[str, str]]) -> None:
    if alerts:
        console.print()
    for alert in alerts:
        output.say(console, f"! {alert['text']}", style="yellow")


def _looked_at(console: Console, report: dict[str, Any]) -> None:
    """Of what part of the crops this is, and for how many epochs there are new views."""
    sample = report["sample"]
    if sample["label_views"] < sample["of"]:
        whole = "the confidence of all crops, and"
        if sample["views"] < sample["of"]:
            whole = "the confidence and"
        console.print()
        output.say(
            console,
            f"Looked at {whole} whole labels of {sample['label_views']:,} of the "
            f"{sample['of']:,} views of each image; --json has the error of each estimate, "
            f"--sample {sample['of']} looks at all.",
        )
    epochs = ", ".join(
        f"{format(row['epochs'], ',') if row['epochs'] else 'none'} at "
        f"{counted(row['views_per_image'], 'view')} an image"
        for row in report["epochs"]
    )
    console.print()
    output.say(console, f"Epochs without a repeated view: {epochs}.")


def _bar_width(width: int) -> int:
    """Columns of the longest bar on a console of this width."""
    beside = width - BESIDE_BARS
    return min(BAR_WIDTH, beside if beside >= LEAST_BAR else max(1, width - AROUND_BARS))


def _section(console: Console, title: str) -> None:
    console.print()
    console.print(title, style="bold")


def _summary(store: dict[str, Any]) -> RenderableType:
    rows = [
        ("store", f"{store['path']} (id {store['id']})"),
        (
            "crops",
            f"{store['crops']:,}: {counted(store['images'], 'image')} x "
            f"{counted(store['views'], 'view')}",
        ),
        (
            "labels",
            f"top {store['k']} of {counted(store['classes'], 'class')}, "
            f"type {store['label_type']}, temperature {_or_unknown(store['temperature'])}, "
            f"quantizer {store['quantizer']}{_units(store)}",
        ),
        *_teachers(store),
        ("views", _law(store["law"])),
    ]
    if store["unreadable_images"]:
        rows.append(
            ("unreadable", f"{counted(store['unreadable_images'], 'image')}, without labels")
        )
    if not store["complete"]:
        rows.append(
            (
                "incomplete",
                f"{store['missing_blocks']:,} of {counted(store['blocks'], 'block')} missing "
                f"({counted(store['missing_images'], 'image')}); what follows is about the "
                f"{counted(store['labelled_images'], 'labelled image')}",
            )
        )
    return output.pairs(rows)


def _units(store: dict[str, Any]) -> str:
    """How labels lie, where it is not the usual way."""
    images = store["unit_images"]
    return "" if images is None else f", in units of {counted(images, 'image')}"


def _teachers(store: dict[str, Any]) -> list[tuple[str, str]]:
    """A row for each teacher."""
    rows = []
    for teacher in store["teachers"]:
        height, width = teacher["input_size"]
        untrained = ", UNTRAINED" if teacher["untrained"] else ""
        text = f"{teacher['spec']}, weights {teacher['checkpoint']}, input {height} x {width}"
        rows.append(("teacher", text + untrained))
    described = {teacher["spec"] for teacher in store["teachers"]}
    rows += [("teacher", name) for name in store["teacher_names"] if name not in described]
    if store["operation"] == "merge":
        rows.append(("merged", "the mean of several teachers' labels"))
    return rows or [("teacher", "unknown")]


def _law(law: dict[str, Any] | str | None) -> str:
    if law is None:
        return "unknown: labels can be read, crops cannot be replayed"
    if isinstance(law, str):
        return "boxes and flips are stored"
    scale, ratio = ([f"{bound:.4g}" for bound in law[name]] for name in ("scale", "ratio"))
    return (
        f"by law {law['name']} {law['version']}: seed {law['seed']}, scale {scale[0]} to "
        f"{scale[1]}, ratio {ratio[0]} to {ratio[1]}, flip {law['flip']:.4g}{_stages(law)}"
    )


def _stages(law: dict[str, Any]) -> str:
    from labelstore.views.stages.names import stage_of_json

    stages = [stage_of_json(stage) for stage in law.get("stages", ())]
    text = f", then {', '.join(map(str, stages))}" if stages else ""
    partners = _partners(law)
    return f"{text}: mixed with those of {counted(partners, 'image')}" if partners else text


def _partners(law: dict[str, Any] | str | None) -> int:
    """How many images views are mixed with; 0 where they are not mixed."""
    last = law["stages"][-1] if isinstance(law, dict) and law.get("stages") else {}
    return int(last.get("partners", 0))


def _or_unknown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def _same_for_all(ferkd: dict[str, Any]) -> bool:
    """Whether one largest probability means one action: the thresholds may be of another number, or
    of classes."""
    return bool(ferkd["confidence"] == "max" and ferkd["by_class"] is None)


def _action_of(confidence: float, ferkd: dict[str, Any]) -> str:
    """Name of what the rule does at a confidence, inside a bin."""
    if confidence <= ferkd["low"]:
        return "discarded_low"
    if confidence > ferkd["top"]:
        return "discarded_high"
    return "calibrated" if confidence <= ferkd["middle"] else "kept"


def _histogram(report: dict[str, Any], encoding: str, width: int) -> Text:
    from rich.text import Text

    blocks = " ▏▎▍▌▋▊▉█" if encoding.startswith("utf") else " .......#"
    bins, ferkd = report["histogram"], report["ferkd"]
    longest = max(entry["ratio"] for entry in bins)
    same_for_all = _same_for_all(ferkd)
    text = Text()
    for entry in bins:
        eighths = round(entry["ratio"] / longest * width * 8)
        whole, part = divmod(eighths, 8)
        bar = blocks[8] * whole + (blocks[part] if part else "")
        middle = (entry["low"] + entry["high"]) / 2
        style = ACTIONS[_action_of(middle, ferkd)][1] if same_for_all else "cyan"
        text.append(f"{entry['low']:.2f} ")
        text.append(bar.ljust(width), style=style)
        text.append(f" {share(entry['ratio']):>6}\n")
    text.append("1.00")
    return text


def _table(rows: list[dict[str, Any]]) -> RenderableType:
    """Two tables, so that no shares are torn from their ranges where they are folded."""
    apart, together = [], []
    for row in rows:
        end = "]" if row is rows[-1] else ")"
        high = f"{row['high']:g}"
        apart.append((f"[{row['low']:g}, {high}{end}", share(row["ratio"])))
        together.append((f"[0, {high}{end}", share(row["aggregated_ratio"])))
    return output.beside(
        output.table(("range", "ratio"), apart, numeric=(1,)),
        output.table(("range", "agg. ratio"), together, numeric=(1,)),
        gap=3,
    )


def _ferkd_title(ferkd: dict[str, Any]) -> str:
    return f"What FerKD does ({thresholds(ferkd)})"


def _ferkd(ferkd: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    low, middle, top = (
        f"{ferkd[name]:g}" if ferkd["by_class"] is None else name
        for name in ("low", "middle", "top")
    )
    ranges = {
        "discarded_low": f"[0, {low}]",
        "calibrated": f"({low}, {middle}]",
        "kept": f"({middle}, {top}]",
        "discarded_high": f"({top}, 1]",
    }
    rows = [
        (
            Text(words, style=colour),
            ranges[name],
            f"{ferkd[name]['count']:,}",
            share(ferkd[name]["share"]),
        )
        for name, (words, colour, _) in ACTIONS.items()
    ]
    without = Text("images without a view left")
    rows.append((without, "", f"{ferkd['images_without_views']:,}", ""))
    return output.table(("", "confidence", "crops", "share"), rows, numeric=(2, 3))


def _agreement(agreement: dict[str, Any] | None, partners: int) -> str:
    if agreement is None:
        return "unknown: the store has no ground truth"
    where = f"{counted(agreement['crops'], 'crop')} of {counted(agreement['images'], 'image')}"
    line = f"top-1 {share(agreement['top1'])}"
    if agreement["n"] > 1:
        line += f", top-{agreement['n']} {share(agreement['top_n'])}"
    mixed = "; of mixed views with the class of the view's own photo" if partners else ""
    return f"{line} of {where}{mixed}"


def _show_extremes(console: Console, extremes: dict[str, Any], kind: str) -> None:
    views = [
        (f"{entry['confidence']:.4f}", str(entry["view"]), entry["key"])
        for entry in extremes[f"{kind}_views"]
    ]
    images = [
        (f"{entry['mean_confidence']:.4f}", entry["key"]) for entry in extremes[f"{kind}_images"]
    ]
    console.print(
        output.beside(
            output.table(("confidence", "view", "image"), views, numeric=(0, 1), named_by=(1, 2)),
            output.table(("mean", "image"), images, numeric=(0,), named_by=(1,)),
        )
    )


def _bytes(sizes: dict[str, Any]) -> RenderableType:
    rows = [
        (part, f"{size:,}", f"{sizes['per_crop'][part]:.3f}")
        for part, size in sizes["parts"].items()
    ]
    rows.append(("total", f"{sizes['total']:,}", f"{sizes['total_per_crop']:.3f}"))
    return output.table(("part", "bytes", "a crop"), rows, numeric=(1, 2))


def draw_histogram(report: dict[str, Any], path: Path) -> None:
    """Figure 2, with what FerKD does where; replaces the file at ``path``.

    Raises:
        StoreError: the file cannot be written; an older one is as it was.
    """
    import numpy as np

    from labelstore.pictures import figures

    store, ferkd, bins = report["store"], report["ferkd"], report["histogram"]
    bounds = (0.0, ferkd["low"], ferkd["middle"], ferkd["top"], 1.0)
    regions = [
        figures.Region(low, high, f"{words} {share(ferkd[name]['share'] or 0.0)}", colour)
        for (name, (words, _, colour)), low, high in zip(
            ACTIONS.items(), bounds[:-1], bounds[1:], strict=True
        )
    ]
    name = figures.shortened(output.printable(Path(store["path"]).name), 40)
    figures.draw_confidence(
        path,
        np.array([entry["low"] for entry in bins] + [bins[-1]["high"]]),
        np.array([entry["ratio"] or 0.0 for entry in bins]),
        regions=regions if _same_for_all(ferkd) else (),
        title=f"{name}: {counted(store['labelled_crops'], 'crop')} of "
        f"{counted(store['labelled_images'], 'image')}",
        caption=_caption(store),
    )


def _caption(store: dict[str, Any]) -> str:
    """Teachers and settings of a store in one line, for below the title of a figure."""
    from labelstore.pictures.figures import shortened

    specs = [name.removeprefix("timm:") for name in store["teacher_names"]]
    names = " + ".join(specs) if len(specs) <= 2 else f"{len(specs)} teachers"
    parts = [
        f"teacher {shortened(output.printable(names or 'unknown'), 48)}",
        counted(store["views"], "view") + " an image",
        f"top {store['k']} of {counted(store['classes'], 'class')}",
        f"temperature {_or_unknown(store['temperature'])}",
    ]
    if any(teacher["untrained"] for teacher in store["teachers"]):
        parts[0] += " (UNTRAINED)"
    return ", ".join(parts)
