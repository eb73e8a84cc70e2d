"""What FerKD does with a view, for a person; light enough for ``--help``."""

from __future__ import annotations

__all__ = ["ACTION_WORDS"]

ACTION_WORDS = {
    "discarded_low": "discarded (too hard)",
    "calibrated": "calibrated",
    "kept": "kept",
    "discarded_high": "discarded (too easy)",
    "discarded": "discarded (by each teacher for its own reason)",
}
"""By rising confidence, but for the last, of ensembles alone -> its words."""
