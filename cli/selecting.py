"""Which images and views of a store a command is to take."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["chosen_keys", "images_option", "range_of_views"]

images_option = click.option(
    "--images",
    multiple=True,
    metavar="PATTERN|@FILE",
    help="Only images whose keys match a shell pattern such as 'n01440764/*', or stand in a file, "
    "a line each. May be given several times.",
)
"""``images``: the patterns that `chosen_keys` takes."""


def range_of_views(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> range | None:
    """``A:B`` as a range; None where the option was not given."""
    if value is None:
        return None
    bounds = re.fullmatch(r"(\d*):(\d+)", value)
    if not bounds:
        raise click.BadParameter(f"{value!r} is no range of views, expected one such as 0:50.")
    return range(int(bounds[1] or 0), int(bounds[2]))


def chosen_keys(keys: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The keys that patterns and files of keys mean, sorted.

    Raises:
        NotFoundError: a pattern that no key matches, or a file that is not there.
    """
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
