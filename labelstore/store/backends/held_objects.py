"""Objects of blocks that are about to be read, asked for together and kept until that is done."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HeldObjects"]

Held = TypeVar("Held")


class HeldObjects(Generic[Held]):
    """Objects by name, or what is kept of them; threads hold and release blocks of their own."""

    def __init__(self) -> None:
        self._blocks: Mapping[int, Mapping[str, Held]] = {}
        self._lock = threading.Lock()

    def hold(self, block: int, objects: Mapping[str, Held]) -> None:
        """Keep a block's objects."""
        with self._lock:
            self._blocks = {**self._blocks, block: objects}

    def release(self, block: int) -> None:
        """Let go of a block's objects, if they are kept."""
        with self._lock:
            self._blocks = {
                number: objects for number, objects in self._blocks.items() if number != block
            }

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._blocks = {}

    def get(self, name: str) -> Held | None:
        """An object that is kept; None for any other."""
        # What is kept is replaced as a whole, so that others may look meanwhile.
        for objects in self._blocks.values():
            if name in objects:
                return objects[name]
        return None
