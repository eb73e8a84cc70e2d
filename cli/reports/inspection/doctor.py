"""How ``labelstore doctor`` looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import output
from ...text import counted
from .findings import print_findings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

__all__ = ["print_diagnosis"]

_TITLES = {"error": "Where they are apart", "note": "Worth knowing"}


def print_diagnosis(report: Mapping[str, Any], flags: Mapping[str, str]) -> None:
    """Print what `labelstore.operations.inspection.doctor.diagnose` told.

    Args:
        flags: the option that sets each of the library's arguments.
    """
    console = output.console()
    console.print(_summary(report))
    print_findings(console, report["findings"], flags, _TITLES)
    console.print()
    console.print(_verdict(report))


def _verdict(report: Mapping[str, Any]) -> str:
    if report["healthy"]:
        return "The photos are those of the store, as far as it knows them."
    kinds = dict.fromkeys(f["kind"] for f in report["findings"] if f["weight"] == "error")
    if list(kinds) == ["unreadable"]:
        return "Nothing differs as far as photos could be read; of the others nothing is known."
    return f"The store and the photos are apart: {', '.join(kinds)}."


def _summary(report: Mapping[str, Any]) -> RenderableType:
    store, compared, probe = report["store"], report["compared"], report["probe"]
    rows = [
        (
            "store",
            f"{store['path']} (id {store['id']}): {counted(store['images'], 'image')}, "
            f"{store['labelled']:,} labelled",
        ),
        ("photos", f"{report['photos']}: {counted(report['count'], 'photo')}"),
        (
            "as labelled",
            f"{counted(compared['digest'], 'photo')} by digest of the file"
            + (f", {compared['size']:,} by size alone" if compared["size"] else ""),
        ),
    ]
    if probe is not None:
        same = probe["views"] - probe["differing"]
        rows.append(("pixels", f"{same:,} of {counted(probe['views'], 'probed view')} the same"))
    return output.pairs(rows)
