"""How many examples a property is tried with, where they are dearer than most."""

from __future__ import annotations

import hypothesis

__all__ = ["examples"]

NORMAL = 40
"""Those of the normal profile, to which ``count`` is a share."""


def examples(count):
    """Settings of a property: ``count`` examples in the normal profile, and its share in others.

    A number that is given outright would hold in every profile, in the one that tries many as well.
    """
    profile = hypothesis.settings().max_examples
    return hypothesis.settings(max_examples=-(-count * profile // NORMAL))
