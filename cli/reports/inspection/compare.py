"""How ``labelstore compare`` looks: tables, and a map of both confidences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import output
from ...text import counted, share, size
from ..actions import thresholds

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["print_comparison"]

SHOWN_CLASSES = 10
"""Classes, and pairs of classes, that are shown; ``--json`` has more."""

SHADES = (" ░▒▓█", " .:+#")
"""Of the heat map, by rising count: in UTF-8 and in ASCII."""

DECISIONS = {
    "discarded_low": "too hard",
    "calibrated": "calibrated",
    "kept": "kept",
    "discarded_high": "too easy",
}
"""What FerKD decides, by rising confidence, in few words."""


def print_comparison(comparison: dict[str, Any]) -> None:
    """Print what `labelstore.operations.inspection.compare.compare` told."""
    console = output.console()
    shown = _Shown(console, comparison)
    console.print(shown.summary())
    shown.alerts()
    sections = (
        ("How often they agree", shown.agreement()),
        ("How far apart (KL in nats, total variation 0 to 1)", shown.distances()),
        ("Agreement with the ground truth", shown.truth()),
        (f"Confidence: A to the right, B upwards ({shown.noun}s)", shown.scatter()),
        ("Classes that differ most, by the ground truth", shown.classes()),
        ("Largest classes where they differ", shown.pairs()),
        (shown.ferkd_title(), shown.ferkd()),
        ("Views that differ most", shown.entries("largest_views")),
        ("Images that differ most", shown.entries("largest_images")),
        ("Bytes on disk", shown.sizes()),
    )
    for title, content in sections:
        if content is not None:
            console.print()
            console.print(title, style="bold")
            console.print(content)


class _Shown:
    """A comparison, and the terminal that it is shown in."""

    def __init__(self, console: Console, comparison: dict[str, Any]) -> None:
        self.console = console
        self.report = comparison
        self.noun = "crop" if comparison["by"] == "views" else "image"
        self._names = comparison["class_names"]

    def name(self, number: int | None) -> str:
        """A class in words, with its number."""
        if number is None:
            return "unknown"
        return f"class {number}" if self._names is None else f"{self._names[number]} ({number})"

    def summary(self) -> RenderableType:
        """Both stores, and what of them is compared."""
        report, images, views = self.report, self.report["images"], self.report["views"]
        rows = [row for name in "ab" for row in _store(name.upper(), report[name])]
        matched = f"{images['both']:,} in both"
        for name in "ab":
            only = images[f"only_{name}"]
            if only:
                first = images[f"first_only_{name}"]
                matched += f"; {only:,} in {name.upper()} alone (first {first})"
        rows.append(("images", matched))
        left_out = [
            f"{images[name]:,} {words}"
            for name, words in (
                ("unlabelled", "without labels in one of them"),
                ("other_crops", "of other crops"),
            )
            if images[name]
        ]
        if left_out:
            rows.append(("left out", "; ".join(left_out)))
        if report["by"] == "views":
            compared = f"{counted(images['compared'], 'image')} x {views['looked_at_a']:,} views"
            rows.append(("compared", f"{counted(report['crops'], 'crop')}: {compared}"))
            if views["looked_at_a"] < views["compared"]:
                rows.append(
                    (
                        "sample",
                        f"{views['looked_at_a']:,} of {views['compared']:,} views of each image; "
                        "± is half of a 95 % interval",
                    )
                )
        else:
            looked_at = f"{views['looked_at_a']:,} views in A, {views['looked_at_b']:,} in B"
            rows.append(
                (
                    "compared",
                    f"{counted(report['crops'], 'image')} by their mean labels ({looked_at}), "
                    "not view by view",
                )
            )
        return output.pairs(rows)

    def alerts(self) -> None:
        """What to know first."""
        texts = [alert["text"] for alert in self.report["alerts"]]
        if self.report["reason"] is not None:
            texts.insert(0, f"Not view by view: {self.report['reason']}")
        for text in texts:
            self.console.print()
            output.say(self.console, text, style="yellow")

    def agreement(self) -> RenderableType:
        """Largest classes and confidences."""
        agreement, confidence = self.report["agreement"], self.report["confidence"]
        rows = [("the largest class is the same", _share(agreement["top1"]))]
        if agreement["n"] > 1:
            rows += [
                (f"of the {agreement['n']} largest are the same", _share(agreement["top_n"])),
                (f"all {agreement['n']} are the same", _share(agreement["same_set"])),
            ]
        rows += [(f"mean confidence of {name.upper()}", _number(confidence[name])) for name in "ab"]
        return output.table((f"of {self.report['crops']:,} {self.noun}s", ""), rows, numeric=(1,))

    def distances(self) -> RenderableType:
        """Means and quantiles."""
        names = {"kl_ab": "KL(A||B)", "kl_ba": "KL(B||A)", "total_variation": "TV"}
        quantiles = [self.report[name]["quantiles"] for name in names]
        rows = [("mean", *(_number(self.report[name]) for name in names))]
        for of_each in zip(*quantiles, strict=True):
            values = ({"mean": part["value"], "error": part["error"]} for part in of_each)
            rows.append((f"{of_each[0]['share']:.0%} at most", *map(_number, values)))
        return output.table(("", *names.values()), rows, numeric=(1, 2, 3))

    def truth(self) -> RenderableType | None:
        """Who is right."""
        truth = self.report["truth"]
        if truth is None:
            return None
        n = self.report["agreement"]["n"]
        rows = [(f"{name.upper()} is right (top-1)", _share(truth[name]["top1"])) for name in "ab"]
        if n > 1:
            rows += [
                (f"{name.upper()} has it in its top {n}", _share(truth[name]["top_n"]))
                for name in "ab"
            ]
        words = {"both": "both are right", "only_a": "A alone", "only_b": "B alone"}
        rows += [(text, _share(truth[name])) for name, text in words.items()]
        rows.append(("neither", _share(truth["neither"])))
        return output.table((f"of {truth['crops']:,} {self.noun}s", ""), rows, numeric=(1,))

    def scatter(self) -> RenderableType:
        """How sure both are, as a map of shades."""
        from rich.text import Text

        shades = SHADES[0 if self.console.encoding.startswith("utf") else 1]
        counts = self.report["confidence"]["counts"]
        most = max(max(row) for row in counts)
        cell = 2 if self.console.width >= 56 else 1
        text = Text()
        for column in reversed(range(len(counts))):
            low = self.report["confidence"]["edges"][column]
            text.append(f"{low:.2f} " if column % 4 == 0 else "     ", style="dim")
            for row in counts:
                # By the root, so that what is rare is seen beside what is frequent.
                step = -(-((row[column] / most) ** 0.5) * (len(shades) - 1) // 1) if most else 0
                text.append(shades[int(step)] * cell, style="cyan")
            text.append("\n")
        axis = "".join(f"{low / 20:<{4 * cell}.1f}" for low in range(0, 20, 4))
        text.append(f"     {axis}1.0", style="dim")
        return text

    def classes(self) -> RenderableType | None:
        """The classes whose crops differ most."""
        rows = [row for row in self.report["classes"] if row["crops"]]
        rows.sort(key=lambda row: -row["total_variation"])
        if not rows:
            return None
        lines = [
            (
                self.name(row["class"]),
                f"{row['total_variation']:.3f}",
                share(row["agreement"], 1),
                f"{row['images']:,}",
                share(row["truth_a"], 1),
                share(row["truth_b"], 1),
            )
            for row in rows[:SHOWN_CLASSES]
        ]
        columns = ("class", "TV", "agree", "images", "A right", "B right")
        return output.table(columns, lines, numeric=range(1, 6))

    def pairs(self) -> RenderableType | None:
        """What one says where the other says another thing."""
        lines = [
            (self.name(pair["a"]), self.name(pair["b"]), f"{pair['crops']:,}", share(pair["share"]))
            for pair in self.report["pairs"][:SHOWN_CLASSES]
        ]
        if not lines:
            return None
        columns = ("A says", "B says", f"{self.noun}s", "share")
        return output.table(columns, lines, numeric=(2, 3), named_by=(0, 1))

    def ferkd_title(self) -> str:
        """With the thresholds."""
        rule = self.report["ferkd"]
        if rule is None:
            return ""
        return f"What FerKD does ({thresholds(rule)})"

    def ferkd(self) -> RenderableType | None:
        """Shares of the crops by what the rule does with each label."""
        if self.report["ferkd"] is None:
            return None
        parts = {(part["a"], part["b"]): part for part in self.report["ferkd"]["decisions"]}

        lines = [
            (
                words,
                *(
                    f"{parts[of_a, of_b]['count']:,} ({share(parts[of_a, of_b]['share'], 1)})"
                    for of_b in DECISIONS
                ),
            )
            for of_a, words in DECISIONS.items()
        ]
        return output.table(
            ("A", *(f"B {words}" for words in DECISIONS.values())), lines, range(1, 5)
        )

    def entries(self, kind: str) -> RenderableType | None:
        """Views or images, with what both say of them."""
        entries = [entry for entry in self.report[kind] if entry["total_variation"] > 0]
        if not entries:
            return None
        views = kind == "largest_views"
        lines = [
            (
                entry["key"],
                str(entry["view"]) if views else _optional(entry["agreement"]),
                f"{entry['total_variation']:.3f}",
                f"{entry['kl_ab']:.3f}",
                f"{entry['kl_ba']:.3f}",
                *(
                    f"{self.name(entry[name][0]['class'])} {entry[name][0]['probability']:.3f}"
                    for name in "ab"
                ),
                self.name(entry["target"]),
            )
            for entry in entries
        ]
        columns = ("image", "view" if views else "agree", "TV", "KL(A||B)", "KL(B||A)")
        return output.table(
            (*columns, "A says", "B says", "truth"),
            lines,
            numeric=range(1, 5),
            named_by=(0, 1) if views else (0,),
        )

    def sizes(self) -> RenderableType:
        """What both take."""
        rows = []
        for name in "ab":
            sizes = self.report[name]["bytes"]
            per_crop = "unknown" if sizes["per_crop"] is None else f"{sizes['per_crop']:.3f}"
            rows.append((name.upper(), size(sizes["total"]), per_crop))
        return output.table(("", "in all", "bytes a crop"), rows, numeric=(1, 2))


def _store(name: str, store: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for member in store["members"]:
        weight = "" if len(store["members"]) == 1 else f"{member['weight']:.2g} of "
        rows.append((name, f"{weight}{member['path']}"))
        by = ", ".join(member["teachers"]) or "an unknown teacher"
        if member["operation"]:
            by += f" ({member['operation']})"
        heat = "unknown" if member["temperature"] is None else f"{member['temperature']:g}"
        rows.append(
            (
                "",
                f"{by}; top {member['k']} of {counted(store['classes'], 'class')}, type "
                f"{member['label_type']}, temperature {heat}, {member['quantizer']}; "
                f"{counted(store['views'], 'view')}",
            )
        )
    return rows


def _optional(value: float | None) -> str:
    return "" if value is None else share(value, 1)


def _share(estimate: dict[str, Any]) -> str:
    error = f" ± {share(estimate['error'])}" if estimate["error"] else ""
    return share(estimate["mean"]) + error


def _number(estimate: dict[str, Any]) -> str:
    error = f" ± {estimate['error']:.4f}" if estimate["error"] else ""
    return f"{estimate['mean']:.4f}" + error
