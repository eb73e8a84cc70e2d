"""Ground truth that options ask for in the place of what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from .choices import Targets

__all__ = ["targets_anew"]


def targets_anew(
    targets: Targets | None,
    class_map: str | None,
    count: int,
    of_keys: Callable[[Mapping[str, int | str] | None], npt.NDArray[np.int32]],
) -> npt.NDArray[np.int32] | None:
    """The ground truth that ``--targets`` and ``--class-map`` ask for; None where neither is given.

    Args:
        targets, class_map: the options.
        count: of images.
        of_keys: makes it of the class folders, by a class map or None.

    Returns:
        (count,) int32 class ids, -1 unknown.

    Raises:
        click.UsageError: a class map, and no ground truth.
    """
    if targets is None and class_map is None:
        return None
    import numpy as np

    from labelstore.images.ground_truth.class_map import read_class_map

    if targets == "none":
        if class_map is not None:
            raise click.UsageError(
                "--class-map and --targets none were given: leave out one of the two."
            )
        return np.full(count, -1, dtype=np.int32)
    return of_keys(read_class_map(class_map) if class_map else None)
