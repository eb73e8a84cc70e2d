"""Backends: how a store's arrays lie on disk."""
