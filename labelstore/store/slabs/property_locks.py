"""Locks of properties over a fork: a child has none of the threads that might hold them.

Before Python 3.12 a ``functools.cached_property`` has one lock for all objects of its class, and a
child forked while a thread of its parent computes one would wait for ever.
"""

from __future__ import annotations

import functools
import sys
import threading
from typing import Any

__all__ = ["note", "renew"]

_modules = 0
"""How many modules there were when all were noted."""
_noted: set[str] = set()
"""Names of the modules whose properties are known."""
_properties: list[Any] = []
"""Those of this library that have a lock."""


def note() -> None:
    """Before a fork: find the properties of the modules that were imported since the last one.

    Not in the child: to look at a value counts a reference to it, which costs a child a copy of the
    page that it lies on; those of all modules are 20 MB, and 30 ms for every worker of a loader.
    """
    global _modules
    if len(sys.modules) == _modules:
        return
    _modules = len(sys.modules)
    for name, module in [*sys.modules.items()]:
        if not name.startswith("labelstore") or name in _noted:
            continue
        if getattr(module.__spec__, "_initializing", False):
            # A thread imports it now, and has not come to all its classes: look again.
            _modules = 0
            continue
        _noted.add(name)
        for owner in [value for value in vars(module).values() if _is_class_of(value, name)]:
            _properties.extend(held for held in vars(owner).values() if _has_lock(held))


def renew() -> None:
    """In a forked process: do not wait for what the parent's threads were computing."""
    for held in _properties:
        held.lock = threading.RLock()


def _is_class_of(value: object, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module


def _has_lock(value: object) -> bool:
    return isinstance(value, functools.cached_property) and hasattr(value, "lock")
