"""Tables that fold: fewer columns where the terminal is narrow, and never a word cut in two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labelstore.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

__all__ = ["Beside", "FoldingTable", "Pairs", "Widths", "bands_of", "beside", "pairs", "table"]

GAP = 3
"""Columns of the terminal between two columns of a table."""

LEAST_WORDS = 16
"""A column of words is not made narrower than this to save a table from being folded."""

MOST_BANDS = 3
"""A table that would fall into more is shown as a list for each row."""


INDENT = 2
"""Columns of the terminal before a value that stands below its name."""

BOUNDLESS = 10_000
"""Columns of a terminal on which nothing has to be folded."""


def pairs(rows: Sequence[tuple[str, str]]) -> Pairs:
    """Names and values, a line each where there is room."""
    from rich.text import Text

    return Pairs([(name, Text(printable(value))) for name, value in rows])


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    numeric: Sequence[int] = (),
    named_by: Sequence[int] = (0,),
) -> FoldingTable:
    """A plain table that folds where the terminal is narrow, and is never shredded.

    Args:
        columns: their headings, the most important first: the last are folded away first.
        rows: a cell for each column.
        numeric: the numbers of the columns that are aligned to the right.
        named_by: the numbers of the columns that say what a row is: they are repeated.
    """
    from rich.text import Text

    cells = [
        [Text(printable(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows
    ]
    return FoldingTable(
        columns=columns, rows=cells, numeric=frozenset(numeric), named_by=tuple(named_by)
    )


def beside(*parts: RenderableType, gap: int = 4) -> Beside:
    """Things beside each other where the terminal has room, and else one below the other.

    Args:
        gap: columns between two.
    """
    return Beside(parts, gap)


@dataclass(frozen=True)
class Widths:
    """How wide a column may be, in columns of the terminal.

    Args:
        least: with its words whole; most: with every cell on one line.
    """

    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class FoldingTable:
    """A plain table that fits the terminal.

    Where there is room it is one table. Where there is less, columns of words are wrapped between
    words; then the last columns go into a second and a third table, which repeat the columns that
    say what a row is; at last each row is a list of names and values. A word is cut only where it
    is longer than the terminal is wide.

    Args:
        columns: their headings.
        rows: a cell for each column, on one line each.
        numeric: the numbers of the columns that are aligned to the right.
        named_by: the numbers of the columns that say what a row is.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Text]]
    numeric: frozenset[int]
    named_by: tuple[int, ...]

    def widths(self) -> list[Widths]:
        """How wide each column may be."""
        return [self._widths(number) for number in range(len(self.columns))]

    def _widths(self, number: int) -> Widths:
        from rich.cells import cell_len

        heading = self.columns[number]
        cells = [row[number].plain for row in self.rows]
        most = max(map(cell_len, (heading, *cells)))
        words = [word for cell in (heading, *cells) for word in cell.split()]
        if number in self.numeric:
            # A number and its unit stay together.
            words = [*heading.split(), *cells]
        longest = max(map(cell_len, words), default=0)
        return Widths(
            longest if number in self.numeric else max(longest, min(most, LEAST_WORDS)), most
        )

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """The widths it likes: unfolded at the most."""
        from rich.measure import Measurement

        widths = self.widths()
        gaps = GAP * (len(widths) - 1)
        most = sum(column.most for column in widths) + gaps
        return Measurement(max(column.least for column in widths), most).with_maximum(
            options.max_width
        )

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """What is shown."""
        widths = self.widths()
        bands = bands_of(widths, self.named_by, options.max_width)
        if bands is None:
            yield from self._lists()
            return
        for place, band in enumerate(bands):
            if place:
                yield ""
            yield self._grid(band, _spread([widths[number] for number in band], options.max_width))

    def _grid(self, band: Sequence[int], widths: Sequence[int]) -> Table:
        from rich import box
        from rich.table import Table

        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
        for number, width in zip(band, widths, strict=True):
            grid.add_column(
                self.columns[number],
                justify="right" if number in self.numeric else "left",
                width=width,
                # A word longer than the terminal goes on in the next line: keys are there to be
                # copied.
                overflow="fold",
            )
        for row in self.rows:
            grid.add_row(*(row[number] for number in band))
        return grid

    def _lists(self) -> Iterator[RenderableType]:
        """Each row as its name, and below it the other cells with their headings."""
        from rich.padding import Padding
        from rich.text import Text

        others = [number for number in range(len(self.columns)) if number not in self.named_by]
        for place, row in enumerate(self.rows):
            if place:
                yield ""
            names = [self._named(number, row) for number in self.named_by if row[number].plain]
            if names:
                yield Text(", ").join(names)
            values = [(self.columns[number], row[number]) for number in others]
            shown = [(heading, value) for heading, value in values if value.plain]
            yield Padding(Pairs(shown), (0, 0, 0, INDENT))

    def _named(self, number: int, row: Sequence[Text]) -> Text:
        from rich.text import Text

        heading = self.columns[number]
        return Text.assemble(f"{heading} ", row[number]) if heading else row[number]


