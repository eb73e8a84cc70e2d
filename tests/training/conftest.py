"""Real photos with synthetic labels."""

from tests.support.fixtures import photos, store, work

__all__ = ["photos", "store", "work"]
