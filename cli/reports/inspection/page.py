"""The pages of ``inspect`` and ``compare --report``: their options, and how they are made."""

from __future__ import annotations

import contextlib
from dataclasses import astuple, dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from labelstore.errors import UsageError

from ... import options, output
from ...text import counted, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from labelstore.operations.inspection.labelled_photos import LabelledPhotos
    from labelstore.store.label_reader import LabelReader
    from labelstore.store.store import Store

__all__ = ["PageOptions", "page_options", "photos_of", "write_page", "write_page_of"]

PAGE_SUFFIXES = (".html", ".htm")


def _page_path(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Path | None:
    """Checked before the store is read, which may take minutes."""
    if value is None:
        return None
    path = Path(value)
    if path.suffix.lower() not in PAGE_SUFFIXES:
        raise click.BadParameter(
            f"{value} does not end in one of {', '.join(PAGE_SUFFIXES)}: name a file that does."
        )
    return path


page_options = options.added(
    (
        click.option(
            "--report",
            metavar="FILE",
            callback=_page_path,
            help="Write a page for a browser, too: one .html file that holds all it shows and "
            "loads nothing. An older page of labelstore's is replaced, any other file with "
            "--overwrite alone.",
        ),
        click.option(
            "--photos",
            metavar="SOURCE",
            help="--report: the photos that were labelled (a folder, shards or a URL), of which "
            "it shows some, small. A photo that is another than the labelled one is not shown.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="--report: replace the file, whatever it is.",
        ),
    )
)
"""Those of `PageOptions`."""


@dataclass(frozen=True)
class PageOptions:
    """Where a page goes, and whose photos it shows."""

    report: Path | None
    photos: str | None
    overwrite: bool

    def check(self, source: options.SourceOptions) -> None:
        """Refuse, before any work, what cannot be done; UsageError."""
        from labelstore.pictures.page import check_replaceable

        if self.report is None:
            if self.photos is not None or self.overwrite:
                option = "--overwrite" if self.photos is None else "--photos"
                raise UsageError(f"{option} was given without --report: name the page's file.")
        else:
            check_replaceable(self.report, self.overwrite)
        if self.photos is None and any(value is not None for value in astuple(source)):
            raise UsageError(
                "an option of photos was given without --photos: name their source, or leave it "
                "out."
            )


def photos_of(
    page: PageOptions, source: options.SourceOptions, store: LabelReader
) -> LabelledPhotos | None:
    """The photos of a store that the options name; None without ``--photos``.

    Raises:
        MismatchError: none of them is of the store. Those of ``open_source``.
    """
    from labelstore.operations.inspection.labelled_photos import LabelledPhotos

    return None if page.photos is None else LabelledPhotos(store, source.open(page.photos))


def write_page(
    page: PageOptions,
    store: Store,
    statistics: dict[str, Any],
    photos: LabelledPhotos | None,
    quiet: bool,
) -> None:
    """Write the page of a report, with progress, and say where it is."""
    from labelstore.operations.inspection.gallery.page_data import page_data

    name = PurePath(store.path).name
    write_page_of(
        page,
        ("report", f"{name}: labelstore inspect"),
        lambda tell: page_data(store, statistics, photos, tell=tell),
        quiet,
    )


def write_page_of(
    page: PageOptions,
    template: tuple[str, str],
    data_of: Callable[[Callable[[int, int], None]], dict[str, Any]],
    quiet: bool,
) -> None:
    """Write a page, with progress, and say where it is; nothing where none was asked for.

    Args:
        template: the kind of page, and its title.
        data_of: makes its data, with ``pictures``, and tells of each photo how many are done, and
            of how many.
    """
    from labelstore.pictures.page import render, write

    if page.report is None:
        return
    with contextlib.ExitStack() as shown:
        meters: list[output.ProgressMeter] = []

        def tell(_done: int, total: int) -> None:
            if not meters:
                meters.append(shown.enter_context(output.progress(total, 1, quiet, brief=True)))
            meters[0].update(1, 1)

        data = data_of(tell)
    document = render(*template, data)
    write(page.report, document, page.overwrite)
    output.note(
        f"the page was written to {page.report} ({size(len(document.encode()))}"
        f"{_pictures(data['pictures'])})"
    )


def _pictures(pictures: dict[str, Any] | None) -> str:
    if pictures is None:
        return ", without photos: --photos SOURCE shows them"
    words = f", {counted(pictures['shown'], 'picture')}"
    if pictures["left_out"]:
        words += f", {pictures['left_out']:,} left out for want of room"
    causes = {"different": "not as labelled", "missing": "missing", "unreadable": "unreadable"}
    for name, cause in causes.items():
        if pictures[name]:
            words += f", {counted(pictures[name], 'photo')} {cause}"
    return words
