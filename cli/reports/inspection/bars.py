"""Bars of a terminal: as long as a share, to an eighth of a column."""

from __future__ import annotations

__all__ = ["bar", "sparkline"]


def bar(share: float, width: int, encoding: str) -> str:
    """A share, 0 to 1, of so many columns; what is above 0 has something.

    Args:
        encoding: of the terminal; one that has no Unicode gets signs of ASCII.
    """
    blocks = " ▏▎▍▌▋▊▉█" if encoding.lower().startswith("utf") else " .......#"
    eighths = round(min(max(share, 0.0), 1.0) * width * 8) or int(share > 0)
    whole, part = divmod(eighths, 8)
    return blocks[8] * whole + (blocks[part] if part else "")


def sparkline(counts: list[int], encoding: str) -> str:
    """A column for each count, as high as its part of the largest; above 0 it has something."""
    levels = " ▁▂▃▄▅▆▇█" if encoding.lower().startswith("utf") else " .:-=+*%#"
    most = max(*counts, 1)
    return "".join(levels[-(-count * 8 // most)] for count in counts)
