"""How a run tells how far it is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """What is told of the work as it goes on."""

    def resumed(self, images: int) -> None:
        """So many images were finished by an earlier run, or by another process."""

    def update(self, images: int, views: int) -> None:
        """So many more images finished, and views labelled."""

    def waited(self, seconds: float) -> None:
        """The teacher has waited for pixels so long, in all of this run."""


class Silent:
    """Progress that nobody watches."""

    def resumed(self, images: int) -> None:
        """Nothing."""

    def update(self, images: int, views: int) -> None:
        """Nothing."""

    def waited(self, seconds: float) -> None:
        """Nothing."""
