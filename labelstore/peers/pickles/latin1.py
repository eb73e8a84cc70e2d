"""The bytes that pickles of protocol 2 keep as text: Latin-1, which the pickle encodes as UTF-8.

Of arrays that is most of reading them. The compiled part (``_latin1.c``) does it in a quarter of
Python's time, with the same result. Where it was not built, or the processor is of before 2006,
Python does it.
"""

from __future__ import annotations

import functools
from typing import Any

from labelstore.compiled import compiled_part

__all__ = ["latin1_bytes"]


def latin1_bytes(text: bytes) -> bytes:
    """The bytes that a text's characters are in Latin-1.

    Args:
        text: UTF-8.

    Raises:
        ValueError: it is no UTF-8, or has characters that Latin-1 lacks.
    """
    compiled = _compiled()
    encoded: bytes | None = None if compiled is None else compiled.latin1(text)
    # Python says what is wrong.
    return text.decode("utf-8").encode("latin-1") if encoded is None else encoded


@functools.cache
def _compiled() -> Any:
    """The compiled part; None where it was not built."""
    return compiled_part("labelstore.peers.pickles._latin1")
