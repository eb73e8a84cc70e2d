"""The distillation benchmark's tables and plot."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.support import plot_style
from benchmarks.support.distill_rows import FORMS

if TYPE_CHECKING:
    from pathlib import Path

BASELINE = "FKD"


def summarize(row: Any, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A row's settings and what its seeds gave."""
    values = [run["accuracy"] for run in runs]
    return {
        **asdict(row),
        "accuracies": values,
        "mean": round(statistics.mean(values), 5),
        "spread": round(statistics.stdev(values), 5) if len(values) > 1 else None,
        "steps": runs[0]["steps"],
        "seconds": round(statistics.mean(run["seconds"] for run in runs), 1),
        "curve": [
            round(statistics.mean(step), 4)
            for step in zip(*(run["curve"] for run in runs), strict=True)
        ],
    }


def write(result: dict[str, Any], out: Path) -> None:
    """The Markdown table and the plot, beside the JSON."""
    out.with_suffix(".md").write_text(markdown(result))
    plot(result, out.with_suffix(".png"))
    print(f"written to {out.with_suffix('.md')} and {out.with_suffix('.png')}")


def markdown(result: dict[str, Any]) -> str:
    """Every table: accuracy in percent, mean and standard deviation over the seeds."""
    rows = {row["name"]: row for rows in result["tables"].values() for row in rows}
    base = rows[BASELINE]["mean"] if BASELINE in rows else None
    lines = [f"# Distillation on {_title(result)}", "", _introduction(result), ""]
    for table, entries in result["tables"].items():
        lines += [f"## {table}", "", "| row | accuracy, % | difference | steps | seeds |"]
        lines += ["|---|---|---|---|---|"]
        for row in entries:
            spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.2f}"
            difference = "" if base is None else f"{100 * (row['mean'] - base):+.2f}"
            lines.append(
                f"| {row['name']} | {100 * row['mean']:.2f}{spread} | {difference} | "
                f"{row['steps']:,} | {len(row['accuracies'])} |"
            )
        lines.append("")
    lines += _forms(result.get("forms") or {})
    lines += ["## What the paper's thresholds do here", ""]
    lines += ["| teacher | discarded <= 0.15 | calibrated | kept | discarded > 0.95 |"]
    lines += ["|---|---|---|---|---|"]
    for name, parts in result["ferkd_shares"].items():
        order = ("discarded_low", "calibrated", "kept", "discarded_high")
        lines.append(f"| {name} | " + " | ".join(f"{parts[part]:.1%}" for part in order) + " |")
    return "\n".join([*lines, "", *_timing(result.get("online_against_offline"))])


def _title(result: dict[str, Any]) -> str:
    return "scenes" if result.get("data") == "scenes" else "Fashion-MNIST"


def _introduction(result: dict[str, Any]) -> str:
    setting = result["setting"]
    teachers = ", ".join(f"{name} {value:.2%}" for name, value in result["teachers"].items())
    tested = "2,088" if result.get("data") == "scenes" else "10,000"
    return (
        f"{setting['images']:,} images, {setting['epochs']} epochs of {setting['views_per_image']} "
        f"crops an image, up to {setting['seeds']} seeds; top-1 accuracy on the {tested} test "
        f'images, mean and standard deviation. Teachers: {teachers}. "FKD" has the first teacher '
        "and random crops; the difference is from its mean."
    )


def _forms(forms: dict[str, dict[str, float]]) -> list[str]:
    if not forms:
        return []
    lines = ["## How labels are stored", ""]
    lines += ["KL from the exact labels, in nats, over 300 images; bytes of the whole store.", ""]
    lines += ["| form | temperature | bytes a crop | KL |", "|---|---|---|---|"]
    for name, values in forms.items():
        form, _, temperature = name.partition("@")
        lines.append(
            f"| {FORMS[form]} | {temperature} | {values['bytes_per_crop']:.2f} | "
            f"{values['kl']:.6f} |"
        )
    return [*lines, ""]


def _timing(times: dict[str, Any] | None) -> list[str]:
    if not times:
        return []
    return [
        f"An epoch of {times['steps']} steps, "
        f"{1000 * times['hard labels']['median_s'] / times['steps']:.1f} ms each with hard labels, "
        f"takes {times['online_over_offline']:.2f} times as long "
        "with the teacher in the loop as with stored labels, and "
        f"{times['offline_over_hard_labels']:.2f} times as long with stored labels as with hard "
        "ones (label reading included).",
        "",
    ]


