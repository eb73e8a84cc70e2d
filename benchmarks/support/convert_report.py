"""The table of ``benchmarks.convert``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_PAIRS = {
    "without boxes": ("torch.load", "convert without boxes"),
    "with boxes": ("torch.load and photos' sizes", "convert"),
}
"""What is compared: what ``torch.load`` has to do, and the conversion."""

_KINDS = {"float32": "single", "float16": "half"}


def write(result: dict[str, Any], path: Path) -> None:
    """Write the table beside a result, and print it.

    Args:
        result: what ``benchmarks.convert`` measured. path: of its JSON file.
    """
    text = table(result)
    path.with_suffix(".md").write_text(text)
    print(text)


def table(result: dict[str, Any]) -> str:
    """The table as Markdown: microseconds of CPU time a file, and what the times are to each other.

    Args:
        result: what ``benchmarks.convert`` measured.
    """
    files = result["files"]
    lines = [
        f"| {files:,} files, {result['views']} crops, top {result['k']} | `torch.load`, us of CPU "
        "a file | `convert` | files a second against `torch.load`, one core | two cores against "
        "one | bytes a crop before, after |",
        "|---|---|---|---|---|---|",
    ]
    for kind, name in _KINDS.items():
        measured = result[kind]
        tasks, size = measured["tasks"], measured["bytes"]
        for boxes, (load, convert) in _PAIRS.items():
            both = tasks.get(f"{convert}, two cores")
            faster = "" if both is None else f"{tasks[convert]['median_s'] / both['median_s']:.2f}"
            cells = (
                f"{name} precision, {boxes}",
                f"{tasks[load]['cpu_s'] / files * 1e6:.0f}",
                f"{tasks[convert]['cpu_s'] / files * 1e6:.0f}",
                f"**{measured['speed_against_torch_load'][boxes]['cpu']:.2f}**",
                faster,
                f"{size['files_per_crop']:.1f}, {size[f'store {boxes}']['per_crop']:.1f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
