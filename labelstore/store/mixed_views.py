"""Mixed views of a store: among which of its images partners are, and what partners' views are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import UsageError
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.store.label_reader import LabelReader
    from labelstore.views.law import Views

__all__ = ["is_mixed", "partner_views", "require_unmixed", "view_truth"]


def is_mixed(store: LabelReader) -> bool:
    """Whether a store's views are mixed with those of other images."""
    return isinstance(store.law, ViewLaw) and store.law.mixing is not None


def partner_views(
    store: LabelReader, image: int, views: npt.NDArray[np.int64], width: int, height: int
) -> Views:
    """What views of an image are as partners of others: all stages but the mixing.

    Args:
        image: its position. views: their numbers, stored ones or not.
        width, height: of its photo, in pixels.

    Raises:
        UsageError: the store has no view law.
    """
    if not isinstance(store.law, ViewLaw):
        raise UsageError(f"{store.path} has no view law, expected one that mixes views.")
    return store.law.unmixed(store.key_hashes[image], views, width, height)


def view_truth(
    store: LabelReader, images: npt.NDArray[np.int64], views: Views | None
) -> npt.NDArray[np.int32]:
    """(n,) int32: the ground truth of views; -1 of mixed ones, whose photos are of two classes.

    Args:
        images: (n,) positions. views: (n,) what they are, where that is known.
    """
    targets = store.targets[images]
    if views is None or views.partners is None:
        return targets
    return np.where(views.partners.image >= 0, np.int32(-1), targets)


def require_unmixed(store: LabelReader, wish: str) -> None:
    """Refuse what takes the ground truth of a view to be that of one photo.

    Args:
        wish: what was asked for, as a message begins: ``"FerKD"``, ``"labels in phases"``.

    Raises:
        UsageError: the store's views are mixed.
    """
    if is_mixed(store):
        law = store.law
        stage = law.mixing if isinstance(law, ViewLaw) else None
        raise UsageError(
            f"{wish} was asked for and the views of {store.path} are mixed ({stage}), so that each "
            "has the ground truth of two photos and an unsure label is no sign of a bad crop: "
            "leave it out, or use a store whose views are not mixed.",
            arguments=("ferkd",),
        )
