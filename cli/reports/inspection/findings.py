"""How findings about photos look: the gravest first, with names and the mend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import output
from ...text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

__all__ = ["COLOURS", "print_findings"]

COLOURS = {"stops": "red", "skipped": "red", "error": "red", "note": "yellow"}
"""Of each weight."""


_SINGULAR = {
    "are": "is",
    "were": "was",
    "have": "has",
    "hold": "holds",
    "end": "ends",
    "lie": "lies",
    "differ": "differs",
}
"""Verbs with which a finding's words begin, of many and of one."""


def print_findings(
    console: Console,
    findings: Sequence[Mapping[str, Any]],
    flags: Mapping[str, str],
    titles: Mapping[str, str],
) -> None:
    """Print findings as ``Finding.to_json`` has them.

    Args:
        flags: the option that sets each of the library's arguments.
        titles: the heading above those of each weight, in order.
    """
    for weight, title in titles.items():
        own = [finding for finding in findings if finding["weight"] == weight]
        if not own:
            continue
        console.print()
        console.print(title, style="bold")
        for finding in own:
            _print_finding(console, finding, flags)


def _print_finding(console: Console, finding: Mapping[str, Any], flags: Mapping[str, str]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    head = Text()
    head.append(finding["kind"], style=COLOURS[finding["weight"]])
    if finding["cause"]:
        head.append(f" ({finding['cause']})", style=COLOURS[finding["weight"]])
    words = finding["text"]
    if finding["noun"]:
        count = finding["count"]
        words = f"{counted(count, finding['noun'])} {verb_of(words, count)}"
    head.append(f": {output.printable(words)}")
    console.print(head)
    for named in finding["first"]:
        line = Text(output.printable(named["name"]), style="bold", overflow="fold")
        if named["detail"]:
            line.append(Text(f": {output.printable(named['detail'])}", style="not bold"))
        console.print(Padding(line, (0, 0, 0, 4)))
    if finding["count"] > len(finding["first"]):
        more = finding["count"] - len(finding["first"])
        console.print(Padding(Text(f"and {more:,} more"), (0, 0, 0, 4)))
    options = [flags[name] for name in finding["arguments"] if name in flags]
    options_text = f" ({', '.join(options)})" if options else ""
    console.print(Padding(Text(f"→ {finding['mend']}{options_text}"), (0, 0, 0, 2)))


def verb_of(text: str, count: int) -> str:
    """Words that follow ``1 photo`` or ``2 photos``: ``are damaged`` is ``is damaged`` of one."""
    if count != 1:
        return text
    verb, _, rest = text.partition(" ")
    return f"{_SINGULAR.get(verb, verb)} {rest}"
