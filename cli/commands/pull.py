"""``labelstore pull``: copy a store here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from labelstore.cli import options, output
from labelstore.cli.output import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = """Copy a finished store, as a rule a remote one, to a folder: all of it, its first views, or
some of its images.

\b
  labelstore pull s3://bucket/teacher.zarr teacher.zarr
  labelstore pull hf://datasets/OWNER/REPO/teacher.zarr small.zarr --views 0:50 \\
      --images 'n01440764/*' --images @more_keys.txt

The copy's labels are the source's to the last bit, and each block is verified before it is written.
With --views and --images only what covers them is read. An interrupted copy goes on where it
stopped when the same command is given again. The source may be local, and the copy remote (s3://, gs://).
"""


def _views(_context: click.Context, _parameter: click.Parameter, value: str | None) -> range | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d*):(\d+)", value)
    if not found:
        raise click.BadParameter(f"{value!r} is no range of views, expected one such as 0:50.")
    return range(int(found[1] or 0), int(found[2]))


def _images(keys: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The keys that are meant."""
    import fnmatch
    from pathlib import Path

    from labelstore.errors import NotFoundError

    found: set[str] = set()
    for one in wanted:
        if one.startswith("@"):
            try:
                named = Path(one[1:]).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise NotFoundError(
                    f"the file of keys {one[1:]} cannot be read ({error}): name a text file."
                ) from error
            found.update(line for line in named if line)
            continue
        matching = fnmatch.filter(keys, one)
        if not matching:
            raise NotFoundError(
                f"no image's key matches {one!r} (one of the keys is {keys[0]!r}): mend the "
                "pattern."
            )
        found.update(matching)
    return sorted(found)


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
def command(**given: Any) -> None:
    """Copy a store."""
    import labelstore
    from labelstore.operations.pull import pull

    store = labelstore.open(given["store"])
    quiet = given["quiet"] or given["json"]
    images = _images(store.keys, given["images"]) if given["images"] else None
    num_views = store.num_views if given["views"] is None else len(given["views"])
    num_images = store.num_images if images is None else len(images)
    with output.progress(num_images, num_views, quiet=quiet, brief=True) as progress:
        report = pull(
            store,
            given["output"],
            views=given["views"],
            images=images,
            overwrite=given["overwrite"],
            tell=progress.update,
        )
    if given["json"]:
        output.emit_json(report.to_json())
    elif not given["quiet"]:
        output.note(
            f"{report.path}: {counted(report.num_images, 'image')} x "
            f"{counted(report.num_views, 'view')} of {report.source}, {report.bytes:,} bytes, "
            f"{counted(report.blocks_copied, 'block')} in "
            f"{report.seconds:,.1f} s"
        )
