"""What is known of a teacher without its network, which may run elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labelstore.images.preprocessing import Preprocessing

__all__ = ["TeacherInfo"]


@dataclass(frozen=True)
class TeacherInfo:
    """A teacher's name, input and classes: ``Teacher.info``, as it is sent from another machine."""

    spec: str
    """What it was loaded from."""
    preprocessing: Preprocessing
    """What it expects of its input."""
    num_classes: int
    class_names: tuple[str, ...] | None
    """``num_classes`` names in order, or None when unknown."""
    device: str
    """``"cpu"``, ``"cuda"`` or ``"mps"``."""
    description: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """What a store's manifest says of the teacher: plain JSON values."""
        return dict(self.description)
