"""What commands print: results on stdout; notes, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

import click

from labelstore.errors import is_obeyed, printable

from .tables import beside, pairs, table
from .text import clock, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console
    from rich.text import Text

__all__ = [
    "ProgressMeter",
    "beside",
    "console",
    "emit_json",
    "note",
    "note_command",
    "pairs",
    "printable",
    "printed_warnings",
    "progress",
    "say",
    "table",
    "text_of_json",
]

PLAIN_SECONDS = 30.0
"""Where stderr is no terminal, progress is a line at most this often."""

JSON_SECONDS = 10.0
"""For machines more often."""

RATE_SECONDS = 60.0
"""Rates are means over about this long, so that they follow a machine that slows down."""

BESIDE_PROGRESS = 17
"""Columns for a bar of ten, its share in per cent, and what lies between."""

_JSON_SPECIAL = re.compile(r"[^\n -~]")


def text_of_json(document: Any, indent: int | None = None) -> str:
    """JSON of the same data in which nothing is left that a terminal would obey.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    return _JSON_SPECIAL.sub(
        lambda sign: json.dumps(sign[0])[1:-1] if is_obeyed(sign[0]) else sign[0], text
    )


@contextlib.contextmanager
def printed_warnings() -> Iterator[None]:
    """Warnings on stderr as lines that may be printed; labelstore's own without their place."""

    def line(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        _source: str | None = None,
    ) -> str:
        ours = category.__module__.startswith("labelstore.")
        place = "Warning" if ours else f"{filename}:{lineno}: {category.__name__}"
        return printable(f"{place}: {message}") + "\n"

    before = warnings.formatwarning
    warnings.formatwarning = line  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.formatwarning = before


def console() -> Console:
    """The console of results: stdout, as wide as its terminal, 100 columns elsewhere.

    What is printed as ``str`` is made printable, but for its own line breaks, and is no markup.
    """
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **settings: Any) -> Text:
            return super().render_str("\n".join(map(printable, text.split("\n"))), **settings)

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A key may have characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    width = None if sys.stdout.isatty() else 100
    return Plain(width=width, highlight=False, emoji=False, markup=False)


def note(text: str, bold: bool = False) -> None:
    """A line on stderr for the person who watches; wrapped between words on a terminal."""
    line = printable(text)
    if sys.stderr.isatty():
        line = "\n".join(wrapped(line, _stderr_width()))
    click.secho(line, bold=bold, err=True)


def note_command(arguments: Sequence[str]) -> None:
    """A command on stderr, as a user would type it: it can be copied where it is wrapped, too."""
    words = ["$"]
    for argument in arguments:
        word = printable(shlex.quote(argument))
        # An option and its value stay on one line.
        if words[-1].startswith("-") and " " not in words[-1] and not word.startswith("-"):
            words[-1] += f" {word}"
        else:
            words.append(word)
    lines = [" ".join(words)]
    if sys.stderr.isatty():
        lines = wrapped(words, _stderr_width() - len(_CONTINUED))
    click.echo(_CONTINUED.join(lines), err=True)


_CONTINUED = " \\\n    "
"""Between two lines of a command."""


def _stderr_width() -> int:
    from rich.console import Console

    return Console(stderr=True).width


