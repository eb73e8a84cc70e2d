"""Copy a store here: ``labelstore.operations.lifecycle.copy`` by its older name."""

from __future__ import annotations

from labelstore.operations.lifecycle.copy import CopyReport as PullReport, copy as pull

__all__ = ["PullReport", "pull"]
