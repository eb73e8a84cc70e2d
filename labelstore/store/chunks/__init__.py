"""Verified reading: chunks of labels, compared with what was committed, and kept."""
