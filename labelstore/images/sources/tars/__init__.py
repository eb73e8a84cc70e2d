"""Tar archives: their members, and the indexes that are kept of them."""
