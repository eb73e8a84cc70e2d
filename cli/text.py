"""Numbers in words, as every command writes them; and lines between words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from labelstore.labels.distance import Distances

__all__ = [
    "clock",
    "counted",
    "difference",
    "duration",
    "extent",
    "share",
    "size",
    "wrapped",
]


def counted(count: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``1,000 classes``."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"


class _NewStore(Protocol):
    """A report on a store that was made."""

    @property
    def path(self) -> str:
        """Where it is."""

    @property
    def num_images(self) -> int:
        """How many images it has."""

    @property
    def num_views(self) -> int:
        """How many views of each."""


def extent(report: _NewStore) -> str:
    """Where a new store is and what it covers: ``a.zarr: 20 images x 5 views``."""
    images, views = counted(report.num_images, "image"), counted(report.num_views, "view")
    return f"{report.path}: {images} x {views}"


def size(count: float) -> str:
    """A number of bytes to three digits: ``1 byte``, ``999 bytes``, ``1.5 kB``, ``15 GB``."""
    if round(count) < 1000:
        return counted(round(count), "byte")
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        # What is rounded to a thousand is one of the next unit.
        if count < 999.5:
            return f"{count:.3g} {unit}"
    terabytes = count / 1000
    return f"{terabytes:.3g} TB" if terabytes < 999.5 else f"{terabytes:,.0f} TB"


def share(part: float, digits: int = 2) -> str:
    """A share, 0 to 1, in per cent: ``12.50%``."""
    return f"{part:.{digits}%}"


def duration(seconds: float) -> str:
    """About how long: ``90 s``, ``15 min``, ``3.2 h``, ``2.5 days``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: ``1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def difference(distances: Distances) -> str:
    """How far labels are from those that they were made of."""
    return (
        f"KL {distances.kl_nats:.4f} nats, total variation {distances.total_variation:.4f}, "
        f"largest class the same in {share(distances.top1_kept)}"
    )


def wrapped(words: str | Iterable[str], width: int) -> list[str]:
    """Lines of words; a word that is wider than a line has one of its own.

    Args:
        words: a text of one line is cut at its spaces.
        width: columns of a terminal, in which some characters take two.
    """
    from rich.cells import cell_len

    lines: list[str] = []
    for word in words.split(" ") if isinstance(words, str) else words:
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