@dataclass(frozen=True)
class Pairs:
    """Names, and a value beside each; below it where the terminal is too narrow for a word of one.

    Args:
        rows: names and values.
    """

    rows: Sequence[tuple[str, Text]]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """What is shown."""
        from rich.cells import cell_len
        from rich.padding import Padding
        from rich.table import Table

        names = max((cell_len(name) for name, _ in self.rows), default=0)
        room = options.max_width - INDENT
        words = [cell_len(word) for _, value in self.rows for word in value.plain.split()]
        # A word that is too long anywhere is folded in either way.
        longest = max((length for length in words if length <= room), default=0)
        if names + 2 + longest > options.max_width:
            for name, value in self.rows:
                yield name
                yield Padding(value, (0, 0, 0, INDENT))
            return
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        # A long path goes on in the next line; nothing is cut off.
        grid.add_column(overflow="fold")
        for name, value in self.rows:
            grid.add_row(name, value)
        yield grid


def bands_of(
    widths: Sequence[Widths], named_by: Iterable[int], width: int
) -> list[list[int]] | None:
    """The columns of each of the tables that a table is folded into.

    Args:
        widths: of all columns; named_by: those that every table has; width: of the terminal.

    Returns:
        numbers of columns, ascending in each table, the first columns in the first table; None
        where not even one column fits beside those in ``named_by``, or where there are too many.
    """
    names = sorted(named_by)
    others = [number for number in range(len(widths)) if number not in names]

    def fits(columns: Sequence[int]) -> bool:
        least = sum(min(widths[number].least, width) for number in columns)
        return least + GAP * (len(columns) - 1) <= width

    bands: list[list[int]] = [[]]
    for number in others:
        if not fits([*names, number]):
            return None
        if not fits([*names, *bands[-1], number]):
            bands.append([])
        bands[-1].append(number)
    if len(bands) > MOST_BANDS or not fits(names):
        return None
    return [sorted([*names, *band]) for band in bands]


def _spread(widths: Sequence[Widths], width: int) -> list[int]:
    """A width for each column: the least, and what is left over to those that want little more."""
    shares = [min(column.least, width) for column in widths]
    left = width - sum(shares) - GAP * (len(widths) - 1)
    wanting = sorted(range(len(widths)), key=lambda number: widths[number].most - shares[number])
    for place, number in enumerate(wanting):
        more = min(widths[number].most - shares[number], left // (len(wanting) - place))
        more = max(more, 0)
        shares[number] += more
        left -= more
    return shares


@dataclass(frozen=True)
class Beside:
    """Things beside each other where the terminal has room, and else one below the other.

    Args:
        parts: what is shown; gap: columns between two.
    """

    parts: Sequence[RenderableType]
    gap: int

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """The widths it likes: one below the other at the least."""
        from rich.measure import Measurement

        parts = [
            Measurement.get(console, options.update(max_width=BOUNDLESS), part)
            for part in self.parts
        ]
        most = sum(part.maximum for part in parts) + self.gap * (len(parts) - 1)
        least = max(part.minimum for part in parts)
        return Measurement(least, most).with_maximum(options.max_width)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """What is shown."""
        from rich.measure import Measurement
        from rich.table import Table

        boundless = options.update(max_width=BOUNDLESS)
        if Measurement.get(console, boundless, self).maximum <= options.max_width:
            grid = Table.grid(padding=(0, self.gap))
            grid.add_row(*self.parts)
            yield grid
            return
        for place, part in enumerate(self.parts):
            if place:
                yield ""
            yield part
