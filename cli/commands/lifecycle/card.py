"""``labelstore card``: the data-set card of a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ... import options, output

if TYPE_CHECKING:
    from collections.abc import Callable

HELP = """Write the data-set card of a finished store, as the Hugging Face hub shows one: what the
labels are, their teacher, views, storage, fidelity, confidence, history, and how to load them.

\b
  labelstore card teacher.zarr
  labelstore card teacher.zarr -o README.md --license cc-by-4.0

Everything in it is read from the store. What a store cannot know, such as licences, is marked
TO FILL. labelstore publish writes the card by itself, or takes the one you filled (--card).
"""

_CARD = (
    click.option(
        "--license",
        "license_id",
        metavar="ID",
        help="Licence of the labels, as the hub calls it. Default: a field to fill.",
    ),
    click.option(
        "--sample",
        type=click.IntRange(min=1),
        metavar="N",
        help="Take the card's numbers from N views of each image, as labelstore inspect does.",
    ),
)

card_options: Callable[[Any], Any] = options.added(_CARD)
"""``license_id`` and ``sample``, of what writes a card."""


@dataclass(frozen=True, kw_only=True)
class CardOptions(options.ResultOptions):
    """The options of ``labelstore card``."""

    store: str
    output: str | None
    license_id: str | None
    sample: int | None
    overwrite: bool


@click.command(help=HELP, short_help="Write the data-set card of a store.")
@options.store_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write it to a file instead of stdout.",
)
@card_options
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@options.json_option
@options.quiet_option
@options.collected(CardOptions)
def command(request: CardOptions) -> None:
    """Write a card."""
    import labelstore
    from labelstore.operations.lifecycle.card import card

    path = None if request.output is None else Path(request.output)
    if path is not None and not request.overwrite and path.exists():
        # Before the store is read, which may take minutes.
        raise _is_there(path)
    store = labelstore.open(request.store)
    with output.progress(
        store.num_images, store.num_views, quiet=request.silent, brief=True
    ) as progress:
        text = card(
            store, license_id=request.license_id, sample=request.sample, tell=progress.update
        )
    if path is not None:
        _write(path, text, request.overwrite)
    if request.json:
        output.emit_json({"store": request.store, "output": request.output, "card": text})
    elif path is None:
        click.echo(text, nl=False)
    elif not request.quiet:
        output.note(f"the card was written to {path}: fill what is marked TO FILL")


def _write(path: Path, text: str, overwrite: bool) -> None:
    from labelstore.storage.local_files import write_new, write_whole

    if overwrite:
        write_whole(path, text.encode())
    elif not write_new(path, text.encode()):
        raise _is_there(path)


def _is_there(path: Path) -> Exception:
    from labelstore.errors import UsageError

    return UsageError(
        f"{path} is there already: name another file, or replace it with --overwrite."
    )
