"""``labelstore publish``: put a store where others find it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ... import options, output
from ...text import counted, size
from .card import card_options

if TYPE_CHECKING:
    from labelstore.operations.lifecycle.publish import PublishReport

HELP = """Publish a finished store on the Hugging Face hub, or in a bucket: the labels, a data-set
card, and preview.parquet, a sample that the hub's viewer shows.

\b
  labelstore publish teacher.zarr hf://datasets/OWNER/NAME --dry-run
  labelstore publish teacher.zarr hf://datasets/OWNER/NAME --private
  labelstore publish teacher.zarr s3://bucket/teacher.zarr

Every block is checked first. The hub's own client sends what is not there yet, so the same command
goes on with an interrupted upload; the manifest comes last, and before it nobody finds a store. A
repository that is not there is made; a card that is there and differs is kept, and other labels
are refused, without --overwrite. HF_TOKEN, or hf auth login, says who you are.

The published store tells in its history that it was published, and so has an id of its own; the
store here stays as it is.
"""


@dataclass(frozen=True, kw_only=True)
class PublishOptions(options.ResultOptions):
    """The options of ``labelstore publish``."""

    store: str
    url: str
    private: bool
    revision: str | None
    card: str | None
    license_id: str | None
    sample: int | None
    dry_run: bool
    overwrite: bool


@click.command(help=HELP, short_help="Put a store on the hub, or into a bucket, with a card.")
@options.store_argument
@click.argument("url", metavar="URL")
@click.option(
    "--private", is_flag=True, help="Make the repository private; one that is public is refused."
)
@click.option("--revision", metavar="BRANCH", help="Branch of the repository. Default: main.")
@click.option(
    "--card",
    metavar="FILE",
    type=click.Path(),
    help="Take this card instead of the one that labelstore card writes.",
)
@card_options
@click.option("--dry-run", is_flag=True, help="Tell what would be sent, and ask nobody.")
@click.option("--overwrite", is_flag=True, help="Replace other labels, and another card, there.")
@options.json_option
@options.quiet_option
@options.collected(PublishOptions)
def command(request: PublishOptions) -> None:
    """Publish a store."""
    import labelstore
    from labelstore.operations.lifecycle.publish import Publication, publish

    how = Publication(
        private=request.private,
        revision=request.revision,
        license_id=request.license_id,
        card=None if request.card is None else Path(request.card),
        sample=request.sample,
        overwrite=request.overwrite,
    )
    store = labelstore.open(request.store)
    with output.progress(
        # Gone through for the check, and for the card.
        2 * store.num_images,
        store.num_views,
        quiet=request.silent,
        brief=True,
    ) as progress:
        report = publish(
            store,
            request.url,
            how,
            dry_run=request.dry_run,
            quiet=request.silent,
            tell=progress.update,
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        _tell(report, filled=request.card is not None)


def _tell(report: PublishReport, *, filled: bool) -> None:
    what = f"{counted(report.files, 'file')}, {size(report.bytes)}"
    if report.dry_run:
        output.note(
            f"{report.source} would go to {report.url}: {what}, with {report.card_url} and "
            f"{report.preview_url}"
        )
        return
    output.note(f"{report.source} was published: {what}, in {report.seconds:,.1f} s")
    if report.card == "kept":
        output.note(
            f"{report.card_url} was there and differs: it was kept. labelstore card writes the one "
            "of this store, --overwrite replaces it."
        )
    elif report.card == "written" and not filled:
        output.note(f"{report.card_url}: fill what is marked TO FILL")
    output.note(f'labelstore.open("{report.url}")')