def emit_json(document: Any) -> None:
    """One JSON document on stdout; a ValueError for NaN or infinity, which JSON does not have."""
    click.echo(text_of_json(document, indent=2))


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a paragraph, wrapped between words on a terminal.

    A word that is longer than a line, as a path may be, is left to the terminal, which keeps it in
    one piece to be copied.
    """
    whole = printable(text)
    for line in wrapped(whole, console.width) if console.is_terminal else [whole]:
        console.print(line, style=style, soft_wrap=True)


class ProgressMeter:
    """Counts what is done, and its rates over the last minute.

    Args:
        total_images: of the whole store; views_per_image: of each, on average; None where photos
            alone are looked at, each of which counts as one.
        show: called after every change.
        clock: seconds; another one in tests.
    """

    def __init__(
        self,
        total_images: int,
        views_per_image: float | None,
        show: Callable[[ProgressMeter], None] = lambda meter: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tells_views = views_per_image is not None
        views_per_image = 1 if views_per_image is None else views_per_image
        self.total_images = total_images
        self.total_views = round(total_images * views_per_image)
        self.images = 0
        self.views = 0
        self._views_per_image = views_per_image
        self._show = show
        self._clock = clock
        self._started = clock()
        self._worked = (0, 0)
        self.waited_seconds = 0.0
        """How long the teacher has waited for pixels."""
        self._samples: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])

    def resumed(self, images: int) -> None:
        """So many images were finished by an earlier run: done, and no part of the rates."""
        self.images += images
        self.views += round(images * self._views_per_image)
        self._show(self)

    def update(self, images: int, views: int) -> None:
        """So many more images finished, and views labelled."""
        self.images += images
        self.views += views
        self._worked = (self._worked[0] + images, self._worked[1] + views)
        now = self._clock()
        # A sample a second bounds the window's length whatever the batch size.
        if now - self._samples[-1][0] >= 1.0:
            self._samples.append((now, *self._worked))
            while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_SECONDS:
                self._samples.popleft()
        self._show(self)

    def waited(self, seconds: float) -> None:
        """The teacher has waited for pixels so long, in all of this run."""
        self.waited_seconds = seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def rates(self) -> tuple[float, float]:
        """Images and views a second, 0 before anything was done."""
        then, images, views = self._samples[0]
        seconds = self._clock() - then
        if seconds <= 0:
            return 0.0, 0.0
        return (self._worked[0] - images) / seconds, (self._worked[1] - views) / seconds

    @property
    def left(self) -> float | None:
        """Seconds to the end at the present rate; None before a rate is known."""
        if self.images >= self.total_images:  # Some may have been left out, and have no views.
            return 0.0
        rate = self.rates[1]
        return max(self.total_views - self.views, 0) / rate if rate > 0 else None

    @property
    def waiting_share(self) -> float:
        """Share of the time in which the teacher had no pixels to work on, 0 to 1."""
        return min(self.waited_seconds / self.elapsed, 1.0) if self.elapsed > 0 else 0.0

    def to_json(self, device: str = "cpu") -> dict[str, Any]:
        """All of it as a JSON object.

        Args:
            device: of the teacher, whose utilisation is asked for.
        """
        images, views = self.rates
        document = {
            "images": self.images,
            "total_images": self.total_images,
            "views": self.views,
            "total_views": self.total_views,
            "images_per_second": round(images, 3),
            "views_per_second": round(views, 3),
            "elapsed_seconds": round(self.elapsed, 3),
            "seconds_left": None if self.left is None else round(self.left, 1),
            "waiting_share": round(self.waiting_share, 4),
        }
        if device != "cpu":
            from labelstore.teachers.devices import utilisation

            document["device_utilisation"] = utilisation(device)
        return document

    def short(self, width: int) -> str:
        """As much of it as goes into so many columns, for beside a bar."""
        images, views = self.rates
        left = "?" if self.left is None else clock(self.left)
        count = f"{self.images:,}/{self.total_images:,} images"
        pace = [f"{views:,.0f} views/s"] if self._tells_views else []
        rate, end = f"{images:,.1f}/s", f"{left} left"
        for parts in (
            (count, rate, *pace, clock(self.elapsed), f"{end}{self._waiting()}"),
            (count, *(pace or [rate]), clock(self.elapsed), f"{end}{self._waiting()}"),
            (count, *(pace or [rate]), end),
            (count, end),
            (f"{self.images:,}/{self.total_images:,}", end),
        ):
            line = ", ".join(parts)
            if len(line) <= width:
                return line
        return end

    def _waiting(self) -> str:
        """A word on waiting where it is worth one."""
        return f", waits {self.waiting_share:.0%}" if self.waiting_share >= 0.05 else ""

    def line(self) -> str:
        """All of it in one line."""
        images, views = self.rates
        left = "?" if self.left is None else clock(self.left)
        rate = f", {views:,.0f} views/s" if self._tells_views else ""
        return (
            f"{self.images:,} of {self.total_images:,} images, {images:,.1f} images/s{rate}, "
            f"{clock(self.elapsed)} elapsed, {left} left"
            f"{self._waiting()}"
        )


@contextlib.contextmanager
def progress(
    total_images: int,
    views_per_image: float | None,
    quiet: bool = False,
    done_images: int = 0,
    brief: bool = False,
    as_json: bool = False,
    device: str = "cpu",
) -> Iterator[ProgressMeter]:
    """Show the progress of a command on stderr.

    A bar on a terminal; elsewhere a line at most every 30 seconds and one at the end; nothing at
    all with ``quiet``. With ``brief``, for what is done in a moment as a rule, the bar vanishes and
    there is no line at the end.

    Args:
        total_images: of the whole store; views_per_image: of each, None for photos alone.
        as_json: a JSON object a line, every ten seconds and at the end; device: of the teacher,
            whose utilisation is told then.
        done_images: finished by an earlier run (``resumed`` tells it later on).

    Yields:
        a meter, to be told of the work by ``update(images, views)``.
    """
    if quiet:
        yield ProgressMeter(total_images, views_per_image)
        return
    on_terminal = sys.stderr.isatty() and not as_json
    total_views = round(total_images * (1 if views_per_image is None else views_per_image))
    tell = (lambda meter: json.dumps(meter.to_json(device))) if as_json else ProgressMeter.line
    seconds = JSON_SECONDS if as_json else PLAIN_SECONDS
    with _bar(total_views, brief) if on_terminal else _lines(brief, tell, seconds) as show:
        meter = ProgressMeter(total_images, views_per_image, show)
        if done_images:
            meter.resumed(done_images)
        yield meter


@contextlib.contextmanager
def _lines(
    brief: bool,
    tell: Callable[[ProgressMeter], str],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[ProgressMeter], None]]:
    last: list[ProgressMeter] = []
    printed_at = clock()

    def show(meter: ProgressMeter) -> None:
        nonlocal printed_at
        last[:] = [meter]
        if clock() - printed_at >= seconds:
            printed_at = clock()
            note(tell(meter))

    try:
        yield show
    finally:
        # Also after an error: how far it came is worth a line.
        if last and not brief:
            note(tell(last[0]))


@contextlib.contextmanager
def _bar(total_views: int, brief: bool) -> Iterator[Callable[[ProgressMeter], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (BarColumn(bar_width=None), TaskProgressColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, expand=True, transient=brief) as bar:
        task = bar.add_task("", total=total_views)

        def show(meter: ProgressMeter) -> None:
            room = console.width - BESIDE_PROGRESS
            bar.update(task, completed=meter.views, description=meter.short(room))

        yield show
