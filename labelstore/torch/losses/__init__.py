"""Losses of soft labels, which never make them dense."""
