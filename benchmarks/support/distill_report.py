"""The distillation benchmark's tables and plot."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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
    setting = result["setting"]
    rows = {row["name"]: row for rows in result["tables"].values() for row in rows}
    base = rows[BASELINE]["mean"]
    teachers = ", ".join(f"{name} {value:.2%}" for name, value in result["teachers"].items())
    lines = [
        "# Distillation on Fashion-MNIST",
        "",
        f"{setting['images']:,} images, {setting['epochs']} epochs of {setting['views_per_image']} "
        f"crops an image, {setting['seeds']} seeds; top-1 accuracy on the 10,000 test images, mean "
        f'and standard deviation. Teachers: {teachers}. "FKD" has the first teacher and random '
        "crops; the difference is from its mean.",
        "",
    ]
    for table, entries in result["tables"].items():
        lines += [
            f"## {table}",
            "",
            "| row | accuracy, % | difference | steps |",
            "|---|---|---|---|",
        ]
        for row in entries:
            spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.2f}"
            lines.append(
                f"| {row['name']} | {100 * row['mean']:.2f}{spread} | "
                f"{100 * (row['mean'] - base):+.2f} | {row['steps']:,} |"
            )
        lines.append("")
    lines += ["## What the paper's thresholds do here", ""]
    lines += ["| teacher | discarded <= 0.15 | calibrated | kept | discarded > 0.95 |"]
    lines += ["|---|---|---|---|---|"]
    for name, parts in result["ferkd_shares"].items():
        order = ("discarded_low", "calibrated", "kept", "discarded_high")
        lines.append(f"| {name} | " + " | ".join(f"{parts[part]:.1%}" for part in order) + " |")
    times = result["online_against_offline"]
    lines += [
        "",
        f"An epoch of {times['steps']} steps, "
        f"{1000 * times['hard labels']['median_s'] / times['steps']:.1f} ms each with hard labels, "
        f"takes {times['online_over_offline']:.2f} times as long "
        "with the teacher in the loop as with stored labels, and "
        f"{times['offline_over_hard_labels']:.2f} times as long with stored labels as with hard "
        "ones (label reading included).",
        "",
    ]
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Every row's accuracy with its spread; beside it the curves of the reduced budgets."""
    from matplotlib.figure import Figure

    entries = [row for rows in result["tables"].values() for row in rows]
    figure = Figure(figsize=(12, 0.26 * len(entries) + 1.6), layout="constrained")
    bars, curves = figure.subplots(1, 2, width_ratios=(3, 2))
    places = range(len(entries))
    bars.errorbar(
        [100 * row["mean"] for row in entries],
        places,
        xerr=[100 * (row["spread"] or 0.0) for row in entries],
        fmt="o",
        color="#1f4e79",
        capsize=3,
    )
    base = next(row for row in entries if row["name"] == BASELINE)
    bars.axvline(100 * base["mean"], color="#999999", linewidth=1, linestyle="--")
    bars.set_yticks(list(places), [row["name"] for row in entries], fontsize=8)
    bars.invert_yaxis()
    bars.set_xlabel("top-1 accuracy, % (mean, standard deviation); dashed: FKD")
    bars.grid(axis="x", alpha=0.3)
    budgets = [row for row in entries if row["name"].endswith("of the epochs")]
    full = [row for row in entries if row["name"] in ("FKD", "FerKD")]
    for row in budgets + full:
        colour = "#c0504d" if row["name"].startswith("FerKD") else "#1f4e79"
        epochs = range(1, len(row["curve"]) + 1)
        width = 2.0 if row in full else 0.9
        curves.plot(epochs, [100 * value for value in row["curve"]], color=colour, linewidth=width)
        curves.plot(len(row["curve"]), 100 * row["curve"][-1], "o", color=colour, markersize=4)
    curves.set_xlabel("epoch")
    curves.set_ylabel("top-1 accuracy, %")
    curves.set_title("Figure 6: budgets (red FerKD, blue FKD)", fontsize=10)
    curves.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
