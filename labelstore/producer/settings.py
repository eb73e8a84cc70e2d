"""What is asked of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os

    import numpy as np
    import numpy.typing as npt

    from labelstore.labels.top_k import LabelType
    from labelstore.store.writer import Remake
    from labelstore.teachers.teacher import Teacher, TeacherInfo

__all__ = ["FIDELITIES", "Output", "Recipe"]

FIDELITIES: dict[str, dict[str, Any]] = {
    "small": {"k": 1, "quantizer": "ratio16", "prior_size": 64},
    "balanced": {"k": 4, "quantizer": "ratio16", "prior_size": 64, "top_p": 0.95},
    "fast": {"k": 5, "quantizer": "u8", "prior_size": 0},
}
"""Settings of ``Recipe`` by the name of what they are good at."""


@dataclass(frozen=True)
class Recipe:
    """What labels are to be made; all of it goes into the manifest."""

    num_views: int
    k: int | None = None
    """Classes of each label; when None 4, or all where there are fewer (1 unless "top-k")."""
    law: ViewLaw = field(default_factory=ViewLaw)
    temperature: float = 1.0
    label_type: LabelType = "top-k"
    quantizer: str = "ratio16"
    prior_size: int = 64
    """Classes of each image's prior list; 0 for none."""
    top_p: float | None = None
    """Keep only as many of the k classes as this probability mass needs."""
    block_images: int | None = None
    """Images of a block; by the number of images when None."""
    group_views: int | None = None
    """Views of a group; by the backend when None."""

    def classes_of(self, num_classes: int) -> int:
        """``k``, for a teacher of so many classes."""
        if self.k is not None:
            return self.k
        return min(FIDELITIES["balanced"]["k"], num_classes) if self.label_type == "top-k" else 1


@dataclass(frozen=True)
class Output:
    """One store of a run that makes several."""

    teacher: Teacher | TeacherInfo
    targets: npt.NDArray[np.int32]
    """(num_images,) ground truth in the teacher's classes, -1 unknown."""
    path: str | os.PathLike[str]
    recipe: Recipe
    """Its law, number of views and block size are those of the run's other stores."""
    remake: Remake | None = None
    """Blocks to make anew, though they are committed."""
