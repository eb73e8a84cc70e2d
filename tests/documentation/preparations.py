"""What a page's blocks of code need; `pages` and `pages_how_to` say it of each page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Around(NamedTuple):
    """What comes before and after a block."""

    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Preparation:
    """What a page's blocks need."""

    packages: tuple[str, ...] = ()
    """Without these the page is not run."""
    before: str = ""
    """Python that runs before the first block."""
    around: dict[str, Around] = field(default_factory=dict)
    """A part of a line that one block alone has -> what comes before and after it."""
    is_alone: bool = False
    """Whether it begins in an empty folder, without photos and a store."""
    runs_commands: bool = False
    """Whether its ``labelstore`` commands are run, too. Of others they are only parsed."""
