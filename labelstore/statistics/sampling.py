"""How far an estimate from a part of the crops may be from the value of all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Z95", "error_of_mean", "error_of_share", "groups_of_views"]

Z95 = 1.959964
"""The normal distribution has 95 % of its mass within this many standard deviations."""


def error_of_share(part: int, looked_at: int, whole: int) -> float:
    """Half the width of the 95 % interval of a share, 0..1; 0 where all was looked at.

    Agresti and Coull's interval (The American Statistician 52, 1998), with the correction for a
    finite population. Views are drawn from every image alike, which makes the true error smaller.

    Args:
        part: crops of the kind among those looked at; looked_at: how many those are; whole: how
            many crops there are.
    """
    if looked_at <= 0 or looked_at >= whole:
        return 0.0
    share = (part + 2) / (looked_at + 4)
    spread = math.sqrt(share * (1 - share) / (looked_at + 4))
    return Z95 * spread * math.sqrt(1 - looked_at / whole)


def error_of_mean(total: float, total_of_squares: float, looked_at: int, whole: int) -> float:
    """Half the width of the 95 % interval of a mean, in its unit; 0 where all was looked at.

    Args:
        total: sum over the values looked at; total_of_squares: of their squares; looked_at,
            whole: as for ``error_of_share``.
    """
    if looked_at <= 1 or looked_at >= whole:
        return 0.0
    mean = total / looked_at
    variance = max(total_of_squares / looked_at - mean**2, 0.0)
    return Z95 * math.sqrt(variance / looked_at * (1 - looked_at / whole))


def groups_of_views(num_views: int, group_views: int, num_groups: int) -> npt.NDArray[np.int64]:
    """(g,) int64 groups of views, evenly spread, that hold ``num_views`` views, at least one group.

    Groups lie together on disk: a view costs as much as its group does.
    """
    count = min(max(-(-num_views // group_views), 1), num_groups)
    return (np.arange(count) * num_groups + num_groups // 2) // count
