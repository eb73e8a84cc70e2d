"""Stores that shrink, join, grow, are cleaned up and published."""
