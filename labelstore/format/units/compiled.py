"""The compiled parts of the code of units, where they were built."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["module"]


def module(name: str) -> Any:
    """A compiled part; None where it was not built."""
    try:
        return importlib.import_module(f"labelstore.format.units.{name}")
    except ImportError:
        return None
