"""What the commands that look at a store say more of one that is damaged."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["leads_to_repair"]


@contextlib.contextmanager
def leads_to_repair() -> Iterator[None]:
    """Damage that is met inside is told with the commands that name and mend it."""
    from labelstore.errors import CorruptError

    try:
        yield
    except CorruptError as error:
        raise error.extended(
            "labelstore verify names every block that is damaged, and labelstore repair, given "
            "the photos and the teacher, makes those anew and no others."
        ) from error
