"""``labelstore pull``: copy a store here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from .. import options, output
from ..text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = """Copy a finished store, as a rule a remote one, to a folder: all of it, its first views, or
some of its images.

\b
  labelstore pull s3://bucket/teacher.zarr teacher.zarr
  labelstore pull hf://datasets/OWNER/REPO/teacher.zarr small.zarr \\
    --views 0:50 --images 'n01440764/*' --images @more_keys.txt

The copy's labels are the source's to the last bit, and each block is verified before it is written.
With --views and --images only what covers them is read. An interrupted copy goes on where it
stopped when the same command is given again. The source may be local, and the copy remote (s3://, gs://).
"""


def _views(_context: click.Context, _parameter: click.Parameter, value: str | None) -> range | None:
    if value is None:
        return None
    bounds = re.fullmatch(r"(\d*):(\d+)", value)
    if not bounds:
        raise click.BadParameter(f"{value!r} is no range of views, expected one such as 0:50.")
    return range(int(bounds[1] or 0), int(bounds[2]))


def _images(keys: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The keys that are meant."""
    import fnmatch
    from pathlib import Path

    from labelstore.errors import NotFoundError

    chosen: set[str] = set()
    for pattern in patterns:
        if pattern.startswith("@"):
            try:
                named = Path(pattern[1:]).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise NotFoundError(
                    f"the file of keys {pattern[1:]} cannot be read ({error}): name a text file."
                ) from error
            chosen.update(line for line in named if line)
            continue
        matching = fnmatch.filter(keys, pattern)
        if not matching:
            raise NotFoundError(
                f"no image's key matches {pattern!r} (one of the keys is {keys[0]!r}): mend the "
                "pattern."
            )
        chosen.update(matching)
    return sorted(chosen)


@dataclass(frozen=True, kw_only=True)
class PullOptions(options.ResultOptions):
    """The options of ``labelstore pull``."""

    store: str
    output: str
    views: range | None
    images: tuple[str, ...]
    overwrite: bool


@click.command(help=HELP, short_help="Copy a store here, all of it or a part.")
@options.store_argument
@click.argument("output", metavar="DIR", type=click.Path())
@click.option(
    "--views",
    metavar="0:N",
    callback=_views,
    help="The first N views alone. A view's number names its crop, so the range begins at 0.",
)
@click.option(
    "--images",
    multiple=True,
    metavar="PATTERN|@FILE",
    help="Only images whose keys match a shell pattern such as 'n01440764/*', or stand in a file, "
    "a line each. May be given several times.",
)
@options.overwrite_option
@options.json_option
@options.quiet_option
@options.collected(PullOptions)
def command(request: PullOptions) -> None:
    """Copy a store."""
    import labelstore
    from labelstore.operations.pull import pull

    store = labelstore.open(request.store)
    images = _images(store.keys, request.images) if request.images else None
    num_views = store.num_views if request.views is None else len(request.views)
    num_images = store.num_images if images is None else len(images)
    with output.progress(num_images, num_views, quiet=request.silent, brief=True) as progress:
        report = pull(
            store,
            request.output,
            views=request.views,
            images=images,
            overwrite=request.overwrite,
            tell=progress.update,
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        output.note(
            f"{report.path}: {counted(report.num_images, 'image')} x "
            f"{counted(report.num_views, 'view')} of {report.source}, {report.bytes:,} bytes, "
            f"{counted(report.blocks_copied, 'block')} in "
            f"{report.seconds:,.1f} s"
        )