def plot(result: dict[str, Any], path: Path) -> None:
    """A panel for each table with its rows' accuracies; below them accuracy against epochs."""
    tables = {
        title: rows for title, rows in result["tables"].items() if not _is_budget(rows[0]["name"])
    }
    budgets = [row for rows in result["tables"].values() for row in rows if _is_budget(row["name"])]
    left, right = _columns(tables)
    lines = [sum(len(tables[title]) + 2 for title in side) for side in (left, right)]
    height = 0.27 * max(lines) + 0.6
    figure = plot_style.figure(10.5, height + (3.6 if budgets else 0.0))
    parts = figure.subfigures(2, 1, height_ratios=(height, 3.6)) if budgets else (figure,)
    everything = [row for rows in tables.values() for row in rows]
    base = next((row for row in everything if row["name"] == BASELINE), everything[0])
    limits = _limits(everything)
    for side, part in zip((left, right), parts[0].subfigures(1, 2), strict=True):
        ratios = [len(tables[title]) + 2 for title in side]
        panels = part.subplots(len(side), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for axes, title in zip(panels, side, strict=True):
            _panel(axes, title, tables[title], 100 * base["mean"], limits)
        panels[-1].set_xlabel("top-1 accuracy on the test images, %", fontsize=9)
    if budgets:
        _budgets(parts[1].subplots(), result, budgets)
    plot_style.save(figure, path)


def _is_budget(name: str) -> bool:
    return name.endswith("of the epochs")


def _series(budgets: list[dict[str, Any]]) -> list[str]:
    """The names of the rows with all epochs."""
    return list(dict.fromkeys(row["name"].rpartition(", ")[0] for row in budgets))


def _columns(tables: dict[str, list[Any]]) -> tuple[list[str], list[str]]:
    """Titles for the left side and the right one, in order, about as many rows on each."""
    titles = list(tables)
    total = sum(len(rows) + 2 for rows in tables.values())
    left: list[str] = []
    for title in titles[:-1]:
        if left and sum(len(tables[name]) + 2 for name in left) >= total / 2:
            break
        left.append(title)
    left = left or titles[:1]
    return left, titles[len(left) :] or left


def _limits(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Bounds of accuracy in percent, with room for the numbers at the right."""
    low = min(row["mean"] - (row["spread"] or 0.0) for row in rows)
    high = max(row["mean"] + (row["spread"] or 0.0) for row in rows)
    room = max(high - low, 0.01)
    return 100 * (low - 0.05 * room), 100 * (high + 0.25 * room)


def _panel(
    axes: Any, title: str, rows: list[dict[str, Any]], base: float, limits: tuple[float, float]
) -> None:
    places = range(len(rows))
    axes.axvline(base, color="#777777", linewidth=1, linestyle="--", zorder=1)
    for place, row in enumerate(rows):
        mean, spread = 100 * row["mean"], 100 * (row["spread"] or 0.0)
        is_base = row["name"] == BASELINE
        axes.errorbar(
            mean,
            place,
            xerr=spread,
            fmt="D" if is_base else "o",
            color=plot_style.INK if is_base else plot_style.OURS,
            capsize=3,
            markersize=5,
        )
        # Beside the numbers of the others, where no error bar is.
        axes.annotate(
            f"{mean:.1f}",
            (1, place),
            xycoords=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=plot_style.TEXT + 0.5,
        )
    axes.set_yticks(list(places), [_wrapped(row["name"]) for row in rows])
    axes.set(xlim=limits, ylim=(len(rows) - 0.4, -0.6))
    plot_style.plain(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, loc="left", fontsize=10)


def _wrapped(name: str) -> str:
    """A long name on two lines."""
    first, _, rest = name.partition(" + twice")
    return f"{first}\n+ twice{rest}" if rest else name


def _budgets(axes: Any, result: dict[str, Any], budgets: list[dict[str, Any]]) -> None:
    """Accuracy against the epochs of the whole training, each training of its own length."""
    full = {row["name"]: row for rows in result["tables"].values() for row in rows}
    epochs = result["setting"]["epochs"]
    ours = next((name for name in _series(budgets) if name != BASELINE), BASELINE)
    for name, marker, colour in (
        (BASELINE, "D", plot_style.INK),
        (ours, "o", plot_style.OURS),
    ):
        rows = [row for row in budgets if _series([row]) == [name]]
        if not rows:
            continue
        rows += [full[name]] if name in full else []
        rows.sort(key=lambda row: row["steps"])
        steps = full.get(name, rows[-1])["steps"]
        x = [epochs * row["steps"] / steps for row in rows]
        y = [100 * row["mean"] for row in rows]
        spread = [100 * (row["spread"] or 0.0) for row in rows]
        style = {"color": colour, "capsize": 3, "markersize": 5}
        line = "-" if name == "FKD" else "--"
        axes.errorbar(x, y, yerr=spread, fmt=marker, linestyle=line, **style)
        for place, value in zip(x, y, strict=True):
            axes.annotate(
                f"{value:.1f}", (place, value), xytext=(-6, 5) if name == "FKD" else (6, -5),
                textcoords="offset points", ha="right" if name == "FKD" else "left",
                va="bottom" if name == "FKD" else "top", fontsize=plot_style.TEXT, color=colour,
            )  # fmt: skip
        axes.annotate(
            name, (x[-1], y[-1]), xytext=(10, 0), textcoords="offset points", va="center",
            fontsize=10, fontweight="bold", color=colour,
        )  # fmt: skip
    axes.margins(x=0.08, y=0.2)
    plot_style.plain(axes)
    axes.set_xlabel("epochs of the training")
    axes.set_ylabel("top-1 accuracy, %")
    plot_style.titles(
        axes,
        "Reduced budgets (figure 6)",
        f"Mean and standard deviation over {result['setting']['seeds']} seeds, here and above; the "
        "dashed line above is FKD's mean",
    )
